"""The header of a safetensors file: what tensors it holds and where their bytes are.

The safetensors library is the judge: it opens, and so validates, every file, and says what is in it.
"""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from math import prod

from safetensors import SafetensorError, safe_open

from latentkit.errors import DataError

#: A longer header is refused: it would be read whole into memory.
MAX_HEADER_BYTES = 16 << 20

#: Dtypes that a posterior may be stored in.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

#: Bits an element, in the library's own order of dtypes.
ELEMENT_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


# Most headers are shorter, and read at once: there may be a million files.
_FIRST_READ = 1 << 12
#: How inputs are opened.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header names it; ``offset`` counts bytes from the start of the file."""

    key: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int

    @property
    def is_float(self) -> bool:
        return self.dtype in FLOATS

    @property
    def elements(self) -> int:
        return prod(self.shape)


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a file holds; equal to itself alone.

    ``stamp`` (bytes, mtime in ns) tells whether it is still the same file; ``digest``, the SHA-256 of the header's own
    bytes, is the same for every copy.
    """

    path: str
    stamp: tuple[int, int]
    digest: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]


def read_header(path: str) -> Header:
    """Read and validate the header of a safetensors file.

    Raises ``DataError`` when it is not one, is truncated or has a header over 16 MiB, and ``OSError`` when it
    cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(
            f"{path}: not a regular file, and safetensors are read out of order; save it to a file first",
            kind="unreadable",
        )
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        start = os.read(descriptor, _FIRST_READ)
        length = _header_length(path, start[:9], status.st_size)
        tensors, metadata = _contents(path, 8 + length, status.st_size)
        while len(start) < 8 + length and (more := os.read(descriptor, 8 + length - len(start))):
            start += more
    except OSError as error:
        error.filename = path  # neither a descriptor's error nor the library's names it, nor always has a number
        raise
    finally:
        with suppress(OSError):  # what was read is read
            os.close(descriptor)
    digest = sha256(start[8 : 8 + length]).hexdigest()
    return Header(path, (status.st_size, status.st_mtime_ns), digest, tensors, metadata)


def _contents(path: str, data_start: int, file_size: int) -> tuple[dict[str, TensorInfo], dict[str, str]]:
    """The file's tensors and metadata, as the library has them: its data is tensors end to end, in order of offset."""
    try:
        with safe_open(path, framework="np") as file:
            slices = {key: file.get_slice(key) for key in file.offset_keys()}
            metadata = file.metadata() or {}
    except SafetensorError as error:
        raise DataError(_damage(path, error, file_size), kind="damaged") from error
    tensors, offset = {}, data_start
    for key, tensor in slices.items():
        dtype, shape = tensor.get_dtype(), tuple(tensor.get_shape())
        if dtype not in ELEMENT_BITS:
            raise DataError(f"{path}: tensor {key!r} is {dtype}, which this version of latentkit does not know")
        tensors[key] = info = TensorInfo(key, dtype, shape, offset, prod(shape) * ELEMENT_BITS[dtype] // 8)
        offset += info.nbytes
    if offset != file_size:
        raise DataError(f"{path}: changed while it was being read; run again when its writer is done", kind="changed")
    return tensors, metadata


def _header_length(path: str, first_bytes: bytes, file_size: int) -> int:
    if len(first_bytes) < 9:
        raise DataError(
            f"{path}: not a safetensors file: it has {file_size} bytes, too few for a header", kind="damaged"
        )
    length = int.from_bytes(first_bytes[:8], "little")
    if length > max(MAX_HEADER_BYTES, file_size) or first_bytes[8:] != b"{":
        raise DataError(
            f"{path}: not a safetensors file, or a damaged one: its first bytes give no sensible header", kind="damaged"
        )
    if length > MAX_HEADER_BYTES:
        raise DataError(
            f"{path}: its header is {length} bytes long; latentkit reads headers of up to {MAX_HEADER_BYTES}"
        )
    if length > file_size - 8:
        raise DataError(
            f"{path}: truncated: its header should be {length} bytes, the whole file has {file_size}", kind="damaged"
        )
    return length


def _damage(path: str, error: SafetensorError, file_size: int) -> str:
    reason = str(error).removeprefix("Error while deserializing header: ")
    if "incomplete metadata" in reason or "MetadataIncompleteBuffer" in reason:
        return (
            f"{path}: truncated or damaged: the tensors of its header do not fill its {file_size} bytes; copy it again"
        )
    return f"{path}: not a safetensors file, or a damaged one ({reason})"
