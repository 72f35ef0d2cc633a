"""Exact sums that merge: the same for any order, and for any number of accumulators."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import exact

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: What an accumulator holds, by name: what a state is made of.
Arrays = dict[str, NDArray[Any]]

# What one in the lowest limb of all stands for: the least float64.
_LEAST = Fraction(1, 1 << 1074)
# Sums that are rounded at once: what that takes is more than they are.
_TOGETHER = 1 << 14


class ExactSums:
    """So many sums, of float64 terms that are added without rounding (see ``compiled.exact``).

    ``arrays`` are what a loop takes to add to them; ``reserve`` says how many terms it is going to add to any.
    """

    def __init__(self, count: int) -> None:
        self._limbs: Ints = np.zeros((count, exact.LIMBS), np.int64)
        self._tops: Ints = np.zeros(count, np.int64)
        self._odd: Floats = np.zeros(count)
        self._terms = 0

    def __len__(self) -> int:
        return len(self._tops)

    @property
    def arrays(self) -> tuple[Ints, Ints, Floats]:
        return self._limbs, self._tops, self._odd

    def of(self, some: slice) -> tuple[Ints, Ints, Floats]:
        """The arrays of some of the sums."""
        return self._limbs[some], self._tops[some], self._odd[some]

    def reserve(self, terms: int) -> None:
        self._terms += terms
        if self._terms > exact.MOST_TERMS:
            exact.carry(self._limbs)
            self._terms = terms

    def add(self, terms: Floats) -> None:
        """Add terms (m, n): m to each of n sums."""
        self.reserve(len(terms))
        exact.add_all(*self.arrays, np.ascontiguousarray(terms))

    def merge(self, other: "ExactSums", into: Ints | None = None) -> None:
        """Add another's sums, each to the one of the same number, or to that which ``into`` names."""
        self.reserve(len(other) * other._terms if into is not None else other._terms)
        exact.merge(*self.arrays, *other.arrays, np.arange(len(other)) if into is None else into)

    def pooled(self, groups: int = 1) -> "ExactSums":
        """Sums of equally long groups that follow one another, as one each."""
        pool = ExactSums(groups)
        pool.merge(self, np.repeat(np.arange(groups), len(self) // groups))
        return pool

    def exactly(self, number: int) -> Fraction | float:
        """One of the sums as it is; infinity or NaN where a term was."""
        if (odd := float(self._odd[number])) != 0:
            return odd
        whole = sum(limb << (32 * slot) for slot, limb in enumerate(self._limbs[number].tolist()))
        lowest = 32 * (int(self._tops[number]) - exact.LIMBS + 1)
        return Fraction(whole) * _LEAST * (Fraction(2) ** lowest)

    @property
    def total(self) -> Floats:
        """The sums as float64, within 2 units; beyond its range infinite."""
        total: Floats = np.empty(len(self))
        for at in range(0, len(self), _TOGETHER):
            some = slice(at, at + _TOGETHER)
            total[some] = _rounded(*self.of(some))
        return total

    def parts(self, name: str) -> Arrays:
        """The arrays of all this, to be read or written in place: carried, so that as many terms again have room."""
        exact.carry(self._limbs)
        self._terms = 1
        return {f"{name}.limbs": self._limbs, f"{name}.tops": self._tops, f"{name}.odd": self._odd}


def _rounded(limbs: Ints, tops: Ints, odd: Floats) -> Floats:
    limbs = limbs.copy()
    # Digits from -2^31 to 2^31, so that what follows the first that is not 0 is less than half of it.
    for slot in range(exact.LIMBS - 1):
        over = (limbs[:, slot] + (1 << 31)) >> 32
        limbs[:, slot] -= over << 32
        limbs[:, slot + 1] += over
    value = np.zeros(len(limbs))
    for slot in range(exact.LIMBS - 1, -1, -1):
        value = value * 2.0**32 + limbs[:, slot]
    with np.errstate(over="ignore"):
        scaled: Floats = np.ldexp(value, 32 * (tops - exact.LIMBS + 1) - 1074)
    return np.where(odd == 0, scaled, odd)


def fill(parts: Arrays, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays into the parts of their names; raises ``KeyError`` or ``ValueError`` where they do not fit."""
    for name, ours in parts.items():
        theirs = arrays[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise ValueError(f"{name}: expected {ours.dtype} {ours.shape}, got {theirs.dtype} {theirs.shape}")
        if name.endswith(".tops") and not np.all((theirs >= 0) & (theirs <= exact.TOP)):
            raise ValueError(f"{name}: no float64 has such limbs")
        if name.endswith(".limbs") and not (np.all(theirs[:, :-1] >> 32 == 0) and np.all(abs(theirs[:, -1]) < 1 << 60)):
            raise ValueError(f"{name}: these limbs were not carried")
        ours[...] = theirs
