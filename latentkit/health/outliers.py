"""Samples whose KL, or mean square, is far out: further than the tail of all the others lets expect.

A threshold of so many standard deviations fires on healthy data as soon as there is enough of it, or it is skewed.
Here the bound grows with the number of samples, and the tail it follows is a heavy one.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

from latentkit.stats.extrema import Place
from latentkit.stats.quantity import HALF_PRECISIONS
from latentkit.stats.sample_values import Extreme, SampleValues

#: Of as many samples as there are, one beyond the bound is to be expected less often than this.
CHANCE = 1e-3
#: Fewer samples do not show what their tail is.
LEAST_SAMPLES = 30

# A value is not far below the others unless it is less than this part of their median: on that side a few percent may
# be many times the spread, and mean nothing.
_LOW = 0.25
# More than this share are no outliers but a population of their own (at least so many may be).
_MOST = 0.01
_MOST_OF_FEW = 5
# A tail whose slope is less than this is taken to have it: values are counted in cells 0.8 % wide.
_LEAST_SLOPE = 0.01
# Three standard errors of the slope, relative, are _SLOPE_ERROR / √n: Rényi's for the spacing of the 75th and 90th
# percentiles of an exponential tail, 3 · √(1/0.1 − 1/0.25) / log 2.5.
_SLOPE_ERROR = 8.0


@dataclass(frozen=True, slots=True)
class FarOut:
    """Samples beyond ``bound``: how many, and those furthest out, worst first."""

    count: int
    bound: float
    median: float
    worst: list[tuple[float, Place]]


def far_above(values: SampleValues) -> FarOut | None:
    """Samples whose value is far above the others'."""
    return _far(values, values.highest, 1.0)


def far_below(values: SampleValues) -> FarOut | None:
    """Samples whose value is far below the others'."""
    return _far(values, values.lowest, -1.0)


def _far(values: SampleValues, extremes: list[Extreme], sign: float) -> FarOut | None:
    n = values.count
    if n < LEAST_SAMPLES:
        return None

    def exceeded_by(share: float) -> float:
        return sign * _log(values.quantile(1 - share if sign > 0 else share))

    bound = math.exp(min(sign * tail_bound(exceeded_by, n), 700.0))
    if sign < 0:
        bound = min(bound, _LOW * values.quantile(0.5), _least_of_normal(values.quantile, n))
    count = values.at_least(bound) if sign > 0 else values.below(bound)
    if not 0 < count <= max(_MOST_OF_FEW, int(_MOST * n)):
        return None
    worst = [entry for entry in extremes if sign * entry[0] > sign * bound]
    return FarOut(count, bound, values.quantile(0.5), worst)


def kl_over(sample_kl: SampleValues) -> dict[str, int]:
    """By 16-bit dtype, samples whose KL is infinite when computed there as ½ Σ (m² + e^l − 1 − l).

    Those of finite KL whose sum is 2^16 (bfloat16: 2^128) or more. No term is negative, so an element that overflows
    by itself brings its sample there. What rounding in that dtype takes over, or back, is not known: it may be sums
    within 0.3 % (1 %) of that.
    """
    return {half.dtype: sample_kl.at_least(half.over / 2) for half in HALF_PRECISIONS}


def tail_bound(exceeded_by: Callable[[float], float], n: int) -> float:
    """What the greatest of n values passes with a probability of at most ``CHANCE``, by their middle and shoulder.

    The tail beyond the 90th percentile is taken to fall exponentially, as steeply as values do between the median,
    the 75th and the 90th percentile at the least steep: if one in twenty values is wild, these hardly move. On a
    logarithmic scale, as here, that is a power law, heavier than log-normal, gamma, exponential or normal tails.

    Args:
        exceeded_by: the value that a share of all exceeds.
        n: how many values there are.
    """
    middle, quarter, shoulder = (exceeded_by(share) for share in (0.5, 0.25, 0.1))
    slope = max((quarter - middle) / math.log(2), (shoulder - quarter) / math.log(2.5), _LEAST_SLOPE)
    return shoulder + slope * (1 + _SLOPE_ERROR / math.sqrt(n)) * math.log(0.1 * n / CHANCE)


def _least_of_normal(quantile: Callable[[float], float], n: int) -> float:
    """What the least of n values that are normal about their median passes with a probability of ``CHANCE``.

    A normal population as wide as this comes near to zero, and there its tail is no power law that the middle shows.
    It is as wide as its lower half is at the widest. Where it reaches zero, the density is taken to fall from the
    10th percentile on down: less than a part p of that percentile are p / 10 of all.
    """
    median, quarter, shoulder = (quantile(level) for level in (0.5, 0.25, 0.1))
    standard = NormalDist()
    sd = max((quarter - median) / standard.inv_cdf(0.25), (shoulder - median) / standard.inv_cdf(0.1))
    return max(median + standard.inv_cdf(CHANCE / n) * sd, shoulder * CHANCE / (0.1 * n))


def _log(value: float) -> float:
    # Nothing is nearer to zero than this.
    return math.log(max(value, 1e-12))
