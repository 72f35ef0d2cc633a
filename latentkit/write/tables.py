"""Rows of results -> CSV, JSON lines, JSON or Parquet, as they come, so that memory does not grow with them."""

import csv
import io
import json
import math
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from latentkit.errors import RequestError

#: Formats for rows, and the suffixes that choose them.
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}

# CSV is written when it is of so many characters, and after so many seconds: its reader may wait for it.
_TOGETHER, _LATEST = 1 << 15, 0.1

#: Columns of equal length, in the order they are written.
Columns = Mapping[str, Sequence[Any]]


class RowWriter(Protocol):
    """Takes rows batch by batch; ``end`` finishes the document, with facts that are known only then.

    ``flush`` writes the rows that are held back where they can stand without an end: for work that fails.
    """

    def write(self, columns: Columns) -> None: ...

    def flush(self) -> None: ...

    def end(self, facts: Mapping[str, Any]) -> None: ...


def open_rows(
    format: str,
    descriptor: int,
    types: Mapping[str, str],
    *,
    header: bool = True,
    facts: Mapping[str, Any] | None = None,
) -> RowWriter:
    """A writer of rows in ``format`` through ``descriptor``, which stays open.

    ``types`` are the columns in order, each with Arrow's name of its type (``string``, ``int64``, ``double``, …).
    ``facts`` describe the whole (what was read and how); JSON holds them, the other formats have no place for them.
    """
    if format == "csv":
        return CsvRows(descriptor, types if header else ())
    if format == "jsonl":
        return JsonLines(descriptor)
    if format == "json":
        return JsonDocument(descriptor, facts or {})
    return ParquetRows(descriptor, types)


def check_rows_format(format: str) -> None:
    """Refuse, before any work, a format whose library is not here; raises ``RequestError``."""
    if format == "parquet":
        import importlib.util

        if importlib.util.find_spec("pyarrow") is None:
            raise RequestError("Parquet needs pyarrow: pip install 'latentkit[parquet]', or choose --format csv")


def jsonable(value: Any) -> Any:
    """``value`` with NaN and infinities, which JSON does not have, as null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    return value


def write_all(descriptor: int, data: bytes | memoryview) -> None:
    """Write every byte; a pipe may take them in parts."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


class CsvRows:
    """Comma-separated values; floats are the shortest that read back the same, NaN and infinities ``nan``, ``inf``."""

    def __init__(self, descriptor: int, header: Iterable[str]) -> None:
        self._descriptor = descriptor
        self._text = io.StringIO()
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._written = -math.inf
        self._header = tuple(header)

    def write(self, columns: Columns) -> None:
        self._begin()
        self._writer.writerows(zip(*columns.values(), strict=True))
        # Batches may be single rows of many small files.
        if self._text.tell() >= _TOGETHER or time.monotonic() - self._written >= _LATEST:
            self.flush()

    def end(self, facts: Mapping[str, Any]) -> None:
        """Write what is left; CSV has no place for facts."""
        del facts
        self._begin()
        self.flush()

    def flush(self) -> None:
        """Write what is held back."""
        data = self._text.getvalue().encode(errors="backslashreplace")
        # First, lest an interrupted write be begun anew.
        self._text.seek(0)
        self._text.truncate()
        if data:
            write_all(self._descriptor, data)
            self._written = time.monotonic()

    def _begin(self) -> None:
        if self._header:
            self._writer.writerow(self._header)
            self._header = ()


class JsonLines:
    """One JSON object a row and line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, columns: Columns) -> None:
        lines = "".join(_row(row) + "\n" for row in _rows(columns))
        write_all(self._descriptor, lines.encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """Nothing is left to write: every line stands alone."""
        del facts


class JsonDocument:
    """One JSON object: the facts known at the start, ``rows``, and the facts known at the end."""

    def __init__(self, descriptor: int, facts: Mapping[str, Any]) -> None:
        self._descriptor = descriptor
        members = "".join(f"{json.dumps(key)}: {json.dumps(jsonable(value))},\n " for key, value in facts.items())
        self._pending = "{" + members + '"rows": ['
        self._separator = "\n  "

    def write(self, columns: Columns) -> None:
        pieces = [self._pending]
        for row in _rows(columns):
            pieces += [self._separator, _row(row)]
            self._separator = ",\n  "
        self._pending = ""
        write_all(self._descriptor, "".join(pieces).encode(errors="backslashreplace"))

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self, facts: Mapping[str, Any]) -> None:
        members = "".join(f",\n {json.dumps(key)}: {json.dumps(jsonable(value))}" for key, value in facts.items())
        write_all(self._descriptor, f"{self._pending}\n ]{members}\n}}\n".encode())


class ParquetRows:
    """Apache Parquet, one row group a batch of about 64 K rows (extra: pyarrow)."""

    def __init__(self, descriptor: int, types: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(_text(name), pa.type_for_alias(type)) for name, type in types.items()])
        self._sink = pa.PythonFile(_Descriptor(descriptor), mode="w")
        self._writer = pq.ParquetWriter(self._sink, self._schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in types}
        self._count = 0

    def write(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._columns[name].extend(values)
        self._count += len(next(iter(columns.values())))
        if self._count >= 1 << 16:
            self._write_group()

    def flush(self) -> None:
        """A file without its end holds no rows for anybody."""

    def end(self, facts: Mapping[str, Any]) -> None:
        """Close the file; Parquet as written here holds rows alone, not the facts."""
        del facts
        self._write_group()
        self._writer.close()

    def _write_group(self) -> None:
        import pyarrow as pa

        if not self._count:
            return
        arrays = [
            pa.array(map(_CONVERSIONS.get(str(field.type), int), values), field.type, size=self._count)
            for field, values in zip(self._schema, self._columns.values(), strict=True)
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._columns, self._count = {name: [] for name in self._columns}, 0


def _text(name: Any) -> str:
    """A name that UTF-8 can hold: bytes of a file name that are no text come out as in CSV."""
    return str(name).encode(errors="backslashreplace").decode()


# Files may hold one column in different dtypes; whole numbers are what is left.
_CONVERSIONS: dict[str, Callable[[Any], object]] = {"string": _text, "double": float, "bool": bool}


class _Descriptor:
    """A file descriptor as the file object that pyarrow writes to; a pipe will do, as nothing is sought."""

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        write_all(self._descriptor, view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The descriptor is the caller's."""


def _rows(columns: Columns) -> Iterable[dict[str, Any]]:
    names = tuple(columns)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _row(row: dict[str, Any]) -> str:
    return json.dumps(jsonable(row), ensure_ascii=False)
