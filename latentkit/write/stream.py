"""Bytes to a descriptor, and rows as every format takes them."""

import io
import os
from collections.abc import Mapping, Sequence
from typing import Any

#: Columns of equal length, in the order they are written.
Columns = Mapping[str, Sequence[Any]]


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; a pipe may take them in parts, or, where it does not block, when there is room again."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            _wait(descriptor)


def _wait(descriptor: int) -> None:
    import select

    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    poll.poll()


class Patient(io.FileIO):
    """A descriptor as a file that waits where it does not block; the descriptor stays open."""

    def __init__(self, descriptor: int) -> None:
        super().__init__(descriptor, "w", closefd=False)

    def write(self, data: Any) -> int:
        """Write all of it."""
        write_all(self.fileno(), data)
        return len(data)
