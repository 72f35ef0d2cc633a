"""The header of a safetensors file: what tensors it holds and where their bytes are.

The safetensors library opens, and so validates, every file; only then its offsets are trusted.
"""

import json
import os
import stat
from dataclasses import dataclass
from hashlib import sha256
from math import prod
from typing import Any

from safetensors import SafetensorError, safe_open

from latentkit.errors import DataError

#: A longer header is refused: it would be read whole into memory.
MAX_HEADER_BYTES = 16 << 20

#: Dtypes that a posterior may be stored in.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


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
        raise DataError(f"{path}: not a regular file, and safetensors are read out of order; save it to a file first")
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        start = os.read(descriptor, _FIRST_READ)
        length = _header_length(path, start[:9], status.st_size)
        try:
            with safe_open(path, framework="np"):
                pass
        except SafetensorError as error:
            raise DataError(_damage(path, error, status.st_size)) from error
        while len(start) < 8 + length and (more := os.read(descriptor, 8 + length - len(start))):
            start += more
    finally:
        os.close(descriptor)
    text = start[8 : 8 + length]
    try:
        entries = json.loads(text.decode())
    except ValueError as error:
        raise DataError(f"{path}: changed while it was being read; run again when its writer is done") from error
    metadata = entries.pop("__metadata__", None) or {}
    tensors = {key: _tensor_info(key, entry, 8 + length) for key, entry in entries.items()}
    return Header(path, (status.st_size, status.st_mtime_ns), sha256(text).hexdigest(), tensors, metadata)


def _header_length(path: str, first_bytes: bytes, file_size: int) -> int:
    if len(first_bytes) < 9:
        raise DataError(f"{path}: not a safetensors file: it has {file_size} bytes, too few for a header")
    length = int.from_bytes(first_bytes[:8], "little")
    if length > max(MAX_HEADER_BYTES, file_size) or first_bytes[8:] != b"{":
        raise DataError(f"{path}: not a safetensors file, or a damaged one: its first bytes give no sensible header")
    if length > MAX_HEADER_BYTES:
        raise DataError(
            f"{path}: its header is {length} bytes long; latentkit reads headers of up to {MAX_HEADER_BYTES}"
        )
    if length > file_size - 8:
        raise DataError(f"{path}: truncated: its header should be {length} bytes, the whole file has {file_size}")
    return length


def _damage(path: str, error: SafetensorError, file_size: int) -> str:
    reason = str(error).removeprefix("Error while deserializing header: ")
    if "incomplete metadata" in reason or "MetadataIncompleteBuffer" in reason:
        return (
            f"{path}: truncated or damaged: the tensors of its header do not fill its {file_size} bytes; copy it again"
        )
    return f"{path}: not a safetensors file, or a damaged one ({reason})"


def _tensor_info(key: str, entry: dict[str, Any], data_start: int) -> TensorInfo:
    begin, end = entry["data_offsets"]
    return TensorInfo(key, entry["dtype"], tuple(entry["shape"]), data_start + begin, end - begin)
