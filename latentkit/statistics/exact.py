"""Exact counts: every bit pattern of a 16- or 8-bit dtype, and all that follows from them."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.statistics.counts import (
    Cells,
    Counts,
    Facts,
    Grid,
    RowBounds,
    finite_extremes,
    halves_of,
    note_nonfinite,
    numbers_of,
)
from latentkit.statistics.extrema import Extrema, Segment
from latentkit.statistics.moments import Floats, Ints, Moments
from latentkit.statistics.quantity import Quantity
from latentkit.tabulated import every_value
from latentkit.workspace import Workspace

_CODES = {1: torch.uint8, 2: torch.uint16}


class ExactCounts:
    """Counts of every bit pattern of a 16- or 8-bit dtype."""

    is_exact: ClassVar[bool] = True

    def __init__(self, dtype: torch.dtype, channels: int, quantities: Sequence[Quantity]) -> None:
        self.channels = channels
        self.quantities = quantities
        self.stored = every_value(dtype).double()
        self.grid = Grid(channels * len(quantities), len(self.stored))
        self._bounds = RowBounds(quantities, channels)

    def add(self, row: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        index = workspace.take("index", tuple(rows.shape), torch.int64)
        index.copy_(rows.view(_CODES[rows.element_size()]))
        if rows.element_size() == 1:
            least, greatest = self._add_and_compare(row, index)
        else:
            self.grid.add(row, index)
            least, greatest = rows.amin(1).double().numpy(), rows.amax(1).double().numpy()
        if not self._bounds.hold(row, least, greatest):
            for half, part in halves_of(row, len(rows), self.channels):
                wide = rows[part].double()
                finite = self.quantities[half].classes(wide).finite
                least[part], greatest[part] = finite_extremes(wide, finite)
                note_nonfinite(row + part.start, finite, segments, extrema)
        extrema.add(row, least, greatest, numbers_of(rows), segments)

    def _add_and_compare(self, row: int, index: Tensor) -> tuple[Floats, Floats]:
        """Add, and take the extremes from the counts that grew: torch has no minimum of 8-bit floats."""
        counts = self.grid.counts[row : row + len(index)].clone()
        self.grid.add(row, index)
        grew = (self.grid.counts[row : row + len(index)] != counts).numpy()
        stored = self.stored.numpy()
        return np.where(grew, stored, np.inf).min(axis=1), np.where(grew, stored, -np.inf).max(axis=1)

    def merge(self, other: Counts) -> None:
        assert isinstance(other, ExactCounts)
        self.grid.merge(other.grid)

    def facts(self, half: int) -> Facts:
        quantity, counts = self.quantities[half], self._counts(half)
        classes = quantity.classes(self.stored)
        finite = classes.finite.numpy()
        value, thresholds = quantity.value(self.stored).numpy(), quantity.thresholds
        facts = Facts.none(len(counts), len(thresholds))
        if quantity.parameterization is not None:
            remainder, variance = (table.numpy() for table in quantity.terms(self.stored))
        for channel, row in enumerate(counts):
            seen = np.flatnonzero(row)
            n = row[seen].astype(np.int64)
            facts.total[channel] = n.sum()
            for name, mask in classes._asdict().items():
                getattr(facts, name)[channel] = n[mask.numpy()[seen]].sum()
            usual = seen[finite[seen]]
            stored = self.stored.numpy()[usual, None]
            n = row[usual].astype(np.int64)
            facts.less[channel] = n @ (stored < thresholds)
            facts.at_most[channel] = n @ (stored <= thresholds)
            _add_weighted(facts.moments, channel, value[usual], n)
            if quantity.parameterization is not None:
                known = seen[~np.isnan(remainder[seen])]
                for table, sums in ((remainder, facts.remainder), (variance, facts.variance)):
                    sums.high[channel] = row[known] @ table[known]
        return facts

    def cells(self, half: int) -> Cells:
        quantity = self.quantities[half]
        value = quantity.value(self.stored).masked_fill(~quantity.classes(self.stored).finite, torch.nan)
        return Cells.of(value.numpy(), self._counts(half))

    def _counts(self, half: int) -> NDArray[np.int32] | NDArray[np.int64]:
        counts: NDArray[np.int32] = self.grid.counts.numpy()
        return counts[half * self.channels : (half + 1) * self.channels]

    @property
    def nbytes(self) -> int:
        return self.grid.nbytes


def _add_weighted(moments: Moments, channel: int, values: Floats, n: Ints) -> None:
    """Add values to one channel, each as often as ``n`` says."""
    count = n.sum()
    if count == 0:
        return
    shift = np.float64(np.float32(n @ values / count))
    deviation = values - shift
    rest = n @ deviation
    squares = n @ (deviation * deviation) - rest * rest / count
    one = slice(channel, channel + 1)
    moments.add(np.array([count]), np.array([shift]), np.array([rest]), np.array([squares]), one)
