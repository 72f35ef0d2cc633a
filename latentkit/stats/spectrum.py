"""How smooth latents are over space: autocorrelation of neighbours, and power by spatial frequency."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from latentkit.stats.centred import Arrays, Center, Chunk, parts_of
from latentkit.stats.moments import Floats, Ints, Sums

#: Bins a cycle a pixel. The grid is fixed, so that samples of any size, and other runs, fall on the same frequencies.
BINS_A_CYCLE = 64
# Up to the corner of the spectrum, √½ cycles a pixel.
_BINS = round(math.sqrt(0.5) * BINS_A_CYCLE) + 1
#: The free axis of this letter is a sequence of tokens, whose neighbours are none in space.
TOKENS = "l"

# Elements transformed or multiplied at once: what a core's cache holds.
_CACHED = 1 << 18
# Ends the name of the array that says that an axis was seen.
_PAIRS = ".pairs"


@dataclass(frozen=True, slots=True)
class Lag:
    """Correlation of latents one step apart along an axis: of each channel, and their mean."""

    axis: str
    channels: list[float]
    overall: float


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Figures of latents whose samples have spatial axes; NaN where there is no variance.

    ``lag1`` has an entry an axis, by its letter in the layout: Σ (z − μ)(z' − μ) over neighbours, a pair, by the
    variance. Noise of neighbours is independent, and so in the variance alone.

    ``power`` is of each channel, ``overall`` the channels' mean, by ``frequencies`` in cycles a pixel (multiples of
    1 / 64; those that no sample has are left out). It is |DFT|² / (H W) of the latents about their channel's mean,
    averaged over samples and over all directions, noise included, and divided by the variance: 1 at every frequency
    for white noise, and 1 on average over all frequencies for any latents. It is empty without axes h and w.

    Power that does not fall with frequency as an image's does makes latents harder to model with diffusion:
    Skorokhodov et al., "Improving the Diffusability of Autoencoders" (2025, arXiv 2502.14831), section 3.

    ``samples_without_axes`` (tokens, vectors) are not among the ``samples``.
    """

    samples: int
    samples_without_axes: int
    lag1: list[Lag]
    frequencies: list[float]
    power: list[list[float]]
    overall: list[float]


class SpectrumSums:
    """Power by bin and products of neighbours, of each of C channels: under 1 KiB a channel."""

    def __init__(self, channels: int) -> None:
        self.channels = channels
        self._without_axes: Ints = np.zeros(1, np.int64)
        self._center = Center(channels)
        self._squares, self._variances = Sums(channels), Sums(channels)
        self._lags: dict[str, _Lags] = {}
        self._power = _Power(channels)

    def update(self, chunk: Chunk) -> None:
        """Take whole samples."""
        one = SpectrumSums(self.channels)
        axes = {axis: 2 + place for place, axis in enumerate(chunk.letters) if axis != TOKENS}
        if axes:
            one._center = Center.of(chunk)
            one._squares.add(_dots(chunk.deviations, chunk.deviations))
            one._variances.add(chunk.sum_of_variances())
            one._lags = {letter: _Lags.of(chunk.deviations, axis) for letter, axis in axes.items()}
        else:
            one._without_axes[0] = chunk.samples
        if "h" in axes and "w" in axes:
            one._power = _Power.of(chunk, axes["h"], axes["w"])
        self.merge(one)

    def merge(self, other: "SpectrumSums") -> None:
        """Take what another has counted."""
        moved = self._center.join(other._center)
        self._without_axes += other._without_axes
        self._squares.merge(other._squares)
        for count, shift in moved:
            self._squares.add(count * shift * shift)
        self._variances.merge(other._variances)
        none = _Lags(self.channels)
        for axis in {**self._lags, **other._lags}:
            self._lags.setdefault(axis, _Lags(self.channels)).merge(
                other._lags.get(axis, none), *(shift for _, shift in moved)
            )
        self._power.merge(other._power)

    def figures(self) -> Spectrum:
        """What it comes to."""
        variance = _over(self._squares.total + self._variances.total, self._center)
        lag1 = [lags.figures(axis, variance) for axis, lags in sorted(self._lags.items())]
        frequencies, power = self._power.figures()
        return Spectrum(
            self._center.samples,
            int(self._without_axes[0]),
            lag1,
            frequencies.tolist(),
            power.tolist(),
            [_mean(column) for column in power.T],
        )

    def parts(self) -> Arrays:
        return {
            "without_axes": self._without_axes,
            **self._center.parts(),
            **parts_of("squares", self._squares),
            **parts_of("variances", self._variances),
            **self._power.parts(),
            **{name: part for axis, lags in sorted(self._lags.items()) for name, part in lags.parts(axis).items()},
        }

    def prepare(self, names: Iterable[str]) -> None:
        """Have the parts of these names, which depend on the axes that were seen."""
        for name in names:
            if name.endswith(_PAIRS):
                self._lags[name.removesuffix(_PAIRS)] = _Lags(self.channels)


class _Lags:
    """Of neighbours along an axis: how many pairs, Σ d d' and Σ (d + d') of each channel."""

    def __init__(self, channels: int) -> None:
        self.pairs: Ints = np.zeros(1, np.int64)
        self.products, self.ends = Sums(channels), Sums(channels)

    @classmethod
    def of(cls, deviations: Tensor, axis: int) -> "_Lags":
        length = deviations.shape[axis] - 1
        one = cls(len(deviations))
        before, behind = deviations.narrow(axis, 0, length), deviations.narrow(axis, 1, length)
        one.pairs[0] = before[0].numel()
        one.products.add(_dots(before, behind))
        free = tuple(range(1, deviations.ndim))
        one.ends.add((before.sum(free) + behind.sum(free)).numpy())
        return one

    def merge(self, other: "_Lags", ours: Floats, theirs: Floats) -> None:
        """Take another's; ``ours`` and ``theirs`` are what the deviations of either grow by."""
        moved = self._moved(ours), other._moved(theirs)
        self.pairs += other.pairs
        self.products.merge(other.products)
        self.ends.merge(other.ends)
        for products, ends in moved:
            self.products.add(products)
            self.ends.add(ends)

    def _moved(self, shift: Floats) -> tuple[Floats, Floats]:
        pairs = int(self.pairs[0])
        return shift * self.ends.total + pairs * shift * shift, 2 * pairs * shift

    def figures(self, axis: str, variance: Floats) -> Lag:
        correlations = self.products.total / (int(self.pairs[0]) or math.nan) / variance
        return Lag(axis, correlations.tolist(), _mean(correlations))

    def parts(self, axis: str) -> Arrays:
        return {
            f"{axis}{_PAIRS}": self.pairs,
            **parts_of(f"{axis}.products", self.products),
            **parts_of(f"{axis}.ends", self.ends),
        }


class _Power:
    """Of planes (h, w): power by bin, about the mean of all; how many frequencies fell in each."""

    def __init__(self, channels: int) -> None:
        self.center = Center(channels)
        self.power = Sums(channels, _BINS)
        self.variances = Sums(channels)
        self.frequencies: Ints = np.zeros(_BINS, np.int64)

    @classmethod
    def of(cls, chunk: Chunk, h: int, w: int) -> "_Power":
        planes = chunk.deviations.movedim((h, w), (-2, -1)).flatten(1, -3)
        one = cls(len(planes))
        one.center = Center.of(chunk)
        one.power.add(_binned_power(planes))
        one.variances.add(chunk.sum_of_variances())
        one.frequencies += planes.shape[1] * _grid(*planes.shape[2:]).counts
        return one

    def merge(self, other: "_Power") -> None:
        moved = self.center.join(other.center)
        self.power.merge(other.power)
        for count, shift in moved:
            # A constant is all at frequency 0.
            constant = np.zeros_like(self.power.high)
            constant[:, 0] = count * shift * shift
            self.power.add(constant)
        self.variances.merge(other.variances)
        self.frequencies += other.frequencies

    def figures(self) -> tuple[Floats, Floats]:
        """Frequencies (F,), and power where that of white noise is 1, (C, F)."""
        seen = np.flatnonzero(self.frequencies)
        noise = self.variances.total / max(1, self.center.count)
        power = self.power.total[:, seen] / self.frequencies[seen] + noise[:, None]
        # By Parseval's theorem.
        variance = _over(self.power.total.sum(1) + self.variances.total, self.center)
        return seen / BINS_A_CYCLE, power / variance[:, None]

    def parts(self) -> Arrays:
        return {
            **self.center.parts("planes"),
            **parts_of("power", self.power),
            **parts_of("noise", self.variances),
            "frequencies": self.frequencies,
        }


def _binned_power(planes: Tensor) -> Floats:
    """Σ |DFT|² / (H W) of planes ``(C, planes, H, W)`` in each bin: (C, bins)."""
    channels, count, height, width = planes.shape
    grid = _grid(height, width)
    binned = torch.zeros(channels, _BINS, dtype=torch.float64)
    for rows in _slices(channels, count * height * width):
        power = torch.zeros(rows.stop - rows.start, len(grid.bins), dtype=torch.float64)
        for some in _slices(count, len(power) * height * width):
            transform = torch.fft.rfft2(planes[rows, some])
            power += torch.view_as_real(transform).square_().sum(1).sum(-1).flatten(1)
        binned[rows].index_add_(1, grid.bins, power * grid.weights)
    binned_power: Floats = (binned / (height * width)).numpy()
    return binned_power


def _slices(count: int, size: int) -> list[slice]:
    """As many of ``count`` things of so many elements at a time as a cache holds."""
    step = max(1, _CACHED // max(1, size))
    return [slice(start, min(start + step, count)) for start in range(0, count, step)]


@dataclass(frozen=True, slots=True)
class _Grid:
    """For each frequency of ``rfft2``: its bin, and for how many of the whole transform it stands; those in a bin."""

    bins: Tensor
    weights: Tensor
    counts: Ints


@lru_cache(maxsize=64)
def _grid(height: int, width: int) -> _Grid:
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).ravel()
    bins = np.floor(radius * BINS_A_CYCLE + 0.5).astype(np.int64)
    # Columns but the first, and of an even width the last, stand for their mirror image too.
    twice = np.full(width // 2 + 1, 2)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    weights = np.tile(twice, height)
    counts = np.bincount(bins, weights, _BINS).astype(np.int64)
    return _Grid(torch.from_numpy(bins), torch.from_numpy(weights).double(), counts)


def _dots(one: Tensor, other: Tensor) -> Floats:
    """Sum of products over all axes but the first."""
    sums = [(one[rows] * other[rows]).flatten(1).sum(1) for rows in _slices(len(one), one[0].numel())]
    dots: Floats = torch.cat(sums).numpy()
    return dots


def _over(sums: Floats, center: Center) -> Floats:
    """A variance of each channel; NaN where it is zero, or there are fewer than two samples."""
    return np.where(sums > 0, sums, np.nan) / (center.count if center.samples > 1 else math.nan)


def _mean(values: Floats) -> float:
    """Of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
