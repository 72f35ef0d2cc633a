"""Blocks: what is read and computed at once, and the reading itself.

A block holds whole samples, of one tensor or of several whose samples are alike, or a piece of one sample that is
too large: whole units of it, whose boundaries are fixed (see ``sums``), so that what is computed unit by unit does not
depend on any option.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from latentkit.posterior.layout import Axes
from latentkit.read.bytes import DTYPE_BYTES, TORCH_DTYPES, as_bytes, read_at, read_bytes
from latentkit.read.choice import Posterior, Run, Span
from latentkit.read.header import Header, TensorInfo
from latentkit.sums import UNIT_ELEMENTS, unit_axis
from latentkit.workspace import Workspace

# Units in a block at most: with fewer, threads wait for the interpreter.
_BLOCK_UNITS = 8
#: Elements of the mean in a block, at most.
BLOCK_ELEMENTS = _BLOCK_UNITS * UNIT_ELEMENTS
# Bytes of the moments that all workers together have in hand, at most.
_BYTES_IN_HAND = 64 << 20
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
def pieces_of(axes: Axes, most_elements: int) -> list[Piece]:
    """Cut a sample into pieces of at most so many elements and of whole units."""
    _, outer, channels, inner = axes.view
    if outer * channels * inner <= most_elements:
        return [Piece((0, outer), (0, channels), (0, inner))]
    axis, unit = unit_axis(channels, inner, UNIT_ELEMENTS)
    most = most_elements // UNIT_ELEMENTS * unit
    # One entry at a time of the axes before the one that is cut, all of those behind it.
    steps = {1: (most, channels, inner), 2: (1, most, inner), 3: (1, 1, most)}[axis]
    ranges = [_ranges(size, step) for size, step in zip((outer, channels, inner), steps, strict=True)]
    return [Piece(*box) for box in product(*ranges)]


def plan_blocks(
    spans: Iterable[Span | Posterior],
    batch_size: int | None = None,
    *,
    workers: int = 1,
    apart: bool = False,
) -> Iterator[Block]:
    """Blocks that cover spans (of a posterior: every sample) in order; ``batch_size`` bounds the samples in one.

    For many ``workers`` blocks are smaller. ``apart``: no block holds two spans, and other tensors are read beside.
    """
    waiting: list[Span] = []
    room = row = 0
    for span in spans:
        if isinstance(span, Posterior):
            span = Span(span, 0, span.samples)
        posterior = span.posterior
        if waiting and (apart or not _alike(waiting[-1].posterior, posterior)):
            yield _whole(waiting, row)
            waiting, room = [], 0
        most = _most_elements(posterior.mean.dtype, workers, apart)
        pieces = pieces_of(posterior.axes, most)
        if len(pieces) > 1:
            for sample in range(span.first, span.first + span.count):
                for piece in pieces:
                    yield Block((Span(posterior, sample, 1),), piece, row, last=piece is pieces[-1])
                row += 1
            continue
        limit = max(1, most // prod(posterior.axes.view[1:]))
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


@lru_cache(maxsize=64)
def _most_elements(dtype: str, workers: int, apart: bool) -> int:
    """How many elements of means a block may have."""
    in_hand = _BYTES_IN_HAND // (workers * 2 * DTYPE_BYTES[dtype] * (2 if apart else 1))
    return max(UNIT_ELEMENTS, min(BLOCK_ELEMENTS, in_hand))


class Moments(NamedTuple):
    """Buffers for a block's mean and raw scale, ``(samples, outer, channels, inner)`` each in the stored dtype.

    ``both`` holds them, and ``memory`` is its memory: in one part where both stand in one run of the file, else in two.
    """

    memory: tuple[memoryview, ...]
    both: Tensor
    mean: Tensor
    raw: Tensor


def read_posterior(
    block: Block, workspace: Workspace, name: str = "moments", device: str = "cpu"
) -> tuple[Tensor, Tensor]:
    """Read the block: mean and raw scale, each ``(samples, outer, channels, inner)`` in the stored dtype.

    On the CPU both are views into the workspace's buffer ``name``, valid until it is used again; for another device it
    is copied there on the current stream, and may be used again when that is done.
    """
    posterior = block.spans[0].posterior
    width = posterior.axes.channels
    # A piece with every channel may still be a part of one channel's run, when there is only one.
    interleaved = posterior.scale is None and block.piece.shape[1:] == posterior.axes.view[2:]
    moments = workspace.prepared(_buffers, name, block.shape, TORCH_DTYPES[posterior.mean.dtype], interleaved)
    means = [span.posterior.mean for span in block.spans]
    if interleaved:
        _read_spans(block, means, moments.memory[0], width=2 * width)
    elif posterior.scale is None:
        _read_spans(block, means, moments.memory[0], width=2 * width)
        _read_spans(block, means, moments.memory[1], width=2 * width, first_channel=width)
    else:
        scales = [span.posterior.scale or span.posterior.mean for span in block.spans]
        _read_spans(block, means, moments.memory[0], width=width)
        _read_spans(block, scales, moments.memory[1], width=width)
    if device == "cpu":
        return moments.mean, moments.raw
    # As it lies: what is not contiguous would be copied on the host first.
    return _halves(moments.both.to(device, non_blocking=True))


def _buffers(
    workspace: Workspace, name: str, shape: tuple[int, int, int, int], dtype: torch.dtype, interleaved: bool
) -> Moments:
    n, outer, channels, inner = shape
    if not interleaved:
        both = workspace.take(name, (2, n, outer, channels, inner), dtype)
        return Moments((as_bytes(both[0]), as_bytes(both[1])), both, *_halves(both))
    both = workspace.take(name, (n, outer, 2 * channels, inner), dtype)
    return Moments((as_bytes(both),), both, *_halves(both))


def _halves(both: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and scale of ``(2, samples, outer, channels, inner)``, or of ``(samples, outer, 2 · channels, inner)``."""
    if both.ndim == 5:
        return both[0], both[1]
    mean, raw = both.chunk(2, dim=2)
    return mean, raw


def read_latents(block: Block, workspace: Workspace) -> Tensor:
    """Read a block of latents, which have no scale: as ``read_posterior`` gives the mean."""
    posterior = block.spans[0].posterior
    latents = workspace.take("moments", block.shape, TORCH_DTYPES[posterior.mean.dtype])
    tensors = [span.posterior.mean for span in block.spans]
    _read_spans(block, tensors, as_bytes(latents), width=posterior.axes.channels)
    return latents


def read_values(
    block: Block, runs: Sequence[tuple[Run, Header, TensorInfo]], draw: int, workspace: Workspace
) -> Tensor:
    """Read values that stand beside the means of the block's one span, in the stored dtype and the block's shape.

    ``runs`` say which tensors hold them, each of them a set of values for each draw; the result is a view into the
    workspace.
    """
    span = block.spans[0]
    out = workspace.take("values", block.shape, TORCH_DTYPES[runs[0][2].dtype])
    for run, header, tensor in runs:
        rows, row = run.overlap(span)
        if len(rows):
            read_at(header, tensor, block.position(draw * run.rows + row), out[rows.start : rows.stop])
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


def _alike(a: Posterior, b: Posterior) -> bool:
    """Whether samples of both may share a block."""
    return (
        a.axes.view[1:] == b.axes.view[1:]
        and a.mean.dtype == b.mean.dtype
        and (a.scale is None) == (b.scale is None)
        and a.parameterization == b.parameterization
    )


def _whole(spans: list[Span], end_row: int) -> Block:
    """A block of whole samples that ends before row ``end_row`` of the plan."""
    _, outer, channels, inner = spans[0].posterior.axes.view
    first_row = end_row - sum(span.count for span in spans)
    return Block(tuple(spans), Piece((0, outer), (0, channels), (0, inner)), first_row, last=True)


def _ranges(end: int, step: int) -> list[Range]:
    return [(start, min(start + step, end)) for start in range(0, end, step)]
