"""Positioned reads into memory that is used again. Nothing is mapped: mapped pages stay resident, and a file that
shrinks would kill the process."""

import os
import threading
from collections.abc import Iterator

import torch
from torch import Tensor

from latentkit.errors import DataError
from latentkit.read.header import OPEN_FLAGS, Header, TensorInfo

TORCH_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "U16": torch.uint16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "I64": torch.int64,
    "U64": torch.uint64,
}

#: Bytes an element.
DTYPE_BYTES = {name: dtype.itemsize for name, dtype in TORCH_DTYPES.items()}

_CHUNK_BYTES = 1 << 20


def read_at(header: Header, tensor: TensorInfo, start: int, out: Tensor) -> None:
    """Fill the contiguous ``out`` with the elements of ``tensor`` from ``start`` on, in its stored dtype.

    Raises as ``read_bytes`` does.
    """
    read_bytes(header, tensor.offset + start * out.element_size(), as_bytes(out))


def read_bytes(header: Header, offset: int, out: memoryview) -> None:
    """Fill ``out`` with the file's bytes from ``offset`` on.

    Raises ``DataError`` when the file is no longer the one whose header was read, or ends too early.
    """
    try:
        descriptor = _descriptor(header)
        status = os.fstat(descriptor)
        if (status.st_size, status.st_mtime_ns) != header.stamp:
            raise DataError(f"{header.path}: changed while it was being read; run again when its writer is done")
        while len(out):
            count = _read_some(descriptor, offset, out)
            if count == 0:
                raise DataError(f"{header.path}: truncated: it ends where more of a tensor should be")
            out, offset = out[count:], offset + count
    except OSError as error:
        error.filename = header.path  # a descriptor's error names none
        raise


class _Open:
    """A file kept open by a thread from one read to the next: every call to the system waits for the interpreter."""

    def __init__(self, header: Header) -> None:
        self.header = header
        self.descriptor = os.open(header.path, OPEN_FLAGS)

    def __del__(self) -> None:
        if hasattr(self, "descriptor"):
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
    buffer = memoryview(bytearray(min(_CHUNK_BYTES, end - begin)))
    for start in range(begin, end, _CHUNK_BYTES):
        chunk = buffer[: min(_CHUNK_BYTES, end - start)]
        read_bytes(header, tensor.offset + start, chunk)
        yield chunk


def as_bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.view(-1).view(torch.uint8).numpy())  # type: ignore[arg-type]


def _read_some(descriptor: int, offset: int, out: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(descriptor, [out], offset)
    # Windows has no positioned read, but each thread has a descriptor of its own.
    os.lseek(descriptor, offset, os.SEEK_SET)
    data = os.read(descriptor, len(out))
    out[: len(data)] = data
    return len(data)
