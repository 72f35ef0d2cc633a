"""The figures that ``stats --with`` adds: blocks -> accumulators, one set of them a worker, merged at the end.

They are of whole samples. One with a value that is not finite is left out of all but the duplicates, and counted; so
is, of all, one that is too large to be held.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from itertools import groupby
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.tables import WIDE, values_of
from latentkit.failures import Failures
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Block, Halves, plan_blocks, read_block, whole_of
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior, Span
from latentkit.stats.centred import Chunk
from latentkit.stats.correlation import CorrelationSums
from latentkit.stats.duplicates import SampleHashes
from latentkit.stats.extrema import Names, Place
from latentkit.stats.shape import ShapeSums
from latentkit.stats.spectrum import SpectrumSums
from latentkit.stats.summary import ExtraFigures
from latentkit.stats.sums import Arrays, Floats, Ints, fill

#: Elements of the mean in the largest sample that is held whole, as it is stored (a third as many of float64), and of
#: one of its channels, which is decoded.
MOST_ELEMENTS, MOST_OF_CHANNEL = 5 << 20, 5 << 17

# Elements of a block that are taken at once: they are held as float64, and so is what sums are made of.
_TOGETHER = 1 << 15
# Large samples take memory that grows with them: one at a time.
_LARGE = Lock()
# Blocks in which a channel's first finite number is looked for: more than the largest sample has pieces.
_MOST_BLOCKS = 64

# Sums beyond float64 are infinite, and figures of them undefined; both are said by the numbers themselves.
_QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")


class _Sums(Protocol):
    """An accumulator of chunks, about a center that its owner knows.

    Its sums are exact but for what ``move`` adds to them, which lets every deviation grow by so much, (C,).
    """

    def update(self, chunk: Chunk) -> None: ...
    def merge(self, other: Any) -> None: ...
    def move(self, by: Floats) -> None: ...
    def figures(self, center: Floats) -> Any: ...
    def arrays(self) -> Arrays: ...
    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None: ...


_SUMS: dict[str, Callable[[int], _Sums]] = {
    "correlation": CorrelationSums,
    "shape": ShapeSums,
    "spectrum": SpectrumSums,
}

NAMES = (*_SUMS, "duplicates")


class Extras:
    """Accumulators of the figures of these names, for posteriors with C channels.

    Args:
        names: some of ``NAMES``; raises ``ValueError`` for others.
        channels, parameterization, clamp: as of ``Statistics``.
        center: (C,), near the mean, see ``center_of``; 0 where none is given, as for what is to be restored.

    One thread at a time; each worker has its own ``part``, and they are merged at the end.
    """

    def __init__(
        self,
        names: Collection[str],
        channels: int,
        parameterization: str,
        clamp: Clamp,
        center: Floats | None = None,
    ) -> None:
        if unknown := set(names) - set(NAMES):
            raise ValueError(f"no figures are called {', '.join(map(str, unknown))}; there are {', '.join(NAMES)}")
        self.names = sorted(names)
        self._of = channels, parameterization, clamp
        self._center: Floats = np.zeros(channels) if center is None else center.copy()
        self._sums = {name: make(channels) for name, make in _SUMS.items() if name in names}
        self._hashes = SampleHashes() if "duplicates" in names else None
        # Samples that were taken, that are not finite, and that are too large.
        self._samples: Ints = np.zeros(3, np.int64)

    def part(self) -> "Extras":
        """An empty one for a worker; the hashes, which take memory, are shared."""
        part = Extras(self.names, *self._of, self._center)
        part._hashes = self._hashes
        return part

    def update(self, block: Block, halves: Halves, buffers: Buffers) -> None:
        """Take a block, with what was read for it.

        Of a sample that comes in pieces it takes the last, and reads the sample again, whole.
        """
        shape = block.spans[0].posterior.axes.view[1:]
        if block.piece.shape == shape:
            self._take(block, halves, buffers)
        elif block.last and _is_too_large(block.spans[0].posterior):
            self._samples[2] += 1
        elif block.last:
            whole = whole_of(block)
            with _LARGE:
                memory = Buffers()
                self._take(whole, read_block(whole, memory), memory)

    def _take(self, block: Block, halves: Halves, buffers: Buffers) -> None:
        row = 0
        for free, spans in groupby(block.spans, key=lambda span: _free_axes(span.posterior)):
            first = row
            for span in spans:
                rows = range(row, row + span.count)
                row = rows.stop
                if self._hashes is not None:
                    place = Place(span.posterior.file.path, span.posterior.key, span.first, 0)
                    self._hashes.update(halves, rows, place)
            step = max(1, _TOGETHER // prod(halves.dims[1:]))
            for start in range(first, row if self._sums else first, step):
                self._add(halves, range(start, min(start + step, row)), *free, buffers)

    @_QUIET
    def _add(self, halves: Halves, rows: range, letters: str, sizes: tuple[int, ...], buffers: Buffers) -> None:
        """Some whole samples of one shape."""
        chunk = Chunk(halves, rows, letters, sizes, *self._of[1:], self._center, buffers)
        kept = chunk.shape[0]
        self._samples[:2] += kept, len(rows) - kept
        if kept:
            for sums in self._sums.values():
                sums.update(chunk)

    @_QUIET
    def merge(self, other: "Extras") -> None:
        """Take what another of the same names has counted; about another center, the lesser part is moved."""
        if (other._center != self._center).any():
            if self._samples[0] < other._samples[0]:
                self._move(other._center)
            else:
                moved = other.part()
                moved.merge(other)
                moved._move(self._center)
                other = moved
        self._samples += other._samples
        for name, sums in self._sums.items():
            sums.merge(other._sums[name])
        if self._hashes is not None and other._hashes is not None:
            self._hashes.merge(other._hashes)

    def _move(self, center: Floats) -> None:
        for sums in self._sums.values():
            sums.move(self._center - center)
        self._center[:] = center

    @_QUIET
    def figures(self) -> ExtraFigures:
        """What it comes to."""
        found = {name: sums.figures(self._center) for name, sums in self._sums.items()}
        if self._hashes is not None:
            found["duplicates"] = self._hashes.figures()
        _, nonfinite, large = self._samples.tolist()
        return ExtraFigures(**found, nonfinite_samples=nonfinite, large_samples=large)

    def arrays(self, number_of: Callable[[Place], int]) -> Arrays:
        """What was counted, for ``restore``; ``number_of`` gives the number that stands for a place's file."""
        arrays = {f"{name}.{part}": array for name, sums in self._sums.items() for part, array in sums.arrays().items()}
        if self._hashes is not None:
            arrays |= {f"duplicates.{part}": array for part, array in self._hashes.arrays(number_of).items()}
        return arrays | self._parts()

    def restore(self, arrays: Mapping[str, NDArray[Any]], names: Names, samples: int) -> None:
        """Put into an empty one what ``arrays`` gave; ``names`` are the files and tensors by number.

        Raises ``ValueError`` or ``KeyError`` for arrays that are not such, or of more than so many samples.
        """
        fill(self._parts(), arrays)
        if not np.isfinite(self._center).all():
            raise ValueError("the center of its sums is not finite")
        if self._samples.min() < 0 or self._samples.sum() > samples:
            raise ValueError(f"its other figures are of {self._samples.tolist()} of {samples} samples")
        for name, sums in self._sums.items():
            sums.restore(dict(_of_name(name, arrays)))
        if self._hashes is not None:
            self._hashes.restore(dict(_of_name("duplicates", arrays)), names)

    def _parts(self) -> Arrays:
        return {"samples": self._samples, "center": self._center}


def center_of(spans: Sequence[Span], failures: Failures | None = None) -> Floats:
    """A center near the mean of each of the posteriors' channels, (C,): the number of the first sample nearest to its
    mean. So the deviations of a channel that is constant are zero, and most others exact.

    Of a channel without a finite number there, the next samples count; 0 where there is none soon. A file that cannot
    be read goes to ``failures``, or is an error.
    """
    failures = Failures() if failures is None else failures
    buffers, channels = Buffers(), spans[0].posterior.axes.channels
    center, is_missing = np.zeros(channels), np.ones(channels, np.bool_)
    held = (span for span in spans if not _is_too_large(span.posterior))
    for _, block in zip(range(_MOST_BLOCKS), plan_blocks(held, 1), strict=False):
        here = slice(*block.piece.channels)
        with failures.passing_over(block.spans[0].posterior.file.path):
            if is_missing[here].any():
                nearest = _nearest_to_mean(read_block(block, buffers))
                is_new = is_missing[here] & ~np.isnan(nearest)
                center[here][is_new] = nearest[is_new]
                is_missing[here] &= ~is_new
        if not is_missing.any():
            break
    return center


@_QUIET
def _nearest_to_mean(halves: Halves) -> Floats:
    """Of each channel's means, (C,); NaN where there is none that may be a center."""
    stored = halves.view(halves.mean)
    numbers = stored.astype(np.float64) if halves.dtype in WIDE else values_of(halves.dtype)[stored]
    rows = np.moveaxis(numbers, 2, 0).reshape(halves.dims[2], -1)
    # Differences from any larger number might not be finite.
    rows = np.where(np.abs(rows) <= np.finfo(np.float32).max, rows, np.nan)
    is_number = ~np.isnan(rows)
    mean = np.where(is_number, rows, 0.0).sum(1) / is_number.sum(1)
    distance = np.where(is_number, np.abs(rows - mean[:, None]), np.inf)
    nearest: Floats = rows[np.arange(len(rows)), distance.argmin(1)]
    return nearest


def _is_too_large(posterior: Posterior) -> bool:
    _, outer, channels, inner = posterior.axes.view
    elements = outer * channels * inner * (3 if posterior.mean.dtype == "F64" else 1)
    return elements > MOST_ELEMENTS or outer * inner > MOST_OF_CHANNEL


def _free_axes(posterior: Posterior) -> tuple[str, tuple[int, ...]]:
    """The letters and sizes of the axes but batch and channels."""
    axes = posterior.axes
    return posterior.layout.lstrip("b").replace("c", ""), axes.outer + axes.inner


def _of_name(name: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    return ((key.removeprefix(f"{name}."), array) for key, array in arrays.items() if key.startswith(f"{name}."))
