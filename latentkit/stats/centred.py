"""Samples about a center, and what the figures of ``--with`` share.

The figures are central moments: sums of products of deviations from the mean, which is known at the end only. So
sums are about one center, fixed before the pass and near the mean. Each is then a plain sum over samples of what
depends on the sample alone, added exactly: the same for any order, and to merge is to add. It is moved to the mean
once, by the binomial theorem; so is a sum about another run's center.
"""

from collections.abc import Callable, Iterator
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

#: Halves of a chunk.
MEAN, SCALE = range(2)

# Elements of a large sample that are decoded at once, 2 MiB, or one channel of more.
_AT_ONCE = 1 << 18


class Chunk:
    """Those of a block's rows that are finite: deviations of the posterior means from the center, and variances of the
    posteriors (None for drawn latents), each (n, C, positions).

    ``shape`` is that; n may be 0. ``letters`` are the axes that positions come from, as the layout calls them, of these
    ``sizes``. A large sample, which comes alone, is decoded anew for each figure, some channels or positions at a time.
    """

    def __init__(
        self, halves: Halves, rows: range, letters: str, sizes: tuple[int, ...], parameterization: str, clamp: Clamp,
        center: Floats, buffers: Buffers,
    ) -> None:  # fmt: skip
        _, outer, channels, inner = halves.dims
        self.letters, self.sizes, self._parameterization = letters, sizes, parameterization
        self._of = halves, halves.samples.starts[rows.start : rows.stop], clamp, center, buffers
        step = max(1, _AT_ONCE // (len(rows) * outer * inner))
        self._groups = [range(first, min(first + step, channels)) for first in range(0, channels, step)]
        kept = len(rows)
        for group in self._groups:
            self._decoded = finite_samples(group, parameterization, *self._of)
            kept = min(kept, len(self._decoded[0]))
        self.shape = kept, channels, outer * inner

    def by_channel(self, compute: Callable[..., Floats], *halves: int) -> Floats:
        """What is computed of some halves, ``MEAN`` and ``SCALE``, for each channel: its last axis is of channels."""
        if len(self._groups) == 1:
            return compute(*(self._decoded[half] for half in halves))
        parameterization = self._parameterization if SCALE in halves else "none"
        groups = (finite_samples(group, parameterization, *self._of) for group in self._groups)
        return np.concatenate([compute(*(numbers[half] for half in halves)) for numbers in groups], axis=-1)

    def runs(self, length: int) -> Iterator[Floats]:
        """Deviations of every channel, at so many positions or a multiple, but at the end."""
        if len(self._groups) == 1:
            yield self._decoded[0]
            return
        (halves, _, _, center, _), (_, channels, positions) = self._of, self.shape
        view, inner = halves.view(halves.mean)[0], halves.dims[3]
        step = max(1, _AT_ONCE // (channels * length)) * length
        for first in range(0, positions, step):
            entry, end = first // inner, min(first + step, positions)
            entries = view[entry : -(-end // inner)].swapaxes(0, 1).reshape(channels, -1)
            stored = entries[:, first - entry * inner : end - entry * inner]
            numbers = stored.astype(np.float64) if halves.dtype in WIDE else values_of(halves.dtype)[stored]
            yield (numbers - center[:, None])[None]

    @cached_property
    def sums(self) -> Floats:
        """Of each sample and channel: (n, C)."""
        return self.by_channel(filled(centred.sums), MEAN)

    @cached_property
    def sums_of_variances(self) -> Floats:
        """(n, C)."""
        has_none = self._parameterization == "none"
        return np.zeros_like(self.sums) if has_none else self.by_channel(filled(centred.sums), SCALE)


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
        samples, _, positions = chunk.shape
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
    channels: range, parameterization: str, halves: Halves, starts: Ints, clamp: Clamp, center: Floats, buffers: Buffers
) -> tuple[Floats, Floats | None]:
    """Some channels, as a ``Chunk`` has them, of the samples that begin at ``starts`` and are finite there."""
    _, outer, _, inner = halves.dims
    shape = len(starts), len(channels), outer * inner
    lie = halves.run_step, len(channels) * inner, prod(shape[1:])
    deviations = buffers.take("deviations", prod(shape), np.float64).reshape(shape)
    has_scale, dtype = parameterization != "none", halves.dtype
    variances = buffers.take("variances", prod(shape), np.float64).reshape(shape) if has_scale else None
    is_wide = dtype in WIDE
    values = None if is_wide else values_of(dtype)
    table = None if is_wide or not has_scale else scales_of(dtype, parameterization, clamp)[VARIANCE]
    kind = kind_of(dtype, parameterization) if has_scale else LOGVAR
    kept = centred.finite_samples(
        halves.mean, halves.scale, starts + channels.start * inner, lie, inner, values, table, kind, bounds_for(clamp),
        center[channels.start : channels.stop], deviations, variances,
    )  # fmt: skip
    return deviations[:kept], None if variances is None else variances[:kept]


def filled(loop: Callable[..., None], *rows: int) -> Callable[..., Floats]:
    """A loop over halves, as a function that returns what it fills: (n, *rows, C)."""

    def fill(*halves: Floats) -> Floats:
        samples, channels, _ = halves[0].shape
        out: Floats = np.empty((samples, *rows, channels))
        loop(*halves, out)
        return out

    return fill
