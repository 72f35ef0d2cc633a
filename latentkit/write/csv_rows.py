"""Rows as comma-separated values."""

import csv
import io
import math
import time
from collections.abc import Iterable, Mapping
from typing import Any

from latentkit.write.stream import Columns, write_all

# Written when it is of so many characters, and after so many seconds: its reader may wait for it.
_TOGETHER, _LATEST = 1 << 15, 0.1


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
            self._flush()

    def end(self, facts: Mapping[str, Any]) -> None:
        """Write what is left; CSV has no place for facts."""
        del facts
        self._begin()
        self._flush()

    def abandon(self) -> None:
        """Rows that are complete reach the pipe, whatever came then."""
        self._flush()

    def _flush(self) -> None:
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
