"""Coarse counts: the top 16 bits of a float32 pattern, cells under 0.8 % wide, for quantiles and histograms alone.

Moments and the counts of classes come from the numbers themselves, in float64.
"""

import math
import sys
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.distributions import exp_remainder
from latentkit.statistics.counts import Cells, Counts, Facts, Grid, finite_extremes, note_nonfinite, numbers_of
from latentkit.statistics.extrema import Extrema, Segment
from latentkit.statistics.moments import Floats, Ints, Sums
from latentkit.statistics.quantity import Quantity
from latentkit.workspace import Workspace

# Below this mean of h(l) = e^l − 1 − l, subtraction of sums would cost digits: h is then summed by its series.
_LEAST_MEAN_REMAINDER = 1e-3

_FLOAT32_MAX = float(torch.finfo(torch.float32).max)

# Of the 16-bit halves of float32 numbers, the upper ones.
_TOP_HALVES = slice(1 if sys.byteorder == "little" else 0, None, 2)


class CoarseCounts:
    """Counts by cell, with the counts of classes, moments, h(l) and e^l kept beside them.

    Float64 is rounded to float32 for its cell, and only for that. Beyond 32 channels there are 8,192 cells a channel
    (see ``_folding``).
    """

    is_exact: ClassVar[bool] = False

    def __init__(self, channels: int, quantity: Quantity, *, folded: bool) -> None:
        self.quantity = quantity
        self._fold: Tensor | None = None
        self._floors = _float32_of(_not_zero(np.arange(1 << 16) << 16, quantity))
        if folded:
            fold, self._floors = _folding(quantity)
            self._fold = torch.from_numpy(fold)
        self.grid = Grid(channels, len(self._floors))
        self._facts = Facts.none(channels, len(quantity.thresholds))
        self._run: _Run | None = None

    def add(self, channel: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        shape = tuple(rows.shape)
        wide = workspace.take("wide", shape, torch.float64).copy_(rows)
        single = rows if rows.dtype == torch.float32 else workspace.take("single", shape, torch.float32).copy_(rows)
        source = wide if rows.dtype == torch.float64 else single
        least, greatest = (extreme.double().numpy() for extreme in (source.amin(1), source.amax(1)))
        finite = None
        if not self.quantity.all_finite(least, greatest):
            finite = self.quantity.classes(wide).finite
            least, greatest = finite_extremes(wide, finite)
            note_nonfinite(channel, finite, segments, extrema)
        if finite is not None or rows.dtype == torch.float64:
            single = wide.clamp(-_FLOAT32_MAX, _FLOAT32_MAX).float()
        if finite is not None:
            single.masked_fill_(~finite, torch.nan)
        self.grid.add(channel, self._index(single, workspace))
        extrema.add(channel, least, greatest, numbers_of(rows), segments)
        if not (self._run and finite is None and self._run.add(wide, least, greatest, workspace)):
            self._end_run()
            shift = self._add_any(channel, wide.copy_(rows), finite, least, greatest)
            if len(rows) == len(self._facts.total) and finite is None:
                self._run = _Run.like(self.quantity, shift, least, greatest)

    def _index(self, single: Tensor, workspace: Workspace) -> Tensor:
        """The cell of each number: (c, N) int64."""
        index = workspace.take("index", tuple(single.shape), torch.int64)
        top = single.view(torch.uint16)[:, _TOP_HALVES]
        if self._fold is None:
            return index.copy_(top)
        whole = workspace.take("top", tuple(single.shape), torch.int32).copy_(top)
        torch.index_select(self._fold, 0, whole.view(-1), out=index.view(-1))
        return index

    def _add_any(self, channel: int, wide: Tensor, finite: Tensor | None, least: Floats, greatest: Floats) -> Floats:
        """Count and measure rows of any kind; ``wide`` is overwritten. Returns shifts near their means."""
        quantity, facts, here = self.quantity, self._facts, slice(channel, channel + len(wide))
        facts.total[here] += wide.shape[1]
        counted = np.full(len(wide), wide.shape[1])
        if finite is not None:
            counted = finite.sum(1).numpy()
            for name, mask in quantity.classes(wide)._asdict().items():
                getattr(facts, name)[here] += mask.sum(1).numpy()
        self._count_thresholds(channel, wide, finite, counted, least, greatest)
        if finite is not None:
            wide.masked_fill_(~finite, quantity.neutral)
        if quantity.parameterization is not None:
            for terms, sums in zip(quantity.terms(wide), (facts.remainder, facts.variance), strict=True):
                sums.add((terms if finite is None else terms.masked_fill_(~finite, 0)).sum(1).numpy(), here)
            wide = quantity.value(wide)
        if finite is not None:
            wide.masked_fill_(~finite, 0)
        # Chan et al.'s corrected two-pass algorithm, about a shift that float32 can hold.
        n = np.maximum(counted, 1)
        shift = np.clip(wide.sum(1).numpy() / n, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32).astype(np.float64)
        wide.sub_(torch.from_numpy(shift)[:, None])
        if finite is not None:
            wide.masked_fill_(~finite, 0)
        rest, squares = _sum_and_squares(wide)
        facts.moments.add(counted, shift, rest.numpy(), (squares - rest * rest / torch.from_numpy(n)).numpy(), here)
        return shift

    def _count_thresholds(
        self, channel: int, wide: Tensor, finite: Tensor | None, counted: Ints, least: Floats, greatest: Floats
    ) -> None:
        """Only rows whose extremes lie on both sides of a threshold are looked at."""
        thresholds, here = self.quantity.thresholds, slice(channel, channel + len(wide))
        self._facts.less[here] += counted[:, None] * (greatest[:, None] < thresholds)
        self._facts.at_most[here] += counted[:, None] * (greatest[:, None] <= thresholds)
        for row, k in np.argwhere((least[:, None] <= thresholds) & (greatest[:, None] >= thresholds)).tolist():
            numbers = wide[row] if finite is None else wide[row][finite[row]]
            self._facts.less[channel + row, k] += int((numbers < thresholds[k]).sum())
            if greatest[row] > thresholds[k]:
                self._facts.at_most[channel + row, k] += int((numbers <= thresholds[k]).sum())

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.add_to(self._facts)
            self._run = None

    def merge(self, other: Counts) -> None:
        assert isinstance(other, CoarseCounts)
        self._end_run()
        other._end_run()
        self.grid.merge(other.grid)
        self._facts.merge(other._facts)

    def facts(self) -> Facts:
        self._end_run()
        quantity = self.quantity
        facts = Facts.none(len(self._facts.total), len(quantity.thresholds))
        facts.merge(self._facts)
        if quantity.parameterization is not None:
            # An infinite log-variance takes the clamped value.
            for counts, bound in zip((facts.minus_inf, facts.plus_inf), quantity.clamp, strict=True):
                remainder, variance = quantity.terms_at(bound)
                facts.remainder.add(counts * remainder)
                facts.variance.add(counts * variance)
        return facts

    def cells(self) -> Cells:
        value = self.quantity.value(torch.from_numpy(self._floors)).numpy()
        return Cells.of(value, self.grid.counts.numpy().astype(np.int64))

    @property
    def nbytes(self) -> int:
        return self.grid.nbytes


@dataclass(slots=True)
class _Run:
    """The fast way for what is usual: means, and log-variances within the clamp, that stay between two thresholds.

    Blocks are summed about one shift a channel, in few passes, while that shift is near their means.
    """

    quantity: Quantity
    shift: Floats
    low: float
    high: float
    count: int = 0
    sums: Sums = field(init=False)

    def __post_init__(self) -> None:
        """``sums``: of x − shift, (x − shift)², and of h(x) and e^x for log-variances."""
        self.sums = Sums(2 if self.quantity.parameterization is None else 4, len(self.shift))

    @classmethod
    def like(cls, quantity: Quantity, shift: Floats, least: Floats, greatest: Floats) -> "_Run | None":
        """A run for blocks like one with these extremes; None where that is no usual one."""
        if quantity.parameterization not in (None, "logvar"):
            return None
        thresholds = quantity.thresholds
        low = max((bound for bound in thresholds.tolist() if bound < least.min()), default=-math.inf)
        high = min((bound for bound in thresholds.tolist() if bound > greatest.max()), default=math.inf)
        if ((thresholds > low) & (thresholds < high)).any():
            return None
        if quantity.parameterization == "logvar" and (low < quantity.clamp[0] or high > quantity.clamp[1]):
            return None
        return cls(quantity, shift, low, high)

    def add(self, wide: Tensor, least: Floats, greatest: Floats, workspace: Workspace) -> bool:
        """Add a block of all channels, which is overwritten, if it fits."""
        if len(wide) != len(self.shift) or not (self.low < least.min() and greatest.max() < self.high):
            return False
        n = wide.shape[1]
        rest, squares = (sums.numpy() for sums in _sum_and_squares(wide.sub_(torch.from_numpy(self.shift)[:, None])))
        # Far from the mean, Σ(x − shift)² would lose more than a digit to n (mean − shift)².
        if (rest * rest > 0.9 * n * squares).any():
            return False
        terms = [rest, squares]
        if self.quantity.parameterization is not None:
            terms += self._scale_terms(wide, rest, workspace)
        self.sums.add(np.stack(terms))
        self.count += n
        return True

    def _scale_terms(self, deviation: Tensor, rest: Floats, workspace: Workspace) -> list[Floats]:
        n = deviation.shape[1]
        exponential = torch.exp(deviation, out=workspace.take("exp", tuple(deviation.shape), torch.float64))
        factor = np.exp(self.shift)
        variance = exponential.sum(1).numpy() * factor
        remainder = variance - n - (rest + n * self.shift)
        for row in np.flatnonzero(remainder < _LEAST_MEAN_REMAINDER * n).tolist():
            remainder[row] = exp_remainder(deviation[row] + self.shift[row], exponential[row] * factor[row]).sum()
        return [remainder, variance]

    def add_to(self, facts: Facts) -> None:
        """Hand over what was summed."""
        if self.count == 0:
            return
        counted = np.full(len(self.shift), self.count)
        rest, squares, *scale_terms = self.sums.total
        facts.total += self.count
        facts.less += self.count * (self.quantity.thresholds >= self.high)
        facts.at_most += self.count * (self.quantity.thresholds >= self.high)
        facts.moments.add(counted, self.shift, rest, squares - rest * rest / self.count)
        for terms, sums in zip(scale_terms, (facts.remainder, facts.variance), strict=False):
            sums.add(terms)


def _sum_and_squares(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.sum(1), torch.linalg.vector_norm(rows, dim=1).square_()


def _folding(quantity: Quantity) -> tuple[NDArray[np.int64], Floats]:
    """Fewer cells: a cell for each of the 65,536 top halves of a float32, and a number that stands for each cell.

    Means, log-variances and softplus: both signs, 2^-16 to 2^16, 128 cells to a power of two. σ: 2^-44 to 2^20, as
    many. Variances: 2^-64 to 2^64, 64 cells to a power. The number nearest to zero stands for its cell. What lies
    beyond goes to the outermost cells; the last of all is for NaN, infinities and negative σ.
    """
    top = np.arange(1 << 16)
    magnitude, negative = top & 0x7FFF, top >> 15
    halved = int(quantity.parameterization == "var")
    one_sign = quantity.parameterization in ("std", "var")
    smallest = {"std": -44, "var": -64}.get(quantity.parameterization or "", -16)
    size = 8192 if one_sign else 4096
    base = (127 + smallest) << 7 - halved
    cell = np.clip((magnitude >> halved) - base, 0, size - 1) + negative * size
    cell[(magnitude >= 0x7F80) | (cell >= 8192)] = 8192
    nearest_zero = (np.arange(size) + base) << 16 + halved
    if not one_sign:
        nearest_zero[0] = 0
    floor = _float32_of(nearest_zero)
    return cell, np.append(floor if one_sign else np.concatenate([floor, -floor]), np.nan)


def _not_zero(bits: NDArray[np.int64], quantity: Quantity) -> NDArray[np.int64]:
    """σ or variance 0 is counted apart, so the cell of 0 stands for what is just above."""
    return np.maximum(bits, 1) if quantity.parameterization in ("std", "var") else bits


def _float32_of(bits: NDArray[np.int64]) -> Floats:
    with np.errstate(invalid="ignore"):
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)
