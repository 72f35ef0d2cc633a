"""Samples whose KL, or mean square, is far out: further than the tail of all the others lets expect.

A threshold of so many standard deviations fires on healthy data as soon as there is enough of it, or it is skewed.
Here the bound grows with the number of samples, and the tail it follows is a heavy one.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from latentkit.read.choice import Span
from latentkit.stats import Place
from latentkit.stats.quantity import HALF_PRECISIONS

#: Of as many samples as there are, one beyond the bound is to be expected less often than this.
CHANCE = 1e-3
#: Fewer samples do not show what their tail is.
LEAST_SAMPLES = 30
#: So many of the samples furthest out are kept with their places, at either end.
KEPT = 20

# A value is not far below the others unless it is less than this part of their median: on that side a few percent may
# be many times the spread, and mean nothing.
_LOW = 0.25
# More than this share are no outliers but a population of their own (at least so many may be).
_MOST = 0.01
_MOST_OF_FEW = 5
# Samples that are counted at once.
_TOGETHER = 1 << 14
# Top halves of the patterns of float32 numbers from 0 up, infinity excluded.
_CELLS = 0x7F80
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


#: A value and whose it is.
Extreme = tuple[float, Place]


class SampleValues:
    """One value of every sample: its KL in nats, or of latents already drawn their mean square, Σ z² / elements.

    But for its scale and a constant a mean square is the negative log density under N(0, I); it does not grow with the
    size of samples. Values, none of which is negative, are counted by the top 16 bits of a float32 (0.8 %), with the
    extremes by name.

    Bounded memory, and it merges: any order and split gives the same. ``counts`` are of the cells; ``highest`` and
    ``lowest`` are the ``KEPT`` samples furthest out, worst first, and of equal ones the first by place.
    """

    def __init__(self) -> None:
        self._counts: NDArray[np.int64] = np.zeros(_CELLS, np.int64)
        self._extremes: tuple[list[Extreme], list[Extreme]] = ([], [])
        self._nonfinite = 0
        # Many small inputs are taken together.
        self._waiting: list[tuple[NDArray[np.float64], Span]] = []
        self._waiting_count = 0

    @classmethod
    def restored(
        cls, counts: NDArray[np.int64], nonfinite: int, highest: list[Extreme], lowest: list[Extreme]
    ) -> "SampleValues":
        """One that holds what another had."""
        one = cls()
        one._counts[:], one._nonfinite, one._extremes = counts, nonfinite, (highest, lowest)
        return one

    @property
    def counts(self) -> NDArray[np.int64]:
        self._take_waiting()
        return self._counts

    @property
    def nonfinite(self) -> int:
        """Samples whose value is NaN or infinite."""
        self._take_waiting()
        return self._nonfinite

    @property
    def highest(self) -> list[Extreme]:
        self._take_waiting()
        return self._extremes[0]

    @property
    def lowest(self) -> list[Extreme]:
        self._take_waiting()
        return self._extremes[1]

    @property
    def count(self) -> int:
        """Samples whose value is finite."""
        return int(self.counts.sum())

    def add(self, values: NDArray[np.float64], span: Span) -> None:
        """Take the values of a span's samples, ``(samples,)``."""
        self._waiting.append((values, span))
        self._waiting_count += len(values)
        if self._waiting_count >= _TOGETHER:
            self._take_waiting()

    def tally(self, values: NDArray[np.float64]) -> None:
        """Count values, ``(samples,)``, without their places."""
        finite = values[np.isfinite(values)]
        self._nonfinite += len(values) - len(finite)
        self._counts += np.bincount(_cell(finite), minlength=_CELLS)

    def _take_waiting(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting, self._waiting_count = self._waiting, [], 0
        values = np.concatenate([part for part, _ in waiting])
        self.tally(values)
        ends = np.cumsum([len(part) for part, _ in waiting])
        for kept, sign in zip(self._extremes, (1.0, -1.0), strict=True):
            keys = np.where(np.isfinite(values), sign * values, -np.inf)
            least = sign * kept[-1][0] if len(kept) == KEPT else -math.inf
            if len(keys) > KEPT:
                least = max(least, float(np.partition(keys, -KEPT)[-KEPT]))
            for row in np.flatnonzero((keys >= least) & (keys > -np.inf)).tolist():
                part = int(np.searchsorted(ends, row, side="right"))
                _, span = waiting[part]
                index = span.first + row - int(ends[part]) + span.count
                place = Place(span.posterior.file.path, span.posterior.key, index, 0)
                kept.append((float(values[row]), place))
            kept[:] = _furthest(kept, sign)

    def merge(self, other: "SampleValues") -> None:
        """Take what another has counted."""
        self._take_waiting()
        self._counts += other.counts
        self._nonfinite += other.nonfinite
        self._extremes = (
            _furthest(self.highest + other.highest, 1.0),
            _furthest(self.lowest + other.lowest, -1.0),
        )

    def at_least(self, value: float) -> int:
        """How many samples have at least ``value``, to 0.8 %: those in cells wholly above it."""
        return int(self.counts[np.searchsorted(_EDGES, value) :].sum())

    def quantile(self, level: float) -> float:
        """To 0.8 %; NaN where nothing was counted."""
        seen = np.flatnonzero(self.counts)
        if not len(seen):
            return math.nan
        ranks = np.cumsum(self.counts[seen])
        return float(_EDGES[seen[np.searchsorted(ranks, max(1, math.ceil(level * ranks[-1])))]])

    def far_above(self) -> FarOut | None:
        """Samples whose value is far above the others'."""
        return self._far(self.highest, 1.0)

    def far_below(self) -> FarOut | None:
        """Samples whose value is far below the others'."""
        return self._far(self.lowest, -1.0)

    def _far(self, extremes: list[Extreme], sign: float) -> FarOut | None:
        n = self.count
        if n < LEAST_SAMPLES:
            return None

        def exceeded_by(share: float) -> float:
            return sign * _log(self.quantile(1 - share if sign > 0 else share))

        bound = math.exp(min(sign * tail_bound(exceeded_by, n), 700.0))
        if sign < 0:
            bound = min(bound, _LOW * self.quantile(0.5), _least_of_normal(self.quantile, n))
        # Cells that lie wholly beyond.
        cell = int(np.searchsorted(_EDGES, bound))
        count = int(self.counts[cell:].sum() if sign > 0 else self.counts[: max(cell - 1, 0)].sum())
        if not 0 < count <= max(_MOST_OF_FEW, int(_MOST * n)):
            return None
        worst = [entry for entry in extremes if sign * entry[0] > sign * bound]
        return FarOut(count, bound, self.quantile(0.5), worst)


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


def _furthest(extremes: list[Extreme], sign: float) -> list[Extreme]:
    return heapq.nsmallest(KEPT, extremes, key=lambda entry: (-sign * entry[0], entry[1]))


def _cell(values: NDArray[np.float64]) -> NDArray[np.int64]:
    single = np.clip(values, 0, np.finfo(np.float32).max).astype(np.float32)
    return (single.view(np.uint32) >> np.uint32(16)).astype(np.int64)


def cell_edges(values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """For each value, (n,), the least of the cell in which it is counted, and the least of the next."""
    cells = _cell(values)
    return _EDGES[cells], _EDGES[cells + 1]


def _edges() -> NDArray[np.float64]:
    """The least value of each cell, and where the last one ends."""
    bits = np.arange(_CELLS, dtype=np.uint32) << np.uint32(16)
    return np.append(bits.view(np.float32).astype(np.float64), 2.0**128)


_EDGES = _edges()


def _log(value: float) -> float:
    # Nothing is nearer to zero than this.
    return math.log(max(value, 1e-12))
