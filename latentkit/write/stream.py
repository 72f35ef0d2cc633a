"""Bytes to a descriptor, and rows as every format takes them."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of equal length, in the order they are written.
Columns = Mapping[str, Sequence[Any]]


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; a pipe may take them in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
