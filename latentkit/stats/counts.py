"""What counts are made of, exact and coarse alike.

Cells are found by the bits of what is stored, never by a logarithm, so that no library's last digit decides where an
element is counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.stats.extrema import Extrema, Segment, first_place
from latentkit.stats.moments import Floats, Ints, Moments, Sums
from latentkit.stats.quantity import Quantity
from latentkit.workspace import Workspace

# Numbers worked on at once: few enough for a core's cache, enough that threads do not wait for the interpreter.
CHUNK = 1 << 17

# Counts are 32 bits wide (half the memory, and faster) until a cell might pass this.
_INT32_ROOM = 2**31 - 1

#: The facts that are counts.
COUNTED = ("total", "nan", "negative", "minus_inf", "plus_inf", "less", "at_most")


@dataclass(slots=True)
class Facts:
    """What is known of each channel, (C,) each, whatever the dtype was; thresholds are ``Quantity.thresholds``.

    ``remainder`` and ``variance`` are sums of h(l) and e^l after the clamp over all but NaN. ``less`` and
    ``at_most``, (C, K), count finite elements below and up to the thresholds.
    """

    total: Ints
    nan: Ints
    negative: Ints
    minus_inf: Ints
    plus_inf: Ints
    less: Ints
    at_most: Ints
    moments: Moments
    remainder: Sums
    variance: Sums

    @classmethod
    def none(cls, channels: int, thresholds: int) -> "Facts":
        total, nan, negative, minus_inf, plus_inf = np.zeros((5, channels), np.int64)
        less, at_most = np.zeros((2, channels, thresholds), np.int64)
        moments, remainder, variance = Moments(channels), Sums(channels), Sums(channels)
        return cls(total, nan, negative, minus_inf, plus_inf, less, at_most, moments, remainder, variance)

    def merge(self, other: "Facts") -> None:
        for name in COUNTED:
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self.moments.merge(other.moments)
        self.remainder.merge(other.remainder)
        self.variance.merge(other.variance)

    def pooled(self) -> "Facts":
        """All channels as one."""
        summed = {name: getattr(self, name).sum(axis=0, keepdims=True) for name in COUNTED}
        return Facts(
            **summed,
            moments=self.moments.pooled(),
            remainder=self.remainder.pooled(),
            variance=self.variance.pooled(),
        )


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts of finite values: (C, P) counts, and (P,) ascending values that stand for the cells.

    Where a cell is wider than one value, the one nearest to zero stands for it.
    """

    values: Floats
    counts: Ints

    @classmethod
    def of(cls, values: Floats, counts: "NDArray[np.int32] | Ints") -> "Cells":
        """Sort cells by value, and leave out what holds nothing or stands for nothing finite."""
        kept = np.flatnonzero(np.isfinite(values) & counts.any(axis=0))
        kept = kept[np.argsort(values[kept], kind="stable")]
        return cls(values[kept], counts[:, kept].astype(np.int64))

    @classmethod
    def pooled(cls, many: "list[Cells]", channels: int) -> "Cells":
        """Counts of several dtypes as one."""
        values = [np.zeros(0), *(cells.values for cells in many)]
        counts = [np.zeros((channels, 0), np.int64), *(cells.counts for cells in many)]
        return cls.of(np.concatenate(values), np.concatenate(counts, axis=1))


class Counts(Protocol):
    """What counts the numbers of one dtype.

    Rows 0 to C are the means of each channel, rows C to 2C their scales. ``is_exact``: a cell holds one value.
    """

    is_exact: ClassVar[bool]
    grid: "Grid"

    def count(self, rows: slice, stored: Tensor, segments: list[Segment], extrema: Extrema) -> None:
        """Count stored numbers (r, N) of some rows; ``segments`` name the columns."""

    def merge(self, other: "Counts") -> None:
        """Take what another of this kind has counted."""

    def facts(self, half: int) -> Facts:
        """Everything but quantiles and extrema, of the means (0) or the scales (1)."""

    def kept_facts(self) -> list[Facts]:
        """Facts of the means and the scales that do not follow from the cells; none where all do."""

    def cells(self, half: int) -> Cells:
        """Counts by value."""

    @property
    def nbytes(self) -> int:
        """Memory of the counts."""


class Grid:
    """Whole numbers, (rows, cells), to which many ones are added."""

    def __init__(self, rows: int, cells: int, room: int = _INT32_ROOM) -> None:
        # NumPy's zeros take memory only where they are touched.
        self.counts = torch.from_numpy(np.zeros((rows, cells), np.int32))
        self._ones = torch.ones(max(CHUNK, rows), dtype=torch.int32)
        self._room = room
        self._added = 0

    def add(self, rows: slice, cells: Tensor, buffers: Workspace) -> None:
        """Add one at each cell: (r, N) of any integer dtype, for some rows."""
        self.reserve(cells.shape[1])
        if self._ones.dtype != self.counts.dtype:
            self._ones = self._ones.to(self.counts.dtype)
        index = buffers.take("index", (len(self._ones),), torch.int64)
        _add_ones(self.counts[rows], cells, index, self._ones)

    def take_out(self, rows: slice, cells: Tensor, mask: Tensor) -> None:
        """Take back the ones that were added where ``mask`` is true."""
        self.counts[rows].scatter_add_(1, cells.long(), -mask.to(self.counts.dtype))

    def merge(self, other: "Grid") -> None:
        self.reserve(other._added)
        self.counts += other.counts

    def reserve(self, elements: int) -> None:
        """Make room for so many more in any cell."""
        self._added += elements
        if self._added > self._room and self.counts.dtype == torch.int32:
            self.counts = self.counts.long()

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes


def _add_ones(counts: Tensor, cells: Tensor, indices: Tensor, ones: Tensor) -> None:
    """Add one to ``counts`` (r, P) at each of ``cells`` (r, N), as many at once as the int64 ``indices`` hold."""
    rows = cells.size(0)
    width = max(1, indices.size(0) // rows)
    for start in range(0, cells.size(1), width):
        some = cells[:, start : start + width]
        index = indices[: some.numel()].view(rows, -1)
        index.copy_(some)
        # Twice as fast as bincount, which also clears its result each time; a dense source is the fast one.
        counts.scatter_add_(1, index, ones[: some.numel()].view(rows, -1))


def finite_extremes(wide: Tensor, finite: Tensor) -> tuple[Floats, Floats]:
    """The extremes of each row's finite numbers; NaN where there is none."""
    none = ~finite.any(1)
    least = wide.masked_fill(~finite, torch.inf).amin(1).masked_fill_(none, torch.nan)
    greatest = wide.masked_fill(~finite, -torch.inf).amax(1).masked_fill_(none, torch.nan)
    return least.numpy(), greatest.numpy()


def note_nonfinite(first: int, finite: Tensor, segments: list[Segment], extrema: Extrema) -> None:
    """Keep the first place that has no finite value, of rows from ``first`` on."""
    odd: NDArray[np.bool_] = (~finite).numpy()
    places = extrema.nonfinite_at
    for row in np.flatnonzero(odd.any(axis=1)).tolist():
        places[first + row] = first_place(segments, first + row, partial(odd.__getitem__, row), places[first + row])


def chunk_width(rows: int) -> int:
    """Columns worked on at once."""
    return max(1, CHUNK // rows)


def by_channel(rows: Tensor, row: int, column: int, view: Tensor) -> None:
    """Copy ``(n, outer, channels, inner)`` into rows, a row a channel."""
    n, outer, channels, inner = view.shape
    part = rows[row : row + channels, column : column + n * outer * inner]
    part.view(channels, n, outer, inner).copy_(view.permute(2, 0, 1, 3))


def halves_of(rows: slice, channels: int) -> list[tuple[int, slice]]:
    """Some rows, split in means (0) and scales (1): of each half, which of these rows, counted from their first."""
    count = rows.stop - rows.start
    split = min(max(channels - rows.start, 0), count)
    parts = [(0, slice(0, split)), (1, slice(split, count))]
    return [(half, part) for half, part in parts if part.start < part.stop]


def lowest_of(quantities: Sequence[Quantity], channels: int) -> Floats:
    """Of each row: the stored number above which all but NaN and infinity have a finite value."""
    return np.repeat([quantity.lowest for quantity in quantities], channels)
