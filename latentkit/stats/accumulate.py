"""``Statistics``: blocks of posteriors in, a summary out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from latentkit.posterior.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp, check_clamp
from latentkit.stats.coarse import CoarseCounts
from latentkit.stats.counts import Cells, Counts, Facts, by_channel
from latentkit.stats.exact import ExactCounts
from latentkit.stats.extrema import Extrema, Origin, Segment
from latentkit.stats.quantity import Quantity
from latentkit.stats.summary import Half, Summary, summarize
from latentkit.workspace import Workspace

#: 16-bit patterns are counted in full up to as many channels: 16 MiB for mean and scale. More would not fit.
EXACT_CHANNELS = 32

# Numbers, means and scales together, gathered before they are counted: fewer cost calls, more leave the cache.
GATHERED = 1 << 20


class Statistics:
    """What there is to know of posteriors with C channels, in one pass and bounded memory.

    Args:
        channels: C, of the mean.
        parameterization: what the scale means: ``logvar``, ``std``, ``var``, ``softplus``; ``none`` for drawn latents.
        clamp: bounds of the log-variance.

    One thread at a time; each worker has its own, and they are merged at the end.
    Memory, for each dtype that occurs: 0.5 MiB a channel up to 32 channels, 64 KiB above (counts become 64 bits wide,
    and take twice that, after 2^31 elements a channel); 1 KiB a channel for 8 bits. Buffers: 7 to 13 MiB.
    """

    def __init__(
        self,
        channels: int,
        parameterization: str = "logvar",
        clamp: Clamp = DEFAULT_CLAMP,
    ) -> None:
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
        self._quantities = [Quantity(None, self.clamp)]
        if parameterization != "none":
            self._quantities.append(Quantity(parameterization, self.clamp))
        self._workspace = Workspace()
        self.counts: dict[torch.dtype, Counts] = {}
        self.extrema = Extrema(channels * len(self._quantities))
        self._dtypes: list[torch.dtype] = []
        self._segments: list[Segment] = []

    def update(self, mean: Tensor, raw: Tensor | None, origin: Origin) -> None:
        """Take a block of posteriors.

        Args:
            mean: ``(n, outer, channels, inner)`` in the stored dtype (8 to 64 bits), any strides, on the CPU: n whole
                samples, or a piece of one. It is copied, so its buffer may be used again at once.
            raw: the scale parameter, of the same shape; its dtype may be another. None for drawn latents.
            origin: where the block comes from.

        Raises ``ValueError`` where shapes, or a scale that is there or not, do not fit.
        """
        self._check(mean, raw, origin)
        halves = [mean] if raw is None else [mean, raw]
        if origin.begins_samples:
            self.samples += len(mean)
        whole = mean.shape[3] if origin.inner is None else origin.inner
        origin = replace(origin, inner=whole)
        if mean.shape[2] < self.channels:
            self._count_alone(halves, origin)
            return
        for views, place in _cut(halves, origin, self._width):
            self._gather(views, [(place, len(views[0]))])

    def update_spans(self, mean: Tensor, raw: Tensor | None, spans: Sequence[tuple[Origin, int]]) -> None:
        """Take a block of whole samples that come from several places: of each, so many samples.

        As ``update`` for each, but that small ones are taken together. Raises as it does.
        """
        n, outer, channels, inner = mean.shape
        if len(spans) > 1 and n * outer * inner <= self._width and channels == self.channels:
            self._check(mean, raw, spans[0][0])
            self.samples += n
            self._gather([mean] if raw is None else [mean, raw], spans)
            return
        row = 0
        for origin, count in spans:
            rows = slice(row, row + count)
            self.update(mean[rows], None if raw is None else raw[rows], origin)
            row += count

    @property
    def _width(self) -> int:
        """Columns that are gathered."""
        return max(1, GATHERED // (self.channels * len(self._quantities)))

    def _check(self, mean: Tensor, raw: Tensor | None, origin: Origin) -> None:
        if mean.ndim != 4 or not 0 <= origin.channel_start <= self.channels - mean.shape[2]:
            raise ValueError(
                f"expected a block of shape (samples, outer, channels, inner) within {self.channels} channels, "
                f"got {tuple(mean.shape)} from channel {origin.channel_start} on"
            )
        if (raw is None) != (self.parameterization == "none"):
            raise ValueError(f"parameterization {self.parameterization!r} and raw={'None' if raw is None else '...'}")
        if raw is not None and raw.shape != mean.shape:
            raise ValueError(f"mean has shape {tuple(mean.shape)} and its scale {tuple(raw.shape)}")

    def _gather(self, views: list[Tensor], spans: Sequence[tuple[Origin, int]]) -> None:
        """Put a block's numbers behind those that wait, and count when there are enough."""
        n, outer, _, inner = views[0].shape
        width = n * outer * inner
        start = self._segments[-1].stop if self._segments else 0
        dtypes = [view.dtype for view in views]
        if start + width > self._width or dtypes != self._dtypes:
            self.flush()
            start = 0
        self._dtypes = dtypes
        for half, view in enumerate(views):
            by_channel(self._rows(view.dtype), half * self.channels, start, view)
        for origin, count in spans:
            self._segments.append(Segment(start, (count, outer, inner), origin, self.channels))
            start = self._segments[-1].stop

    def _rows(self, dtype: torch.dtype) -> Tensor:
        """Where numbers of a dtype wait: a row for the means of each channel, then one for the scale of each."""
        return self._workspace.take(f"rows of {dtype}", (self.channels * len(self._quantities), self._width), dtype)

    def _count_alone(self, views: list[Tensor], origin: Origin) -> None:
        """Count a piece with some of the channels, which has numbers enough of each."""
        n, outer, channels, inner = views[0].shape
        segments = [Segment(0, (n, outer, inner), origin, self.channels)]
        for half, view in enumerate(views):
            first = half * self.channels + origin.channel_start
            numbers = view.permute(2, 0, 1, 3).contiguous().view(channels, -1)
            self.counts_for(view.dtype).count(slice(first, first + channels), numbers, segments, self.extrema)

    def flush(self) -> None:
        """Count what waits."""
        if not self._segments:
            return
        width, c, halves = self._segments[-1].stop, self.channels, len(self._dtypes)
        if len(set(self._dtypes)) == 1:
            # Means and scales at once: half the calls.
            parts = [slice(0, halves * c)]
        else:
            parts = [slice(half * c, half * c + c) for half in range(halves)]
        for dtype, rows in zip(self._dtypes, parts, strict=False):
            self.counts_for(dtype).count(rows, self._rows(dtype)[rows, :width], self._segments, self.extrema)
        self._segments = []

    def counts_for(self, dtype: torch.dtype) -> Counts:
        """Exact where memory allows, else coarse: a matter of dtype and channels alone, so that all parts agree."""
        if dtype not in self.counts:
            many = self.channels > EXACT_CHANNELS
            shared = self.channels, self._quantities, self._workspace
            exact = dtype.itemsize == 1 or (dtype.itemsize == 2 and not many)
            self.counts[dtype] = ExactCounts(dtype, *shared) if exact else CoarseCounts(*shared, folded=many)
        return self.counts[dtype]

    def merge(self, other: "Statistics") -> None:
        """Take what ``other`` has counted, which must have the same channels, parameterization and clamp."""
        ours, theirs = ((each.channels, each.parameterization, each.clamp) for each in (self, other))
        if ours != theirs:
            raise ValueError(f"cannot merge statistics of (channels, parameterization, clamp) {ours} and {theirs}")
        self.flush()
        other.flush()
        self.samples += other.samples
        for dtype, counts in other.counts.items():
            self.counts_for(dtype).merge(counts)
        self.extrema.merge(other.extrema)

    def summary(self) -> Summary:
        """All figures of what was counted so far."""
        self.flush()
        halves = [self._read(half) for half in range(len(self._quantities))]
        return summarize(halves[0], halves[1] if len(halves) > 1 else None, self.samples, self.parameterization)

    def _read(self, half: int) -> Half:
        quantity, every = self._quantities[half], self.counts.values()
        facts = Facts.none(self.channels, len(quantity.thresholds))
        for counts in every:
            facts.merge(counts.facts(half))
        cells = Cells.pooled([counts.cells(half) for counts in every], self.channels)
        extrema = self.extrema.of(range(half * self.channels, (half + 1) * self.channels))
        return Half(quantity, facts, cells, extrema, all(counts.is_exact for counts in every))

    @property
    def nbytes(self) -> int:
        """Memory that the counts may take; what holds only zeros is not resident."""
        return sum(counts.nbytes for counts in self.counts.values())


def _cut(views: list[Tensor], origin: Origin, width: int) -> Iterator[tuple[list[Tensor], Origin]]:
    """Cut a block along samples, outer or inner axes into parts of at most ``width`` numbers a channel."""
    n, outer, _, inner = views[0].shape
    if n * outer * inner == 0:
        return
    if n * outer * inner <= width:
        yield views, origin
        return
    # The first axis of more than one entry; steps of whole entries behind it.
    axis = 0 if n > 1 else 1 if outer > 1 else 3
    behind = {0: outer * inner, 1: inner, 3: 1}[axis]
    step, size = max(1, width // behind), (n, outer, 0, inner)[axis]
    name = {0: "first", 1: "outer_start", 3: "inner_start"}[axis]
    for start in range(0, size, step):
        part = [view.narrow(axis, start, min(step, size - start)) for view in views]
        moved = replace(origin, **{name: getattr(origin, name) + start})
        yield from _cut(part, moved, width)
