"""Sums, means and variances that merge, a number for each channel."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Float64 input may leave float64's range; the figure is infinite then.
_QUIET = np.errstate(over="ignore", invalid="ignore")


class Sums:
    """A sum a channel, or rows of them, each carried with what rounding took from it (Knuth's two-sum)."""

    def __init__(self, *shape: int) -> None:
        self.high: Floats = np.zeros(shape)
        self.low: Floats = np.zeros(shape)

    @_QUIET
    def add(self, terms: Floats, channels: slice = slice(None)) -> None:
        high = self.high[channels]
        total = high + terms
        virtual = total - high
        self.low[channels] += (high - (total - virtual)) + (terms - virtual)
        self.high[channels] = total

    def merge(self, other: "Sums") -> None:
        self.add(other.high)
        self.low += other.low

    def pooled(self) -> "Sums":
        """All channels as one."""
        pool = Sums(1)
        for high, low in zip(self.high, self.low, strict=True):
            pool.add(np.array([high]))
            pool.low += low
        return pool

    @property
    def total(self) -> Floats:
        """Beyond float64's range: infinite, or NaN where infinities cancel."""
        return np.where(np.isfinite(self.high), self.high + self.low, self.high)


class Moments:
    """Count, sum and sum of squared deviations of each channel.

    Groups are merged by Chan, Golub & LeVeque, "Algorithms for computing the sample variance" (1983): with
    δ the difference of the means, M2 = M2a + M2b + δ² na nb / (na + nb).
    """

    def __init__(self, channels: int) -> None:
        self.count: Ints = np.zeros(channels, np.int64)
        self.sums = Sums(channels)
        self.squares = Sums(channels)

    @property
    def mean(self) -> Floats:
        """NaN where nothing was counted."""
        return _ratio(self.sums.total, self.count)

    @property
    def variance(self) -> Floats:
        """Of the population: M2 / n. NaN where nothing was counted."""
        return _ratio(np.maximum(self.squares.total, 0), self.count)

    @_QUIET
    def add(self, count: Ints, shift: Floats, rest: Floats, squares: Floats, channels: slice = slice(None)) -> None:
        """Take a group for each of some channels.

        Args:
            count: (c,), elements.
            shift: (c,), a number near the mean with at most 24 significant bits, so that ``count · shift`` is exact.
            rest: (c,), the sum of x − shift.
            squares: (c,), the sum of (x − mean)².
        """
        before = self.count[channels]
        both = (before > 0) & (count > 0)
        if both.any():
            weight = np.where(both, before * (count / np.maximum(before + count, 1)), 0.0)
            theirs = shift + rest / np.maximum(count, 1)
            ours = self.sums.total[channels] / np.maximum(before, 1)
            difference = np.where(both, theirs - ours, 0.0)
            self.squares.add(difference * difference * weight, channels)
        self.squares.add(squares, channels)
        self.sums.add(count * shift, channels)
        self.sums.add(rest, channels)
        self.count[channels] += count

    @_QUIET
    def merge(self, other: "Moments") -> None:
        before, after = self.count, other.count
        both = (before > 0) & (after > 0)
        difference = np.where(both, other.mean - self.mean, 0.0)
        self.squares.add(difference * difference * np.where(both, before * (after / np.maximum(before + after, 1)), 0))
        self.squares.merge(other.squares)
        self.sums.merge(other.sums)
        self.count = before + after

    def pooled(self) -> "Moments":
        """All channels as one."""
        pool = Moments(1)
        for channel in range(len(self.count)):
            pool.merge(self.of(channel))
        return pool

    def of(self, channel: int) -> "Moments":
        """One channel alone."""
        one = Moments(1)
        one.count[0] = self.count[channel]
        for theirs, ours in ((self.sums, one.sums), (self.squares, one.squares)):
            ours.high[0], ours.low[0] = theirs.high[channel], theirs.low[channel]
        return one


def _ratio(sums: Floats, count: Ints) -> Floats:
    ratio: Floats = np.full(len(count), np.nan)
    return np.divide(sums, count, out=ratio, where=count > 0)
