"""Samples about their mean, and how groups about different means become one: what the figures of ``--with`` share.

The figures are central moments: sums of products of deviations from a mean. Two groups are merged by moving each to
the mean of both, which is the rule of Chan, Golub & LeVeque (1983) for the second moment, and of Pébay, "Formulas for
robust, one-pass parallel computation of covariances and arbitrary-order statistical moments" (SAND2008-6212, 2008)
for the others.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentkit.stats.moments import Floats, Ints, Sums

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole samples, all of them finite, on the CPU.

    ``mean``: (C,), of the posterior means over samples and positions. ``deviations``: the posterior means less that,
    ``(C, n, *free)`` in float64, where ``letters`` are the free axes as the layout calls them. ``variance``: of the
    posteriors, of the same shape; None for drawn latents.
    """

    mean: Floats
    deviations: Tensor
    variance: Tensor | None
    letters: str

    @property
    def samples(self) -> int:
        return self.deviations.shape[1]

    @property
    def count(self) -> int:
        """Samples × positions: elements of each channel."""
        return self.deviations[0].numel()

    def sum_of_variances(self) -> Floats:
        """(C,)."""
        if self.variance is None:
            return np.zeros(len(self.mean))
        sums: Floats = self.variance.flatten(1).sum(1).numpy()
        return sums


class Center:
    """How many samples there are, how many elements a channel has, and their mean in each."""

    def __init__(self, channels: int) -> None:
        self.counted: Ints = np.zeros(2, np.int64)
        self.sums = Sums(channels)

    @classmethod
    def of(cls, chunk: Chunk) -> "Center":
        one = cls(len(chunk.mean))
        one.counted[:] = chunk.samples, chunk.count
        one.sums.add(chunk.count * chunk.mean)
        return one

    @property
    def samples(self) -> int:
        return int(self.counted[0])

    @property
    def count(self) -> int:
        """Samples × positions."""
        return int(self.counted[1])

    @property
    def mean(self) -> Floats:
        """(C,); 0 where nothing was counted."""
        return self.sums.total / max(1, self.count)

    def join(self, other: "Center") -> tuple[tuple[int, Floats], tuple[int, Floats]]:
        """Take another's elements; return, of ours and theirs, how many there were, and how far their mean, (C,), is
        from that of both.
        """
        ours, theirs = (self.count, self.mean), (other.count, other.mean)
        self.counted += other.counted
        self.sums.merge(other.sums)
        return (ours[0], ours[1] - self.mean), (theirs[0], theirs[1] - self.mean)

    def parts(self, name: str = "center") -> Arrays:
        """The arrays of all this, to be read or written in place."""
        return {f"{name}.count": self.counted, **parts_of(name, self.sums)}


def parts_of(name: str, sums: Sums) -> Arrays:
    """The arrays of a sum, to be read or written in place."""
    return {f"{name}.high": sums.high, f"{name}.low": sums.low}


def fill(parts: Arrays, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays into the parts of their names; raises ``KeyError`` or ``ValueError`` where they do not fit."""
    for name, ours in parts.items():
        theirs = arrays[name]
        if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
            raise ValueError(f"{name}: expected {ours.dtype} {ours.shape}, got {theirs.dtype} {theirs.shape}")
        ours[...] = theirs
