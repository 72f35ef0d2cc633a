"""Rows as JSON: an object per line, or one document."""

import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from latentkit.write.stream import Columns, write_all


def jsonable(value: Any) -> Any:
    """``value`` with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value


class JsonLines:
    """One JSON object per row, on a line of its own."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._row = _row_for(descriptor)

    def write(self, columns: Columns) -> None:
        lines = "".join(self._row(row) + "\n" for row in _rows(columns))
        write_all(self._descriptor, lines.encode(errors="backslashreplace"))

    def abandon(self) -> None:
        """Nothing is held back."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """Nothing is left to write: every line stands alone."""
        del facts


class JsonDocument:
    """One JSON object: the facts known at the start, ``rows``, and the facts known at the end."""

    def __init__(self, descriptor: int, facts: Mapping[str, Any]) -> None:
        self._descriptor = descriptor
        self._row = _row_for(descriptor)
        members = "".join(f"{json.dumps(key)}: {json.dumps(jsonable(value))},\n " for key, value in facts.items())
        self._pending = "{" + members + '"rows": ['
        self._separator = "\n  "

    def write(self, columns: Columns) -> None:
        pieces = [self._pending]
        for row in _rows(columns):
            pieces += [self._separator, self._row(row)]
            self._separator = ",\n  "
        self._pending = ""
        write_all(self._descriptor, "".join(pieces).encode(errors="backslashreplace"))

    def abandon(self) -> None:
        """Nothing is held back."""

    def end(self, facts: Mapping[str, Any]) -> None:
        members = "".join(f",\n {json.dumps(key)}: {json.dumps(jsonable(value))}" for key, value in facts.items())
        write_all(self._descriptor, f"{self._pending}\n ]{members}\n}}\n".encode())


def _rows(columns: Columns) -> Iterable[dict[str, Any]]:
    names = tuple(columns)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _row_for(descriptor: int) -> Callable[[dict[str, Any]], str]:
    """A row as JSON: in ASCII where a terminal shows it, as names may hold what tricks one."""
    ascii = os.isatty(descriptor)
    return lambda row: json.dumps(jsonable(row), ensure_ascii=ascii)
