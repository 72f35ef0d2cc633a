"""Exact counts: every bit pattern of a 16- or 8-bit dtype, and all that follows from them."""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from latentkit.statistics.counts import Cells, Counts, Facts, Grid, finite_extremes, note_nonfinite, numbers_of
from latentkit.statistics.extrema import Extrema, Segment
from latentkit.statistics.moments import Floats, Ints, Moments
from latentkit.statistics.quantity import Quantity
from latentkit.tabulated import every_value
from latentkit.workspace import Workspace

_CODES = {1: torch.uint8, 2: torch.uint16}


class ExactCounts:
    """Counts of every bit pattern of a 16- or 8-bit dtype."""

    is_exact: ClassVar[bool] = True

    def __init__(self, dtype: torch.dtype, channels: int, quantity: Quantity) -> None:
        self.quantity = quantity
        self.stored = every_value(dtype).double()
        self.grid = Grid(channels, len(self.stored))

    def add(self, channel: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        index = workspace.take("index", tuple(rows.shape), torch.int64)
        index.copy_(rows.view(_CODES[rows.element_size()]))
        if rows.element_size() == 1:
            least, greatest = self._add_and_compare(channel, index)
        else:
            self.grid.add(channel, index)
            least, greatest = (extreme.double().numpy() for extreme in (rows.amin(1), rows.amax(1)))
        if not self.quantity.all_finite(least, greatest):
            wide = rows.double()
            finite = self.quantity.classes(wide).finite
            least, greatest = finite_extremes(wide, finite)
            note_nonfinite(channel, finite, segments, extrema)
        extrema.add(channel, least, greatest, numbers_of(rows), segments)

    def _add_and_compare(self, channel: int, index: Tensor) -> tuple[Floats, Floats]:
        """Add, and take the extremes from the counts that grew: torch has no minimum of 8-bit floats."""
        counts = self.grid.counts[channel : channel + len(index)].clone()
        self.grid.add(channel, index)
        grew = (self.grid.counts[channel : channel + len(index)] != counts).numpy()
        stored = self.stored.numpy()
        least = np.where(grew, stored, np.inf).min(axis=1)
        return least, np.where(grew, stored, -np.inf).max(axis=1)

    def merge(self, other: Counts) -> None:
        assert isinstance(other, ExactCounts)
        self.grid.merge(other.grid)

    def facts(self) -> Facts:
        quantity, counts = self.quantity, self.grid.counts.numpy()
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

    def cells(self) -> Cells:
        value = self.quantity.value(self.stored).masked_fill(~self.quantity.classes(self.stored).finite, torch.nan)
        return Cells.of(value.numpy(), self.grid.counts.numpy().astype(np.int64))

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
