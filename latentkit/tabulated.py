"""Functions of a stored scale parameter, tabulated: 16 or 8 bits have at most 65,536 values.

One accurate float64 form, evaluated once over all of them and looked up, serves every parameterization; near the
prior, at the clamp and for NaN it needs no special case, and it is as fast as ``exp``.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from latentkit.distributions import exp_remainder
from latentkit.parameterization import Clamp, scale_of
from latentkit.workspace import Workspace

_CODES = {1: torch.uint8, 2: torch.uint16}


@dataclass(frozen=True, slots=True)
class Tables:
    """Float32 values by bit pattern, computed in float64 and rounded once: h(l) = e^l − 1 − l, l, and 1/σ."""

    remainder: Tensor
    logvar: Tensor
    inverse_std: Tensor


def can_tabulate(dtype: torch.dtype) -> bool:
    return dtype.itemsize in _CODES


@lru_cache(maxsize=8)
def tables_of(dtype: torch.dtype, parameterization: str, clamp: Clamp) -> Tables:
    """Tables for every bit pattern of a 16- or 8-bit dtype."""
    raw = every_value(dtype).double()
    scale = scale_of(raw, parameterization, clamp)
    remainder = exp_remainder(scale.logvar, scale.var)
    return Tables(remainder.float(), scale.logvar.float(), (1 / scale.std).float())


def every_value(dtype: torch.dtype) -> Tensor:
    """All values of a 16- or 8-bit dtype, in order of their bit patterns."""
    return torch.arange(1 << 8 * dtype.itemsize, dtype=torch.int32).to(_CODES[dtype.itemsize]).view(dtype)


def look_up(table: Tensor, raw: Tensor, name: str, workspace: Workspace) -> Tensor:
    """``table`` at the bit patterns of ``raw`` (16 or 8 bits, any strides): in the workspace's buffer ``name``."""
    views = workspace.prepared(_views, raw, name, table.dtype)
    views.indices.copy_(views.codes)
    torch.index_select(table, 0, views.flat_indices, out=views.flat)
    return views.found


class _Views(NamedTuple):
    codes: Tensor
    indices: Tensor
    flat_indices: Tensor
    found: Tensor
    flat: Tensor


def _views(workspace: Workspace, raw: Tensor, name: str, dtype: torch.dtype) -> _Views:
    shape = tuple(raw.shape)
    # Indices of 32 bits are read twice as fast as those of 64.
    indices, found = workspace.take("index", shape, torch.int32), workspace.take(name, shape, dtype)
    return _Views(raw.view(_CODES[raw.element_size()]), indices, indices.view(-1), found, found.view(-1))
