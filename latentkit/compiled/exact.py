"""Sums without rounding, so that they are the same in any order: numbers cut into limbs of 32 bits, which are added up.

A float64 is a whole multiple of 2^−1074 of at most 2,098 bits. Of each sum the five limbs from the largest term's down
are kept, at least 96 bits below it; what lies lower is dropped, whenever that comes. So a sum depends on which terms
there were, and on nothing else, for up to 2^29 terms between two calls of ``carry``.
"""

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import Floats, Ints

#: Limbs of a sum.
LIMBS = 5
#: The highest limb of all numbers, in which the greatest float64 ends.
TOP = 65
#: Terms that may be added before ``carry``.
MOST_TERMS = 1 << 29

#: (n, LIMBS) sums, lowest limb first, and (n,) which of the limbs of all numbers the highest is.
Sums = NDArray[np.int64]

_LOW = np.int64(0xFFFFFFFF)
_BITS = np.int64(32)
_MANTISSA, _IMPLICIT = np.int64(0x000FFFFFFFFFFFFF), np.int64(0x0010000000000000)


@formula
def _limbs_of(x: float) -> tuple[np.int64, np.int64, np.int64, np.int64]:
    """Which limb of all numbers the highest of x is, and the three of them, from the highest down; for a finite x."""
    bits = np.float64(x).view(np.int64)
    exponent = np.int64(bits >> np.int64(52)) & np.int64(0x7FF)
    mantissa = (bits & _MANTISSA) | (_IMPLICIT if exponent else np.int64(0))
    place = exponent - np.int64(1) if exponent else np.int64(0)
    shift = place & np.int64(31)
    lower = np.int64((mantissa & _LOW) << shift)
    upper = np.int64((mantissa >> _BITS) << shift)
    high, middle, low = upper >> _BITS, (lower >> _BITS) + (upper & _LOW), lower & _LOW
    top = np.int64(place >> np.int64(5)) + np.int64(2)
    return (top, -high, -middle, -low) if bits < 0 else (top, high, middle, low)


@formula
def add_terms(sums: Sums, tops: Ints, odd: Floats, at: Ints, terms: Floats, count: int) -> None:
    """Add each of some terms to the sum that ``at`` names; infinities and NaN go to ``odd``, which adds them up.

    Many at once, as a call that hands arrays on takes longer than to add a term.
    """
    for j in range(count):
        x, number = terms[j], at[j]
        if x == 0.0:
            continue
        if not abs(x) < np.inf:
            odd[number] += x
            continue
        top, high, middle, low = _limbs_of(x)
        by = top - tops[number]
        if by > 0:
            for slot in range(LIMBS):
                sums[number, slot] = sums[number, slot + by] if slot + by < LIMBS else 0
            tops[number] = top
        slot = LIMBS - 1 + min(by, 0)
        if slot >= 0:
            sums[number, slot] += high
        if slot >= 1:
            sums[number, slot - 1] += middle
        if slot >= 2:
            sums[number, slot - 2] += low


@loop
def add_all(sums: Sums, tops: Ints, odd: Floats, terms: Floats) -> None:
    """Add ``terms`` (m, n): m numbers to each of n sums."""
    at = np.empty(terms.shape[1], np.int64)
    for number in range(at.size):  # as a loop: arange takes a tenth of a second to compile
        at[number] = number
    for row in range(terms.shape[0]):
        add_terms(sums, tops, odd, at, terms[row], terms.shape[1])


@loop
def merge(sums: Sums, tops: Ints, odd: Floats, others: Sums, other_tops: Ints, other_odd: Floats, into: Ints) -> None:
    """Add each of some other sums to the one that ``into`` names."""
    for other in range(into.size):
        at = into[other]
        by = other_tops[other] - tops[at]
        if by > 0:
            for slot in range(LIMBS):
                sums[at, slot] = sums[at, slot + by] if slot + by < LIMBS else 0
            tops[at] = other_tops[other]
        below = max(-by, 0)
        for slot in range(below, LIMBS):
            sums[at, slot - below] += others[other, slot]
        odd[at] += other_odd[other]


@loop
def carry(sums: Sums) -> None:
    """Let no limb but the highest have more than 32 bits, so that there is room for more terms."""
    for at in range(sums.shape[0]):
        for slot in range(LIMBS - 1):
            over = sums[at, slot] >> _BITS
            sums[at, slot] -= np.int64(over << _BITS)
            sums[at, slot + 1] += over
