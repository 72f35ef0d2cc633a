"""Rows as Apache Parquet."""

from collections.abc import Mapping
from typing import Any

from latentkit.write.stream import Columns, write_all

_GROUP = 1 << 16


class ParquetRows:
    """Apache Parquet, row groups of 64 K rows however they come (extra: pyarrow)."""

    def __init__(self, descriptor: int, types: Mapping[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self._schema = pa.schema([(_text(name), pa.type_for_alias(type)) for name, type in types.items()])
        self._descriptor = _Descriptor(descriptor)
        self._writer = pq.ParquetWriter(pa.PythonFile(self._descriptor, mode="w"), self._schema)
        self._columns: dict[str, list[Any]] = {name: [] for name in types}
        self._count = 0

    def write(self, columns: Columns) -> None:
        for name, values in columns.items():
            self._columns[name].extend(values)
        self._count += len(next(iter(columns.values())))
        while self._count >= _GROUP:
            self._write_group()

    def abandon(self) -> None:
        """A file without its end holds no rows for anybody; pyarrow would write one when it cleans up."""
        self._descriptor.closed = True
        self._writer.is_open = False

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
            pa.array([_text(name) for name in values] if pa.types.is_string(field.type) else values, field.type)
            for field, values in zip(self._schema, (some[:_GROUP] for some in self._columns.values()), strict=True)
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema))
        self._columns = {name: values[_GROUP:] for name, values in self._columns.items()}
        self._count = max(0, self._count - _GROUP)


def _text(name: Any) -> str:
    """A name that UTF-8 can hold: bytes of a file name that are no text come out as in CSV."""
    return str(name).encode(errors="backslashreplace").decode()


class _Descriptor:
    """A file descriptor as the file object that pyarrow writes to; a pipe will do, as nothing is sought.

    Once closed it takes everything and writes nothing.
    """

    closed = False

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if not self.closed:
            write_all(self._descriptor, view)
        return len(view)

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """The descriptor is the caller's."""
