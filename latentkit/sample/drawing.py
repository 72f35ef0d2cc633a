"""Drawing: a block of posteriors -> its latents, by the recipe of guide/noise.md."""

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import latents as loops
from latentkit.compiled.scale import KINDS
from latentkit.compiled.tables import WIDE, values_of
from latentkit.posterior.affine import Affine
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Block, Halves, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior
from latentkit.run import locate
from latentkit.sample.lookup import beyond, exp_table, limits_of, means_of, normal_table, stds_of
from latentkit.sample.recipe import Recipe
from latentkit.sample.streams import stream_key, stream_name

#: The bits of latents: (samples, elements of each), as unsigned numbers of the output's width.
Latents = NDArray[Any]
#: Takes one draw of a block's latents, which are valid until the next: ``(block, draw, latents)``.
Take = Callable[[Block, int, Latents], None]
#: What the bits of latents are held as.
BITS: dict[str, Any] = {"F16": np.uint16, "BF16": np.uint16, "F32": np.uint32, "F64": np.uint64}
_CANONICAL_NAN = np.uint64(0x7FF8 << 48)


class Drawn(NamedTuple):
    """What a block came to.

    ``nonfinite`` samples with NaN or infinite latents in any draw, and the ``first`` of them; latents that
    ``overflowed`` the output's dtype; log-variances that were ``clamped``.
    """

    nonfinite: int = 0
    first: tuple[Posterior, int] | None = None
    overflowed: int = 0
    clamped: int = 0


#: Reads and draws a block: ``draw_block``, or what does it on another device.
Draw = Callable[[Block, Recipe, Take, Buffers], Drawn]


def draw_on(device: str) -> Draw:
    """What draws blocks on a device."""
    if device == "cpu":
        return draw_block
    from latentkit.sample.cuda import draw_block as draw_on_gpu

    return partial(draw_on_gpu, device=device)


def draw_block(
    block: Block, recipe: Recipe, take: Take, buffers: Buffers, numbers: Sequence[int] | None = None
) -> Drawn:
    """Draw a block's latents and hand them on, draw by draw: as many as the recipe says, or those of these numbers."""
    numbers = range(recipe.draws or 1) if numbers is None else numbers
    posterior = block.spans[0].posterior
    halves = read_block(block, buffers)
    dtype, inner = recipe.dtype_of(posterior), halves.dims[3]
    latents = buffers.take("latents", prod(block.shape), BITS[dtype]).reshape(block.samples, -1)
    odd = np.zeros(block.samples, np.bool_)
    if recipe.mode and dtype == "F64":
        _whole_mode(block, recipe.affine, halves, latents, odd)
        for number in numbers:
            take(block, number, latents)
        return drawn_of(block, odd)
    means, stds, clamped = decode(halves, posterior.parameterization, recipe.clamp, buffers)
    with np.errstate(over="ignore"):
        temperature = np.float32(recipe.temperature)
    keys, positions, counts = noise_of(block, recipe)
    stored = *factors_of(recipe.affine, block), inner, loops.FORMATS[dtype], latents.shape[1], latents.reshape(-1), odd
    overflowed = 0
    for number in numbers:
        if recipe.mode:
            overflowed += int(loops.mode(means, *stored))
        else:
            table = normal_table()
            overflowed += int(loops.draw(means, stds, number, keys, positions, counts, table, temperature, *stored))
        take(block, number, latents)
    return drawn_of(block, odd, overflowed, 0 if recipe.mode else clamped)


def drawn_of(block: Block, odd: NDArray[np.bool_], overflowed: int = 0, clamped: int = 0) -> Drawn:
    nonfinite = odd.nonzero()[0].tolist()
    return Drawn(len(nonfinite), locate(block, nonfinite[0]) if nonfinite else None, overflowed, clamped)


def decode(
    halves: Halves, parameterization: str, clamp: Clamp, buffers: Buffers
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Means and σ of a block end to end, and on how many of its scales the clamp acts."""
    size = prod(halves.dims)
    means, stds = buffers.take("means", size, np.float32), buffers.take("stds", size, np.float32)
    rows = halves.mean, halves.scale, halves.samples.shape
    if halves.dtype not in WIDE:
        values, marked = means_of(halves.dtype), stds_of(halves.dtype, parameterization, clamp)
        return means, stds, int(loops.decode_codes(*rows, values, marked, means, stds))
    kind, limits = KINDS[parameterization], limits_of(parameterization, clamp)
    acts_on = beyond(parameterization, clamp)
    return means, stds, int(loops.decode_floats(*rows, kind, limits, acts_on, exp_table(), means, stds))


def noise_of(block: Block, recipe: Recipe) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """Of each span: the key of its stream, where in it the span begins, and how many elements it has."""
    keys = [
        _stream_key(recipe.seed, stream_name(recipe.stream_of(span.posterior), span.posterior.key))
        for span in block.spans
    ]
    positions = [block.position(span.first) for span in block.spans]
    counts = [span.count * prod(block.piece.shape) for span in block.spans]
    return np.array(keys, np.uint64), np.array(positions, np.int64), np.array(counts, np.int64)


_stream_key = lru_cache(maxsize=1024)(stream_key)


def factors_of(affine: Affine, block: Block) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Shift and scale of the block's channels, or of all of them."""
    shift, scale = affine.of_channels(*block.piece.channels)
    with np.errstate(over="ignore"):
        # A shift of zero changes nothing, and so neither does −0, which would turn −0 into 0.
        shifts = np.zeros(len(shift)) if set(affine.shift) == {0.0} else np.array(shift)
        return shifts.astype(np.float32), np.array(scale).astype(np.float32)


def _whole_mode(block: Block, affine: Affine, halves: Halves, latents: Latents, odd: NDArray[np.bool_]) -> None:
    """The means in float64: where nothing is drawn, nothing need be rounded to float32."""
    stored = halves.view(halves.mean)
    shift, scale = (np.array(values).reshape(-1, 1) for values in affine.of_channels(*block.piece.channels))
    with np.errstate(over="ignore", invalid="ignore"):
        means = stored.astype(np.float64) if halves.dtype in WIDE else values_of(halves.dtype)[stored]
        if set(affine.shift) != {0.0}:
            means -= shift
        means *= scale
    out = latents.view(np.float64)
    out[...] = means.reshape(out.shape)
    odd |= ~np.isfinite(out).all(axis=1)
    latents[np.isnan(out)] = _CANONICAL_NAN
