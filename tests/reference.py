"""The outside reference: KL and NLL of stored values, in 50-digit arithmetic.

It starts from what is stored (the bits of each element are a rational number, taken as such) and follows the textbook
formulas with no care for rounding, as 50 digits need none. It imports nothing from latentkit.

Tensors of one sample come in any floating-point dtype and shape; sums run over equal elements once, times their number,
so that a million elements of a 16-bit tensor cost no more than its 65,536 values.
"""

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import mpmath
import numpy as np
import torch
from torch import Tensor

mp = mpmath.mp.clone()
mp.dps = 50
Number = Any  # mpmath's mpf has no types

CLAMP = (-30.0, 20.0)
SOFTPLUS_FLOOR = mp.mpf("1e-4")
LOG_2PI = mp.log(2 * mp.pi)


@lru_cache(maxsize=1 << 18)
def logvar_of(raw: float, parameterization: str = "logvar", clamp: tuple[float, float] = CLAMP) -> Number:
    """The log-variance after the clamp that a stored scale stands for; NaN for NaN and for a negative σ or variance."""
    value = mp.mpf(raw)
    if mp.isnan(value):
        return value
    if parameterization == "logvar":
        logvar = value
    elif parameterization == "softplus":
        # Past 200, softplus(s) is s to 86 digits.
        softplus = value if value > 200 else mp.log1p(mp.exp(value))
        logvar = 2 * mp.log(softplus + SOFTPLUS_FLOOR)
    elif value < 0:
        return mp.nan
    else:
        logvar = {"std": 2, "var": 1}[parameterization] * mp.log(value)
    return min(max(logvar, mp.mpf(clamp[0])), mp.mpf(clamp[1]))


@lru_cache(maxsize=1 << 18)
def spread(logvar: Number) -> tuple[Number, Number]:
    """e^l and e^l − 1 − l."""
    var = mp.exp(logvar)
    if abs(logvar) < mp.mpf("1e-15"):
        # 50 digits do not outlast the cancellation; what the series leaves out is under 1e-46 of it.
        return var, logvar**2 / 2 + logvar**3 / 6 + logvar**4 / 24
    return var, var - 1 - logvar


def kl_term(mean: float, logvar: Number) -> Number:
    """½ (m² + e^l − 1 − l)."""
    return (mp.mpf(mean) ** 2 + spread(logvar)[1]) / 2


def kl_other_term(mean: float, logvar: Number, other_mean: float, other_logvar: Number) -> Number:
    """½ ((m − m2)² e^(−l2) + e^(l − l2) − 1 − (l − l2))."""
    deviation = mp.mpf(mean) - mp.mpf(other_mean)
    return (deviation**2 * spread(-other_logvar)[0] + spread(logvar - other_logvar)[1]) / 2


def nll_term(mean: float, logvar: Number, x: float) -> Number:
    """½ (log 2π + l + (x − m)² e^(−l))."""
    return (LOG_2PI + logvar + (mp.mpf(x) - mp.mpf(mean)) ** 2 * spread(-logvar)[0]) / 2


def kl(
    mean: Tensor, raw: Tensor, parameterization: str = "logvar", clamp: tuple[float, float] = CLAMP
) -> tuple[Number, Number]:
    """KL of one sample to N(0, I), and the sum of the sizes of its terms' parts: ½ Σ (m² + e^l + 1 + |l|)."""
    total = size = mp.mpf(0)
    for count, value in _counted(mean):
        total += count * mp.mpf(value) ** 2
        size += count * mp.mpf(value) ** 2
    for count, value in _counted(raw):
        logvar = logvar_of(value, parameterization, clamp)
        var, remainder = spread(logvar)
        total += count * remainder
        size += count * (var + 1 + abs(logvar))
    return total / 2, size / 2


def kl_other(
    mean: Tensor,
    raw: Tensor,
    other_mean: Tensor,
    other_raw: Tensor,
    parameterization: str = "logvar",
    other_parameterization: str | None = None,
    clamp: tuple[float, float] = CLAMP,
) -> tuple[Number, Number]:
    """KL of one sample to another, and the sum of the sizes of its terms' parts."""

    def parts(mean: float, raw: float, other_mean: float, other_raw: float) -> tuple[Number, Number]:
        logvar = logvar_of(raw, parameterization, clamp)
        other = logvar_of(other_raw, other_parameterization or parameterization, clamp)
        term = kl_other_term(mean, logvar, other_mean, other)
        # The remainder is e^d − 1 − d: its parts' sizes are 1 + d + |d| + 1 more.
        difference = logvar - other
        return term, term + (2 + difference + abs(difference)) / 2

    return _sum_parts(parts, mean, raw, other_mean, other_raw)


def nll(
    mean: Tensor, raw: Tensor, x: Tensor, parameterization: str = "logvar", clamp: tuple[float, float] = CLAMP
) -> tuple[Number, Number]:
    """−log density of x under one sample, and the sum of its terms' sizes: ½ Σ (log 2π + |l| + (x − m)² e^(−l))."""

    def parts(mean: float, raw: float, x: float) -> tuple[Number, Number]:
        logvar = logvar_of(raw, parameterization, clamp)
        term = nll_term(mean, logvar, x)
        return term, term + (abs(logvar) - logvar) / 2

    return _sum_parts(parts, mean, raw, x)


def relative_error(got: float, expected: Number, size: Number | None = None) -> float:
    """|got − expected| / size (default: |expected|); 0 where both are the same NaN, infinity or zero."""
    size = abs(expected) if size is None else size
    got = mp.mpf(got)
    if got == expected or (mp.isnan(got) and mp.isnan(expected)):
        return 0.0
    error = abs(got - expected) / size if size else mp.inf
    return float(error) if mp.isfinite(error) else float("inf")


def _sum_parts(parts: Callable[..., tuple[Number, Number]], *tensors: Tensor) -> tuple[Number, Number]:
    total = size = mp.mpf(0)
    for count, *values in _counted(*tensors):
        term, term_size = parts(*values)
        total += count * term
        size += count * term_size
    return total, size


def _counted(*tensors: Tensor) -> Iterator[tuple[Any, ...]]:
    """The distinct elements (tuples of elements, for several tensors), each after the number of times it occurs."""
    # Every dtype's values are float64 values. NaNs count as equal.
    columns = [tensor.detach().to(torch.float64).numpy().ravel() for tensor in tensors]
    code = np.zeros(columns[0].size, dtype=np.int64)
    for column in columns:
        values, inverse = np.unique(column, return_inverse=True)
        code = np.unique(code * len(values) + inverse.ravel(), return_inverse=True)[1].ravel()
    _, first, counts = np.unique(code, return_index=True, return_counts=True)
    return zip(counts.tolist(), *(column[first].tolist() for column in columns), strict=True)
