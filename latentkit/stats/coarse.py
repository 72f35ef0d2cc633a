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

from latentkit.kernels import exact_remainder
from latentkit.posterior.parameterization import Scale
from latentkit.stats.counts import (
    Cells,
    Counts,
    Facts,
    Grid,
    chunk_width,
    finite_extremes,
    halves_of,
    lowest_of,
    note_nonfinite,
)
from latentkit.stats.extrema import Extrema, Segment
from latentkit.stats.moments import Floats, Sums
from latentkit.stats.quantity import Quantity
from latentkit.workspace import Workspace

# Below this mean of h(l) = e^l − 1 − l, subtraction of sums would cost digits: h is then summed by its series.
_LEAST_MEAN_REMAINDER = 1e-3

# Numbers kept of each element while h is summed by its series.
_FLOAT64_STEPS = 8

# Beyond, squares of products would leave float64.
_USUAL = 1e60

_FLOAT32_MAX = float(torch.finfo(torch.float32).max)

# Of the 16-bit halves of float32 numbers, the upper ones.
_TOP_HALVES = slice(1 if sys.byteorder == "little" else 0, None, 2)


class CoarseCounts:
    """Counts by cell, with the counts of classes, moments, h(l) and e^l kept beside them.

    Float64 is rounded to float32 for its cell, and only for that. Beyond 32 channels there are 8,192 cells a channel
    (see ``_folding``).
    """

    is_exact: ClassVar[bool] = False

    def __init__(
        self,
        channels: int,
        quantities: Sequence[Quantity],
        buffers: Workspace,
        *,
        folded: bool,
    ) -> None:
        self.channels = channels
        self.quantities = quantities
        self._buffers = buffers
        self._fold = torch.from_numpy(np.stack([_folding(quantity)[0] for quantity in quantities])) if folded else None
        self._floors = [(_folding(quantity)[1] if folded else _floors(quantity)) for quantity in quantities]
        self.grid = Grid(channels * len(quantities), len(self._floors[0]))
        self._facts = [Facts.none(channels, len(quantity.thresholds)) for quantity in quantities]
        self._run: _Run | None = None
        self._lowest = lowest_of(quantities, channels)

    def count(self, rows: slice, stored: Tensor, segments: list[Segment], extrema: Extrema) -> None:
        self._count_cells(rows, stored)
        run = self._run if self._run is not None and self._run.rows == rows else None
        if run is None:
            ends = [stored.amin(1), stored.amax(1)]
        else:
            *sums, low, high = run.sum(stored, self._buffers)
            ends = [low, high]
        least, greatest = (end.double().numpy() for end in ends)
        if run is None or not run.commit(stored, sums, least, greatest):
            least, greatest = self._count_any(rows, stored, least, greatest, segments, extrema)
        elif not run.is_between_thresholds(least, greatest, stored.shape[1]):
            for half, part in run.parts:
                first = rows.start + part.start - half * self.channels
                self._count_thresholds(half, first, stored[part], None, least[part], greatest[part])
        if not extrema.inside(rows, least, greatest):
            extrema.add(rows.start, least, greatest, stored, segments)

    def _count_cells(self, rows: slice, stored: Tensor) -> None:
        if stored.dtype == torch.float32 and self._fold is None:
            self.grid.add(rows, _top_halves(stored), self._buffers)
            return
        for chunk in torch.split(stored, chunk_width(len(stored)), dim=1):
            self.grid.add(rows, self._cells(rows, chunk), self._buffers)

    def _cells(self, rows: slice, chunk: Tensor) -> Tensor:
        """The cell of each number: (r, N) integers."""
        if chunk.dtype != torch.float32:
            if chunk.dtype == torch.float64:
                chunk = chunk.clamp(-_FLOAT32_MAX, _FLOAT32_MAX)
            chunk = self._buffers.take("single", tuple(chunk.shape), torch.float32).copy_(chunk)
        if self._fold is None:
            return _top_halves(chunk)
        cells = self._buffers.take("cells", tuple(chunk.shape), torch.int64).copy_(_top_halves(chunk))
        for half, part in halves_of(rows, self.channels):
            cells[part] = self._fold[half].index_select(0, cells[part].view(-1)).view(cells[part].shape)
        return cells

    def _count_any(
        self, rows: slice, stored: Tensor, least: Floats, greatest: Floats, segments: list[Segment], extrema: Extrema
    ) -> tuple[Floats, Floats]:
        """Count rows of any kind, and begin a run if they are usual; returns the extremes of what is finite."""
        self._end_run()
        all_finite = bool(((least > self._lowest[rows]) & (greatest < np.inf)).all())
        for half, part in halves_of(rows, self.channels):
            first, finite = rows.start + part.start, None
            if not all_finite:
                wide = stored[part].double()
                finite = self.quantities[half].classes(wide).finite
                least[part], greatest[part] = finite_extremes(wide, finite)
                note_nonfinite(first, finite, segments, extrema)
                here = slice(first, first + len(wide))
                self.grid.take_out(here, self._cells(here, stored[part]), ~finite)
            channel, width = first - half * self.channels, chunk_width(len(stored))
            self._count_thresholds(half, channel, stored[part], finite, least[part], greatest[part])
            for start in range(0, stored.shape[1], width):
                columns = slice(start, start + width)
                some = finite if finite is None else finite[:, columns]
                self._measure(half, channel, stored[part, columns].to(torch.float64, copy=True), some)
        if all_finite:
            self._run = _Run.like(self.quantities, self.channels, rows, stored, least, greatest)
        return least, greatest

    def _measure(self, half: int, channel: int, wide: Tensor, finite: Tensor | None) -> None:
        """Count classes and sum means or scales of any kind; ``wide`` is overwritten."""
        quantity, facts, here = self.quantities[half], self._facts[half], slice(channel, channel + len(wide))
        facts.total[here] += wide.shape[1]
        counted = np.full(len(wide), wide.shape[1])
        if finite is not None:
            counted = finite.sum(1).numpy()
            for name, mask in quantity.classes(wide)._asdict().items():
                getattr(facts, name)[here] += mask.sum(1).numpy()
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
        rest, squares = _sum_and_square(wide)
        squares = squares - rest * rest / torch.from_numpy(n)
        facts.moments.add(counted, shift, rest.numpy(), squares.numpy(), here)

    def _count_thresholds(
        self, half: int, channel: int, stored: Tensor, finite: Tensor | None, least: Floats, greatest: Floats
    ) -> None:
        """Only rows whose extremes lie on both sides of a threshold are looked at."""
        facts, thresholds = self._facts[half], self.quantities[half].thresholds
        here = slice(channel, channel + len(stored))
        counted = np.full((len(stored), 1), stored.shape[1])
        if finite is not None:
            counted = finite.sum(1, keepdim=True).numpy()
        facts.less[here] += counted * (greatest[:, None] < thresholds)
        facts.at_most[here] += counted * (greatest[:, None] <= thresholds)
        for row, k in np.argwhere((least[:, None] <= thresholds) & (greatest[:, None] >= thresholds)).tolist():
            numbers = (stored[row] if finite is None else stored[row][finite[row]]).double()
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

    def kept_facts(self) -> list[Facts]:
        self._end_run()
        return self._facts

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
    """The fast way for what is usual: finite means, and scales within the clamp.

    Rows are summed about one shift each, in few passes, while that shift serves.
    """

    def __init__(self, quantities: Sequence[Quantity], channels: int, rows: slice, shift: Floats) -> None:
        self.quantities = quantities
        self.channels = channels
        self.rows = rows
        self.parts = halves_of(rows, channels)
        self.shift = shift
        # Within these all is usual; between the others there is no threshold, and nothing to count but elements.
        self.least, self.greatest = np.full(len(shift), -_USUAL), np.full(len(shift), _USUAL)
        self.low, self.high = np.full(len(shift), np.inf), np.full(len(shift), -np.inf)
        self.count = self.count_between = 0
        # Of x − shift, (x − shift)², and of h(x) and e^x for log-variances x.
        self.sums = Sums(4, len(shift))
        self._shift = torch.from_numpy(shift)[:, None] if shift.any() else None

    @classmethod
    def like(
        cls, quantities: Sequence[Quantity], channels: int, rows: slice, stored: Tensor, least: Floats, greatest: Floats
    ) -> "_Run | None":
        """A run for rows like these; None where they are not usual."""
        if least.min() < -_USUAL or greatest.max() > _USUAL:
            return None
        # The first of them tell where they lie; all of them in float64 would take much memory.
        wide = _values(quantities, halves_of(rows, channels), stored[:, : chunk_width(len(stored))].double())
        mean = wide.mean(1).numpy()
        far = _loses_digits(mean, wide.square().mean(1).numpy(), 1)
        run = cls(quantities, channels, rows, np.where(far, _short(mean), 0.0))
        for half, part in run.parts:
            quantity = quantities[half]
            bounds = np.array([-_USUAL, *sorted(bound for bound in quantity.thresholds if abs(bound) < _USUAL), _USUAL])
            gap = np.searchsorted(bounds, least[part]).clip(1)
            run.low[part], run.high[part] = bounds[gap - 1], bounds[gap]
            if half:
                # The lower bound is NaN where no stored number lies below it.
                run.least[part] = np.nanmax([quantity.thresholds[0], quantity.lowest, -_USUAL])
                run.greatest[part] = min(quantity.thresholds[1], _USUAL)
        return run if run.is_usual(least, greatest) else None

    def is_usual(self, least: Floats, greatest: Floats) -> bool:
        """Whether rows with these extremes (NaN where there is one) can be summed; a number at a bound cannot."""
        return bool(((least > self.least) & (greatest < self.greatest)).all())

    def is_between_thresholds(self, least: Floats, greatest: Floats, width: int) -> bool:
        """Whether there was no threshold to count at; if so, remember that many."""
        between = bool(((least > self.low) & (greatest < self.high)).all())
        self.count_between += width * between
        return between

    def sum(self, stored: Tensor, buffers: Workspace) -> list[Tensor]:
        """Sums of rows, for ``commit``: x − shift, its square, and e^x of the scales; then the extremes."""
        half, part = self.parts[-1]
        scales = part.start if half else len(stored)
        width = min(stored.shape[1], chunk_width(len(stored)))
        wide, variance = (buffers.take(name, (len(stored) * width,), torch.float64) for name in ("wide", "variance"))
        if self.quantities[half].parameterization in (None, "logvar"):
            return _sum_logvars(stored, scales, self._shift, wide, variance, width)
        chunks = []
        for chunk in torch.split(stored, width, dim=1):
            values = wide[: chunk.numel()].view(chunk.shape).copy_(chunk)
            least, greatest = values.amin(1), values.amax(1)
            variances = self.quantities[half].variance(
                values[part], variance[: values[part].numel()].view(values[part].shape)
            )
            values = torch.cat([self.quantities[each].value(values[rows]) for each, rows in self.parts])
            if self._shift is not None:
                values.sub_(self._shift)
            chunks.append((*_sum_and_square(values), variances.sum(1), least, greatest))
        *sums, lows, highs = (torch.stack(each) for each in zip(*chunks, strict=True))
        return [*(each.sum(0) for each in sums), lows.amin(0), highs.amax(0)]

    def commit(self, stored: Tensor, sums: Sequence[Tensor], least: Floats, greatest: Floats) -> bool:
        """Add what was summed if the rows are usual; else nothing."""
        if not self.is_usual(least, greatest):
            return False
        n = stored.shape[1]
        rest, squares, variance = (each.numpy() for each in sums)
        if _loses_digits(rest, squares, n).any():
            return False
        terms = np.zeros(self.sums.high.shape)
        terms[0], terms[1] = rest, squares
        half, part = self.parts[-1]
        if half:
            remainder = variance - n - (rest[part] + n * self.shift[part])
            for row in np.flatnonzero(remainder < _LEAST_MEAN_REMAINDER * n).tolist():
                chunks = torch.split(stored[part][row], chunk_width(_FLOAT64_STEPS))
                remainder[row] = sum(float(self.quantities[half].terms(chunk.double())[0].sum()) for chunk in chunks)
            terms[2:, part] = remainder, variance
        self.sums.add(terms)
        self.count += n
        return True

    def add_to(self, facts: Sequence[Facts]) -> None:
        """Hand over what was committed."""
        if self.count == 0:
            return
        totals = self.sums.total
        for half, part in self.parts:
            rest, squares, remainder, variance = totals[:, part]
            mine = facts[half]
            first = self.rows.start + part.start - half * self.channels
            here = slice(first, first + len(rest))
            counted = np.full(len(rest), self.count)
            beneath = self.count_between * (self.quantities[half].thresholds >= self.high[part, None])
            mine.total[here] += self.count
            mine.less[here] += beneath
            mine.at_most[here] += beneath
            mine.moments.add(counted, self.shift[part], rest, squares - rest * rest / self.count, here)
            mine.remainder.add(remainder, here)
            mine.variance.add(variance, here)


def _values(quantities: Sequence[Quantity], parts: list[tuple[int, slice]], wide: Tensor) -> Tensor:
    """Means and log-variances of rows of stored numbers."""
    if all(quantities[half].parameterization in (None, "logvar") for half, _ in parts):
        return wide
    return torch.cat([quantities[half].value(wide[part]) for half, part in parts])


def _loses_digits(rest: Floats, squares: Floats, n: int) -> NDArray[np.bool_]:
    """Whether Σx² − (Σx)² / n would lose two digits, as |mean| is ten times the standard deviation."""
    return rest * rest > 0.99 * n * squares


def _scale_sums(scale: Scale, finite: Tensor | None) -> tuple[Floats, Floats]:
    """Σ h(l) and Σ e^l of rows after the clamp, over what is finite."""
    logvar, var = scale.logvar, scale.var
    counted = np.full(len(var), var.shape[1])
    if finite is not None:
        logvar, var = logvar.masked_fill(~finite, 0), var.masked_fill(~finite, 0)
        counted = finite.sum(1).numpy()
    variance = var.sum(1).numpy()
    remainder = variance - counted - logvar.sum(1).numpy()
    for row in np.flatnonzero(remainder < _LEAST_MEAN_REMAINDER * counted).tolist():
        remainder[row] = exact_remainder(logvar[row], var[row]).sum()
    return remainder, variance


def _sum_and_square(rows: Tensor) -> tuple[Tensor, Tensor]:
    return rows.sum(1), torch.linalg.vector_norm(rows, dim=1).square()


def _sum_logvars(
    stored: Tensor, scales: int, shift: Tensor | None, wides: Tensor, variances: Tensor, width: int
) -> list[Tensor]:
    """``_Run.sum`` of means and log-variances, of which the latter begin at row ``scales``."""
    rows = stored.size(0)
    rest = torch.zeros(rows, dtype=torch.float64)
    squares = torch.zeros(rows, dtype=torch.float64)
    variance = torch.zeros(rows - scales, dtype=torch.float64)
    lows: list[Tensor] = []
    highs: list[Tensor] = []
    for chunk in torch.split(stored, width, dim=1):
        wide = wides[: chunk.numel()].view_as(chunk)
        wide.copy_(chunk)
        source = chunk if chunk.dtype == torch.float32 else wide
        lows.append(source.amin(1))
        highs.append(source.amax(1))
        if scales < rows:
            some = wide[scales:]
            variance.add_(torch.exp(some, out=variances[: some.numel()].view_as(some)).sum(1))
        if shift is not None:
            wide.sub_(shift)
        sums = _sum_and_square(wide)
        rest.add_(sums[0])
        squares.add_(sums[1])
    return [rest, squares, variance, torch.stack(lows).amin(0), torch.stack(highs).amax(0)]


def _top_halves(single: Tensor) -> Tensor:
    """Of each float32 pattern the upper 16 bits."""
    return single.view(torch.uint16)[:, _TOP_HALVES]


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
    unknown = (magnitude >= 0x7F80) | (cell >= 8192)
    if quantity.parameterization == "softplus":
        unknown[0xFF80] = False  # -inf, where σ has its floor
    cell[unknown] = 8192
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
