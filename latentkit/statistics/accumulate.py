"""``Statistics``: blocks of posteriors in, a summary out."""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from latentkit.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp, check_clamp
from latentkit.statistics.coarse import CoarseCounts
from latentkit.statistics.counts import Cells, Counts, Facts
from latentkit.statistics.exact import ExactCounts
from latentkit.statistics.extrema import Extrema, Origin, Segment
from latentkit.statistics.quantity import Quantity
from latentkit.statistics.summary import Half, Summary, summarize
from latentkit.workspace import Workspace

#: 16-bit patterns are counted in full up to as many channels: 16 MiB for mean and scale. More would not fit.
EXACT_CHANNELS = 32

# Numbers gathered, of mean and scale each, before they are counted: fewer cost calls, more leave the cache.
GATHERED = 1 << 17


class Statistics:
    """What there is to know of posteriors with C channels, in one pass and bounded memory.

    Args:
        channels: C, of the mean.
        parameterization: what the scale means: ``logvar``, ``std``, ``var``, ``softplus``; ``none`` for drawn latents.
        clamp: bounds of the log-variance.
        workspace: buffers to use, for the thread that calls ``update``; default: its own.

    One thread at a time; each worker has its own, and they are merged at the end.
    Memory: 0.5 MiB a channel and 16-bit or wider dtype up to 32 channels, 64 KiB above (as much again after 2^31
    elements a channel), and 6 MiB of buffers.
    """

    def __init__(
        self,
        channels: int,
        parameterization: str = "logvar",
        clamp: Clamp = DEFAULT_CLAMP,
        *,
        workspace: Workspace | None = None,
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
        self._workspace = workspace or Workspace()
        self._halves = [_Half(channels, Quantity(None, self.clamp))]
        if parameterization != "none":
            self._halves.append(_Half(channels, Quantity(parameterization, self.clamp)))
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
        if mean.shape[2] < self.channels:
            self._count_directly(halves, origin)
            return
        whole = mean.shape[3] if origin.inner is None else origin.inner
        for views, place in _cut(halves, replace(origin, inner=whole), max(1, GATHERED // self.channels)):
            self._gather(views, place)

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

    def _gather(self, views: list[Tensor], origin: Origin) -> None:
        """Put a block's numbers, channel by channel, behind those that wait."""
        n, outer, _, inner = views[0].shape
        width = n * outer * inner
        start = self._segments[-1].stop if self._segments else 0
        if (start + width) * self.channels > max(GATHERED, self.channels) or any(
            half.gathered.dtype != view.dtype for half, view in zip(self._halves, views, strict=True)
        ):
            self._flush()
            start = 0
        for half, view in zip(self._halves, views, strict=True):
            if half.gathered.dtype != view.dtype:
                half.gathered = torch.empty(self.channels, max(1, GATHERED // self.channels), dtype=view.dtype)
            part = half.gathered[:, start : start + width].view(self.channels, n, outer, inner)
            part.copy_(view.permute(2, 0, 1, 3))
        self._segments.append(Segment(start, (n, outer, inner), origin, self.channels))

    def _flush(self) -> None:
        if self._segments:
            # In order of place, so that a search ends at the first find.
            segments = sorted(self._segments, key=lambda segment: segment.place(0, segment.start))
            width = self._segments[-1].stop
            for half in self._halves:
                half.count(0, half.gathered[:, :width], segments, self._workspace)
            self._segments = []

    def _count_directly(self, views: list[Tensor], origin: Origin) -> None:
        """A block of some channels only."""
        n, outer, channels, inner = views[0].shape
        segment = Segment(0, (n, outer, inner), origin, self.channels)
        for half, view in zip(self._halves, views, strict=True):
            rows = view.permute(2, 0, 1, 3).reshape(channels, -1)
            if rows.numel():
                half.count(origin.channel_start, rows, [segment], self._workspace)

    def merge(self, other: "Statistics") -> None:
        """Take what ``other`` has counted, which must have the same channels, parameterization and clamp."""
        ours, theirs = ((each.channels, each.parameterization, each.clamp) for each in (self, other))
        if ours != theirs:
            raise ValueError(f"cannot merge statistics of (channels, parameterization, clamp) {ours} and {theirs}")
        self._flush()
        other._flush()
        self.samples += other.samples
        for mine, half in zip(self._halves, other._halves, strict=True):
            mine.merge(half)

    def summary(self) -> Summary:
        """All figures of what was counted so far."""
        self._flush()
        halves = [half.read() for half in self._halves]
        return summarize(halves[0], halves[1] if len(halves) > 1 else None, self.samples, self.parameterization)

    @property
    def nbytes(self) -> int:
        """Memory that the counts may take; what holds only zeros is not resident."""
        return sum(counts.nbytes for half in self._halves for counts in half.counts.values())


class _Half:
    """Means, or scale parameters: counts for each dtype, and extrema over all."""

    def __init__(self, channels: int, quantity: Quantity) -> None:
        self.channels = channels
        self.quantity = quantity
        self.counts: dict[torch.dtype, Counts] = {}
        self.extrema = Extrema(channels)
        self.gathered = torch.empty(channels, 0, dtype=torch.bool)

    def count(self, channel: int, rows: Tensor, segments: list[Segment], workspace: Workspace) -> None:
        self._counts(rows.dtype).add(channel, rows, segments, self.extrema, workspace)

    def _counts(self, dtype: torch.dtype) -> Counts:
        if dtype not in self.counts:
            self.counts[dtype] = self._new_counts(dtype)
        return self.counts[dtype]

    def _new_counts(self, dtype: torch.dtype) -> Counts:
        """Exact where memory allows, else coarse: a matter of dtype and channels alone, so that all parts agree."""
        many = self.channels > EXACT_CHANNELS
        if dtype.itemsize == 1 or (dtype.itemsize == 2 and not many):
            return ExactCounts(dtype, self.channels, self.quantity)
        return CoarseCounts(self.channels, self.quantity, folded=many)

    def merge(self, other: "_Half") -> None:
        for dtype, counts in other.counts.items():
            self._counts(dtype).merge(counts)
        self.extrema.merge(other.extrema)

    def read(self) -> Half:
        facts = Facts.none(self.channels, len(self.quantity.thresholds))
        for counts in self.counts.values():
            facts.merge(counts.facts())
        cells = Cells.pooled([counts.cells() for counts in self.counts.values()], self.channels)
        exact = all(counts.is_exact for counts in self.counts.values())
        return Half(self.quantity, facts, cells, self.extrema, exact)


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
