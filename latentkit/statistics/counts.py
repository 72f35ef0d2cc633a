"""Counts of stored numbers by the leading bits of their patterns.

``ExactCounts`` (16 and 8 bits) keeps every pattern, and everything about a channel is a function of its counts.
``CoarseCounts`` (float32, float64, and 16 bits of very many channels) keeps the top 16 bits of the float32 pattern,
cells under 0.8 % wide, for quantiles and histograms alone; moments and class counts come from the numbers.
Cells are found by bits, never by a logarithm, so that no library's last digit decides where an element is counted.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.distributions import exp_remainder
from latentkit.statistics.extrema import Extrema, Segment, first_place
from latentkit.statistics.moments import Floats, Ints, Moments, Sums
from latentkit.statistics.quantity import Classes, Quantity, stored_at
from latentkit.tabulated import every_value
from latentkit.workspace import Workspace

#: 16-bit patterns are counted in full up to as many channels: 16 MiB for mean and scale. More would not fit.
EXACT_CHANNELS = 32

# Counts are 32 bits wide (half the memory, and faster) until a cell might pass this.
_INT32_ROOM = 2**31 - 1

# Below this mean of h(l) = e^l − 1 − l, subtraction of sums would cost digits: h is then summed by its series.
_LEAST_MEAN_REMAINDER = 1e-3

_CODES = {1: torch.uint8, 2: torch.uint16}
_FLOAT32_MAX = float(torch.finfo(torch.float32).max)


_COUNTED = ("total", "nan", "negative", "minus_inf", "plus_inf", "less", "at_most")


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
        for name in _COUNTED:
            np.add(getattr(self, name), getattr(other, name), out=getattr(self, name))
        self.moments.merge(other.moments)
        self.remainder.merge(other.remainder)
        self.variance.merge(other.variance)

    def pooled(self) -> "Facts":
        """All channels as one."""
        summed = {name: getattr(self, name).sum(axis=0, keepdims=True) for name in _COUNTED}
        return Facts(
            **summed,
            moments=self.moments.pooled(),
            remainder=self.remainder.pooled(),
            variance=self.variance.pooled(),
        )


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts of finite values: (P,) ascending values that stand for the cells (of each the one nearest to zero), and (C, P) counts."""

    values: Floats
    counts: Ints

    @classmethod
    def of(cls, values: Floats, counts: Ints) -> "Cells":
        """Sort cells by value, and leave out what holds nothing or stands for nothing finite."""
        kept = np.flatnonzero(np.isfinite(values) & counts.any(axis=0))
        kept = kept[np.argsort(values[kept], kind="stable")]
        return cls(values[kept], counts[:, kept])

    @classmethod
    def pooled(cls, many: "list[Cells]", channels: int) -> "Cells":
        """Counts of several dtypes as one."""
        values = [np.zeros(0), *(cells.values for cells in many)]
        counts = [np.zeros((channels, 0), np.int64), *(cells.counts for cells in many)]
        return cls.of(np.concatenate(values), np.concatenate(counts, axis=1))


class Counts(Protocol):
    """What counts the numbers of one dtype.  ``is_exact``: each cell holds one value."""

    is_exact: ClassVar[bool]

    def add(self, channel: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        """Take rows (c, N) of stored numbers, a row a channel from ``channel`` on; ``segments`` name the columns."""

    def merge(self, other: "Counts") -> None:
        """Take what another of this kind has counted."""

    def facts(self) -> Facts:
        """Everything but quantiles and extrema."""

    def cells(self) -> Cells:
        """Counts by value."""

    @property
    def nbytes(self) -> int:
        """Memory of the counts."""


def counts_for(dtype: torch.dtype, channels: int, quantity: Quantity) -> Counts:
    """Exact counts where memory allows, else coarse ones: a function of dtype and channels alone."""
    if dtype.itemsize == 1 or (dtype.itemsize == 2 and channels <= EXACT_CHANNELS):
        return ExactCounts(dtype, channels, quantity)
    return CoarseCounts(channels, quantity)


class Grid:
    """Whole numbers, (channels, cells), to which many ones are added."""

    def __init__(self, channels: int, cells: int, room: int = _INT32_ROOM) -> None:
        # NumPy's zeros take memory only where they are touched.
        self.counts = torch.from_numpy(np.zeros((channels, cells), np.int32))
        self._ones = torch.ones(0, dtype=torch.int32)
        self._room = room
        self._added = 0

    def add(self, channel: int, index: Tensor) -> None:
        """Add one at each index: (c, N) int64, for channels from ``channel`` on."""
        self._reserve(index.shape[1])
        if len(self._ones) < index.numel() or self._ones.dtype != self.counts.dtype:
            self._ones = torch.ones(index.numel(), dtype=self.counts.dtype)
        # Twice as fast as bincount, which also clears its result each time; a dense source is the fast one.
        ones = self._ones[: index.numel()].view(index.shape)
        self.counts[channel : channel + len(index)].scatter_add_(1, index, ones)

    def merge(self, other: "Grid") -> None:
        self._reserve(other._added)
        self.counts += other.counts

    def _reserve(self, elements: int) -> None:
        self._added += elements
        if self._added > self._room and self.counts.dtype == torch.int32:
            self.counts = self.counts.long()

    @property
    def nbytes(self) -> int:
        return self.counts.nbytes


class ExactCounts:
    """Counts of every bit pattern of a 16- or 8-bit dtype."""

    is_exact: ClassVar[bool] = True

    def __init__(self, dtype: torch.dtype, channels: int, quantity: Quantity) -> None:
        self.quantity = quantity
        self.stored = every_value(dtype).double()
        self.grid = Grid(channels, len(self.stored))

    def add(self, channel: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        self.grid.add(
            channel,
            workspace.take("index", tuple(rows.shape), torch.int64).copy_(rows.view(_CODES[rows.element_size()])),
        )
        least, greatest = (self.stored.numpy()[patterns] for patterns in _extreme_patterns(rows, workspace))
        if not self.quantity.all_finite(least, greatest):
            wide = rows.double()
            finite = self.quantity.classes(wide).finite
            least, greatest = _finite_extremes(wide, finite)
            _note_nonfinite(channel, finite, segments, extrema)
        extrema.add(channel, least, greatest, lambda row, columns: _float64(rows[row, columns]), segments)

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


class CoarseCounts:
    """Counts by the top 16 bits of the float32 pattern, with moments and class counts kept beside them.

    Float64 is rounded to float32 for its cell, and only for that. Beyond 32 channels there are 8,192 cells a channel
    (see ``_folding``).
    """

    is_exact: ClassVar[bool] = False

    def __init__(self, channels: int, quantity: Quantity) -> None:
        self.quantity = quantity
        self._fold: Tensor | None = None
        representatives = _float32_of(_not_zero(np.arange(1 << 16) << 16, quantity))
        if channels > EXACT_CHANNELS:
            fold, representatives = _folding(quantity)
            self._fold = torch.from_numpy(fold)
        self._representatives = representatives
        self.grid = Grid(channels, len(representatives))
        self._facts = Facts.none(channels, len(quantity.thresholds))

    def add(self, channel: int, rows: Tensor, segments: list[Segment], extrema: Extrema, workspace: Workspace) -> None:
        shape, here = tuple(rows.shape), slice(channel, channel + len(rows))
        wide = workspace.take("wide", shape, torch.float64).copy_(rows)
        single = rows
        if rows.dtype != torch.float32:
            single = workspace.take("single", shape, torch.float32).copy_(rows)
        exact = wide if rows.dtype == torch.float64 else single
        least, greatest = (extreme.double().numpy() for extreme in (exact.amin(1), exact.amax(1)))
        finite = None
        if not self.quantity.all_finite(least, greatest):
            classes = self.quantity.classes(wide)
            finite = classes.finite
            self._count_classes(here, classes)
            least, greatest = _finite_extremes(wide, finite)
            _note_nonfinite(channel, finite, segments, extrema)
        if finite is not None or rows.dtype == torch.float64:
            single = wide.clamp(-_FLOAT32_MAX, _FLOAT32_MAX).float()
        if finite is not None:
            single.masked_fill_(~finite, torch.nan)
        extrema.add(channel, least, greatest, lambda row, columns: _float64(rows[row, columns]), segments)
        self.grid.add(channel, self._index(single, workspace))
        self._facts.total[here] += shape[1]
        self._count_thresholds(channel, wide, finite, least, greatest)
        self._measure(here, wide, finite, least, greatest, workspace)

    def _index(self, single: Tensor, workspace: Workspace) -> Tensor:
        shape = tuple(single.shape)
        index = workspace.take("index", shape, torch.int64)
        top = workspace.take("top", shape, torch.int32)
        torch.bitwise_right_shift(single.view(torch.int32), 16, out=top).bitwise_and_(0xFFFF)
        if self._fold is None:
            return index.copy_(top)
        torch.index_select(self._fold, 0, top.view(-1), out=index.view(-1))
        return index

    def _count_classes(self, here: slice, classes: Classes) -> None:
        for name, mask in classes._asdict().items():
            getattr(self._facts, name)[here] += mask.sum(1).numpy()

    def _count_thresholds(
        self, channel: int, wide: Tensor, finite: Tensor | None, least: Floats, greatest: Floats
    ) -> None:
        """Only rows whose extremes lie on both sides of a threshold are looked at."""
        thresholds, here = self.quantity.thresholds, slice(channel, channel + len(wide))
        n = np.full((len(wide), 1), wide.shape[1]) if finite is None else finite.sum(1, keepdim=True).numpy()
        self._facts.less[here] += n * (greatest[:, None] < thresholds)
        self._facts.at_most[here] += n * (greatest[:, None] <= thresholds)
        for row, k in np.argwhere((least[:, None] <= thresholds) & (greatest[:, None] >= thresholds)).tolist():
            numbers = wide[row] if finite is None else wide[row][finite[row]]
            if greatest[row] >= thresholds[k]:
                self._facts.less[channel + row, k] += int((numbers < thresholds[k]).sum())
            if greatest[row] > thresholds[k]:
                self._facts.at_most[channel + row, k] += int((numbers <= thresholds[k]).sum())

    def _measure(
        self,
        here: slice,
        wide: Tensor,
        finite: Tensor | None,
        least: Floats,
        greatest: Floats,
        workspace: Workspace,
    ) -> None:
        """Add moments, and for a scale h(l) and e^l; ``wide`` is overwritten."""
        quantity, counted = self.quantity, np.full(len(wide), wide.shape[1])
        if finite is not None:
            counted = finite.sum(1).numpy()
            wide.masked_fill_(~finite, 0.0 if quantity.parameterization is None else _neutral(quantity))
        if quantity.parameterization == "logvar":
            clamped = self._clamped(wide, finite, least, greatest, workspace)
            self._measure_clamped(here, clamped, counted, workspace)
        elif quantity.parameterization is not None:
            for terms, sums in zip(quantity.terms(wide), (self._facts.remainder, self._facts.variance), strict=True):
                sums.add((terms if finite is None else terms.masked_fill_(~finite, 0)).sum(1).numpy(), here)
            wide = quantity.value(wide)
        # Chan et al.'s corrected two-pass algorithm, about a shift that float32 can hold.
        n = np.maximum(counted, 1)
        total = (wide if finite is None else wide.masked_fill_(~finite, 0)).sum(1).numpy()
        shift = np.clip(total / n, -_FLOAT32_MAX, _FLOAT32_MAX).astype(np.float32).astype(np.float64)
        wide.sub_(torch.from_numpy(shift)[:, None])
        if finite is not None:
            wide.masked_fill_(~finite, 0)
        rest = wide.sum(1)
        squares = (torch.linalg.vector_norm(wide, dim=1).square_() - rest * rest / torch.from_numpy(n)).numpy()
        self._facts.moments.add(counted, shift, rest.numpy(), squares, here)

    def _clamped(
        self, logvar: Tensor, finite: Tensor | None, least: Floats, greatest: Floats, workspace: Workspace
    ) -> Tensor:
        """``logvar`` itself where the clamp does nothing; 0 stays where nothing is finite."""
        low, high = self.quantity.clamp
        if not ((least < low).any() or (greatest > high).any() or finite is not None):
            return logvar
        clamped = torch.clamp(logvar, low, high, out=workspace.take("clamped", tuple(logvar.shape), torch.float64))
        return clamped if finite is None else clamped.masked_fill_(~finite, 0)

    def _measure_clamped(self, here: slice, logvar: Tensor, counted: Ints, workspace: Workspace) -> None:
        """h(l) and e^l of log-variances in which 0 stands for what is not finite (h(0) = 0, e^0 = 1)."""
        variance = torch.exp(logvar, out=workspace.take("variance", tuple(logvar.shape), torch.float64))
        n = logvar.shape[1]
        variances = variance.sum(1)
        remainder = (variances - n - logvar.sum(1)).numpy()
        for row in np.flatnonzero(remainder < _LEAST_MEAN_REMAINDER * n).tolist():
            remainder[row] = exp_remainder(logvar[row], variance[row]).sum()
        self._facts.remainder.add(remainder, here)
        self._facts.variance.add(variances.numpy() - (n - counted), here)

    def merge(self, other: Counts) -> None:
        assert isinstance(other, CoarseCounts)
        self.grid.merge(other.grid)
        self._facts.merge(other._facts)

    def facts(self) -> Facts:
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
        value = self.quantity.value(torch.from_numpy(self._representatives)).numpy()
        return Cells.of(value, self.grid.counts.numpy().astype(np.int64))

    @property
    def nbytes(self) -> int:
        return self.grid.nbytes


def _folding(quantity: Quantity) -> tuple[NDArray[np.int64], Floats]:
    """Fewer cells: a cell for each of the 65,536 top halves of a float32, and a number that stands for each cell.

    Means, log-variances and softplus: both signs, 2^-16 to 2^16, 128 cells to a power of two. σ: 2^-44 to 2^20, as
    many. Variances: 2^-64 to 2^64, 64 cells to a power. The number in a cell nearest to zero stands for it. What lies beyond goes to the outermost cells; the last of
    all is for NaN, infinities and negative σ.
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


def _extreme_patterns(rows: Tensor, workspace: Workspace) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The patterns of each row's least and greatest number (of a NaN, if there is one), by integer comparisons.

    As signed integers, patterns of positive numbers grow with them; those of negative numbers grow with their size.
    """
    integer = torch.int16 if rows.element_size() == 2 else torch.int8
    bits, sign = rows.view(integer), torch.iinfo(integer).min
    greatest, smallest = bits.amax(1).numpy().astype(np.int64), bits.amin(1).numpy().astype(np.int64)
    least = smallest
    if (smallest < 0).any():
        flipped = torch.bitwise_xor(bits, sign, out=workspace.take("flipped", tuple(rows.shape), integer))
        least = np.where(smallest < 0, flipped.amax(1).numpy().astype(np.int64) + sign, smallest)
        greatest = np.where(greatest < 0, smallest, greatest)
    mask = 2 * -sign - 1
    return least & mask, greatest & mask


def _finite_extremes(wide: Tensor, finite: Tensor) -> tuple[Floats, Floats]:
    """The extremes of each row's finite numbers; NaN where there is none."""
    none = ~finite.any(1)
    least = wide.masked_fill(~finite, torch.inf).amin(1).masked_fill_(none, torch.nan)
    greatest = wide.masked_fill(~finite, -torch.inf).amax(1).masked_fill_(none, torch.nan)
    return least.numpy(), greatest.numpy()


def _note_nonfinite(channel: int, finite: Tensor, segments: list[Segment], extrema: Extrema) -> None:
    odd: NDArray[np.bool_] = (~finite).numpy()
    places = extrema.nonfinite_at
    for row in np.flatnonzero(odd.any(axis=1)).tolist():
        places[channel + row] = first_place(segments, channel + row, odd[row].__getitem__, places[channel + row])


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


def _float64(numbers: Tensor) -> Floats:
    wide: Floats = numbers.double().numpy()
    return wide


def _neutral(quantity: Quantity) -> float:
    """A stored number that does no harm where one is missing: that of log-variance 0."""
    return stored_at(0.0, quantity.parameterization or "logvar")
