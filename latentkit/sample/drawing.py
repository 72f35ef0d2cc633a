"""Drawing: a block of posteriors -> its latents, by the recipe of ``guide/noise.md``, on the host."""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from latentkit.parts import PART_ELEMENTS, samples_at_once
from latentkit.posterior.parameterization import Clamp, scale_of
from latentkit.read.blocks import Block, read_posterior
from latentkit.read.bytes import TORCH_DTYPES
from latentkit.read.choice import Posterior
from latentkit.run import channel_values, locate
from latentkit.sample.noise import (
    Scratch,
    bits_of,
    canonical_nan,
    draw,
    exp_bounds,
    exp_half,
    exp_tables,
    normal_tables,
    normals,
    random_words,
    std_of_scale,
    std_table,
    store,
    stream_key,
    stream_name,
)
from latentkit.sample.recipe import Recipe
from latentkit.sums import UNIT_ELEMENTS, in_units
from latentkit.tabulated import can_tabulate, codes_of, look_up
from latentkit.workspace import Workspace

#: Takes one draw of a block's latents, in the output's dtype: ``(block, draw, latents)``.
Take = Callable[[Block, int, Tensor], None]


class Drawn(NamedTuple):
    """What a block came to.

    ``nonfinite`` samples with NaN or infinite latents in any draw, and the ``first`` of them; latents that
    ``overflowed`` the output's dtype; log-variances that were ``clamped``.
    """

    nonfinite: int = 0
    first: tuple[Posterior, int] | None = None
    overflowed: int = 0
    clamped: int = 0


def draw_block(block: Block, recipe: Recipe, take: Take, workspace: Workspace) -> Drawn:
    """Draw a block's latents and hand them on, draw by draw."""
    stored, raw = read_posterior(block, workspace)
    posterior = block.spans[0].posterior
    dtype = TORCH_DTYPES[recipe.dtype_of(posterior)]
    out = workspace.take("out", block.shape, dtype)
    odd = torch.zeros(block.samples, dtype=torch.bool)
    overflowed, all_within = 0, True
    prepared = None if recipe.mode else _prepare(block, recipe, stored, raw, out, workspace)
    for number in range(recipe.draws or 1):
        if prepared is None:
            overflowed += _mode(block, recipe, stored, out, odd)
        else:
            too_large, all_within = _drawn(_words(block, number, recipe), prepared, odd, workspace)
            overflowed += too_large
        take(block, number, out)
    nonfinite = odd.nonzero().flatten().tolist()
    clamped = 0 if all_within else _count_clamped(raw, posterior.parameterization, recipe.clamp)
    return Drawn(len(nonfinite), locate(block, nonfinite[0]) if nonfinite else None, overflowed, clamped)


def _mode(block: Block, recipe: Recipe, stored: Tensor, out: Tensor, odd: Tensor) -> int:
    """The means, as ``_drawn`` gives latents."""
    # Where nothing is drawn, nothing need be rounded to float32.
    latents = stored.to(torch.float64 if out.dtype == torch.float64 else torch.float32)
    shift, scale = _affine(block, recipe, latents.dtype)
    if shift is not None:
        latents = latents - shift
    if scale is not None:
        latents = latents * scale
    store(latents, out)
    finite = latents.isfinite()
    odd |= ~finite.flatten(1).all(1)
    return int((finite & out.isinf()).sum())


def _words(block: Block, number: int, recipe: Recipe) -> Tensor:
    """The random bits of one draw of the block."""
    words = []
    for span in block.spans:
        key = _stream_key(recipe.seed, stream_name(recipe.stream_of(span.posterior), span.posterior.key))
        words.append(random_words(span.count * prod(block.piece.shape), key, number, block.position(span.first)))
    return words[0] if len(words) == 1 else torch.cat(words)


_stream_key = lru_cache(maxsize=1024)(stream_key)
_std_table = lru_cache(maxsize=8)(std_table)


class Settings(NamedTuple):
    """Of ``_draw``: bounds of ``exp_half``, those of ``_within``, temperature, and facts of the output's dtype."""

    bounds: tuple[float, float]
    within: tuple[float, float]
    temperature: float
    nan_bits: int
    largest_squares: float


class _Prepared(NamedTuple):
    """What every draw of a block takes, as ``_draw`` has it."""

    views: list[Tensor]
    tables: list[Tensor]
    affine: list[Tensor | None]
    settings: Settings


def _prepare(block: Block, recipe: Recipe, stored: Tensor, raw: Tensor, out: Tensor, workspace: Workspace) -> _Prepared:
    parameterization, clamp = block.spans[0].posterior.parameterization, recipe.clamp
    tables = [*normal_tables()]
    if can_tabulate(raw.dtype):
        tables.append(_std_table(raw.dtype, parameterization, clamp))
        raw = codes_of(raw)
    elif parameterization == "logvar":
        tables += exp_tables()
        raw = raw.float()
    else:
        std = workspace.take("std", block.shape, torch.float32)
        raw = std_of_scale(raw.float(), std, parameterization, clamp)
    largest_squares = torch.finfo(out.dtype).max ** 2 / 2 if out.dtype == torch.float16 else 1e38
    settings = Settings(
        exp_bounds(clamp), _within(clamp), recipe.temperature, canonical_nan(out.dtype), largest_squares
    )
    return _Prepared([stored, raw, out, bits_of(out)], tables, _affine(block, recipe, torch.float32), settings)


def _drawn(words: Tensor, prepared: _Prepared, odd: Tensor, workspace: Workspace) -> tuple[int, bool]:
    """Draw into the output that was prepared, and set ``odd`` for samples that are not finite.

    Returns how many latents overflowed, and whether it is certain that no log-variance was clamped.
    """
    views, tables, affine, settings = prepared
    overflowed, all_within = 0, True
    buffers = workspace.prepared(_buffers)
    for rows, part_words, part_views, part_affine in _parts(words, views, affine):
        step = samples_at_once(part_views[0])
        flags = torch.zeros(len(part_views[0]), dtype=torch.bool)
        too_large, none_clamped = _draw(part_words, part_views, tables, part_affine, settings, flags, buffers, step)
        odd[rows] |= flags.view(len(odd[rows]), -1).any(1)
        overflowed += too_large
        all_within = all_within and none_clamped
    return overflowed, all_within


Part = tuple[slice, Tensor, list[Tensor], list[Tensor | None]]


def _parts(words: Tensor, views: list[Tensor], affine: list[Tensor | None]) -> Iterator[Part]:
    """What is drawn at once: all samples, or the units of a long one; the samples they are of come first."""
    shape = views[0].shape
    if prod(shape[1:]) <= UNIT_ELEMENTS:
        yield slice(None), words, views, affine
        return
    changing = [each.expand(shape) for each in affine if each is not None]
    for rows, (part_words, *parts) in in_units(UNIT_ELEMENTS, words.view(shape), *views, *changing):
        changed = iter(parts[len(views) :])
        part_affine = [None if each is None else next(changed) for each in affine]
        yield rows, part_words.reshape(-1), parts[: len(views)], part_affine


def _buffers(workspace: Workspace) -> list[Tensor]:
    """Those of ``Scratch``, then two of float32, of which the first is there as int32 too.

    They serve samples of any shape: of each shape its own would add up where many shapes come.
    """
    most = max(PART_ELEMENTS, UNIT_ELEMENTS)
    latents, std = (workspace.take(name, (most,), torch.float32) for name in ("part latents", "part std"))
    return [*Scratch(most).buffers, latents, latents.view(torch.int32), std]


def _of_rows(values: Tensor | None, start: int, stop: int) -> Tensor | None:
    """Values of some rows, where they are not the same for all."""
    if values is None or values.size(0) == 1:
        return values
    return values[start:stop]


def _draw(
    words: Tensor,
    views: list[Tensor],
    tables: list[Tensor],
    affine: list[Tensor | None],
    settings: Settings,
    odd: Tensor,
    buffers: list[Tensor],
    step: int,
) -> tuple[int, bool]:
    """``_drawn``, ``step`` samples at a time.

    ``views``: stored mean; float32 σ where there are no scale ``tables``, bit patterns where there is one, float32
    log-variance where there are those of ``exp_half``; the latents; their memory as integers. The tables of the
    normals come first.
    """
    stored, raw, out, out_bits = views
    overflowed, all_within = 0, True
    for start in range(0, stored.size(0), step):
        stop = min(start + step, stored.size(0))
        target, source = out[start:stop], raw[start:stop]
        count = target.numel()
        first = start * (count // (stop - start))
        index, mean, std = [buffers[number][:count].view(target.shape) for number in (0, 1, 7)]
        flat = buffers[5][:count]
        normals(words[first : first + count], tables[0], tables[1], flat, buffers[6][:count], buffers[:5])
        if len(tables) == 3:
            look_up(tables[2], source, index, std)
        elif len(tables) == 4:
            exp_half(source, settings.bounds[0], settings.bounds[1], tables[2], tables[3], std, buffers[:5])
        else:
            std.copy_(source)
        all_within = all_within and float(std.amin()) > settings.within[0] and float(std.amax()) < settings.within[1]
        mean.copy_(stored[start:stop])
        shift, scale = _of_rows(affine[0], start, stop), _of_rows(affine[1], start, stop)
        latents = draw(mean, std, flat.view(target.shape), settings.temperature, shift, scale)
        target.copy_(latents)
        # A sum of squares shows, in one pass, that nothing is NaN, infinite, or too large for the output's dtype.
        if not float(torch.dot(flat, flat)) < settings.largest_squares:
            finite = latents.isfinite()
            odd[start:stop].logical_or_(finite.flatten(1).all(1).logical_not())
            overflowed += int((finite & target.isinf()).sum())
            out_bits[start:stop].masked_fill_(latents.isnan(), settings.nan_bits)
    return overflowed, all_within


@lru_cache(maxsize=8)
def _within(clamp: Clamp) -> tuple[float, float]:
    """Bounds of σ between which no log-variance was clamped: the clamp's, drawn in by more than σ is rounded."""
    low, high = torch.tensor(clamp, dtype=torch.float64).mul(0.5).exp().tolist()
    return low * (1 + 1e-6), high * (1 - 1e-6)


def _count_clamped(raw: Tensor, parameterization: str, clamp: Clamp) -> int:
    count = 0
    for part in torch.split(raw, samples_at_once(raw)):
        logvar = part.double()
        if parameterization != "logvar":
            logvar = scale_of(logvar, parameterization, (-math.inf, math.inf)).logvar
        count += int((logvar < clamp[0]).sum() + (logvar > clamp[1]).sum())
    return count


def _affine(block: Block, recipe: Recipe, dtype: torch.dtype) -> list[Tensor | None]:
    """Shift and scale, None where they change nothing."""
    shift, scale = recipe.affine.shift, recipe.affine.scale
    return [
        None if set(shift) == {0.0} else channel_values(shift, block).to(dtype),
        None if set(scale) == {1.0} else channel_values(scale, block).to(dtype),
    ]
