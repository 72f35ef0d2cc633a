"""Coarse counts: the top 16 bits of a float32 pattern, cells under 0.8 % wide, for quantiles and histograms alone.

Moments and the counts of classes come from the numbers themselves, in float64.
"""

import sys
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.distributions import exp_remainder
from latentkit.parameterization import Scale
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

    def __init__(self, channels: int, quantities: Sequence[Quantity], *, folded: bool) -> None:
        self.channels = channels
        self.quantities = quantities
        self._fold = torch.from_numpy(np.stack([_folding(quantity)[0] for quantity in quantities])) if folded else None
        self._floors = [(_folding(quantity)[1] if folded else _floors(quantity)) for quantity in quantities]
        self.grid = Grid(channels * len(quantities), len(self._floors[0]))
        self._facts = [Facts.none(channels, len(quantity.thresholds)) for quantity in quantities]
        self._bounds = RowBounds(quantities, channels)
        self._run: _Run | None = None

    def add(self, row: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        shape = tuple(rows.shape)
        wide = workspace.take("wide", shape, torch.float64).copy_(rows)
        single = rows if rows.dtype == torch.float32 else workspace.take("single", shape, torch.float32).copy_(rows)
        source = wide if rows.dtype == torch.float64 else single
        least, greatest = source.amin(1).double().numpy(), source.amax(1).double().numpy()
        all_finite = self._bounds.hold(row, least, greatest)
        if rows.dtype == torch.float64 or not all_finite:
            single = wide.clamp(-_FLOAT32_MAX, _FLOAT32_MAX).float()
        if self._run is None or not self._run.add(row, wide, least, greatest, workspace):
            self._end_run()
            wide.copy_(rows)
            for half, part in halves_of(row, len(rows), self.channels):
                finite = None
                if not all_finite:
                    finite = self.quantities[half].classes(wide[part]).finite
                    least[part], greatest[part] = finite_extremes(wide[part], finite)
                    note_nonfinite(row + part.start, finite, segments, extrema)
                    single[part].masked_fill_(~finite, torch.nan)
                channel = row + part.start - half * self.channels
                self._add_any(half, channel, wide[part], finite, least[part], greatest[part])
            if all_finite:
                self._run = _Run.like(self.quantities, self.channels, row, wide.copy_(rows), least, greatest)
        self.grid.add(row, self._index(row, single, workspace))
        extrema.add(row, least, greatest, numbers_of(rows), segments)

    def _index(self, row: int, single: Tensor, workspace: Workspace) -> Tensor:
        """The cell of each number: (r, N) int64."""
        index = workspace.take("index", tuple(single.shape), torch.int64)
        top = single.view(torch.uint16)[:, _TOP_HALVES]
        if self._fold is None:
            return index.copy_(top)
        whole = workspace.take("top", tuple(single.shape), torch.int32).copy_(top)
        for half, part in halves_of(row, len(single), self.channels):
            torch.index_select(self._fold[half], 0, whole[part].view(-1), out=index[part].view(-1))
        return index

    def _add_any(
        self, half: int, channel: int, wide: Tensor, finite: Tensor | None, least: Floats, greatest: Floats
    ) -> None:
        """Count and measure means or scales of any kind; ``wide`` is overwritten."""
        quantity, facts, here = self.quantities[half], self._facts[half], slice(channel, channel + len(wide))
        facts.total[here] += wide.shape[1]
        counted = np.full(len(wide), wide.shape[1])
        if finite is not None:
            counted = finite.sum(1).numpy()
            for name, mask in quantity.classes(wide)._asdict().items():
                getattr(facts, name)[here] += mask.sum(1).numpy()
        self._count_thresholds(half, channel, wide, finite, counted, least, greatest)
        if finite is not None:
            wide.masked_fill_(~finite, quantity.neutral)
        if quantity.parameterization is not None:
            remainder, variance = _scale_sums(quantity.scale(wide), finite)
            facts.remainder.add(remainder, here)
            facts.variance.add(variance, here)
            wide = quantity.value(wide)
        if finite is not None:
            wide.masked_fill_(~finite, 0)
        # Chan et al.'s corrected two-pass algorithm.
        n = np.maximum(counted, 1)
        shift = _short(wide.sum(1).numpy() / n)
        wide.sub_(torch.from_numpy(shift)[:, None])
        if finite is not None:
            wide.masked_fill_(~finite, 0)
        rest, squares = _sum_and_squares(wide)
        facts.moments.add(counted, shift, rest.numpy(), (squares - rest * rest / torch.from_numpy(n)).numpy(), here)

    def _count_thresholds(
        self,
        half: int,
        channel: int,
        wide: Tensor,
        finite: Tensor | None,
        counted: Ints,
        least: Floats,
        greatest: Floats,
    ) -> None:
        """Only rows whose extremes lie on both sides of a threshold are looked at."""
        facts, thresholds = self._facts[half], self.quantities[half].thresholds
        here = slice(channel, channel + len(wide))
        facts.less[here] += counted[:, None] * (greatest[:, None] < thresholds)
        facts.at_most[here] += counted[:, None] * (greatest[:, None] <= thresholds)
        for row, k in np.argwhere((least[:, None] <= thresholds) & (greatest[:, None] >= thresholds)).tolist():
            numbers = wide[row] if finite is None else wide[row][finite[row]]
            facts.less[channel + row, k] += int((numbers < thresholds[k]).sum())
            if greatest[row] > thresholds[k]:
                facts.at_most[channel + row, k] += int((numbers <= thresholds[k]).sum())

    def _end_run(self) -> None:
        if self._run is not None:
            self._run.add_to(self._facts)
            self._run = None

    def merge(self, other: Counts) -> None:
        assert isinstance(other, CoarseCounts)
        self._end_run()
        other._end_run()
        self.grid.merge(other.grid)
        for ours, theirs in zip(self._facts, other._facts, strict=True):
            ours.merge(theirs)

    def facts(self, half: int) -> Facts:
        self._end_run()
        quantity = self.quantities[half]
        facts = Facts.none(self.channels, len(quantity.thresholds))
        facts.merge(self._facts[half])
        if quantity.parameterization is not None:
            # An infinite log-variance takes the clamped value.
            for counts, bound in zip((facts.minus_inf, facts.plus_inf), quantity.clamp, strict=True):
                facts.remainder.add(np.multiply(counts, quantity.terms_at(bound)[0]))
                facts.variance.add(np.multiply(counts, quantity.terms_at(bound)[1]))
        return facts

    def cells(self, half: int) -> Cells:
        value = self.quantities[half].value(torch.from_numpy(self._floors[half])).numpy()
        return Cells.of(value, self.grid.counts.numpy()[half * self.channels : (half + 1) * self.channels])

    @property
    def nbytes(self) -> int:
        return self.grid.nbytes


class _Run:
    """The fast way for what is usual: means, and log-variances within the clamp, that stay between two thresholds.

    Blocks of like rows are summed about one shift a row, in few passes, while that shift is near their means.
    """

    def __init__(self, quantities: Sequence[Quantity], channels: int, row: int, shift: Floats) -> None:
        self.quantities = quantities
        self.row = row
        self.count = 0
        self.shift = shift
        self.low, self.high = np.full(len(shift), -np.inf), np.full(len(shift), np.inf)
        self.parts = halves_of(row, len(shift), channels)
        self.channels = channels
        # Of x − shift, (x − shift)², and of h(x) and e^x for log-variances.
        self.sums = Sums(4, len(shift))
        self._shift = torch.from_numpy(shift)[:, None]

    @classmethod
    def like(
        cls, quantities: Sequence[Quantity], channels: int, row: int, wide: Tensor, least: Floats, greatest: Floats
    ) -> "_Run | None":
        """A run for blocks like this one; None where it is no usual one."""
        run = cls(quantities, channels, row, _short(wide.mean(1).numpy()))
        for half, part in run.parts:
            quantity = quantities[half]
            bounds = np.array([-np.inf, *sorted(quantity.thresholds), np.inf])
            gap = np.searchsorted(bounds, least[part])
            low, high = bounds[gap - 1], bounds[np.minimum(gap, len(bounds) - 1)]
            usual = quantity.parameterization in (None, "logvar") and (greatest[part] < high).all()
            if half and not (usual and (low >= quantity.clamp[0]).all() and (high <= quantity.clamp[1]).all()):
                return None
            if not usual:
                return None
            run.low[part], run.high[part] = low, high
        return run

    def add(self, row: int, wide: Tensor, least: Floats, greatest: Floats, workspace: Workspace) -> bool:
        """Add a block if it fits; it is overwritten."""
        if row != self.row or len(wide) != len(self.shift):
            return False
        if not ((least > self.low) & (greatest < self.high)).all():
            return False
        n = wide.shape[1]
        rest, squares = (sums.numpy() for sums in _sum_and_squares(wide.sub_(self._shift)))
        # Far from the mean, Σ(x − shift)² would lose more than a digit to n (mean − shift)².
        if (rest * rest > 0.9 * n * squares).any():
            return False
        terms = np.zeros(self.sums.high.shape)
        terms[0], terms[1] = rest, squares
        half, part = self.parts[-1]
        if half:
            terms[2:, part] = self._scale_terms(part, wide[part], rest[part], workspace)
        self.sums.add(terms)
        self.count += n
        return True

    def _scale_terms(self, part: slice, deviation: Tensor, rest: Floats, workspace: Workspace) -> tuple[Floats, Floats]:
        """Σ h(l) and Σ e^l of l = shift + deviation."""
        n, shift = deviation.shape[1], self.shift[part]
        exponential = torch.exp(deviation, out=workspace.take("exp", tuple(deviation.shape), torch.float64))
        factor = np.exp(shift)
        variance = exponential.sum(1).numpy() * factor
        remainder = variance - n - (rest + n * shift)
        small = remainder < _LEAST_MEAN_REMAINDER * n
        if small.any():
            for row in np.flatnonzero(small).tolist():
                remainder[row] = exp_remainder(deviation[row] + shift[row], exponential[row] * factor[row]).sum()
        return remainder, variance

    def add_to(self, facts: Sequence[Facts]) -> None:
        """Hand over what was summed."""
        if self.count == 0:
            return
        totals = self.sums.total
        for half, part in self.parts:
            rest, squares, remainder, variance = totals[:, part]
            mine = facts[half]
            first = self.row + part.start - half * self.channels
            here = slice(first, first + len(rest))
            counted = np.full(len(rest), self.count)
            beneath = self.count * (self.quantities[half].thresholds >= self.high[part, None])
            mine.total[here] += self.count
            mine.less[here] += beneath
            mine.at_most[here] += beneath
            mine.moments.add(counted, self.shift[part], rest, squares - rest * rest / self.count, here)
            mine.remainder.add(remainder, here)
            mine.variance.add(variance, here)


def _scale_sums(scale: Scale, finite: Tensor | None) -> tuple[Floats, Floats]:
    """Σ h(l) and Σ e^l of rows after the clamp, over what is finite."""
    logvar, var = scale.logvar, scale.var
    missing: Ints | int = 0
    if finite is not None:
        logvar, var = logvar.masked_fill(~finite, 0), var.masked_fill(~finite, 1)
        missing = (~finite).sum(1).numpy()
    variance = var.sum(1).numpy()
    remainder = variance - var.shape[1] - logvar.sum(1).numpy()
    for row in np.flatnonzero(remainder < _LEAST_MEAN_REMAINDER * var.shape[1]).tolist():
        remainder[row] = exp_remainder(logvar[row], var[row]).sum()
    return remainder, variance - missing


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


def _floors(quantity: Quantity) -> Floats:
    """The number nearest to zero of each cell; as σ and variance 0 are counted apart, what is just above there."""
    bits = np.arange(1 << 16) << 16
    return _float32_of(np.maximum(bits, 1) if quantity.parameterization in ("std", "var") else bits)


def _short(numbers: Floats) -> Floats:
    """Numbers nearby that float32 can hold, so that they times a count are exact."""
    short: Floats = np.clip(numbers, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32).astype(np.float64)
    return short


def _float32_of(bits: NDArray[np.int64]) -> Floats:
    with np.errstate(invalid="ignore"):
        return bits.astype(np.uint32).view(np.float32).astype(np.float64)
