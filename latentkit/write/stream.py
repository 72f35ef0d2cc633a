"""Bytes to a descriptor, and rows as every format takes them."""

import io
import os
from collections.abc import Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any

#: Columns of equal length, in the order they are written.
Columns = Mapping[str, Sequence[Any]]


class Same(Sequence[Any]):
    """A column of ``count`` rows that all say ``value``."""

    def __init__(self, value: Any, count: int) -> None:
        self.value, self._count = value, count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, row: Any) -> Any:
        return [self.value] * len(range(self._count)[row]) if isinstance(row, slice) else self.value

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.value, self._count)


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
