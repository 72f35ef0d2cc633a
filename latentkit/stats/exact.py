"""Exact counts: every bit pattern of a 16- or 8-bit dtype, and all that follows from them."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.stats.counts import (
    Cells,
    Counts,
    Facts,
    Grid,
    finite_extremes,
    halves_of,
    lowest_of,
    note_nonfinite,
)
from latentkit.stats.extrema import Extrema, Segment
from latentkit.stats.moments import Floats, Ints, Moments
from latentkit.stats.quantity import Quantity
from latentkit.tabulated import codes_of, every_value
from latentkit.workspace import Workspace


class ExactCounts:
    """Counts of every bit pattern of a 16- or 8-bit dtype."""

    is_exact: ClassVar[bool] = True

    def __init__(self, dtype: torch.dtype, channels: int, quantities: Sequence[Quantity], buffers: Workspace) -> None:
        self.channels = channels
        self.quantities = quantities
        self._buffers = buffers
        self.stored = every_value(dtype).double()
        self.grid = Grid(channels * len(quantities), len(self.stored))
        self._lowest = lowest_of(quantities, channels)

    def count(self, rows: slice, stored: Tensor, segments: list[Segment], extrema: Extrema) -> None:
        before = self.grid.counts[rows].clone() if stored.element_size() == 1 else None
        self.grid.add(rows, codes_of(stored), self._buffers)
        if before is None:
            least, greatest = (self.stored.numpy()[patterns] for patterns in _extreme_patterns(stored))
        else:
            least, greatest = self._extremes_of_grown(rows, before)
        if extrema.inside(rows, least, greatest):
            return
        if not ((least > self._lowest[rows]) & (greatest < np.inf)).all():
            for half, part in halves_of(rows, self.channels):
                wide = stored[part].double()
                finite = self.quantities[half].classes(wide).finite
                least[part], greatest[part] = finite_extremes(wide, finite)
                note_nonfinite(rows.start + part.start, finite, segments, extrema)
        extrema.add(rows.start, least, greatest, stored, segments)

    def _extremes_of_grown(self, rows: slice, before: Tensor) -> tuple[Floats, Floats]:
        """The extremes by the cells that grew: torch has no minimum of 8-bit floats."""
        grew = (self.grid.counts[rows] != before).numpy()
        stored = self.stored.numpy()
        return np.where(grew, stored, np.inf).min(axis=1), np.where(grew, stored, -np.inf).max(axis=1)

    def merge(self, other: Counts) -> None:
        assert isinstance(other, ExactCounts)
        self.grid.merge(other.grid)

    def kept_facts(self) -> list[Facts]:
        return []

    def facts(self, half: int) -> Facts:
        quantity, (stored, counts) = self.quantities[half], self._seen(half)
        facts = Facts.none(self.channels, len(quantity.thresholds))
        facts.total += counts.sum(axis=1)
        classes = quantity.classes(stored)
        for name, mask in classes._asdict().items():
            getattr(facts, name)[:] = counts[:, mask.numpy()].sum(axis=1)
        if quantity.parameterization is not None:
            known = (~classes.nan & ~classes.negative).numpy()
            remainder, variance = quantity.terms(stored[known])
            facts.remainder.add((counts[:, known] * remainder.numpy()).sum(axis=1))
            facts.variance.add((counts[:, known] * variance.numpy()).sum(axis=1))
        finite = classes.finite.numpy()
        stored, counts = stored[finite], counts[:, finite]
        facts.less += counts @ (stored.numpy()[:, None] < quantity.thresholds)
        facts.at_most += counts @ (stored.numpy()[:, None] <= quantity.thresholds)
        value = quantity.value(stored).numpy()
        for channel, n in enumerate(counts):
            _add_weighted(facts.moments, channel, value, n)
        return facts

    def cells(self, half: int) -> Cells:
        quantity, (stored, counts) = self.quantities[half], self._seen(half)
        return Cells.of(quantity.value(stored).masked_fill(~quantity.classes(stored).finite, torch.nan).numpy(), counts)

    def _seen(self, half: int) -> tuple[Tensor, Ints]:
        """The stored numbers (P,) that occur in any channel, and how often (C, P)."""
        counts = self.grid.counts.numpy()[half * self.channels : (half + 1) * self.channels]
        seen = np.flatnonzero(counts.any(axis=0))
        return self.stored[torch.from_numpy(seen)], counts[:, seen].astype(np.int64)

    @property
    def nbytes(self) -> int:
        return self.grid.nbytes


def _extreme_patterns(rows: Tensor) -> tuple[NDArray[np.uint16], NDArray[np.uint16]]:
    """The patterns of each row's least and greatest number, or of a NaN, from integers: six times as fast.

    As signed integers, patterns of positive numbers grow with them, and those of negative ones with their size.
    """
    signed, unsigned = rows.view(torch.int16).numpy(), rows.view(torch.uint16).numpy()
    highest, lowest = signed.max(axis=1), signed.min(axis=1)
    least = np.where(lowest < 0, unsigned.max(axis=1), lowest.view(np.uint16))
    return least, np.where(highest < 0, lowest, highest).view(np.uint16)


def _add_weighted(moments: Moments, channel: int, values: Floats, n: Ints) -> None:
    """Add values to one channel, each as often as ``n`` says."""
    count = n.sum()
    if count == 0:
        return
    # NumPy's pairwise sums: the same bits on any number of threads, which a matrix product does not promise.
    shift = np.float64(np.float32((n * values).sum() / count))
    deviation = values - shift
    rest = (n * deviation).sum()
    squares = (n * deviation * deviation).sum() - rest * rest / count
    one = slice(channel, channel + 1)
    moments.add(np.array([count]), np.array([shift]), np.array([rest]), np.array([squares]), one)
