"""``Statistics``: blocks of posteriors in, a summary out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.tables import WIDE, values_of
from latentkit.posterior.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp, check_clamp
from latentkit.read.blocks import Halves
from latentkit.read.header import FLOATS
from latentkit.stats.cells import Cells
from latentkit.stats.counts import Counts, counts_for
from latentkit.stats.extrema import Extrema, Names, Numbers, Origins, Place
from latentkit.stats.facts import Facts
from latentkit.stats.quantity import Quantity
from latentkit.stats.summary import Half, Summary, summarize
from latentkit.stats.sums import Arrays, Floats


class Statistics:
    """What there is to know of posteriors with C channels, in one pass and bounded memory.

    Args:
        channels: C, of the mean.
        parameterization: what the scale means: ``logvar``, ``std``, ``var``, ``softplus``; ``none`` for drawn latents.
        clamp: bounds of the log-variance.

    One thread at a time; each worker has its own, and they are merged at the end, in any order: counts are whole
    numbers, sums are exact. Memory, for each dtype that occurs: half a MiB per channel, 16 MiB at most (counts become
    64 bits wide, and take twice that, after 2^31 elements per channel).
    """

    def __init__(self, channels: int, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP) -> None:
        if channels < 1:
            raise ValueError(f"statistics need at least one channel, got {channels}")
        if parameterization not in (*PARAMETERIZATIONS, "none"):
            raise ValueError(
                f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, none, got {parameterization!r}"
            )
        self.channels = channels
        self.parameterization = parameterization
        self.clamp = check_clamp(clamp)
        self.samples = 0
        self.quantities = [Quantity(None, self.clamp)]
        if parameterization != "none":
            self.quantities.append(Quantity(parameterization, self.clamp))
        self.counts: dict[str, Counts] = {}
        self.extrema = Extrema(channels * len(self.quantities))

    def update(self, block: Halves, origins: Origins) -> None:
        """Take a block of posteriors: n whole samples, or a piece of one.

        ``origins`` say where they come from. Raises ``ValueError`` where channels, or a scale that is there or not, do
        not fit.
        """
        first = origins[0][0].channel_start
        halves = [block.mean, block.scale] if block.scale.size else [block.mean]
        if not 0 <= first <= self.channels - block.dims[2]:
            raise ValueError(
                f"expected a block within {self.channels} channels, got {block.dims[2]} from channel {first} on"
            )
        if len(halves) != len(self.quantities):
            raise ValueError(f"parameterization {self.parameterization!r}, and {len(halves)} halves of channels")
        if origins[0][0].begins_samples:
            self.samples += block.dims[0]
        decoded, counts = _decoder(block.dtype), self.counts_for(block.dtype)
        for half, stored in enumerate(halves):
            seen = counts.update(half, stored, block, first)
            numbers = Numbers(block.view(stored), decoded, _others(self.quantities[half]))
            self.extrema.update(half * self.channels + first, seen.ends, seen.has_others, numbers, origins)

    def counts_for(self, dtype: str) -> Counts:
        if dtype not in self.counts:
            self.counts[dtype] = counts_for(dtype, self.channels, self.quantities)
        return self.counts[dtype]

    def merge(self, other: "Statistics") -> None:
        """Take what ``other`` has counted, which must have the same channels, parameterization and clamp."""
        ours, theirs = ((each.channels, each.parameterization, each.clamp) for each in (self, other))
        if ours != theirs:
            raise ValueError(f"cannot merge statistics of (channels, parameterization, clamp) {ours} and {theirs}")
        self.samples += other.samples
        for dtype, counts in other.counts.items():
            self.counts_for(dtype).merge(counts)
        self.extrema.merge(other.extrema)

    def clear(self) -> None:
        """Let go of what was counted, and of the memory it takes."""
        self.counts, self.extrema = {}, Extrema(len(self.extrema.least))

    def arrays(self, number_of: Callable[[Place], int]) -> Arrays:
        """What was counted, for ``restore``; ``number_of`` gives the number that stands for a place's file."""
        counts = {
            f"{dtype}.{name}": array
            for dtype in sorted(self.counts)
            for name, array in self.counts[dtype].arrays().items()
        }
        return counts | {f"extrema.{name}": array for name, array in self.extrema.arrays(number_of).items()}

    def restore(self, arrays: Arrays, names: Names, samples: int) -> None:
        """Put into an empty one what ``arrays`` gave; ``names`` are the files and tensors by number.

        Raises ``ValueError`` or ``KeyError`` for arrays that are not such, or contradict each other.
        """
        self.samples, elements = samples, 0
        for dtype in FLOATS:
            if own := _below(dtype, arrays):
                self.counts_for(dtype).restore(own)
                totals = np.stack([self.counts[dtype].total(half) for half in range(len(self.quantities))])
                # Of every sample each channel, and both halves, have as many elements.
                if totals.min() != totals.max():
                    raise ValueError(f"its counts of {dtype} differ from channel to channel")
                elements += int(totals.max())
        if elements < samples or (elements > 0) != (samples > 0):
            raise ValueError(f"it counts {samples} samples, and {elements} elements per channel")
        self.extrema.restore(_below("extrema", arrays), names)

    def summary(self) -> Summary:
        """All figures of what was counted so far."""
        halves = [self._read(half) for half in range(len(self.quantities))]
        return summarize(halves[0], halves[1] if len(halves) > 1 else None, self.samples, self.parameterization)

    def _read(self, half: int) -> Half:
        quantity, every = self.quantities[half], [self.counts[dtype] for dtype in sorted(self.counts)]
        if len(every) == 1:
            facts = every[0].facts(half)  # of many channels a copy is large
        else:
            facts = Facts(self.channels, len(quantity.thresholds))
            for counts in every:
                facts.merge(counts.facts(half))
        if quantity.parameterization is not None:
            facts = facts.with_infinities(quantity)
        cells = Cells.pooled([counts.cells(half) for counts in every], self.channels)
        extrema = self.extrema.of(range(half * self.channels, (half + 1) * self.channels))
        return Half(quantity, facts, cells, extrema, all(counts.is_exact for counts in every))


def _below(name: str, arrays: Arrays) -> Arrays:
    return {key.removeprefix(f"{name}."): array for key, array in arrays.items() if key.startswith(f"{name}.")}


def _decoder(dtype: str) -> Callable[[NDArray[np.generic]], Floats]:
    if dtype in WIDE:
        return lambda stored: stored.astype(np.float64)
    return lambda codes: values_of(dtype)[codes]


def _others(quantity: Quantity) -> Callable[[Floats], NDArray[np.bool_]]:
    return lambda numbers: ~quantity.classes(numbers).finite
