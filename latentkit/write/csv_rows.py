"""Rows as comma-separated values."""

import csv
import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

from latentkit.text import harmless
from latentkit.write.stream import Columns, Same, write_all

# Written when it is of so many characters, and after so many seconds: its reader may wait for it.
_TOGETHER, _LATEST = 1 << 15, 0.1
# Of a whole table, so many rows are made into text at once.
_ROWS = 256


def csv_pieces(columns: Columns) -> Iterator[bytes]:
    """A whole table, its header first."""
    rows = chain([tuple(columns)], zip(*(map(_said, column) for column in columns.values()), strict=True))
    while some := list(islice(rows, _ROWS)):
        yield _text(some, ()).encode()


class CsvRows:
    """Comma-separated values; floats are the shortest that read back the same, NaN and infinities ``nan``, ``inf``.

    Booleans are ``true`` and ``false``, as in JSON. Names are what they are, byte for byte, but harmless where a
    terminal shows them.
    """

    def __init__(self, descriptor: int, types: Mapping[str, object], *, header: bool = True) -> None:
        self._descriptor = descriptor
        self._held: list[str] = []
        self._length = 0
        self._shown = harmless if os.isatty(descriptor) else str
        self._names = [name for name, type in types.items() if type == "string"]
        self._booleans = [name for name, type in types.items() if type == "bool"]
        self._written = -math.inf
        self._header = tuple(map(self._shown, types)) if header else ()

    def write(self, columns: Columns) -> None:
        self._begin()
        columns = {**columns, **{name: list(map(_said, columns[name])) for name in self._booleans}}
        names = [columns[name] for name in self._names]
        if names and all(isinstance(column, Same) for column in names):
            self._hold(self._numbered([self._shown(column[0]) for column in names], columns))
        else:
            columns = {**columns, **{name: list(map(self._shown, columns[name])) for name in self._names}}
            self._hold(_text(zip(*columns.values(), strict=True), {name for column in names for name in column}))
        # Batches may be single rows of many small files.
        if self._length >= _TOGETHER or time.monotonic() - self._written >= _LATEST:
            self._flush()

    def end(self, facts: Mapping[str, Any]) -> None:
        """Write what is left; CSV has no place for facts."""
        del facts
        self._begin()
        self._flush()

    def abandon(self) -> None:
        """Rows that are complete reach the pipe, whatever came then."""
        self._flush()

    def _hold(self, text: str) -> None:
        self._held.append(text)
        self._length += len(text)

    def _flush(self) -> None:
        data = "".join(self._held).encode(errors="surrogateescape")
        # First, lest an interrupted write be begun anew.
        self._held, self._length = [], 0
        if data:
            write_all(self._descriptor, data)
            self._written = time.monotonic()

    def _begin(self) -> None:
        if self._header:
            self._hold(_text([self._header], self._header))
            self._header = ()

    def _numbered(self, names: Sequence[str], columns: Columns) -> str:
        """Rows of one file and tensor, which come first and are made into text once: there may be millions."""
        numbers = {name: column for name, column in columns.items() if name not in self._names}
        start = _text([names], names).removesuffix("\n").replace("%", "%%")
        row = ",".join([start, *("%s" if name in self._booleans else "%r" for name in numbers)]) + "\n"
        return "".join(map(row.__mod__, zip(*numbers.values(), strict=True)))


def _said(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _text(rows: Iterable[Sequence[Any]], names: Iterable[str]) -> str:
    """Rows with such names in them as text."""
    # Before Python 3.13 a carriage return alone is not quoted, though it ends a row for those who read.
    alone = any("\r" in name for name in names)
    text = io.StringIO()
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL if alone else csv.QUOTE_MINIMAL).writerows(rows)
    return text.getvalue()
