"""Writing outputs: bytes go from file to file in pieces, on threads, and are read again before a file is placed."""

import threading
import zlib
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import partial
from typing import NamedTuple, TypeVar

import numpy as np

from latentkit.convert.outputs import Output
from latentkit.cores import threads_for
from latentkit.errors import DataError
from latentkit.failures import Failures
from latentkit.read.bytes import Buffers, as_bytes, read_bytes, read_whole
from latentkit.read.header import Header
from latentkit.write.batch import Batch
from latentkit.write.copies import Copy
from latentkit.write.placing import Placement

# Bytes of a piece: those of a thousand small files, and little enough that every thread has a buffer.
_PIECE_BYTES = 8 << 20
# Pieces under way a thread.
_AHEAD = 3

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Piece(NamedTuple):
    """Bytes of an output, from ``offset`` on: those of ranges (from, to) of input files."""

    offset: int
    nbytes: int
    ranges: Sequence[tuple[Header, int, int]]


def write_outputs(
    outputs: Iterable[Output], batch: Batch, failures: Failures, *, overwrite: bool, workers: int | None = None
) -> Generator[tuple[Output | None, int]]:
    """Write every output; yields, as the work goes on, the bytes read from inputs, and each output that is complete.

    A file is read again as a whole, and placed by ``batch`` when it holds what was read. Left early, files that are
    complete are placed, and nothing is left of others. Raises ``DataError`` when what was written is not what is there,
    or an input cannot be read, unless ``failures`` take it: then there is no output of which it is a part.
    """
    local = threading.local()

    def begin() -> None:
        local.buffer = as_bytes(Buffers().take("piece", _PIECE_BYTES, np.uint8))

    def copy(placement: Placement, piece: _Piece) -> tuple[_Piece, int]:
        data, end = local.buffer[: piece.nbytes], 0
        for header, first, stop in piece.ranges:
            with failures.passing_over(header.path):
                read_bytes(header, first, data[end : end + stop - first])
            end += stop - first
        placement.write(piece.offset, data)
        return piece, zlib.crc32(data)

    def check(placement: Placement, written: tuple[_Piece, int]) -> None:
        piece, checksum = written
        data = local.buffer[: piece.nbytes]
        if _there(placement, piece.offset, data) != piece.nbytes or zlib.crc32(data) != checksum:
            raise DataError(f"{placement.path}: does not hold what was written to it; is its disk sound?")

    threads = threads_for(workers)
    with ThreadPoolExecutor(threads, thread_name_prefix="latentkit", initializer=begin) as pool:
        try:
            for output in outputs:
                placement = Placement(output.path, overwrite=overwrite)
                try:
                    written = []
                    for done in _in_order(pool, partial(copy, placement), _pieces(output), _AHEAD * threads):
                        written.append(done)
                        yield None, done[0].nbytes
                    if any(header.path in failures for header in output.inputs):
                        placement.discard()
                        continue
                    held = _held(output)
                    for offset, data in held:
                        placement.write(offset, data)
                    for _ in _in_order(pool, partial(check, placement), written, _AHEAD * threads):
                        yield None, 0
                    _check_held(placement, held, output.layout.size)
                except BaseException:
                    placement.discard()
                    raise
                batch.add(placement, output.layout.size)
                yield output, 0
        finally:
            batch.commit()


def _held(output: Output) -> list[tuple[int, memoryview]]:
    values = [(output.layout.offsets[key], memoryview(data)) for key, data in output.values.items()]
    return [(0, memoryview(output.layout.header)), *values]


def _check_held(placement: Placement, held: Sequence[tuple[int, memoryview]], size: int) -> None:
    for offset, data in held:
        there = memoryview(bytearray(len(data)))
        if _there(placement, offset, there) != len(data) or there != data:
            raise DataError(f"{placement.path}: does not hold what was written to it; is its disk sound?")
    if _there(placement, size, memoryview(bytearray(1))):
        raise DataError(f"{placement.path}: is longer than what was written to it; is its disk sound?")


def _there(placement: Placement, offset: int, out: memoryview) -> int:
    with placement.opened() as descriptor:
        return read_whole(descriptor, offset, out)


def _pieces(output: Output) -> Iterator[_Piece]:
    for key, copy in output.copies.items():
        yield from _pieces_of(copy, output.layout.offsets[key])


def _pieces_of(copy: Copy, offset: int) -> Iterator[_Piece]:
    ranges: list[tuple[Header, int, int]] = []
    nbytes = 0
    for header, tensor, begin, end in copy.parts:
        first, stop = tensor.offset + begin, tensor.offset + end
        while first < stop:
            part = min(stop - first, _PIECE_BYTES - nbytes)
            ranges.append((header, first, first + part))
            first, nbytes = first + part, nbytes + part
            if nbytes == _PIECE_BYTES:
                yield _Piece(offset, nbytes, ranges)
                offset, nbytes, ranges = offset + nbytes, 0, []
    if nbytes:
        yield _Piece(offset, nbytes, ranges)


def _in_order(
    pool: ThreadPoolExecutor, work: Callable[[Item], Result], items: Iterable[Item], ahead: int
) -> Iterator[Result]:
    """What ``work`` makes of each item, in order; none of it goes on when the iterator ends."""
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= ahead:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        for future in pending:
            future.cancel()
        wait(pending)
