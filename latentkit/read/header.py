"""The header of a file of tensors: what it holds and where their bytes are."""

import os
import stat
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from math import prod
from typing import Any, NamedTuple

from latentkit.errors import DataError

#: A longer header is refused: it would be read whole into memory.
MAX_HEADER_BYTES = 16 << 20

#: Dtypes that a posterior may be stored in.
FLOATS = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")

#: Bits per element, in the library's own order of dtypes.
ELEMENT_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip

#: Which module of ``read.containers`` knows the files of a suffix; all others are taken for safetensors.
CONTAINERS = {
    ".safetensors": "safetensors", ".latent": "safetensors", ".npy": "npy", ".npz": "npz", ".zip": "npz", ".pt": "pt",
    ".pth": "pt",
}  # fmt: skip

# What files of other suffixes are, and who takes them; none of them holds tensors.
_TAKEN_ELSEWHERE = {
    ".json": "stats and report --against take the JSON of stats, and --normalization that of --save-normalization",
    ".csv": "--indices and --exclude take a table of samples",
    ".jsonl": "--indices and --exclude take a table of samples",
    ".parquet": "--indices and --exclude take a table of samples as .csv or .jsonl",
    ".html": "give the files that the page was made of",
}

#: How inputs are opened.
OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor as the header names it; ``offset`` counts bytes from the start of the file.

    ``dtype`` is safetensors' name; what cannot be read in place goes by its container's own, which is none of these.
    """

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


class Contents(NamedTuple):
    """What a container's module finds in a file: see ``Header``."""

    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    digest: str


@dataclass(frozen=True, slots=True, eq=False)
class Header:
    """What a file holds; equal to itself alone.

    ``stamp`` (bytes, mtime in ns) tells whether it is still the same file; ``digest``, the SHA-256 of what the file
    says of its tensors, is the same for every copy. ``memory``: the bytes of tensors that are in no file, each from its
    offset on.
    """

    path: str
    stamp: tuple[int, int]
    digest: str
    tensors: dict[str, TensorInfo]
    metadata: dict[str, str]
    memory: tuple[tuple[int, Any], ...] = ()


def read_header(path: str) -> Header:
    """Read and validate the header of a file, in the way that its suffix says.

    Raises ``DataError`` when it is no such file, is truncated, or has a header over 16 MiB, and ``OSError`` when it
    cannot be opened.
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise DataError(
            f"{path}: not a regular file, and tensors are read out of order; save it to a file first",
            kind="unreadable",
        )
    container = _module(container_of(path) or "safetensors")
    descriptor = os.open(path, OPEN_FLAGS)
    try:
        status = os.fstat(descriptor)
        found: Contents = container.contents(path, descriptor, status.st_size)
    except DataError as error:
        elsewhere = _TAKEN_ELSEWHERE.get(_suffix(path))
        if elsewhere is None:
            raise
        raise DataError(f"{path}: no file of moments or latents, as are read here; {elsewhere}") from error
    except OSError as error:
        error.filename = path  # neither a descriptor's error nor the library's names it, nor always has a number
        raise
    finally:
        with suppress(OSError):  # what was read is read
            os.close(descriptor)
    return Header(path, (status.st_size, status.st_mtime_ns), found.digest, found.tensors, found.metadata)


@cache
def _module(container: str) -> Any:
    return import_module(f"latentkit.read.containers.{container}")


def container_of(path: str) -> str | None:
    """The container that the suffix of ``path`` names."""
    return CONTAINERS.get(_suffix(path))


def _suffix(path: str) -> str:
    return path[path.rfind(".") :].lower()
