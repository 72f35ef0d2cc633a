"""One value of every sample, counted: its KL, or of latents already drawn their mean square."""

import heapq
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentkit.measures.ranking import rank_of
from latentkit.read.choice import Span
from latentkit.stats.extrema import Place
from latentkit.stats.facts import MOST_COUNTED
from latentkit.stats.summary import QUANTILES
from latentkit.stats.sums import ExactSums

#: Up to so many values are kept as they are, 0.8 MiB; more are counted in cells.
MOST_EXACT = 100_000

#: So many of the samples furthest out are kept with their places, at either end.
KEPT = 20

# Samples that are counted at once.
_TOGETHER = 1 << 14
# Top halves of the patterns of float32 numbers from 0 up, infinity excluded.
_CELLS = 0x7F80

# More than float32 numbers and sums are rounded by.
_ROUNDING = 1e-6

#: A value and whose it is.
Extreme = tuple[float, Place]


@dataclass(frozen=True, slots=True)
class SampleFigures:
    """Of all samples' values: NaN where there is none. ``quantiles`` belong to ``stats.summary.QUANTILES``."""

    least: float
    quantiles: list[float]
    greatest: float


class SampleValues:
    """One value of every sample: its KL in nats, or of latents already drawn their mean square, Σ z² / elements.

    But for its scale and a constant a mean square is the negative log density under N(0, I); it does not grow with the
    size of samples. Values, none of which is negative, are kept up to ``MOST_EXACT``, so that what is said of them is
    exact; more are counted by the top 16 bits of a float32 (0.8 %). The extremes have their places.

    Bounded memory, and it merges: any order and split gives the same. ``exact`` are the values, ascending, and None
    where there are too many; then ``counts`` are of the cells. ``total`` is their sum. ``highest`` and ``lowest`` are
    the ``KEPT`` samples furthest out, worst first, and of equal ones the first by place.
    """

    def __init__(self) -> None:
        self._exact: NDArray[np.float64] | None = np.zeros(0)
        self._counts: NDArray[np.int64] = np.zeros(_CELLS, np.int64)
        self._extremes: tuple[list[Extreme], list[Extreme]] = ([], [])
        self._nonfinite = 0
        self._total = ExactSums(1)
        # Many small inputs are taken together.
        self._waiting: list[tuple[NDArray[np.float64], Span]] = []
        self._waiting_count = 0

    @classmethod
    def restored(
        cls,
        exact: NDArray[np.float64] | None,
        counts: NDArray[np.int64],
        nonfinite: int,
        highest: list[Extreme],
        lowest: list[Extreme],
        total: ExactSums,
    ) -> "SampleValues":
        """One that holds what another had; raises ``ValueError`` where that contradicts itself."""
        if not (counts.min() >= 0 <= nonfinite and counts.max() <= MOST_COUNTED):
            raise ValueError("its counts of samples are none")
        count = int(counts.sum()) if exact is None else len(exact)
        if (exact is None) != (count > MOST_EXACT):
            raise ValueError(f"it has {count} values of samples, in a form that so many do not have")
        if exact is not None and not (np.isfinite(exact).all() and np.diff(exact, prepend=0.0).min(initial=0) >= 0):
            raise ValueError("its values of samples are not finite, or not ascending")
        for extremes, sign in ((highest, 1.0), (lowest, -1.0)):
            if len(extremes) != min(KEPT, count) or extremes != _furthest(extremes, sign):
                raise ValueError(f"it counts {count} values of samples, and names {len(extremes)} of the furthest out")
            if exact is not None and [value for value, _ in extremes] != exact[:: int(-sign)][:KEPT].tolist():
                raise ValueError("the samples that it names are not those furthest out")
        one = cls()
        one._exact, one._nonfinite, one._extremes, one._total = exact, nonfinite, (highest, lowest), total
        one._counts[:] = counts
        if not one._may_have(float(total.total[0])):
            raise ValueError("the sum of its values of samples is not theirs")
        return one

    @property
    def exact(self) -> NDArray[np.float64] | None:
        self._take_waiting()
        return self._exact

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
        return int(self.counts.sum()) if self.exact is None else len(self.exact)

    @property
    def total(self) -> ExactSums:
        self._take_waiting()
        return self._total

    @property
    def mean(self) -> float:
        """Of the samples whose value is finite; NaN where there is none."""
        return float(self.total.total[0]) / self.count if self.count else math.nan

    def _may_have(self, total: float) -> bool:
        """Whether the values can come to ``total``, as far as the cells say; the last one has no end."""
        if self._exact is not None:
            least = most = sum(self._exact.tolist())
        else:
            least, most = self._counts @ _EDGES[:-1], math.inf if self._counts[-1] else self._counts @ _EDGES[1:]
        return bool(least * (1 - _ROUNDING) <= total <= most * (1 + _ROUNDING))

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
        self._total.add(finite[:, np.newaxis])
        self._take(finite)

    def _take(self, finite: NDArray[np.float64]) -> None:
        if self._exact is not None:
            finite, self._exact = np.sort(np.concatenate([self._exact, finite])), None
            if len(finite) <= MOST_EXACT:
                self._exact = finite
                return
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
        if other.exact is not None:
            self._take(other.exact)
        else:
            self._take(np.zeros(0))
            self._counts += other.counts
        self._nonfinite += other.nonfinite
        self._total.merge(other.total)
        self._extremes = (
            _furthest(self.highest + other.highest, 1.0),
            _furthest(self.lowest + other.lowest, -1.0),
        )

    def at_least(self, value: float) -> int:
        """How many samples have at least ``value``; of cells, those wholly above it."""
        if self.exact is not None:
            return self.count - int(np.searchsorted(self.exact, value))
        return int(self.counts[np.searchsorted(_EDGES, value) :].sum())

    def below(self, value: float) -> int:
        """How many samples are less than ``value``; of cells, those wholly below it."""
        if self.exact is not None:
            return int(np.searchsorted(self.exact, value))
        return int(self.counts[: max(int(np.searchsorted(_EDGES, value)) - 1, 0)].sum())

    def figures(self) -> SampleFigures:
        """What all values come to."""
        least, greatest = (kept[0][0] if kept else math.nan for kept in (self.lowest, self.highest))
        return SampleFigures(least, [self.quantile(percent / 100) for percent in QUANTILES], greatest)

    def quantile(self, level: float) -> float:
        """The least value with at least this share up to it, or where its cell begins; NaN where there is none."""
        if not self.count:
            return math.nan
        rank = rank_of(level, self.count)
        if self.exact is not None:
            return float(self.exact[rank])
        return float(_EDGES[np.searchsorted(np.cumsum(self.counts), rank, side="right")])


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
