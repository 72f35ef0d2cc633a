"""exp, log, h(l) = e^l − 1 − l and softplus in float64, out of operations that IEEE 754 rounds correctly.

A library's functions differ in the last bit from one processor to the next; these do not. None has a branch, so that
loops over them vectorize, and NaN comes out as NaN. Errors are in units in the last place, over the whole range.
"""

import numpy as np

from latentkit.compiled.jit import formula

_LOG2_E = 1.4426950408889634
# log 2 in two parts: 33 bits, so that its product with an exponent is exact, and the rest.
_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
# 1.5 · 2^52: a sum with it is rounded to a whole number, which stands in its lowest bits.
_WHOLE = 6755399441055744.0
_WHOLE_BITS = np.int64(0x4338000000000000)
_BIAS, _MANTISSA_BITS = np.int64(1023), np.int64(52)
_MANTISSA, _ONE_BITS = np.int64(0x000FFFFFFFFFFFFF), np.int64(0x3FF0000000000000)

_LEAST_NORMAL, _LARGEST = 2.2250738585072014e-308, 1.7976931348623157e308

#: Stable Audio's Oobleck adds this to softplus, so that no standard deviation is zero (autoencoder_oobleck.py).
SOFTPLUS_FLOOR = 1e-4


@formula
def _tail(r: float) -> float:
    """(e^r − 1 − r) / r² for |r| ≤ ½ log 2, by Taylor's series: what it leaves out is under 2e-18 of it."""
    p = 1.1470745597729725e-11
    p = p * r + 1.6059043836821613e-10
    p = p * r + 2.08767569878681e-09
    p = p * r + 2.505210838544172e-08
    p = p * r + 2.755731922398589e-07
    p = p * r + 2.7557319223985893e-06
    p = p * r + 2.48015873015873e-05
    p = p * r + 0.0001984126984126984
    p = p * r + 0.001388888888888889
    p = p * r + 0.008333333333333333
    p = p * r + 0.041666666666666664
    p = p * r + 0.16666666666666666
    return p * r + 0.5


@formula
def _power_of_two(k: np.int64) -> np.float64:
    """2^k by its bits, for a whole −1023 < k ≤ 1024, of which the last gives infinity."""
    return np.int64((k + _BIAS) << _MANTISSA_BITS).view(np.float64)


@formula
def exp(x: float) -> float:
    """e^x, within 1 unit."""
    near = -1100.0 if x < -1100.0 else x
    near = 1100.0 if near > 1100.0 else near
    shifted = near * _LOG2_E + _WHOLE
    k = shifted - _WHOLE
    r = (near - k * _LN2_HIGH) - k * _LN2_LOW
    whole = np.int64(np.float64(shifted).view(np.int64) - _WHOLE_BITS)
    # In two steps, as the power alone may be beyond float64 where the product is not.
    half = np.int64(whole >> np.int64(1))
    return (1.0 + (r + r * r * _tail(r))) * _power_of_two(half) * _power_of_two(whole - half)


@formula
def remainder_and_exp(x: float) -> tuple[float, float]:
    """h(x) = e^x − 1 − x of a finite x, within 12 units: near 0 nothing cancels, as there k is 0 and r is x. And e^x,
    within 1 unit from −708 on. Both are infinite from 709.44 on.
    """
    near = 710.0 if x > 710.0 else x
    shifted = near * _LOG2_E + _WHOLE
    shifted = _WHOLE - 1022.0 if shifted < _WHOLE - 1022.0 else shifted
    k = shifted - _WHOLE
    r = (near - k * _LN2_HIGH) - k * _LN2_LOW
    power = _power_of_two(np.int64(np.float64(shifted).view(np.int64) - _WHOLE_BITS))
    # Where r is not small, far below −708, the power is next to nothing.
    small = -1.0 if r < -1.0 else r
    rest = small * small * _tail(small)
    return ((power - 1.0) * (1.0 + r) + (r - near)) + power * rest, (1.0 + (small + rest)) * power


@formula
def remainder(x: float) -> float:
    """h(x) alone."""
    return remainder_and_exp(x)[0]


@formula
def _split(x: float) -> tuple[float, float]:
    """(k, f) of x = 2^k (1 + f) with √½ ≤ 1 + f < √2, for a finite x > 0."""
    tiny = x < _LEAST_NORMAL
    usual = x * 18014398509481984.0 if tiny else x
    bits = np.float64(usual).view(np.int64)
    k = np.float64((bits >> _MANTISSA_BITS) - _BIAS) - (54.0 if tiny else 0.0)
    mantissa = np.int64((bits & _MANTISSA) | _ONE_BITS).view(np.float64)
    upper = mantissa > 1.4142135623730951
    return (k + 1.0 if upper else k), (0.5 * mantissa if upper else mantissa) - 1.0


@formula
def _artanh_tail(z: float) -> float:
    """(artanh s − s) / s³ for z = s² ≤ 1/9: 1/3 + z/5 + z²/7 + …; what it leaves out is under 1e-18 of it."""
    p = 1 / 37
    p = p * z + 1 / 35
    p = p * z + 1 / 33
    p = p * z + 1 / 31
    p = p * z + 1 / 29
    p = p * z + 1 / 27
    p = p * z + 1 / 25
    p = p * z + 1 / 23
    p = p * z + 1 / 21
    p = p * z + 1 / 19
    p = p * z + 1 / 17
    p = p * z + 1 / 15
    p = p * z + 1 / 13
    p = p * z + 1 / 11
    p = p * z + 1 / 9
    p = p * z + 1 / 7
    p = p * z + 1 / 5
    return p * z + 1 / 3


@formula
def log(x: float) -> float:
    """The natural logarithm, within 3 units; −∞ of 0, NaN of less."""
    k, f = _split(x)
    s = f / (2.0 + f)
    z = s * s
    value = k * _LN2_HIGH + (2.0 * s * (1.0 + z * _artanh_tail(z)) + k * _LN2_LOW)
    value = x if x > _LARGEST else value
    value = -np.inf if x == 0.0 else value
    return value if x >= 0.0 else np.nan


@formula
def remainder_of_variance(v: float, excess: float) -> float:
    """v − 1 − log v, that is h(log v), of a v > 0 with its ``excess`` v − 1, which may be known to more digits.

    Within 4 units; within 7 of h(2 log σ) where v is σ² and the excess (σ − 1) (σ + 1), both rounded.

    f − log(1 + f) = s f − 2 s³ (1/3 + …) with s = f / (2 + f): nothing cancels near v = 1.
    """
    k, split = _split(v)
    f = excess if k == 0.0 else split
    s = f / (2.0 + f)
    z = s * s
    near = s * (f - 2.0 * z * _artanh_tail(z))
    far = ((v - (1.0 + f)) - k * _LN2_HIGH) - k * _LN2_LOW
    value = near + (0.0 if k == 0.0 else far)
    value = np.inf if v > _LARGEST or v == 0.0 else value
    return value if v >= 0.0 else np.nan


@formula
def _log_of_one_plus(y: float) -> float:
    """log(1 + y) for 0 ≤ y ≤ 1, within 2 units: 2 artanh(y / (2 + y))."""
    s = y / (2.0 + y)
    z = s * s
    return 2.0 * s * (1.0 + z * _artanh_tail(z))


@formula
def softplus_std(x: float) -> float:
    """σ = log(1 + e^x) + 1e-4, within 5 units."""
    size = -x if x < 0.0 else x
    positive = 0.0 if x < 0.0 else x
    return (positive + _log_of_one_plus(exp(-size))) + SOFTPLUS_FLOOR
