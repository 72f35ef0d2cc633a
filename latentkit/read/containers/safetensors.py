"""Safetensors files, ComfyUI's ``.latent`` among them.

The safetensors library is the judge: it opens, and so validates, every file, and says what is in it.
"""

import json
import os
from hashlib import sha256
from math import prod
from typing import Any

from safetensors import SafetensorError, safe_open

from latentkit.errors import DataError
from latentkit.read.header import ELEMENT_BITS, MAX_HEADER_BYTES, Contents, TensorInfo

# Most headers are shorter, and read at once: there may be a million files.
_FIRST_READ = 1 << 12
# What headers say that were seen, by their bytes and the file's size: most of many files have one and the same.
_seen: dict[tuple[bytes, int], Contents] = {}
_MOST_SEEN = 64


def contents(path: str, descriptor: int, file_size: int) -> Contents:
    """What the file holds; the digest is that of its header."""
    start = os.read(descriptor, _FIRST_READ)
    length = _header_length(path, start[:9], file_size)
    while len(start) < 8 + length and (more := os.read(descriptor, 8 + length - len(start))):
        start += more
    seen = start[8 : 8 + length], file_size
    try:
        with safe_open(path, framework="np") as file:
            found = _seen.get(seen) or _contents(path, file, *seen)
    except SafetensorError as error:
        raise DataError(_damage(path, error, file_size), kind="damaged") from error
    if length <= _FIRST_READ and seen not in _seen:
        if len(_seen) >= _MOST_SEEN:
            _seen.clear()
        _seen[seen] = found
    return found


def keys_said(path: str) -> list[str]:
    """The tensors that a header names, unchecked and without NumPy, which the library loads: for completion.

    Raises ``DataError``, ``OSError`` or ``ValueError`` for what is no such file.
    """
    with open(path, "rb") as file:
        start = file.read(9)
        header = start[8:] + file.read(_header_length(path, start, os.path.getsize(path)) - 1)
    return [key for key in json.loads(header) if key != "__metadata__"]


def _contents(path: str, file: Any, header: bytes, file_size: int) -> Contents:
    """The tensors and metadata of an open file, as the library has them: tensors end to end, in order of offset."""
    tensors, offset = {}, 8 + len(header)
    # Most of many tensors are of one dtype and shape, and of its bytes, which are held once.
    kinds: dict[tuple[str, tuple[int, ...]], tuple[str, tuple[int, ...], int]] = {}
    for key in file.offset_keys():
        tensor = file.get_slice(key)
        kind = tensor.get_dtype(), tuple(tensor.get_shape())
        if kind not in kinds:
            kinds[kind] = *kind, _nbytes(path, key, *kind)
        dtype, shape, nbytes = kinds[kind]
        tensors[key] = TensorInfo(key, dtype, shape, offset, nbytes)
        offset += nbytes
    if offset != file_size:
        raise DataError(f"{path}: changed while it was being read; run again when its writer is done", kind="changed")
    return Contents(tensors, file.metadata() or {}, sha256(header).hexdigest())


def _nbytes(path: str, key: str, dtype: str, shape: tuple[int, ...]) -> int:
    if dtype not in ELEMENT_BITS:
        raise DataError(f"{path}: tensor {key!r} is {dtype}, which this version of latentkit does not know")
    return prod(shape) * ELEMENT_BITS[dtype] // 8


def _header_length(path: str, first_bytes: bytes, file_size: int) -> int:
    if len(first_bytes) < 9:
        raise DataError(
            f"{path}: not a safetensors file: it has {file_size} bytes, too few for a header", kind="damaged"
        )
    if first_bytes[:4] == b"PK\3\4":
        raise DataError(
            f"{path}: a zip file, as torch.save and np.savez write; give it the suffix .pt or .npz (of diffusion-pipe: "
            f"see latentkit guide caches)"
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
