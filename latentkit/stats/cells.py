"""Cells in which floats are counted: the upper bits of a float32 pattern, found by bits and never by a logarithm, so
that no library's last digit decides where an element is counted.

Up to 32 channels a cell is an upper half of a float32 pattern, under 0.8 % wide. Beyond, there are fewer cells: both
signs, 2^-16 to 2^16, of means, log-variances and softplus; 2^-44 to 2^20 of σ; 2^-64 to 2^64 of variances. What lies
beyond goes to the outermost cells, NaN and infinities to the last. Up to 256 channels they are as narrow; twice as many
channels then have cells twice as wide, so that counts take no more memory (beyond 1,024, half as much).
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.stats.quantity import Quantity
from latentkit.stats.sums import Floats

#: Channels up to which there is a count for each 16-bit pattern, or upper half of one of float32: half a MiB per
#: channel, mean and scale together.
EXACT_CHANNELS = 32
# Channels up to which cells are as narrow as that, and beyond which counts have half the memory: figures take more.
_NARROW, _MANY = 256, 1024
# Cells are never wider than a factor of 2.
_WIDEST = 7


@dataclass(frozen=True, slots=True)
class Cells:
    """Counts of finite values: (C, P) counts, and (P,) ascending values that stand for the cells.

    Where a cell is wider than one value, the one nearest to zero stands for it.
    """

    values: Floats
    counts: NDArray[Any]

    @classmethod
    def of(cls, values: Floats, counts: NDArray[Any]) -> "Cells":
        """Sort cells by value, and leave out what holds nothing or stands for nothing finite."""
        kept = np.flatnonzero(np.isfinite(values) & counts.any(axis=0))
        kept = kept[np.argsort(values[kept], kind="stable")]
        return cls(values[kept], counts[:, kept])

    @classmethod
    def pooled(cls, many: "list[Cells]", channels: int) -> "Cells":
        """Counts of several dtypes as one."""
        if len(many) == 1:
            return many[0]
        values = [np.zeros(0), *(cells.values for cells in many)]
        counts = [np.zeros((channels, 0), np.int64), *(cells.counts for cells in many)]
        return cls.of(np.concatenate(values), np.concatenate(counts, axis=1))


def widening(channels: int) -> int:
    """By how many powers of two cells are wider than under 0.8 %."""
    doublings = max(0, (channels - 1).bit_length() - (_NARROW - 1).bit_length())
    return min(doublings + (channels > _MANY), _WIDEST)


@lru_cache(maxsize=8)
def cell_fold(quantity: Quantity, channels: int) -> NDArray[np.uint16] | None:
    """The cell of each of the 65,536 upper halves of a float32; None where that is the half itself."""
    if channels <= EXACT_CHANNELS:
        return None
    top = np.arange(1 << 16)
    magnitude, negative = top & 0x7FFF, top >> 15
    shift, base, size = _range(quantity, channels)
    cell = np.clip((magnitude >> shift) - base, 0, size - 1) + negative * size
    last = size if _one_sign(quantity) else 2 * size
    unknown = (magnitude >= 0x7F80) | (cell >= last)
    if quantity.parameterization == "softplus":
        unknown[0xFF80] = False  # -inf, where σ has its floor
    cell[unknown] = last
    narrow: NDArray[np.uint16] = cell.astype(np.uint16)
    return narrow


@lru_cache(maxsize=8)
def cell_floors(quantity: Quantity, channels: int) -> Floats:
    """The number nearest to zero of each cell; NaN for the last, where there is a fold."""
    if channels <= EXACT_CHANNELS:
        bits = np.arange(1 << 16) << 16
        # As σ and variance 0 are counted apart, what is just above there.
        return _float32_of(np.maximum(bits, 1) if _one_sign(quantity) else bits)
    shift, base, size = _range(quantity, channels)
    nearest_zero = (np.arange(size) + base) << (16 + shift)
    if not _one_sign(quantity):
        nearest_zero[0] = 0
    floor = _float32_of(nearest_zero)
    return np.append(floor if _one_sign(quantity) else np.concatenate([floor, -floor]), np.nan)


def _one_sign(quantity: Quantity) -> bool:
    return quantity.parameterization in ("std", "var")


def _range(quantity: Quantity, channels: int) -> tuple[int, int, int]:
    """How many of a half's bits a cell leaves out, the first cell, and how many there are of a sign."""
    smallest, octaves = {"std": (-44, 64), "var": (-64, 128)}.get(quantity.parameterization or "", (-16, 32))
    shift = widening(channels) + (quantity.parameterization == "var")
    return shift, (127 + smallest) << 7 >> shift, octaves << 7 >> shift


def _float32_of(bits: NDArray[np.int64]) -> Floats:
    with np.errstate(invalid="ignore"):
        values = bits.astype(np.uint32).view(np.float32).astype(np.float64)
    return np.where(np.isnan(values), np.nan, values)
