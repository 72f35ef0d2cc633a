"""What is known of each channel's means or scales, whatever dtype they were stored in."""

from fractions import Fraction
from functools import cached_property

import numpy as np

from latentkit.compiled.counting import SUMS, TALLIES
from latentkit.stats.quantity import Quantity
from latentkit.stats.sums import Arrays, ExactSums, Floats, Ints

#: More elements than anybody has: such counts are refused, and sums of them fit.
MOST_COUNTED = 1 << 53


class Facts:
    """Counts of classes, (C, 5) as ``TALLIES`` names them; ``beneath`` (C, K, 2), how many finite numbers are less than
    each threshold and how many at most that; and exact sums of x, x², h(l) and e^l, four per channel.
    """

    def __init__(self, channels: int, thresholds: int) -> None:
        self.tallies: Ints = np.zeros((channels, len(TALLIES)), np.int64)
        self.beneath: Ints = np.zeros((channels, thresholds, 2), np.int64)
        self.sums = ExactSums(SUMS * channels)

    def merge(self, other: "Facts") -> None:
        self.tallies += other.tallies
        self.beneath += other.beneath
        self.sums.merge(other.sums)

    def pooled(self, groups: int = 1) -> "Facts":
        """Equally many channels that follow one another as one each."""
        pool, each, sums = Facts(groups, self.beneath.shape[1]), len(self.tallies) // groups, np.arange(len(self.sums))
        pool.tallies += self.tallies.reshape(groups, each, -1).sum(axis=1)
        pool.beneath += self.beneath.reshape(groups, each, *self.beneath.shape[1:]).sum(axis=1)
        pool.sums.merge(self.sums, sums // (SUMS * each) * SUMS + sums % SUMS)
        return pool

    def with_infinities(self, quantity: Quantity) -> "Facts":
        """These, with infinite log-variances taken for the clamp's bounds in h(l) and e^l."""
        if not (self.minus_inf.any() or self.plus_inf.any()):
            return self
        whole = Facts(len(self.tallies), self.beneath.shape[1])
        whole.merge(self)
        terms = np.zeros((2, len(self.tallies), SUMS))
        for end, counts in enumerate((self.minus_inf, self.plus_inf)):
            for place, term in enumerate(quantity.terms_at_bounds()):
                # Of none there is nothing, be the term infinite.
                np.multiply(counts, term[end], out=terms[end, :, 2 + place], where=counts > 0)
        whole.sums.add(terms.reshape(2, -1))
        return whole

    def parts(self, name: str) -> Arrays:
        """The arrays of all this, to be read or written in place."""
        return {f"{name}.tallies": self.tallies, f"{name}.beneath": self.beneath, **self.sums.parts(name)}

    def check(self) -> None:
        """Raise ``ValueError`` where counts contradict each other, or a sum of what is never negative is."""
        within = self.tallies.min() >= 0 and self.tallies.max() <= MOST_COUNTED and self.finite.min() >= 0
        ordered = (self.less >= 0) & (self.less <= self.at_most) & (self.at_most <= self.finite[:, None])
        if not (within and ordered.all()):
            raise ValueError("its counts of classes contradict each other")
        if (self.sums.total.reshape(-1, SUMS)[:, (1, 3)] < 0).any():
            raise ValueError("its sums of squares or variances are negative")

    @property
    def total(self) -> Ints:
        return self.tallies[:, 0]

    @property
    def nan(self) -> Ints:
        return self.tallies[:, 1]

    @property
    def negative(self) -> Ints:
        return self.tallies[:, 2]

    @property
    def minus_inf(self) -> Ints:
        return self.tallies[:, 3]

    @property
    def plus_inf(self) -> Ints:
        return self.tallies[:, 4]

    @property
    def finite(self) -> Ints:
        finite: Ints = self.total - self.tallies[:, 1:].sum(axis=1)
        return finite

    @property
    def known(self) -> Ints:
        """Elements that have a clamped log-variance: the infinite too."""
        known: Ints = self.finite + self.minus_inf + self.plus_inf
        return known

    @property
    def less(self) -> Ints:
        return self.beneath[:, :, 0]

    @property
    def at_most(self) -> Ints:
        return self.beneath[:, :, 1]

    @cached_property
    def _moments(self) -> tuple[Floats, Floats]:
        """Mean and variance of the population, (C,) each: from exact sums, so nothing cancels."""
        mean, variance = np.full((2, len(self.tallies)), np.nan)
        for channel, count in enumerate(self.finite.tolist()):
            values, squares = (self.sums.exactly(SUMS * channel + power) for power in (0, 1))
            if count and isinstance(values, Fraction) and isinstance(squares, Fraction):
                mean[channel] = _float(values / count)
                variance[channel] = max(_float((squares - values * values / count) / count), 0.0)
            elif count:
                mean[channel], variance[channel] = _float(values), _float(squares)
        return mean, variance

    @property
    def mean(self) -> Floats:
        """NaN where nothing was counted."""
        return self._moments[0]

    @property
    def variance(self) -> Floats:
        return self._moments[1]

    @cached_property
    def _totals(self) -> Floats:
        return self.sums.total.reshape(-1, SUMS)

    @property
    def squares(self) -> Floats:
        """Σ x²."""
        return self._totals[:, 1]

    @property
    def remainders(self) -> Floats:
        """Σ h(l)."""
        return self._totals[:, 2]

    @property
    def variances(self) -> Floats:
        """Σ e^l."""
        return self._totals[:, 3]


def _float(value: Fraction | float) -> float:
    """Infinite beyond float64."""
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
