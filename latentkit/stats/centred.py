"""Samples about a center, and what the figures of ``--with`` share.

The figures are central moments: sums of products of deviations from the mean, which is known at the end only. So
sums are about one center, fixed before the pass and near the mean. Each is then a plain sum over samples of what
depends on the sample alone, added exactly: the same for any order, and to merge is to add. It is moved to the mean
once, by the binomial theorem; so is a sum about another run's center.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from latentkit.compiled import centred
from latentkit.compiled.scale import LOGVAR, VARIANCE
from latentkit.compiled.tables import WIDE, bounds_for, kind_of, scales_of, values_of
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Halves
from latentkit.read.bytes import Buffers
from latentkit.stats.sums import Arrays, ExactSums, Floats, Ints


@dataclass(frozen=True)
class Chunk:
    """Whole samples, all of them finite.

    ``deviations``: of the posterior means from the center, (n, C, positions). ``variances``: of the posteriors; None
    for drawn latents. ``letters`` are the axes that positions come from, as the layout calls them, of these ``sizes``.
    """

    deviations: Floats
    variances: Floats | None
    letters: str
    sizes: tuple[int, ...]

    @cached_property
    def sums(self) -> Floats:
        """Of each sample and channel: (n, C)."""
        return _sums(self.deviations)

    @cached_property
    def sums_of_variances(self) -> Floats:
        """(n, C)."""
        return np.zeros_like(self.sums) if self.variances is None else _sums(self.variances)


class Totals:
    """How many samples there are, how many elements each channel has, and its sums of deviations and of variances."""

    def __init__(self, channels: int) -> None:
        self.counted: Ints = np.zeros(2, np.int64)
        self.sums, self.variances = ExactSums(channels), ExactSums(channels)

    @property
    def samples(self) -> int:
        return int(self.counted[0])

    @property
    def count(self) -> int:
        """Samples × positions."""
        return int(self.counted[1])

    @property
    def mean(self) -> Floats:
        """(C,), from the center; 0 where nothing was counted."""
        return self.sums.total / max(1, self.count)

    def update(self, chunk: Chunk) -> None:
        samples, _, positions = chunk.deviations.shape
        self.counted += samples, samples * positions
        self.sums.add(chunk.sums)
        self.variances.add(chunk.sums_of_variances)

    def merge(self, other: "Totals") -> None:
        self.counted += other.counted
        self.sums.merge(other.sums)
        self.variances.merge(other.variances)

    def move(self, by: Floats) -> None:
        """Let every deviation grow by this, (C,)."""
        self.sums.add((self.count * by)[None])

    def squares_gained(self, by: Floats) -> Floats:
        """By how much the sum of squares of the deviations grows when each of them grows by this, (C,)."""
        return by * (2 * self.sums.total + self.count * by)

    def parts(self, name: str) -> Arrays:
        """The arrays of all this, to be read or written in place."""
        sums = self.sums.parts(f"{name}.sums") | self.variances.parts(f"{name}.variances")
        return {f"{name}.counted": self.counted, **sums}


def finite_samples(
    halves: Halves, rows: range, parameterization: str, clamp: Clamp, center: Floats, buffers: Buffers
) -> tuple[Floats, Floats | None]:
    """Deviations from the center and variances, as a ``Chunk`` has them, of those of the rows that are finite."""
    _, outer, channels, inner = halves.dims
    shape = len(rows), channels, outer * inner
    starts, lie = halves.samples
    starts = starts[rows.start : rows.stop]
    deviations = buffers.take("deviations", prod(shape), np.float64).reshape(shape)
    has_scale, dtype = parameterization != "none", halves.dtype
    variances = buffers.take("variances", prod(shape), np.float64).reshape(shape) if has_scale else None
    is_wide = dtype in WIDE
    values = None if is_wide else values_of(dtype)
    table = None if is_wide or not has_scale else scales_of(dtype, parameterization, clamp)[VARIANCE]
    kind = kind_of(dtype, parameterization) if has_scale else LOGVAR
    kept = centred.finite_samples(
        halves.mean, halves.scale, starts, lie, inner, values, table, kind, bounds_for(clamp), center, deviations,
        variances,
    )  # fmt: skip
    return deviations[:kept], None if variances is None else variances[:kept]


def _sums(numbers: Floats) -> Floats:
    sums: Floats = np.empty(numbers.shape[:2])
    centred.sums(numbers, sums)
    return sums
