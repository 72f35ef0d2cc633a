"""Rows of results -> CSV, JSON lines, JSON or Parquet, as they come, so that memory does not grow with them."""

from collections.abc import Mapping
from typing import Any, Protocol

from latentkit.errors import RequestError
from latentkit.write.stream import Columns

#: Formats for rows, and the suffixes that choose them.
SUFFIXES = {".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".parquet": "parquet"}


class RowWriter(Protocol):
    """Takes rows batch by batch; ``end`` finishes the document, with facts that are known only then.

    ``abandon`` is for work that fails: it writes the rows that are held back where they can stand without an end.
    """

    def write(self, columns: Columns) -> None: ...

    def abandon(self) -> None: ...

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
        from latentkit.write.csv_rows import CsvRows

        return CsvRows(descriptor, types, header=header)
    if format == "parquet":
        from latentkit.write.parquet_rows import ParquetRows

        return ParquetRows(descriptor, types)
    from latentkit.write.json_rows import JsonDocument, JsonLines

    return JsonLines(descriptor) if format == "jsonl" else JsonDocument(descriptor, facts or {})


def check_rows_format(format: str) -> None:
    """Refuse, before any work, a format whose library is not here; raises ``RequestError``."""
    if format == "parquet":
        import importlib.util

        if importlib.util.find_spec("pyarrow") is None:
            raise RequestError("Parquet needs pyarrow: pip install 'vae-latentkit[parquet]', or choose --format csv")
