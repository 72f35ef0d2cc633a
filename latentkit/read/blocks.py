"""Blocks: what is read and computed at once, and the reading itself.

A block holds whole samples, of one tensor or of several whose samples are alike, or a piece of one sample that is too
large. Pieces have fixed boundaries, so that a sum over them does not depend on any option. Nothing below cuts again.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.posterior.layout import Axes
from latentkit.read.bytes import DTYPE_BYTES, HELD_AS, Buffers, as_bytes, read_at, read_bytes
from latentkit.read.choice import Posterior, Run, Span
from latentkit.read.header import Header, TensorInfo

#: Elements of the mean in a block, at most: another number would change where large samples are cut, and so the last
#: digits of their sums.
BLOCK_ELEMENTS = 1 << 18
# Each span of a block costs an open file, in and perhaps out.
_MOST_SPANS = 64

Range = tuple[int, int]


@dataclass(frozen=True)
class Piece:
    """A box of one sample's (outer, channels, inner) axes; its elements are contiguous in the sample."""

    outer: Range
    channels: Range
    inner: Range

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return tuple(end - begin for begin, end in (self.outer, self.channels, self.inner))  # type: ignore[return-value]

    def start(self, channels: int, inner: int, first_channel: int = 0) -> int:
        """Where its first element is in a sample of so many channels and inner elements."""
        return (self.outer[0] * channels + first_channel + self.channels[0]) * inner + self.inner[0]


@dataclass(frozen=True)
class Block:
    """Spans of samples that are alike in shape and dtype; of each sample the same piece.

    ``first_row`` counts samples along the plan, up to the first of the block. ``last`` says that the piece ends its
    samples (it is their only one, as a rule).
    """

    spans: tuple[Span, ...]
    piece: Piece
    first_row: int
    last: bool

    @cached_property
    def samples(self) -> int:
        return sum(span.count for span in self.spans)

    @cached_property
    def shape(self) -> tuple[int, int, int, int]:
        """``(samples, outer, channels, inner)`` of the means in the block."""
        return (self.samples, *self.piece.shape)

    def position(self, row: int) -> int:
        """Where the block's piece of a sample begins in a tensor of means of which the sample is row ``row``."""
        _, outer, channels, inner = self.spans[0].posterior.axes.view
        return row * outer * channels * inner + self.piece.start(channels, inner)


@lru_cache(maxsize=1024)
def pieces_of(axes: Axes) -> list[Piece]:
    """Cut a sample into pieces of at most ``BLOCK_ELEMENTS``: along the last axis of which one entry, with all that is
    behind it, is not too large.
    """
    _, outer, channels, inner = axes.view
    if channels * inner <= BLOCK_ELEMENTS:
        steps = (BLOCK_ELEMENTS // (channels * inner), channels, inner)
    elif inner <= BLOCK_ELEMENTS:
        steps = (1, BLOCK_ELEMENTS // inner, inner)
    else:
        steps = (1, 1, BLOCK_ELEMENTS)
    ranges = [_ranges(size, step) for size, step in zip((outer, channels, inner), steps, strict=True)]
    return [Piece(*box) for box in product(*ranges)]


def plan_blocks(
    spans: Iterable[Span | Posterior], batch_size: int | None = None, *, apart: bool = False
) -> Iterator[Block]:
    """Blocks that cover spans (of a posterior: every sample) in order; ``batch_size`` bounds the samples in one.

    ``apart``: no block holds two spans, as other tensors are read beside.
    """
    waiting: list[Span] = []
    room = row = 0
    for span in spans:
        if isinstance(span, Posterior):
            span = Span(span, 0, span.samples)
        posterior = span.posterior
        if waiting and (apart or not samples_alike(waiting[-1].posterior, posterior)):
            yield _whole(waiting, row)
            waiting, room = [], 0
        pieces = pieces_of(posterior.axes)
        if len(pieces) > 1:
            for sample in range(span.first, span.first + span.count):
                for piece in pieces:
                    yield Block((Span(posterior, sample, 1),), piece, row, last=piece is pieces[-1])
                row += 1
            continue
        limit = max(1, BLOCK_ELEMENTS // prod(posterior.axes.view[1:]))
        limit = min(limit, batch_size or limit)
        first, end = span.first, span.first + span.count
        while first < end:
            room = room or limit
            count = min(room, end - first)
            waiting.append(Span(posterior, first, count))
            first, room, row = first + count, room - count, row + count
            if room == 0 or len(waiting) == _MOST_SPANS:
                yield _whole(waiting, row)
                waiting, room = [], 0
    if waiting:
        yield _whole(waiting, row)


def whole_of(block: Block) -> Block:
    """The block's samples whole, where it holds but a piece of one."""
    return Block(block.spans, whole_piece(block.spans[0].posterior.axes), block.first_row, last=True)


def whole_piece(axes: Axes) -> Piece:
    """All of a sample."""
    _, outer, channels, inner = axes.view
    return Piece((0, outer), (0, channels), (0, inner))


class Rows(NamedTuple):
    """Rows of a block as ``compiled.rows`` has them: where each starts, and (step, width, length) of all."""

    starts: NDArray[np.int64]
    shape: tuple[int, int, int]


class Halves(NamedTuple):
    """Means and scales of a block, held as ``HELD_AS`` says; both lie alike, in the same memory or apart.

    ``scale`` is empty for latents already drawn. ``dims`` is (samples, outer, channels, inner), and ``run_step`` the
    elements from one outer entry to the next.
    """

    dtype: str
    mean: NDArray[Any]
    scale: NDArray[Any]
    dims: tuple[int, int, int, int]
    run_step: int

    @property
    def samples(self) -> Rows:
        """A row per sample."""
        n, outer, channels, inner = self.dims
        starts = np.arange(n, dtype=np.int64) * (outer * self.run_step)
        return Rows(starts, (self.run_step, channels * inner, outer * channels * inner))

    @property
    def channels(self) -> Rows:
        """A row for each channel of each sample."""
        n, outer, channels, inner = self.dims
        samples = np.arange(n, dtype=np.int64)[:, None] * (outer * self.run_step)
        starts = samples + np.arange(channels, dtype=np.int64) * inner
        return Rows(starts.ravel(), (self.run_step, inner, outer * inner))

    def view(self, half: NDArray[Any]) -> NDArray[Any]:
        """One of the halves as an array (samples, outer, channels, inner): strides, no copy."""
        n, outer, channels, inner = self.dims
        size = half.itemsize
        strides = (outer * self.run_step * size, self.run_step * size, inner * size, size)
        return np.lib.stride_tricks.as_strided(half, (n, outer, channels, inner), strides)


def read_block(block: Block, buffers: Buffers, name: str = "moments") -> Halves:
    """Read the block into the buffers called ``name``, where it stays until they are used again."""
    posterior = block.spans[0].posterior
    dtype, width = posterior.mean.dtype, posterior.axes.channels
    _, _, channels, inner = block.shape
    size, held = prod(block.shape), HELD_AS[dtype]
    means = [span.posterior.mean for span in block.spans]
    if posterior.parameterization == "none":
        latents = buffers.take(name, size, held)
        _read_spans(block, means, as_bytes(latents), width=width)
        return Halves(dtype, latents, latents[:0], block.shape, channels * inner)
    both = buffers.take(name, 2 * size, held)
    # A piece with every channel may still be a part of one channel's run, when there is only one.
    if posterior.scale is None and block.piece.shape[1:] == posterior.axes.view[2:]:
        _read_spans(block, means, as_bytes(both), width=2 * width)
        return Halves(dtype, both, both[channels * inner :], block.shape, 2 * channels * inner)
    mean, scale = both[:size], both[size:]
    if posterior.scale is None:
        _read_spans(block, means, as_bytes(mean), width=2 * width)
        _read_spans(block, means, as_bytes(scale), width=2 * width, first_channel=width)
    else:
        _read_spans(block, means, as_bytes(mean), width=width)
        scales = [span.posterior.scale or span.posterior.mean for span in block.spans]
        _read_spans(block, scales, as_bytes(scale), width=width)
    return Halves(dtype, mean, scale, block.shape, channels * inner)


def read_values(
    block: Block, runs: Sequence[tuple[Run, Header, TensorInfo]], draw: int, buffers: Buffers
) -> NDArray[Any]:
    """Read values that stand beside the means of the block's one span, as they are stored: flat, end to end.

    ``runs`` say which tensors hold them, each of them a set of values for each draw.
    """
    span, size = block.spans[0], prod(block.piece.shape)
    out = buffers.take("values", block.samples * size, HELD_AS[runs[0][2].dtype])
    for run, header, tensor in runs:
        rows, row = run.overlap(span)
        if len(rows):
            part = out[rows.start * size : rows.stop * size]
            read_at(header, tensor, block.position(draw * run.rows + row), part)
    return out


def _read_spans(
    block: Block, tensors: list[TensorInfo], out: memoryview, *, width: int, first_channel: int = 0
) -> None:
    """Read the block's piece of each span from that span's tensor, which has ``width`` channels, into ``out``."""
    _, outer, _, inner = block.spans[0].posterior.axes.view
    element = DTYPE_BYTES[tensors[0].dtype]
    sample, piece = outer * width * inner * element, block.piece.start(width, inner, first_channel) * element
    row = len(out) // block.samples
    filled = 0
    for span, tensor in zip(block.spans, tensors, strict=True):
        end = filled + span.count * row
        read_bytes(span.posterior.header, tensor.offset + span.first * sample + piece, out[filled:end])
        filled = end


def samples_alike(a: Posterior, b: Posterior) -> bool:
    """Whether samples of both may share a block."""
    return (
        a.axes.view[1:] == b.axes.view[1:]
        and a.mean.dtype == b.mean.dtype
        and (a.scale is None) == (b.scale is None)
        and a.parameterization == b.parameterization
    )


def _whole(spans: list[Span], end_row: int) -> Block:
    """A block of whole samples that ends before row ``end_row`` of the plan."""
    first_row = end_row - sum(span.count for span in spans)
    return Block(tuple(spans), whole_piece(spans[0].posterior.axes), first_row, last=True)


def _ranges(end: int, step: int) -> list[Range]:
    return [(start, min(start + step, end)) for start in range(0, end, step)]
