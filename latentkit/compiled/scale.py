"""Stored scale parameters after the clamp: h(l), and what measures between two posteriors are made of.

A ``kind`` says what is stored; the bounds of the clamp act on the log-variance in each. NaN, and a negative σ or
variance, give NaN.
"""

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.formulas import exp, log, remainder, remainder_of_variance, softplus_std
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import Floats, Stored

#: What a stored number is. A float32 log-variance is a kind of its own, as h of it takes a shorter polynomial.
LOGVAR, STD, VAR, SOFTPLUS, LOGVAR_SINGLE = range(5)
KINDS = {"logvar": LOGVAR, "std": STD, "var": VAR, "softplus": SOFTPLUS}

# (e^r − 1 − r) / r² for |r| ≤ 0.7 in float32: Chebyshev's polynomial of degree 6.
_NEAR = np.float32(0.7)
_C0, _C1, _C2, _C3 = np.float32(0.5), np.float32(0.1666667), np.float32(0.04166667), np.float32(0.00833275)
_C4, _C5, _C6 = np.float32(0.0013888306), np.float32(0.00020078894), np.float32(2.5038991e-05)
_LOG2_E = np.float32(1.44269504)
# log 2 in two parts: 9 bits, so that its product with an exponent is exact, and the rest.
_LN2_HIGH, _LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
_ONE = np.float32(1.0)
_WHOLE = np.float32(12582912.0)  # 1.5 · 2^23, whose last place is 1
_EXPONENT_OF_WHOLE = np.int32(127 - 0x4B400000)
# Beyond, float32 has no e^l any more.
_LARGEST = 80.0


@formula
def clamped(x: float, low: float, high: float) -> float:
    """x within the bounds; NaN stays NaN."""
    x = low if x < low else x
    return high if x > high else x


@formula
def remainders(stored: Stored, kind: int, bounds: Floats, out: Floats, count: int) -> None:
    """h(l) = e^l − 1 − l of stored scale parameters; ``bounds`` are those of l, σ and σ², see ``tables.bounds_for``."""
    if kind in (LOGVAR, LOGVAR_SINGLE):
        for j in range(count):
            out[j] = remainder(clamped(np.float64(stored[j]), bounds[0], bounds[1]))
    elif kind == VAR:
        for j in range(count):
            v = clamped(np.float64(stored[j]), bounds[4], bounds[5])
            out[j] = np.nan if stored[j] < 0 else remainder_of_variance(v, v - 1.0)
    elif kind == STD:
        for j in range(count):
            s = clamped(np.float64(stored[j]), bounds[2], bounds[3])
            out[j] = np.nan if stored[j] < 0 else remainder_of_variance(s * s, (s - 1.0) * (s + 1.0))
    else:
        for j in range(count):
            s = clamped(softplus_std(np.float64(stored[j])), bounds[2], bounds[3])
            out[j] = remainder_of_variance(s * s, (s - 1.0) * (s + 1.0))


@formula
def quick_remainders(
    stored: Stored, kind: int, bounds: Floats, out: Floats, scratch: NDArray[np.float32], count: int
) -> None:
    """As ``remainders``, but of float32 log-variances within 1e-7, where only the polynomial is in float32.

    ``scratch`` is (4, count or more), of which nothing is kept. Two loops, as one with float64 in it takes half as many
    numbers at a time.
    """
    if kind != LOGVAR_SINGLE or bounds[1] > _LARGEST:
        remainders(stored, kind, bounds, out, count)
        return
    low, high = np.float32(bounds[0]), np.float32(bounds[1])
    logvars, exponents, powers, tails = scratch[0], scratch[1], scratch[2], scratch[3]
    for j in range(count):
        raised = low if stored[j] < low else np.float32(stored[j])
        logvar = high if raised > high else raised
        shifted = logvar * _LOG2_E + _WHOLE
        # No lower, where the power is 0.
        shifted = _WHOLE - np.float32(127.0) if shifted < _WHOLE - np.float32(127.0) else shifted
        shifted = _WHOLE if abs(logvar) < _NEAR else shifted
        k = shifted - _WHOLE
        r = (logvar - k * _LN2_HIGH) - k * _LN2_LOW
        r = -_ONE if r < -_ONE else r
        square = r * r
        q = _C0 + r * (((_C1 + _C2 * r) + (_C3 + _C4 * r) * square) + (_C5 + _C6 * r) * (square * square))
        power = np.int32((np.float32(shifted).view(np.int32) + _EXPONENT_OF_WHOLE) << np.int32(23)).view(np.float32)
        logvars[j], exponents[j], powers[j], tails[j] = logvar, k, power, q
    for j in range(count):
        scale, shift = np.float64(powers[j]), np.float64(exponents[j]) * 0.6931471805599453
        rest = np.float64(logvars[j]) - shift
        out[j] = ((scale - 1.0) * (1.0 + rest) - shift) + scale * (np.float64(tails[j]) * (rest * rest))


@formula
def spreads(stored: Stored, kind: int, bounds: Floats, base: Floats, inverse: Floats | None, count: int) -> None:
    """The ``base``, which is l, σ or σ² as the kind has it (softplus: σ), and 1/σ, of stored scale parameters."""
    if kind in (LOGVAR, LOGVAR_SINGLE):
        for j in range(count):
            base[j] = clamped(np.float64(stored[j]), bounds[0], bounds[1])
    elif kind == VAR:
        for j in range(count):
            base[j] = np.nan if stored[j] < 0 else clamped(np.float64(stored[j]), bounds[4], bounds[5])
    elif kind == STD:
        for j in range(count):
            base[j] = np.nan if stored[j] < 0 else clamped(np.float64(stored[j]), bounds[2], bounds[3])
    else:
        for j in range(count):
            base[j] = clamped(softplus_std(np.float64(stored[j])), bounds[2], bounds[3])
    if inverse is not None:
        _invert(base, kind, inverse, count)


@formula
def _invert(base: Floats, kind: int, inverse: Floats, count: int) -> None:
    """1/σ."""
    if kind in (LOGVAR, LOGVAR_SINGLE):
        for j in range(count):
            inverse[j] = exp(-0.5 * base[j])
    elif kind == VAR:
        for j in range(count):
            inverse[j] = np.sqrt(1.0 / base[j])
    else:
        for j in range(count):
            inverse[j] = 1.0 / base[j]


@formula
def logvars(base: Floats, kind: int, low: float, high: float, count: int) -> None:
    """Turn bases into log-variances, in place. The logarithm of a rounded bound may lie just outside."""
    if kind == VAR:
        for j in range(count):
            base[j] = clamped(log(base[j]), low, high)
    elif kind in (STD, SOFTPLUS):
        for j in range(count):
            base[j] = clamped(2.0 * log(base[j]), low, high)


@formula
def variances(base: Floats, kind: int, count: int) -> None:
    """Turn bases into variances, in place."""
    if kind in (LOGVAR, LOGVAR_SINGLE):
        for j in range(count):
            base[j] = exp(base[j])
    elif kind in (STD, SOFTPLUS):
        for j in range(count):
            base[j] = base[j] * base[j]


@loop
def terms_of(logvars: Floats) -> Floats:
    """h(l) and e^l of log-variances, (2, n)."""
    out = np.empty((2, logvars.size))
    for j in range(logvars.size):
        out[0, j], out[1, j] = remainder(logvars[j]), exp(logvars[j])
    return out


#: What ``every_scale`` gives, in this order.
BASE, INVERSE, CLAMPED_LOGVAR, LOGVAR_BEFORE, REMAINDER, VARIANCE = range(6)


@loop
def every_scale(stored: Stored, kind: int, bounds: Floats) -> Floats:
    """All that is known of every number of an array, (6, n): base, 1/σ, l after the clamp and before it, h(l), e^l."""
    n = stored.size
    out = np.empty((6, n))
    spreads(stored, kind, bounds, out[0], out[1], n)
    for j in range(n):  # as a loop: assigning one row to another takes seconds to compile
        out[2, j] = out[5, j] = out[0, j]
    logvars(out[2], kind, bounds[0], bounds[1], n)
    variances(out[5], kind, n)
    remainders(stored, kind, bounds, out[4], n)
    for j in range(n):
        wide = np.float64(stored[j])
        out[3, j] = softplus_std(wide) if kind == SOFTPLUS else wide
    # Without bounds, as infinities are what the logarithm gives of 0 and ∞.
    logvars(out[3], kind, -np.inf, np.inf, n)
    return out
