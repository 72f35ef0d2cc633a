"""What many samples' values come to: exact quantiles in bounded memory, and the most extreme ones by name."""

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from latentkit.read.choice import Posterior, Span

# Values are kept in memory up to this many bytes, then on disk.
_IN_MEMORY = 16 << 20
_CHUNK = 1 << 17

# From this ratio of the 99th to the 1st percentile on, bins are of equal ratio.
_WIDE = 20.0

#: So many values may be ranked, in bounded memory.
MOST_RANKED = 100_000
# Rows that wait to be sorted in, at least.
_WAITING = 1 << 12
_ROW = np.dtype([("value", "f8"), ("order", "i8"), ("posterior", "i4"), ("index", "i8"), ("column", "i4")])


@dataclass(frozen=True, slots=True)
class Ranked:
    """One value, whose sample's it is, and its column where a sample has several (channels, draws)."""

    value: float
    posterior: Posterior
    index: int
    column: int


class Top:
    """The ``count`` largest values, descending; of equal ones the earlier comes first. NaN is not ranked.

    72 bytes for each of ``count``; a few thousand more wait to be sorted in.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._rows = np.empty(0, _ROW)
        self._least = -math.inf
        self._waiting: list[NDArray[np.void]] = []
        self._waiting_count = 0
        self._posteriors: dict[Posterior, int] = {}
        self._seen = 0

    def add(self, values: NDArray[np.float64], span: Span) -> None:
        """Take the values of a span's samples, shape ``(samples, k)``."""
        width, values = values.shape[1], values.ravel()
        is_full = len(self._rows) == self._count
        candidates = np.flatnonzero(values > self._least if is_full else ~np.isnan(values))
        if len(candidates):
            rows = np.empty(len(candidates), _ROW)
            rows["value"], rows["order"] = values[candidates], self._seen + candidates
            rows["index"], rows["column"] = span.first + candidates // width, candidates % width
            rows["posterior"] = self._posteriors.setdefault(span.posterior, len(self._posteriors))
            self._waiting.append(rows)
            self._waiting_count += len(rows)
            if self._waiting_count > max(self._count, _WAITING):
                self._sort_in()
        self._seen += len(values)

    def _sort_in(self) -> None:
        rows = np.concatenate([self._rows, *self._waiting])
        self._rows = rows[np.lexsort((rows["order"], -rows["value"]))[: self._count]]
        self._waiting, self._waiting_count = [], 0
        if len(self._rows) == self._count:
            self._least = float(self._rows["value"][-1])

    def ranked(self) -> Iterator[Ranked]:
        """One after the other, as there may be many."""
        self._sort_in()
        posteriors = list(self._posteriors)
        for row in self._rows:
            value, _, posterior, index, column = row.item()
            yield Ranked(value, posteriors[posterior], index, column)


class Spread:
    """Count, mean, standard deviation, extrema and exact quantiles of values; NaN and infinities are only counted."""

    def __init__(self) -> None:
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as this object
        weakref.finalize(self, self._spool.close)
        self.count = 0
        self.nonfinite = 0
        self._total = 0.0
        self.min = math.inf
        self.max = -math.inf

    def add(self, values: NDArray[np.float64]) -> None:
        finite = values[np.isfinite(values)]
        self.nonfinite += len(values) - len(finite)
        if len(finite):
            self._spool.write(finite.tobytes())
            self.count += len(finite)
            self._total = sum_of((self._total, *finite.tolist()))
            self.min, self.max = min(self.min, float(finite.min())), max(self.max, float(finite.max()))

    @property
    def mean(self) -> float:
        return self._total / self.count if self.count else math.nan

    @property
    def total(self) -> float:
        return self._total

    def sd(self) -> float:
        """The sample standard deviation (n − 1), by a second pass; NaN below two values."""
        if self.count < 2:
            return math.nan
        with np.errstate(over="ignore", invalid="ignore"):
            squares = sum_of(float(np.square(chunk - self.mean).sum()) for chunk in self._chunks())
        return math.sqrt(squares / (self.count - 1))

    def quantiles(self, fractions: Sequence[float]) -> list[float]:
        """Exact quantiles as ``numpy.quantile(…, method='inverted_cdf')`` defines them; NaN when there is no value."""
        if not self.count:
            return [math.nan] * len(fractions)
        return [selected(self._chunks, rank_of(fraction, self.count)) for fraction in fractions]

    def histogram(self, bins: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Counts over ``bins`` bins from the least to the greatest value, and the bins' edges.

        Bins are of equal width, or of equal ratio where that would crowd most values into one; where values are far
        out the outermost reach to them, so that the others have room.
        """
        first, last = self.quantiles((0.01, 0.99))
        if first > 0 and last / first > _WIDE:
            edges = np.geomspace(max(self.min, first * first / last), min(self.max, last * (last / first)), bins + 1)
        else:
            low, high = max(self.min, 2 * first - last), min(self.max, 2 * last - first)
            edges = np.linspace(*((low, high) if low < high else (self.min, self.max)), bins + 1)
        edges[[0, -1]] = self.min, self.max
        counts = np.zeros(bins, np.int64)
        for chunk in self._chunks():
            counts += np.histogram(chunk, edges)[0]
        return counts, edges

    def _chunks(self) -> Iterator[NDArray[np.float64]]:
        self._spool.seek(0)
        while data := self._spool.read(8 * _CHUNK):
            yield np.frombuffer(data, np.float64)
        self._spool.seek(0, 2)


def rank_of(fraction: float, count: int) -> int:
    """Which of ``count`` ascending values is a quantile: the least with at least this fraction up to it."""
    return max(0, math.ceil(fraction * count) - 1)


def selected(chunks: Callable[[], Iterable[NDArray[np.float64]]], rank: int) -> float:
    """The value of this rank, found 16 bits of its order-preserving pattern at a time; ``chunks`` go through all."""
    prefix = 0
    for shift in (48, 32, 16, 0):
        counts = np.zeros(1 << 16, np.int64)
        for chunk in chunks():
            keys = _ordered(chunk)
            if shift < 48:
                keys = keys[keys >> np.uint64(shift + 16) == np.uint64(prefix)]
            digits = (keys >> np.uint64(shift)) & np.uint64(0xFFFF)
            counts += np.bincount(digits.astype(np.intp), minlength=1 << 16)
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, rank, side="right"))
        rank -= int(below[digit - 1]) if digit else 0
        prefix = prefix << 16 | digit
    return _value(prefix)


def sum_of(values: Iterable[float]) -> float:
    """The exact sum, rounded once; infinite beyond float64."""
    try:
        return math.fsum(values)
    except OverflowError:
        return math.inf


def _ordered(values: NDArray[np.float64]) -> NDArray[np.uint64]:
    """Bit patterns that sort as the values do."""
    bits = values.view(np.uint64)
    sign = np.uint64(1 << 63)
    return np.where(bits & sign, ~bits, bits | sign)


def _value(ordered: int) -> float:
    bits = ordered ^ (1 << 63) if ordered >> 63 else ordered ^ (1 << 64) - 1
    return float(np.array(bits, np.uint64).view(np.float64))
