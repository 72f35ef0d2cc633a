"""What each label's values come to: a sample's KL or NLL, pooled over the samples that have the label."""

import math
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.measures.ranking import rank_of, selected, sum_of
from latentkit.read.choice import Span
from latentkit.read.labels import Labels

#: Percentages of the quantiles, by NumPy's ``inverted_cdf``.
QUANTILES = (1, 25, 50, 75, 99)

# Values are kept in memory up to this many bytes, then on disk; and so many are sorted, or looked at, at once.
_IN_MEMORY = 8 << 20
_SORTED, _CHUNK = 1 << 17, 1 << 15
_ROW = np.dtype([("label", "i4"), ("value", "f8")])

Floats = NDArray[np.float64]
#: Goes through values, part by part, any number of times.
Chunks = Callable[[], Iterable[Floats]]


@dataclass(frozen=True, slots=True)
class LabelValues:
    """Of the values with one label, all but the counts of the finite ones; NaN where there are too few.

    ``sd`` is the sample's (n − 1), ``quantiles`` belong to ``QUANTILES``, and ``element`` is the values' sum by the
    latent elements behind them.
    """

    label: Any
    count: int
    nonfinite: int
    mean: float
    sd: float
    min: float
    quantiles: list[float]
    max: float
    element: float


class ValuesByLabel:
    """Values label by label. Sums are exact and quantiles are those of the sorted values, so that a label's figures
    depend on its own samples alone: on no order, and on no other label.

    24 bytes per label, and 12 per value, beyond 8 MiB on disk.
    """

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        self._spool = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - lives as long as this object
        weakref.finalize(self, self._spool.close)
        # Finite values, others, and latent elements behind the finite.
        self._counts, self._nonfinite, self._elements = np.zeros((3, len(labels)), np.int64)

    def add(self, values: Floats, span: Span) -> None:
        """Take the values of a span's samples, (samples, k). Raises ``DataError`` for labels that changed."""
        numbers = np.repeat(self.labels.numbers(span), values.shape[1])
        is_finite = np.isfinite(values.ravel())
        rows = np.empty(int(is_finite.sum()), _ROW)
        rows["label"], rows["value"] = numbers[is_finite], values.ravel()[is_finite]
        self._spool.write(rows.tobytes())
        np.add.at(self._counts, rows["label"], 1)
        np.add.at(self._nonfinite, numbers[~is_finite], 1)
        np.add.at(self._elements, rows["label"], prod(span.posterior.axes.view[1:]))

    def figures(self) -> Iterator[tuple[int, LabelValues]]:
        """The number of each label of which there is a sample, ascending, and what its values come to."""
        for number, chunks in enumerate(self._by_label()):
            count, nonfinite = int(self._counts[number]), int(self._nonfinite[number])
            if count or nonfinite:
                label, elements = self.labels.values[number].item(), int(self._elements[number])
                yield number, _figures(label, chunks, count, nonfinite, elements)

    def _by_label(self) -> Iterator[Chunks]:
        """The values of each label in turn: of as many labels as there is memory for they are sorted at once."""
        first, ends = 0, np.cumsum(self._counts)
        while first < len(ends):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + _SORTED, side="right")))
            if self._counts[first] > _SORTED:
                yield partial(self._values, first, last)
            else:
                rows = np.concatenate([np.empty(0, _ROW), *self._rows(first, last)])
                rows = rows[np.lexsort((rows["value"], rows["label"]))]
                for number in range(first, last):
                    end = int(ends[number]) - before
                    yield partial(_once, rows["value"][end - int(self._counts[number]) : end])
            first = last

    def _values(self, first: int, last: int) -> Iterator[Floats]:
        return (rows["value"] for rows in self._rows(first, last))

    def _rows(self, first: int, last: int) -> Iterator[NDArray[Any]]:
        """The values of labels ``first`` to ``last``."""
        self._spool.seek(0)
        while data := self._spool.read(_ROW.itemsize * _CHUNK):
            rows = np.frombuffer(data, _ROW)
            yield rows[(rows["label"] >= first) & (rows["label"] < last)]
        self._spool.seek(0, 2)


def by_label(measured: Iterable[tuple[Span, Floats]], labels: Labels) -> list[LabelValues]:
    """What the values of all samples come to, label by label."""
    values = ValuesByLabel(labels)
    for span, some in measured:
        values.add(some, span)
    return [figures for _, figures in values.figures()]


def _once(values: Floats) -> Iterable[Floats]:
    return [values]


def _figures(label: Any, chunks: Chunks, count: int, nonfinite: int, elements: int) -> LabelValues:
    if not count:
        nans = [math.nan] * len(QUANTILES)
        return LabelValues(label, 0, nonfinite, math.nan, math.nan, math.nan, nans, math.nan, math.nan)
    total = sum_of(chain.from_iterable(chunk.tolist() for chunk in chunks()))
    mean, sd = total / count, math.nan
    if count > 1:
        with np.errstate(over="ignore", invalid="ignore"):
            squares = chain.from_iterable(np.square(chunk - mean).tolist() for chunk in chunks())
            sd = math.sqrt(sum_of(squares) / (count - 1))
    ranks = [rank_of(percent / 100, count) for percent in (0, *QUANTILES, 100)]
    if count <= _SORTED:
        (values,) = chunks()
        least, *quantiles, greatest = values[ranks].tolist()
    else:
        least, *quantiles, greatest = (selected(chunks, rank) for rank in ranks)
    return LabelValues(label, count, nonfinite, mean, sd, least, quantiles, greatest, total / elements)
