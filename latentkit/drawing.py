"""Drawing: a block of posteriors -> its latents, by the recipe of ``guide/noise.md``, on the host."""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from latentkit.noise import draw, fill_normal, std_float32, std_table, store, stream_key, stream_name
from latentkit.parameterization import Clamp, scale_of
from latentkit.pipeline import channel_values, locate
from latentkit.recipe import Recipe
from latentkit.storage.blocks import Block, read_posterior
from latentkit.storage.choice import Posterior
from latentkit.storage.reading import TORCH_DTYPES
from latentkit.tabulated import can_tabulate, look_up
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
    # Where nothing is drawn, nothing need be rounded to float32.
    exact = recipe.mode and dtype == torch.float64
    latents = out if exact else workspace.take("latents", block.shape, torch.float32)
    shift, scale = (_per_channel(values, block, latents.dtype) for values in (recipe.affine.shift, recipe.affine.scale))
    clamped = overflowed = 0
    nonfinite: set[int] = set()
    if not recipe.mode:
        mean = workspace.take("mean", block.shape, torch.float32).copy_(stored)
        std, clamped = _std_of(raw, posterior.parameterization, recipe.clamp, workspace)
        if recipe.temperature != 1.0:
            std.mul_(recipe.temperature)
    for number in range(recipe.draws or 1):
        if recipe.mode:
            latents.copy_(stored)
            if not recipe.affine.is_identity:
                latents.sub_(shift).mul_(scale)
        else:
            _fill(block, number, recipe, latents, workspace)
            draw(mean, std, latents, shift=shift, scale=scale)
        if _all_small(latents, dtype):
            out.copy_(latents)
        else:
            rows, too_large = _look(latents, dtype)
            nonfinite.update(rows)
            overflowed += too_large
            store(latents, out)
        take(block, number, out)
    first = locate(block, min(nonfinite)) if nonfinite else None
    return Drawn(len(nonfinite), first, overflowed, clamped)


def _fill(block: Block, number: int, recipe: Recipe, noise: Tensor, workspace: Workspace) -> None:
    row = 0
    for span in block.spans:
        posterior = span.posterior
        key = _stream_key(recipe.seed, stream_name(recipe.stream_of(posterior), posterior.key))
        rows = noise[row : row + span.count]
        fill_normal(rows, key, number, block.position(span.first), workspace.scratch)
        row += span.count


_stream_key = lru_cache(maxsize=1024)(stream_key)
_std_table = lru_cache(maxsize=8)(std_table)


def _std_of(raw: Tensor, parameterization: str, clamp: Clamp, workspace: Workspace) -> tuple[Tensor, int]:
    """σ in float32, and how many log-variances were clamped on the way."""
    shape = tuple(raw.shape)
    std = workspace.take("std", shape, torch.float32)
    if can_tabulate(raw.dtype):
        std = look_up(_std_table(raw.dtype, parameterization, clamp), raw, "std", workspace)
    else:
        std.copy_(raw)
        std_float32(std, std, parameterization, clamp, scratch=workspace.scratch)
    low, high = _within(clamp)
    all_within = float(std.amin()) > low and float(std.amax()) < high
    return std, 0 if all_within else _count_clamped(raw, parameterization, clamp)


@lru_cache(maxsize=8)
def _within(clamp: Clamp) -> tuple[float, float]:
    """Bounds of σ between which no log-variance was clamped: the clamp's, drawn in by more than σ is rounded."""
    low, high = torch.tensor(clamp, dtype=torch.float64).mul(0.5).exp().tolist()
    return low * (1 + 1e-6), high * (1 - 1e-6)


def _count_clamped(raw: Tensor, parameterization: str, clamp: Clamp) -> int:
    logvar = raw.double()
    if parameterization != "logvar":
        logvar = scale_of(logvar, parameterization, (-math.inf, math.inf)).logvar
    return int((logvar < clamp[0]).sum() + (logvar > clamp[1]).sum())


def _per_channel(values: tuple[float, ...], block: Block, dtype: torch.dtype) -> float | Tensor:
    return values[0] if len(values) == 1 else channel_values(values, block).to(dtype)


def _all_small(latents: Tensor, dtype: torch.dtype) -> bool:
    """Whether the sum of squares shows, in one pass, that nothing is NaN, infinite, or too large for ``dtype``."""
    flat = latents.view(-1)
    return float(torch.dot(flat, flat)) < (torch.finfo(dtype).max ** 2 / 2 if dtype == torch.float16 else 1e38)


def _look(latents: Tensor, dtype: torch.dtype) -> tuple[list[int], int]:
    """The rows that are not all finite, and how many latents ``dtype`` cannot hold."""
    limit = torch.finfo(dtype).max
    # NaN is on no side of a limit.
    if -limit <= float(latents.amin()) and float(latents.amax()) <= limit:
        return [], 0
    finite = latents.isfinite()
    rows = (~finite).flatten(1).any(dim=1).nonzero().flatten().tolist()
    return rows, int((finite & latents.to(dtype).isinf()).sum())
