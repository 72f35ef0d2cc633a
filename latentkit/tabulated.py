"""Functions of a stored scale parameter, tabulated: 16 or 8 bits have at most 65,536 values.

One accurate float64 form, evaluated once over all of them and looked up, serves every parameterization; near the
prior, at the clamp and for NaN it needs no special case, and it is as fast as ``exp``.

Libraries and processors differ in the last bits of exp and log. Tables hold less than that: what is rounded to float32,
or to 28 bits, comes out equal everywhere, as no value lies within a few float64 units of where the rounding turns.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from latentkit.posterior.distribution import exp_remainder
from latentkit.posterior.parameterization import Clamp, Scale, scale_of

_CODES = {1: torch.uint8, 2: torch.uint16}


@dataclass(frozen=True, slots=True)
class Tables:
    """Float32 values by bit pattern, computed in float64 and rounded once: h(l) = e^l − 1 − l, l, and e^(−l)."""

    remainder: Tensor
    logvar: Tensor
    inverse_var: Tensor


def can_tabulate(dtype: torch.dtype) -> bool:
    return dtype.itemsize in _CODES


@lru_cache(maxsize=8)
def tables_of(dtype: torch.dtype, parameterization: str, clamp: Clamp) -> Tables:
    """Tables for every bit pattern of a 16- or 8-bit dtype."""
    raw = every_value(dtype).double()
    scale = scale_of(raw, parameterization, clamp)
    remainder = exp_remainder(scale.logvar, scale.var)
    return Tables(remainder.float(), scale.logvar.float(), (1 / scale.var).float())


def look_up_scale(raw: Tensor, parameterization: str, clamp: Clamp) -> Scale:
    """The scale of 16- or 8-bit ``raw`` (any strides) in float64, the same bits on every CPU but for ``softplus``."""
    tables = _scales_of(raw.dtype, parameterization, clamp)
    index = codes_of(raw).to(torch.int32).reshape(-1)
    found = (table.index_select(0, index).view(raw.shape) for table in (tables.logvar, tables.std, tables.var))
    return Scale(*found)


@lru_cache(maxsize=8)
def _scales_of(dtype: torch.dtype, parameterization: str, clamp: Clamp) -> Scale:
    raw = every_value(dtype).double()
    scale = scale_of(raw, parameterization, clamp)
    if parameterization == "softplus":
        # Near s = 0 neighbours differ by less than 28 bits can tell, and their KL is to be right.
        return scale
    logvar = scale.logvar
    if parameterization != "logvar":
        logvar = ({"std": 2, "var": 1}[parameterization] * _log(raw)).clamp(*clamp)
    return Scale(logvar, _to_28_bits(scale.std), _to_28_bits(scale.var))


def _log(x: Tensor) -> Tensor:
    """log x by correctly rounded operations alone: n log 2 + 2 artanh((f − 1) / (f + 1)) for x = 2ⁿ f, ½ ≤ f² < 2."""
    fraction, exponent = torch.frexp(x)
    low = fraction < math.sqrt(0.5)
    fraction = torch.where(low, 2 * fraction, fraction)
    ratio = (fraction - 1) / (fraction + 1)
    series = torch.zeros_like(x)
    for power in range(23, 0, -2):
        series = series * (ratio * ratio) + 1 / power
    log = (exponent.double() - low.double()) * math.log(2) + 2 * ratio * series
    return torch.where((x > 0) & (x < math.inf), log, torch.log(x))


def _to_28_bits(x: Tensor) -> Tensor:
    """Positive float64 rounded to 28 significant bits; infinity and NaN stay.

    Rounding turns at two thirds of a unit: at the half lies, exactly, e^l for a small power of two.
    """
    unit = 1 << 53 - 28
    return ((x.view(torch.int64) + unit // 3) & -unit).view(torch.float64)


def every_value(dtype: torch.dtype) -> Tensor:
    """All values of a 16- or 8-bit dtype, in order of their bit patterns."""
    return torch.arange(1 << 8 * dtype.itemsize, dtype=torch.int32).to(_CODES[dtype.itemsize]).view(dtype)


def codes_of(raw: Tensor) -> Tensor:
    """The bit patterns of ``raw``, as unsigned numbers in the same memory."""
    return raw.view(_CODES[raw.element_size()])


def look_up(table: Tensor, codes: Tensor, index: Tensor, out: Tensor) -> Tensor:
    """``out`` = ``table`` at bit patterns of any strides; ``index`` is an int32 buffer. All have the codes' shape."""
    index.copy_(codes)  # of 32 bits, which are read twice as fast as 64
    torch.index_select(table, 0, index.view(-1), out=out.view(-1))
    return out
