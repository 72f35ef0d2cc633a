"""The pipeline: a plan of blocks -> results in plan order, computed on threads."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from latentkit.cores import threads_for
from latentkit.errors import DataError
from latentkit.measures.formulas import Arithmetic, first_negative, kl_to_other, kl_to_prior, nll
from latentkit.posterior.affine import Affine
from latentkit.read.blocks import Block, plan_blocks, read_posterior, read_values
from latentkit.read.choice import Posterior, Span
from latentkit.read.pairing import Latents
from latentkit.sums import Values
from latentkit.workspace import Workspace

Result = TypeVar("Result")

#: What a sink takes: a span, its samples' values ``(samples, k)``, and the bytes read for them.
Progressing = Iterator[tuple[tuple[Span, Values], int]]

# Tasks under way a worker: one in hand, and others ready for when a slow one holds up the order.
_AHEAD = 3
# Blocks in a task at most: handing over takes the interpreter, which the workers need too.
_MOST_BLOCKS = 16
# And no more blocks than hold so many channels of samples: results wait for their turn, and may be one each.
_MOST_CHANNELS = 1 << 16
# Values handed on at once, at most: a sink may make a row of each.
_MOST_VALUES = 1 << 15


def run(
    blocks: Iterable[Block],
    work: Callable[[Block, Workspace], Result],
    workers: int,
    device: str = "cpu",
    *,
    together: int = _MOST_BLOCKS,
) -> Iterator[tuple[Block, Result]]:
    """Do ``work`` on every block, on ``workers`` threads, and yield the results in the order of the blocks.

    Each thread has its own workspace and one torch thread; what it returns must not lie in the workspace. Blocks
    are taken from the plan as results are consumed, up to ``together`` at once (few, where results are large), so
    memory stays bounded. On a CUDA device each thread has a stream and page-locked memory of its own: while one waits
    for its block, others read, copy and compute theirs.
    """
    on_cuda = device.startswith("cuda")
    local = threading.local()
    # Who ends early, by an error or Ctrl-C, waits for blocks in hand, but for no more of their tasks.
    ended = threading.Event()
    torch_threads = torch.get_num_threads()

    def begin() -> None:
        local.workspace = Workspace(pinned=on_cuda)
        if on_cuda:
            torch.cuda.set_stream(torch.cuda.Stream(device))  # type: ignore[no-untyped-call]
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)

    def do(blocks: list[Block]) -> list[tuple[Block, Result]]:
        return [(block, work(block, local.workspace)) for block in blocks if not ended.is_set()]

    pool = ThreadPoolExecutor(workers, thread_name_prefix="latentkit", initializer=begin)
    pending: deque[Future[list[tuple[Block, Result]]]] = deque()
    try:
        for task in _tasks(iter(blocks), workers, together):
            pending.append(pool.submit(do, task))
            if len(pending) >= _AHEAD * workers:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)
        # Torch hands the number last set to threads started later: give it back what the user had.
        torch.set_num_threads(torch_threads)


def _tasks(blocks: Iterator[Block], workers: int, together: int) -> Iterator[list[Block]]:
    """Blocks by the handful: one each at first, so that little work is shared too, then more and more."""
    for submitted, block in enumerate(blocks):
        rest = min(together - 1, submitted // (2 * workers), _MOST_CHANNELS // (block.samples * block.shape[2]))
        yield [block, *islice(blocks, rest)]


def kl_values(
    spans: Iterable[Span | Posterior],
    arithmetic: Arithmetic,
    *,
    partners: Mapping[Posterior, Posterior] | None = None,
    symmetric: bool = False,
    per_channel: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Progressing:
    """KL of every sample in nats, to the standard normal or to its partner, in the order of ``spans``.

    Values have shape ``(samples, 1)``, or ``(samples, channels)`` per channel. Raises ``DataError`` for a file that
    changed, and for a negative standard deviation or variance.
    """

    def work(block: Block, workspace: Workspace) -> Values:
        mean, raw = read_posterior(block, workspace, device=arithmetic.place)
        posterior = block.spans[0].posterior
        if not partners:
            values = kl_to_prior(mean, raw, posterior.parameterization, arithmetic, workspace, per_channel=per_channel)
        else:
            partner = partners[posterior]
            theirs = read_posterior(_facing(block, partner), workspace, "other", arithmetic.place)
            other = (*theirs, partner.parameterization)
            values = kl_to_other(
                mean,
                raw,
                posterior.parameterization,
                other,
                arithmetic,
                workspace,
                per_channel=per_channel,
                symmetric=symmetric,
            )
        _refuse_negative(values, block, raw)
        return values

    threads = threads_for(workers)
    blocks = plan_blocks(spans, batch_size, workers=threads, apart=bool(partners))
    return sample_values(run(blocks, work, threads, arithmetic.place), per_channel=per_channel)


def nll_values(
    spans: Iterable[Span | Posterior],
    latents: Mapping[Posterior, Latents],
    affines: Mapping[Posterior, Affine],
    arithmetic: Arithmetic,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Progressing:
    """NLL in nats of every sample's latents, after their affine is undone, in the order of ``spans``.

    Values have shape ``(samples, draws)``. Raises as ``kl_values`` does.
    """

    def work(block: Block, workspace: Workspace) -> Values:
        mean, raw = read_posterior(block, workspace, device=arithmetic.place)
        posterior = block.spans[0].posterior
        of = latents[posterior]
        columns = []
        for draw in range(of.draws):
            drawn = read_values(block, of.runs, draw, workspace)
            drawn = _undone(drawn, affines[posterior], block)
            columns.append(nll(mean, raw, posterior.parameterization, drawn, arithmetic, workspace))
        values = np.concatenate(columns, axis=1)
        _refuse_negative(values, block, raw)
        return values

    threads = threads_for(workers)
    blocks = plan_blocks(spans, batch_size, workers=threads, apart=True)
    return sample_values(run(blocks, work, threads, arithmetic.place))


def _facing(block: Block, partner: Posterior) -> Block:
    """The partner's block: the same samples, or its one sample for all of them."""
    span = block.spans[0]
    facing = Span(partner, span.first, span.count) if partner.samples > 1 else Span(partner, 0, 1)
    return Block((facing,), block.piece, block.first_row, block.last)


def _undone(latents: Tensor, affine: Affine, block: Block) -> Tensor:
    """z / scale + shift, in float64: rounded to float32 it would differ from what was drawn by more than a small σ."""
    if affine.is_identity:
        return latents
    scale, shift = channel_values(affine.scale, block), channel_values(affine.shift, block)
    return latents.to(torch.float64, copy=True).div_(scale).add_(shift)


def channel_values(values: tuple[float, ...], block: Block) -> Tensor:
    """One value, or one a channel, as float64 that broadcasts with the block: shape ``(1, 1, channels or 1, 1)``."""
    if len(values) > 1:
        values = values[slice(*block.piece.channels)]
    return torch.tensor(values, dtype=torch.float64).view(1, 1, -1, 1)


def _refuse_negative(values: Values, block: Block, raw: Tensor) -> None:
    """A negative σ or variance gives NaN; say so, rather than count it among the NaN of the data."""
    parameterization = block.spans[0].posterior.parameterization
    if parameterization not in ("std", "var") or not np.isnan(values).any():
        return
    row = first_negative(raw)
    if row is not None:
        posterior, index = locate(block, row)
        what = "standard deviation" if parameterization == "std" else "variance"
        raise DataError(
            f"{posterior.label}, sample {index} has a negative {what}; is its second half a log-variance "
            f"(--parameterization logvar)?"
        )


def locate(block: Block, row: int) -> tuple[Posterior, int]:
    """The posterior and sample index of a row of the block."""
    for span in block.spans:
        if row < span.count:
            return span.posterior, span.first + row
        row -= span.count
    raise IndexError(row)


def sample_values(results: Iterator[tuple[Block, Values]], *, per_channel: bool = False) -> Progressing:
    """Values of whole samples, span by span, from values of blocks; those of a sample's units are added in order.

    Long spans come in parts.
    """
    total: Values | None = None
    for block, values in results:
        if block.last and total is None:
            values = _whole(values, block.samples)
            row = 0
            for span in block.spans:
                yield from _parts(span, values[row : row + span.count])
                row += span.count
            continue
        span = block.spans[0]
        if total is None:
            total = np.zeros((1, span.posterior.axes.channels if per_channel else values.shape[1]))
        for unit in values:
            total[0, slice(*block.piece.channels) if per_channel else slice(None)] += unit
        if block.last:
            yield (span, total), span.nbytes
            total = None


def _whole(values: Values, samples: int) -> Values:
    """A row a sample, from as many for each as it has units."""
    if len(values) == samples:
        return values
    total = np.zeros((samples, values.shape[1]))
    for unit in np.moveaxis(values.reshape(samples, -1, values.shape[1]), 1, 0):
        total += unit
    return total


def _parts(span: Span, values: Values) -> Progressing:
    step = max(1, _MOST_VALUES // values.shape[1])
    for start in range(0, span.count, step):
        part = Span(span.posterior, span.first + start, min(step, span.count - start))
        yield (part, values[start : start + step]), part.nbytes
