"""Positioned reads into memory that is used again. Nothing is mapped: mapped pages stay resident, and a file that
shrinks would kill the process."""

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from latentkit.errors import DataError, unreadable
from latentkit.read.header import OPEN_FLAGS, Header, TensorInfo

#: How elements of each dtype are held: as themselves, or as their bit patterns where NumPy has no such numbers.
HELD_AS: dict[str, Any] = {
    "F64": np.float64, "F32": np.float32, "F16": np.uint16, "BF16": np.uint16, "F8_E4M3": np.uint8,
    "F8_E5M2": np.uint8, "BOOL": np.bool_, "U8": np.uint8, "I8": np.int8, "I16": np.int16, "U16": np.uint16,
    "I32": np.int32, "U32": np.uint32, "I64": np.int64, "U64": np.uint64,
}  # fmt: skip

#: Bytes per element.
DTYPE_BYTES = {name: np.dtype(dtype).itemsize for name, dtype in HELD_AS.items()}

_CHUNK_BYTES = 1 << 20


class Buffers:
    """Memory that one thread uses again for every block: fresh memory costs more than arithmetic.

    ``allocate`` gives so many bytes, for what needs memory of a special kind.
    """

    def __init__(self, allocate: Callable[[int], NDArray[np.uint8]] | None = None) -> None:
        self._allocate = allocate or (lambda nbytes: np.empty(nbytes, np.uint8))
        self._memory: dict[str, NDArray[np.uint8]] = {}

    def take(self, name: str, count: int, dtype: DTypeLike) -> NDArray[Any]:
        """So many elements, flat and not initialized, on the memory that ``name`` had before."""
        nbytes = count * np.dtype(dtype).itemsize
        memory = self._memory.get(name)
        if memory is None or len(memory) < nbytes:
            memory = self._memory[name] = self._allocate(nbytes)
        return memory[:nbytes].view(dtype)


def read_at(header: Header, tensor: TensorInfo, start: int, out: NDArray[Any]) -> None:
    """Fill the contiguous ``out`` with the elements of ``tensor`` from ``start`` on, held as ``HELD_AS`` says.

    Raises as ``read_bytes`` does.
    """
    read_bytes(header, tensor.offset + start * out.itemsize, as_bytes(out))


def read_bytes(header: Header, offset: int, out: memoryview) -> None:
    """Fill ``out`` with the file's bytes from ``offset`` on.

    Raises ``DataError`` when the file cannot be read, is no longer the one whose header was read, or ends too early.
    """
    for start, data in header.memory:
        if start <= offset <= start + len(data) - len(out):
            out[:] = data[offset - start : offset - start + len(out)].data
            return
    try:
        descriptor = _descriptor(header)
        out = out[read_whole(descriptor, offset, out) :]
        # After every read, and so after the last: what changes later was not read.
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != header.stamp:
            raise DataError(
                f"{header.path}: changed while it was being read; run again when its writer is done", kind="changed"
            )
        if len(out):
            raise DataError(f"{header.path}: truncated: it ends where more of a tensor should be", kind="changed")
    except OSError as error:
        raise unreadable(header.path, error) from error


class _Open:
    """A file kept open by a thread from one read to the next: every call to the system waits for the interpreter."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.descriptor = os.open(header.path, OPEN_FLAGS)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
            with suppress(OSError):  # what was read is read
                os.close(self.descriptor)


class _Kept(threading.local):
    file: _Open | None = None


_kept = _Kept()


def _descriptor(header: Header) -> int:
    """A descriptor of the file that this thread read last, or opens now."""
    if _kept.file is None or _kept.file.header is not header:
        _kept.file = None  # closes the one before
        _kept.file = _Open(header)
    return _kept.file.descriptor


def read_chunks(header: Header, tensor: TensorInfo, begin: int, end: int) -> Iterator[memoryview]:
    """Bytes ``begin`` to ``end`` of a tensor of any dtype, a chunk at a time; each is valid until the next."""
    return read_span(header, tensor.offset + begin, tensor.offset + end)


def read_span(header: Header, begin: int, end: int) -> Iterator[memoryview]:
    """The file's bytes from ``begin`` to ``end``, a chunk at a time; each is valid until the next."""
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - begin)))
    for start in range(begin, end, _CHUNK_BYTES):
        chunk = buffer[: min(_CHUNK_BYTES, end - start)]
        read_bytes(header, start, chunk)
        yield chunk


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The memory of a contiguous array."""
    return memoryview(array.reshape(-1).view(np.uint8))  # type: ignore[arg-type]


def read_whole(descriptor: int, offset: int, out: memoryview) -> int:
    """Fill ``out`` with bytes of an open file from ``offset`` on; returns how many there were."""
    done = 0
    while done < len(out) and (count := _read_some(descriptor, offset + done, out[done:])):
        done += count
    return done


def _read_some(descriptor: int, offset: int, out: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    # Windows has no positioned read, but each thread has a descriptor of its own.
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, len(out))
    out[: len(data)] = data
    return len(data)
