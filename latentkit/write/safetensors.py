"""A streaming safetensors writer: the header first, then tensors in place, block by block.

The safetensors library writes whole tensors only. What stands here in the end is, byte for byte, what its
``save_file`` would have written, but for the order of several metadata entries: the library's is random, ours sorted.
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

from latentkit.errors import DataError
from latentkit.read.header import ELEMENT_BITS

# The library sorts tensors by its dtypes, downward.
_RANK = {dtype: rank for rank, dtype in enumerate(ELEMENT_BITS)}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor to be written: its dtype (safetensors' name) and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * ELEMENT_BITS[self.dtype] // 8


@dataclass(frozen=True, slots=True)
class Layout:
    """Where everything goes in a file: the header's bytes, each tensor's offset, and the size of the whole."""

    header: bytes
    offsets: dict[str, int]
    size: int


def lay_out(tensors: Mapping[str, TensorSpec], metadata: Mapping[str, str]) -> Layout:
    """Order tensors as the safetensors library does: wider elements first, then by name; aligned to 8 bytes."""
    order = sorted(tensors.items(), key=lambda item: (-_RANK[item[1].dtype], item[0].encode()))
    entries: dict[str, object] = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    end = 0
    begins: dict[str, int] = {}
    for key, spec in order:
        begins[key] = end
        end += spec.nbytes
        entries[key] = {"dtype": spec.dtype, "shape": list(spec.shape), "data_offsets": [begins[key], end]}
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    header = len(text).to_bytes(8, "little") + text
    return Layout(header, {key: start + begin for key, begin in begins.items()}, start + end)


def shards_index(shards: Iterable[tuple[str, Iterable[str]]], total_size: int) -> bytes:
    """A Hugging Face index of shards, each a path and its keys: what tells equal keys apart is the shard's number."""
    weight_map = {
        f"{number:05}/{key}": os.path.basename(path) for number, (path, keys) in enumerate(shards, 1) for key in keys
    }
    return (json.dumps({"metadata": {"total_size": total_size}, "weight_map": weight_map}, indent=2) + "\n").encode()


def free_space(folder: str) -> int | None:
    """Bytes free on the file system of ``folder``, or its nearest parent that is there; None where it is not said."""
    place = os.path.abspath(folder)
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return None
    # Some shares answer that they have no room at all, full or empty.
    return usage.free if usage.total else None


def check_free_space(folder: str, needed: int) -> None:
    """Raise ``DataError`` when the file system of ``folder`` has less room."""
    free = free_space(folder)
    if free is not None and free < needed:
        raise DataError(
            f"{folder or '.'}: the output needs {needed:,} bytes and {free:,} are free; nothing was written"
        )


def write_at(descriptor: int, offset: int, data: memoryview) -> None:
    """Write every byte of ``data`` at ``offset`` of a regular file; threads may do so at once."""
    while len(data):
        count = os.pwrite(descriptor, data, offset)
        data, offset = data[count:], offset + count
