"""Counts of stored numbers: by bit pattern, of which all else is a function, or by cells, with sums beside them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.counting import SUMS, count_codes, count_floats, sum_counted
from latentkit.compiled.tables import WIDE, bounds_for, values_of
from latentkit.read.blocks import Halves
from latentkit.stats.cells import EXACT_CHANNELS, Cells, cell_floors, cell_fold
from latentkit.stats.facts import MOST_COUNTED, Facts
from latentkit.stats.quantity import Quantity
from latentkit.stats.sums import Arrays, Floats, Ints, fill

# Counts are 32 bits wide (half the memory, and faster) until a cell might pass this.
_INT32_ROOM = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Seen:
    """What a block's numbers of one half came to: the least and greatest of the finite, (c, 2), whose zeros have no
    sign lest it depend on the block, and which channels have others.
    """

    ends: Floats
    has_others: NDArray[np.bool_]


class Counts(Protocol):
    """What counts the numbers of one dtype; halves are the means (0) and the scales (1).

    ``is_exact``: a cell holds one value.
    """

    is_exact: ClassVar[bool]

    def update(self, half: int, numbers: NDArray[Any], block: Halves, first_channel: int) -> Seen:
        """Count a block's numbers of one half, of channels from ``first_channel`` on."""

    def merge(self, other: Any) -> None:
        """Take what another of this kind has counted."""

    def total(self, half: int) -> Ints:
        """Elements of each channel."""

    def facts(self, half: int) -> Facts:
        """Everything but quantiles and extrema."""

    def arrays(self) -> Arrays:
        """What was counted, for ``restore``."""

    def restore(self, arrays: Arrays) -> None:
        """Put into an empty one what ``arrays`` gave; raises ``ValueError`` or ``KeyError`` for what is not such."""

    def cells(self, half: int) -> Cells:
        """Counts by value."""


def counts_for(dtype: str, channels: int, quantities: Sequence[Quantity]) -> Counts:
    """Exact where memory allows, else coarse: a matter of dtype and channels alone, so that all parts agree."""
    is_exact = dtype.startswith("F8") or (dtype not in WIDE and channels <= EXACT_CHANNELS)
    return PatternCounts(dtype, channels, quantities) if is_exact else CellCounts(dtype, channels, quantities)


class Grid:
    """Whole numbers, (channels, cells), to which ones are added."""

    def __init__(self, channels: int, cells: int) -> None:
        # NumPy's zeros take memory only where they are touched.
        self.counts: NDArray[Any] = np.zeros((channels, cells), np.int32)
        self._added = 0

    def reserve(self, elements: int) -> None:
        """Make room for so many more in any cell."""
        self._added += elements
        if self._added > _INT32_ROOM and self.counts.dtype == np.int32:
            self.counts = self.counts.astype(np.int64)

    def merge(self, other: "Grid") -> None:
        self.reserve(other._added)
        self.counts += other.counts

    def arrays(self) -> Arrays:
        """The cells that are not empty, counted through in row-major order, and what is in them."""
        flat = self.counts.reshape(-1)
        cells = np.flatnonzero(flat)
        return {"cells": _narrow(cells), "counts": _narrow(flat[cells])}

    def restore(self, arrays: Arrays) -> None:
        """Put into an empty one what ``arrays`` gave; raises ``ValueError`` or ``KeyError`` for what is not such."""
        cells, counts = (arrays[name].astype(np.int64, casting="safe") for name in ("cells", "counts"))
        rows, width = self.counts.shape
        fits = cells.ndim == 1 and cells.shape == counts.shape
        fits = fits and np.diff(cells, prepend=-1, append=rows * width).min() > 0
        if not (fits and 1 <= counts.min(initial=1) <= counts.max(initial=1) <= MOST_COUNTED):
            raise ValueError(f"counts of {len(cells)} cells do not fit a grid of {rows} by {width}")
        self.reserve(int(np.bincount(cells // width, counts, rows).max(initial=0)))
        self.counts.reshape(-1)[cells] = counts


def _narrow(whole: NDArray[Any]) -> NDArray[Any]:
    """Whole numbers in 32 bits where they fit."""
    return whole.astype(np.int32 if whole.max(initial=0) < 2**31 else np.int64)


class PatternCounts:
    """Counts of every bit pattern of a 16- or 8-bit dtype."""

    is_exact: ClassVar[bool] = True

    def __init__(self, dtype: str, channels: int, quantities: Sequence[Quantity]) -> None:
        self.quantities = quantities
        self._values = values_of(dtype)
        self.grids = [Grid(channels, len(self._values)) for _ in quantities]
        self._ends: Ints = np.empty((channels, 2), np.int64)

    def update(self, half: int, numbers: NDArray[Any], block: Halves, first_channel: int) -> Seen:
        grid, sign, (samples, outer, channels, inner) = self.grids[half], len(self._values) // 2, block.dims
        grid.reserve(samples * outer * inner)
        counts, keys = grid.counts[first_channel : first_channel + channels], self._ends[:channels]
        count_codes(numbers, block.dims, block.run_step, sign, counts, keys)
        ends = self._values[np.where(keys >= sign, keys - sign, 2 * sign - 1 - keys)] + 0.0
        has_others = ~np.all(self.quantities[half].classes(ends).finite, axis=1)
        for channel in np.flatnonzero(has_others).tolist():
            ends[channel] = self._finite_ends(half, block.view(numbers)[:, :, channel])
        return Seen(ends, has_others)

    def _finite_ends(self, half: int, codes: NDArray[Any]) -> tuple[float, float]:
        values = self._values[codes]
        finite = values[self.quantities[half].classes(values).finite]
        return (float(finite.min()), float(finite.max())) if finite.size else (np.inf, -np.inf)

    def merge(self, other: "PatternCounts") -> None:
        for ours, theirs in zip(self.grids, other.grids, strict=True):
            ours.merge(theirs)

    def arrays(self) -> Arrays:
        return _of_halves(self.grids)

    def restore(self, arrays: Arrays) -> None:
        _restore_halves(self.grids, arrays)

    def total(self, half: int) -> Ints:
        total: Ints = self.grids[half].counts.sum(axis=1, dtype=np.int64)
        return total

    def facts(self, half: int) -> Facts:
        quantity, counts = self.quantities[half], self.grids[half].counts
        seen = np.flatnonzero(counts.any(axis=0))
        classes = quantity.classes(self._values[seen])
        finite = self._values[seen[classes.finite]]
        is_less, is_at_most = finite[:, None] < quantity.thresholds, finite[:, None] <= quantity.thresholds
        is_scale = quantity.parameterization is not None
        values = quantity.value(finite)
        remainders, variances = quantity.terms(finite) if is_scale else (finite[:0], finite[:0])
        facts = Facts(len(counts), len(quantity.thresholds))
        facts.sums.reserve(13 * len(finite))
        # Channel by channel: all at once would take more memory than the counts.
        for channel, row in enumerate(counts):
            some = row[seen].astype(np.int64)
            facts.tallies[channel] = [some.sum(), *(some[mask].sum() for mask in classes)]
            some = some[classes.finite]
            facts.beneath[channel] = np.stack([some @ is_less, some @ is_at_most], axis=1)
            sums = facts.sums.of(slice(SUMS * channel, SUMS * channel + SUMS))
            sum_counted(values, remainders, variances, some[None], *sums)
        return facts

    def cells(self, half: int) -> Cells:
        quantity, counts = self.quantities[half], self.grids[half].counts
        is_finite = quantity.classes(self._values).finite
        values = np.full(len(is_finite), np.nan)
        values[is_finite] = quantity.value(self._values[is_finite])
        return Cells.of(values, counts)


class CellCounts:
    """Counts by cells of a float32's upper bits, for quantiles and histograms alone, and the facts beside them.

    Float64 is rounded to float32 for its cell, and only for that.
    """

    is_exact: ClassVar[bool] = False

    def __init__(self, dtype: str, channels: int, quantities: Sequence[Quantity]) -> None:
        self.quantities = quantities
        self._values = None if dtype in WIDE else values_of(dtype)
        self._folds = [cell_fold(quantity, channels) for quantity in quantities]
        self._floors = [cell_floors(quantity, channels) for quantity in quantities]
        self.grids = [Grid(channels, len(floors)) for floors in self._floors]
        self._facts = [Facts(channels, len(quantity.thresholds)) for quantity in quantities]
        self._ends: Floats = np.empty((channels, 2))

    def update(self, half: int, numbers: NDArray[Any], block: Halves, first_channel: int) -> Seen:
        quantity, facts, grid = self.quantities[half], self._facts[half], self.grids[half]
        samples, outer, channels, inner = block.dims
        here = slice(first_channel, first_channel + channels)
        grid.reserve(samples * outer * inner)
        # Of each part of a sample, or of each sample that is smaller than a part, a few terms.
        facts.sums.reserve(9 * samples * (1 + outer * inner // 1024))
        sums, tops, odd = facts.sums.of(slice(SUMS * here.start, SUMS * here.stop))
        tallies, ends = facts.tallies[here], self._ends[:channels]
        before = tallies[:, 1:].sum(axis=1)
        count_floats(
            numbers, self._values, block.dims, block.run_step, quantity.kind, bounds_for(quantity.clamp),
            quantity.thresholds, self._folds[half], grid.counts[here], None, tallies, facts.beneath[here], sums, tops,
            odd, ends,
        )  # fmt: skip
        return Seen(ends + 0.0, tallies[:, 1:].sum(axis=1) > before)

    def merge(self, other: "CellCounts") -> None:
        for grid, other_grid in zip(self.grids, other.grids, strict=True):
            grid.merge(other_grid)
        for ours, theirs in zip(self._facts, other._facts, strict=True):
            ours.merge(theirs)

    def arrays(self) -> Arrays:
        return _of_halves(self.grids) | self._parts()

    def restore(self, arrays: Arrays) -> None:
        _restore_halves(self.grids, arrays)
        fill(self._parts(), arrays)
        for facts, grid in zip(self._facts, self.grids, strict=True):
            facts.check()
            if (grid.counts.sum(axis=1) != facts.finite).any():
                raise ValueError("its cells do not hold as many numbers as are finite")

    def _parts(self) -> Arrays:
        return {name: part for half, facts in enumerate(self._facts) for name, part in facts.parts(str(half)).items()}

    def total(self, half: int) -> Ints:
        return self._facts[half].total

    def facts(self, half: int) -> Facts:
        return self._facts[half]

    def cells(self, half: int) -> Cells:
        return Cells.of(self.quantities[half].value(self._floors[half]), self.grids[half].counts)


def _of_halves(grids: Sequence[Grid]) -> Arrays:
    return {f"{half}.{name}": array for half, grid in enumerate(grids) for name, array in grid.arrays().items()}


def _restore_halves(grids: Sequence[Grid], arrays: Arrays) -> None:
    for half, grid in enumerate(grids):
        grid.restore({name: arrays[f"{half}.{name}"] for name in ("cells", "counts")})
