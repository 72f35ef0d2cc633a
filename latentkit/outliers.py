"""Samples whose KL is far out: further than the tail of all the others lets expect.

A threshold of so many standard deviations fires on healthy data as soon as there is enough of it, or it is skewed.
Here the bound grows with the number of samples, and the tail it follows is a heavy one.
"""

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentkit.statistics import Place
from latentkit.storage.choice import Span

#: Of as many samples as there are, one beyond the bound is to be expected less often than this.
CHANCE = 1e-3
#: Fewer samples do not show what their tail is.
LEAST_SAMPLES = 30
#: So many of the samples furthest out are kept with their places, at either end.
KEPT = 20

# A KL is not far below the others' unless it is less than this part of their median: on that side a few percent may
# be many times the spread, and mean nothing.
_LOW = 0.25
# More than this share are no outliers but a population of their own (at least so many may be).
_MOST = 0.01
_MOST_OF_FEW = 3
# Top halves of the patterns of float32 numbers from 0 up, infinity excluded.
_CELLS = 0x7F80
# A tail whose slope is less than this is taken to have it: KL is counted in cells 0.8 % wide.
_LEAST_SLOPE = 0.01
# Three standard errors of the slope, relative, are _SLOPE_ERROR / √n: Rényi's for the spacing of the 75th and 90th
# percentiles of an exponential tail, 3 · √(1/0.1 − 1/0.25) / log 2.5.
_SLOPE_ERROR = 8.0


@dataclass(frozen=True, slots=True)
class FarOut:
    """Samples beyond ``bound``, all KL in nats: how many, and those furthest out, worst first."""

    count: int
    bound: float
    median: float
    worst: list[tuple[float, Place]]


class SampleKl:
    """KL of every sample in nats: counted by the top 16 bits of a float32 (0.8 %), with the extremes by name.

    Bounded memory, and it merges: any order and split gives the same.
    """

    def __init__(self) -> None:
        self.counts: NDArray[np.int64] = np.zeros(_CELLS, np.int64)
        self.nonfinite = 0
        self.highest: list[tuple[float, Place]] = []
        self.lowest: list[tuple[float, Place]] = []

    @property
    def count(self) -> int:
        """Samples whose KL is finite."""
        return int(self.counts.sum())

    def add(self, values: NDArray[np.float64], span: Span) -> None:
        """Take the KL of a span's samples, ``(samples,)``."""
        self.tally(values)
        finite = np.isfinite(values)
        posterior = span.posterior
        for kept, sign in ((self.highest, 1.0), (self.lowest, -1.0)):
            worst = sign * kept[-1][0] if len(kept) == KEPT else -math.inf
            rows = np.flatnonzero(finite & (sign * values >= worst))
            if len(rows) > KEPT:
                rows = rows[np.argsort(-sign * values[rows], kind="stable")[:KEPT]]
            for row in rows.tolist():
                place = Place(posterior.file.path, posterior.key, span.first + row, 0)
                kept.append((float(values[row]), place))
            if len(rows):
                kept[:] = heapq.nsmallest(KEPT, kept, key=lambda entry: (-sign * entry[0], entry[1]))

    def tally(self, values: NDArray[np.float64]) -> None:
        """Count values, ``(samples,)``, without their places."""
        finite = values[np.isfinite(values)]
        self.nonfinite += len(values) - len(finite)
        self.counts += np.bincount(_cell(finite), minlength=len(self.counts))

    def merge(self, other: "SampleKl") -> None:
        """Take what another has counted."""
        self.counts += other.counts
        self.nonfinite += other.nonfinite
        self.highest = heapq.nsmallest(KEPT, self.highest + other.highest, key=lambda entry: (-entry[0], entry[1]))
        self.lowest = heapq.nsmallest(KEPT, self.lowest + other.lowest, key=lambda entry: (entry[0], entry[1]))

    def at_least(self, value: float) -> int:
        """How many samples have a KL of at least ``value``, to 0.8 %: those in cells wholly above it."""
        return int(self.counts[np.searchsorted(_VALUES, value) :].sum())

    def quantile(self, level: float) -> float:
        """To 0.8 %; NaN where nothing was counted."""
        seen = np.flatnonzero(self.counts)
        if not len(seen):
            return math.nan
        ranks = np.cumsum(self.counts[seen])
        return float(_VALUES[seen[np.searchsorted(ranks, max(1, math.ceil(level * ranks[-1])))]])

    def far_above(self) -> FarOut | None:
        """Samples whose KL is far above the others'."""
        return self._far(self.highest, 1.0)

    def far_below(self) -> FarOut | None:
        """Samples whose KL is far below the others'."""
        return self._far(self.lowest, -1.0)

    def _far(self, extremes: list[tuple[float, Place]], sign: float) -> FarOut | None:
        n = self.count
        if n < LEAST_SAMPLES:
            return None

        def exceeded_by(share: float) -> float:
            return sign * _log(self.quantile(1 - share if sign > 0 else share))

        bound = math.exp(min(sign * tail_bound(exceeded_by, n), 700.0))
        if sign < 0:
            bound = min(bound, _LOW * self.quantile(0.5))
        # Cells that lie wholly beyond.
        cell = int(np.searchsorted(_VALUES, bound))
        count = int(self.counts[cell:].sum() if sign > 0 else self.counts[: max(cell - 1, 0)].sum())
        if not 0 < count <= max(_MOST_OF_FEW, int(_MOST * n)):
            return None
        worst = [entry for entry in extremes if sign * entry[0] > sign * bound]
        return FarOut(count, bound, self.quantile(0.5), worst)


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


def _cell(values: NDArray[np.float64]) -> NDArray[np.int64]:
    single = np.clip(values, 0, np.finfo(np.float32).max).astype(np.float32)
    return (single.view(np.uint32) >> np.uint32(16)).astype(np.int64)


def _values() -> NDArray[np.float64]:
    """The least value of each cell."""
    bits = np.arange(_CELLS, dtype=np.uint32) << np.uint32(16)
    return bits.view(np.float32).astype(np.float64)


_VALUES = _values()


def _log(value: float) -> float:
    # Nothing is nearer to no information than this many nats.
    return math.log(max(value, 1e-12))
