"""Rows of results -> CSV, JSON lines, JSON or Parquet, as they come, so that memory does not grow with them."""

import csv
import io
import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from latentkit.errors import RequestError

#: Formats for rows, and the suffixes that choose them.
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}

#: Columns of equal length, in the order they are written.
Columns = Mapping[str, Sequence[Any]]


class RowWriter(Protocol):
    """Takes rows batch by batch; ``end`` finishes the document, with facts that are known only then."""

    def write(self, columns: Columns) -> None: ...

    def end(self, facts: Mapping[str, Any]) -> None: ...


def open_rows(
    format: str, descriptor: int, *, header: bool = True, facts: Mapping[str, Any] | None = None
) -> RowWriter:
    """A writer of rows in ``format`` through ``descriptor``, which stays open.

    ``facts`` describe the whole (what was read and how); JSON holds them, the other formats have no place for them.
    """
    if format == "csv":
        return CsvRows(descriptor, header=header)
    if format == "jsonl":
        return JsonLines(descriptor)
    if format == "json":
        return JsonDocument(descriptor, facts or {})
    return ParquetRows(descriptor)


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

    def __init__(self, descriptor: int, *, header: bool) -> None:
        self._descriptor = descriptor
        self._header = header

    def write(self, columns: Columns) -> None:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        if self._header:
            writer.writerow(columns)
            self._header = False
        writer.writerows(zip(*columns.values(), strict=True))
        write_all(self._descriptor, text.getvalue().encode(errors="backslashreplace"))

    def end(self, facts: Mapping[str, Any]) -> None:
        """Nothing is left to write: CSV has no place for facts."""
        del facts


class JsonLines:
    """One JSON object a row and line."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, columns: Columns) -> None:
        lines = "".join(_row(row) + "\n" for row in _rows(columns))
        write_all(self._descriptor, lines.encode(errors="backslashreplace"))

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

    def end(self, facts: Mapping[str, Any]) -> None:
        members = "".join(f",\n {json.dumps(key)}: {json.dumps(jsonable(value))}" for key, value in facts.items())
        write_all(self._descriptor, f"{self._pending}\n ]{members}\n}}\n".encode())


class ParquetRows:
    """Apache Parquet, one row group a batch of about 64 K rows (extra: pyarrow)."""

    def __init__(self, descriptor: int) -> None:
        self._file = os.fdopen(os.dup(descriptor), "wb")
        self._writer: Any = None
        self._columns: dict[str, list[Any]] = {}
        self._count = 0

    def write(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._columns.setdefault(name, []).extend(values)
        self._count += len(next(iter(columns.values())))
        if self._count >= 1 << 16:
            self._flush()

    def end(self, facts: Mapping[str, Any]) -> None:
        """Close the file; Parquet as written here holds rows alone, not the facts."""
        del facts
        self._flush()
        if self._writer is not None:
            self._writer.close()
        self._file.close()

    def _flush(self) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self._count:
            return
        schema = self._writer.schema if self._writer else None
        table = pa.table(self._columns, schema=schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, table.schema)
        self._writer.write_table(table)
        self._columns, self._count = {}, 0


def _rows(columns: Columns) -> Iterable[dict[str, Any]]:
    names = tuple(columns)
    return (dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True))


def _row(row: dict[str, Any]) -> str:
    return json.dumps(jsonable(row), ensure_ascii=False)
