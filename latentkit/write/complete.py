"""Whether an output is there already, as a run would write it."""

import os
from collections.abc import Iterable

from latentkit.errors import RequestError
from latentkit.read.header import Header


def found_at(path: str, length: int) -> tuple[int, bytes]:
    """The size of the file at ``path``, and its first bytes; raises ``FileNotFoundError``."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(length)


def is_older(path: str, headers: Iterable[Header]) -> bool:
    """Whether an input was written after the output at ``path``: its header may be the same as before."""
    made = os.stat(path).st_mtime_ns
    return any(made < header.stamp[1] for header in headers)


def is_written(path: str, data: bytes, *, overwrite: bool) -> bool:
    """Whether a file that goes with the outputs is there already; another one raises ``RequestError``."""
    try:
        found = found_at(path, len(data))
    except FileNotFoundError:
        return False
    if found != (len(data), data) and not overwrite:
        raise RequestError(f"{path}: exists, and is not what this run would write; --overwrite replaces it")
    return found == (len(data), data)
