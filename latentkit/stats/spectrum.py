"""How smooth latents are over space: autocorrelation of neighbours, and power by spatial frequency."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import centred
from latentkit.stats.centred import MEAN, Chunk, Totals, filled
from latentkit.stats.sums import Arrays, ExactSums, Floats, Ints, fill

#: Bins per cycle per pixel: a fixed grid, so that samples of any size, and other runs, fall on the same frequencies.
BINS_PER_CYCLE = 64
# Up to the corner of the spectrum, √½ cycles per pixel.
_BINS = round(math.sqrt(0.5) * BINS_PER_CYCLE) + 1
#: Cycles a pixel, half of what a grid can hold along an axis.
HIGH_FREQUENCY = 0.25
#: The free axis of this letter is a sequence of tokens, whose neighbours are none in space.
TOKENS = "l"

# Elements transformed at once: fresh memory for many more takes longer than their transforms.
_CACHED = 1 << 15


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

    ``power`` is of each channel, ``overall`` the channels' mean, by ``frequencies`` in cycles per pixel (multiples of
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

    @property
    def high_frequency_power(self) -> float:
        """Mean of ``overall`` from ``HIGH_FREQUENCY`` up; NaN where there is none."""
        high = [power for at, power in zip(self.frequencies, self.overall, strict=True) if at >= HIGH_FREQUENCY]
        return sum(high) / len(high) if high else math.nan


class SpectrumSums:
    """Power by bin and products of neighbours, of each of C channels: 3 KiB per channel."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._without_axes: Ints = np.zeros(1, np.int64)
        self._totals, self._squares = Totals(channels), ExactSums(channels)
        self._lags: dict[str, _Lags] = {}
        self._power = _Power(channels)

    def update(self, chunk: Chunk) -> None:
        axes = [letter for letter in chunk.letters if letter != TOKENS]
        if not axes:
            self._without_axes += chunk.shape[0]
            return
        self._totals.update(chunk)
        self._squares.add(chunk.by_channel(filled(centred.squares), MEAN))
        for letter in axes:
            self._lags_of(letter).update(chunk, chunk.letters.index(letter))
        if "h" in axes and "w" in axes:
            self._power.update(chunk)

    def merge(self, other: "SpectrumSums") -> None:
        self._without_axes += other._without_axes
        self._totals.merge(other._totals)
        self._squares.merge(other._squares)
        for letter, lags in other._lags.items():
            self._lags_of(letter).merge(lags)
        self._power.merge(other._power)

    def move(self, by: Floats) -> None:
        self._squares.add(self._totals.squares_gained(by)[None])
        self._totals.move(by)
        for lags in self._lags.values():
            lags.move(by)
        self._power.move(by)

    def figures(self, center: Floats) -> Spectrum:  # noqa: ARG002 - all is about the mean
        mean = self._totals.mean
        squares = self._squares.total + self._totals.squares_gained(-mean)
        variance = _over(squares + self._totals.variances.total, self._totals)
        lag1 = [lags.figures(letter, mean, variance) for letter, lags in sorted(self._lags.items())]
        frequencies, power = self._power.figures()
        return Spectrum(
            self._totals.samples,
            int(self._without_axes[0]),
            lag1,
            frequencies.tolist(),
            power.tolist(),
            [_mean(column) for column in power.T],
        )

    def arrays(self) -> Arrays:
        letters = np.frombuffer("".join(sorted(self._lags)).encode(), np.uint8)
        return self._parts() | {"axes": letters}

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        letters = arrays["axes"].tobytes().decode()
        if list(letters) != sorted(set(letters)):
            raise ValueError(f"{letters!r} are no axes")
        for letter in letters:
            self._lags_of(letter)
        fill(self._parts(), arrays)

    def _lags_of(self, letter: str) -> "_Lags":
        if letter not in self._lags:
            self._lags[letter] = _Lags(self._channels)
        return self._lags[letter]

    def _parts(self) -> Arrays:
        parts = {"without_axes": self._without_axes, **self._totals.parts("totals"), **self._squares.parts("squares")}
        for letter, lags in sorted(self._lags.items()):
            parts |= lags.parts(letter)
        return parts | self._power.parts()


class _Lags:
    """Of neighbours along an axis: how many pairs, Σ d d' and Σ (d + d') of each channel."""

    def __init__(self, channels: int) -> None:
        self._pairs: Ints = np.zeros(1, np.int64)
        self._products, self._ends = ExactSums(channels), ExactSums(channels)

    def update(self, chunk: Chunk, axis: int) -> None:
        samples, _, positions = chunk.shape
        length, after = chunk.sizes[axis], prod(chunk.sizes[axis + 1 :])
        found = chunk.by_channel(filled(partial(centred.neighbours, length, after), 2), MEAN)
        self._pairs += samples * (positions - positions // length)
        self._products.add(found[:, 0])
        # All but the first and the last are in two pairs.
        self._ends.add(2 * chunk.sums - found[:, 1])

    def merge(self, other: "_Lags") -> None:
        self._pairs += other._pairs
        self._products.merge(other._products)
        self._ends.merge(other._ends)

    def move(self, by: Floats) -> None:
        self._products.add(self._products_gained(by)[None])
        self._ends.add((2 * int(self._pairs[0]) * by)[None])

    def _products_gained(self, by: Floats) -> Floats:
        return by * (self._ends.total + int(self._pairs[0]) * by)

    def figures(self, axis: str, mean: Floats, variance: Floats) -> Lag:
        products = self._products.total + self._products_gained(-mean)
        correlations = products / (int(self._pairs[0]) or math.nan) / variance
        return Lag(axis, correlations.tolist(), _mean(correlations))

    def parts(self, axis: str) -> Arrays:
        sums = self._products.parts(f"{axis}.products") | self._ends.parts(f"{axis}.ends")
        return {f"{axis}.pairs": self._pairs, **sums}


class _Power:
    """Of planes (h, w): power by bin, and how many frequencies fell in each."""

    def __init__(self, channels: int) -> None:
        self._totals = Totals(channels)
        self._power = ExactSums(channels * _BINS)
        self._frequencies: Ints = np.zeros(_BINS, np.int64)

    def update(self, chunk: Chunk) -> None:
        samples, _, positions = chunk.shape
        h, w = chunk.letters.index("h"), chunk.letters.index("w")
        height, width = chunk.sizes[h], chunk.sizes[w]
        self._totals.update(chunk)
        self._power.add(chunk.by_channel(partial(_binned_power, chunk.sizes, h, w), MEAN))
        self._frequencies += samples * positions // (height * width) * _grid(height, width).counts

    def merge(self, other: "_Power") -> None:
        self._totals.merge(other._totals)
        self._power.merge(other._power)
        self._frequencies += other._frequencies

    def move(self, by: Floats) -> None:
        self._power.add(self._gained(by).reshape(1, -1))
        self._totals.move(by)

    def _gained(self, by: Floats) -> Floats:
        """(C, bins): a constant is all at frequency 0."""
        gained = np.zeros((len(by), _BINS))
        gained[:, 0] = self._totals.squares_gained(by)
        return gained

    def figures(self) -> tuple[Floats, Floats]:
        """Frequencies (F,), and power where that of white noise is 1, (C, F)."""
        seen = np.flatnonzero(self._frequencies)
        sums = self._gained(-self._totals.mean)
        sums += self._power.total.reshape(sums.shape)
        variances = self._totals.variances.total
        power = sums[:, seen] / self._frequencies[seen] + (variances / max(1, self._totals.count))[:, None]
        # By Parseval's theorem.
        variance = _over(sums.sum(1) + variances, self._totals)
        return seen / BINS_PER_CYCLE, power / variance[:, None]

    def parts(self) -> Arrays:
        sums = self._totals.parts("planes") | self._power.parts("power")
        return {**sums, "frequencies": self._frequencies}


def _binned_power(sizes: tuple[int, ...], h: int, w: int, deviations: Floats) -> Floats:
    """Σ |DFT|² / (H W) of all planes of a channel in each bin: (n, C × bins). Axes h and w are of free ones."""
    samples, channels, positions = deviations.shape
    planes = np.moveaxis(deviations.reshape(samples, channels, *sizes), (2 + h, 2 + w), (-2, -1))
    height, width = planes.shape[-2:]
    grid, count = _grid(height, width), positions // (height * width)
    binned = np.zeros((samples * channels, _BINS))
    flat = planes.reshape(-1, height, width)
    step = max(1, _CACHED // (height * width))
    for first in range(0, len(flat), step):
        transforms = np.fft.fft(np.fft.rfft(flat[first : first + step]), axis=1)
        centred.add_power(transforms.reshape(len(transforms), -1), grid.bins, grid.weights, first, count, binned)
    binned /= height * width
    return binned.reshape(samples, -1)


@dataclass(frozen=True, slots=True)
class _Grid:
    """For each frequency of ``rfft2``: its bin, and for how many of the whole transform it stands; those in a bin."""

    bins: Ints
    weights: Floats
    counts: Ints


@lru_cache(maxsize=64)
def _grid(height: int, width: int) -> _Grid:
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)).ravel()
    bins = np.floor(radius * BINS_PER_CYCLE + 0.5).astype(np.int64)
    # Columns but the first, and of an even width the last, stand for their mirror image too.
    twice = np.full(width // 2 + 1, 2.0)
    twice[0] = 1
    if width % 2 == 0:
        twice[-1] = 1
    weights = np.tile(twice, height)
    return _Grid(bins, weights, np.bincount(bins, weights, _BINS).astype(np.int64))


def _over(sums: Floats, totals: Totals) -> Floats:
    """A variance of each channel; NaN where it is zero, or there are fewer than two samples."""
    return np.where(sums > 0, sums, np.nan) / (totals.count if totals.samples > 1 else math.nan)


def _mean(values: Floats) -> float:
    """Of those that are defined."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if len(defined) else math.nan
