"""Blocks on threads: a plan of blocks -> results in plan order. Knows no measure."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from latentkit.cores import threads_for
from latentkit.errors import DataError
from latentkit.failures import Failures
from latentkit.read.blocks import Block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior, Span

Result = TypeVar("Result")

Values = NDArray[np.float64]
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
    work: Callable[[Block, Buffers], Result],
    workers: int | None = None,
    *,
    buffers: Callable[[], Buffers] = Buffers,
    together: int = _MOST_BLOCKS,
    failures: Failures | None = None,
) -> Iterator[tuple[Block, Result]]:
    """Do ``work`` on every block, on ``workers`` threads (default: one a core), and yield the results in plan order.

    Each thread has its own ``buffers``; what ``work`` returns must not lie in them. Blocks are taken from the plan as
    results are consumed, up to ``together`` at once (few, where results are large), so memory stays bounded.

    Where ``failures`` keep going they take the errors of files, and nothing more comes of a file that failed; a block
    is then of one file.
    """
    if failures is not None and failures.keep_going:
        attempts = run(blocks, _attempt(work, failures), workers, buffers=buffers, together=together)
        yield from _of_good_files(attempts, failures)
        return
    local = threading.local()
    threads = threads_for(workers)
    # Who ends early, by an error or Ctrl-C, waits for blocks in hand, but for no more of their tasks.
    ended = threading.Event()

    def begin() -> None:
        local.buffers = buffers()

    def do(blocks: list[Block]) -> list[tuple[Block, Result]]:
        return [(block, work(block, local.buffers)) for block in blocks if not ended.is_set()]

    pool = ThreadPoolExecutor(threads, thread_name_prefix="latentkit", initializer=begin)
    pending: deque[Future[list[tuple[Block, Result]]]] = deque()
    try:
        for task in _tasks(iter(blocks), threads, together):
            try:
                pending.append(pool.submit(do, task))
            except RuntimeError as error:
                raise DataError(f"{error}: the system allows no more of them; try fewer --workers") from error
            if len(pending) >= _AHEAD * threads:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()
    finally:
        ended.set()
        pool.shutdown(cancel_futures=True)


def _attempt(
    work: Callable[[Block, Buffers], Result], failures: Failures
) -> Callable[[Block, Buffers], tuple[list[Result], DataError | None]]:
    """``work`` whose result is a list of one, or none and the reason; files that failed before are left alone."""

    def attempt(block: Block, buffers: Buffers) -> tuple[list[Result], DataError | None]:
        if block.spans[0].posterior.file.path in failures:
            return [], None
        try:
            return [work(block, buffers)], None
        except DataError as error:
            return [], error

    return attempt


def _of_good_files(
    attempts: Iterable[tuple[Block, tuple[list[Result], DataError | None]]], failures: Failures
) -> Iterator[tuple[Block, Result]]:
    for block, (results, error) in attempts:
        posterior = block.spans[0].posterior
        if error is not None:
            failures.add(posterior.file.path, error, tensor=posterior.key)
        # Blocks that were in hand when their file failed have results too.
        if posterior.file.path not in failures:
            yield from ((block, result) for result in results)


def _tasks(blocks: Iterator[Block], workers: int, together: int) -> Iterator[list[Block]]:
    """Blocks by the handful: one each at first, so that little work is shared too, then more and more."""
    for submitted, block in enumerate(blocks):
        rest = min(together - 1, submitted // (2 * workers), _MOST_CHANNELS // (block.samples * block.shape[2]))
        yield [block, *islice(blocks, rest)]


def locate(block: Block, row: int) -> tuple[Posterior, int]:
    """The posterior and sample index of a row of the block."""
    for span in block.spans:
        if row < span.count:
            return span.posterior, span.first + row
        row -= span.count
    raise IndexError(row)


def sample_values(results: Iterable[tuple[Block, Values]], *, per_channel: bool = False) -> Progressing:
    """Values of whole samples, span by span, from values of blocks; those of a sample's pieces are added in order.

    Long spans come in parts.
    """
    total: Values = np.zeros((0, 0))
    for block, values in results:
        begins = not any(start for start, _ in (block.piece.outer, block.piece.channels, block.piece.inner))
        if begins and block.last:
            row = 0
            for span in block.spans:
                yield from _parts(span, values[row : row + span.count])
                row += span.count
            continue
        span = block.spans[0]
        if begins:
            total = np.zeros((1, span.posterior.axes.channels if per_channel else values.shape[1]))
        total[0, slice(*block.piece.channels) if per_channel else slice(None)] += values[0]
        if block.last:
            yield (span, total), span.nbytes


def _parts(span: Span, values: Values) -> Progressing:
    step = max(1, _MOST_VALUES // values.shape[1])
    for start in range(0, span.count, step):
        part = Span(span.posterior, span.first + start, min(step, span.count - start))
        yield (part, values[start : start + step]), part.nbytes
