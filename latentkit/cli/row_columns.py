"""Rows of ``kl`` and ``nll`` as columns: one row per value, with its file, tensor and index."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

from latentkit.cli.options import RowFormat
from latentkit.read.choice import Posterior, Span
from latentkit.read.columns import column_types, read_columns
from latentkit.read.plan import Found
from latentkit.write.stream import Columns, Same
from latentkit.write.tables import RowWriter, open_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from latentkit.cli.row_parts import Parts
    from latentkit.cli.rows import RowOptions
    from latentkit.measures.ranking import Ranked
    from latentkit.read.labels import Labels

    Measured = Iterator[tuple[Span, NDArray[np.float64]]]

# Ranked rows made at once, and characters of names in the rows that are.
_RANKED_ROWS = 1 << 12
_MOST_TEXT = 1 << 22


@dataclass(frozen=True)
class Table:
    """What the rows hold: the measure's name, and the axis that a sample's several values run over.

    ``made_with``, and ``beside`` for each posterior, are what else the values come from. ``parts`` are the places of
    rows that do not go into one, and ``labels`` those that samples are summed up by.
    """

    measure: str
    found: Found
    axis: str | None
    made_with: tuple[object, ...] = ()
    beside: Mapping[Posterior, object] = field(default_factory=dict)
    parts: "Parts | None" = None
    labels: "Labels | None" = None


def row_types(table: Table, keys: Sequence[str]) -> dict[str, str]:
    """The columns in order, each with its type."""
    types = {"file": "string", "tensor": "string", "index": "int64"}
    types |= {table.axis: "int64"} if table.axis else {}
    types[table.measure] = "double"
    return types | column_types(table.found.posteriors, keys)


def open_table(descriptor: int, table: Table, format: RowFormat, options: "RowOptions") -> RowWriter:
    """A writer of the table's rows in ``format``."""
    facts = {"measure": table.measure, "units": options.units.value, "read": table.found.readings}
    types = row_types(table, options.columns)
    return open_rows(format, descriptor, types, header=not options.no_header, facts=facts)


def row_columns(measured: "Measured", table: Table, keys: Sequence[str], top: int | None) -> Iterator[Columns]:
    """All rows, batch by batch, or the ``top`` largest; ``keys`` name tensors for further columns."""
    if top is not None:
        from latentkit.measures.ranking import Top

        ranking = Top(top)
        for span, values in measured:
            ranking.add(values, span)
        ranked = ranking.ranked()
        while some := list(islice(ranked, _RANKED_ROWS)):
            yield ranked_columns(some, table, keys)
        return
    for span, values in _of_short_text(measured):
        count, width = values.shape
        extra = read_columns(span.posterior, keys, span.first, count)
        columns: dict[str, Sequence[Any]] = {
            "file": Same(span.posterior.file.path, count * width),
            "tensor": Same(span.posterior.key, count * width),
            "index": [index for index in range(span.first, span.first + count) for _ in range(width)],
        }
        if table.axis:
            columns[table.axis] = list(range(width)) * count
        columns[table.measure] = values.ravel().tolist()
        yield columns | {key: [value for value in values for _ in range(width)] for key, values in extra.items()}


def _of_short_text(measured: "Measured") -> "Measured":
    """The same values, in parts whose rows are not much text: a name, of up to 16 MiB, is in every row."""
    for span, values in measured:
        posterior = span.posterior
        step = max(1, _MOST_TEXT // ((len(posterior.file.path) + len(posterior.key) + 1) * values.shape[1]))
        for row in range(0, span.count, step):
            some = values[row : row + step]
            yield Span(posterior, span.first + row, len(some)), some


def ranked_columns(ranked: "list[Ranked]", table: Table, keys: Sequence[str]) -> Columns:
    """The columns of ranked rows."""
    columns: dict[str, Sequence[Any]] = {
        "file": [row.posterior.file.path for row in ranked],
        "tensor": [row.posterior.key for row in ranked],
        "index": [row.index for row in ranked],
    }
    if table.axis:
        columns[table.axis] = [row.column for row in ranked]
    columns[table.measure] = [row.value for row in ranked]
    extra = [read_columns(row.posterior, keys, row.index, 1) for row in ranked]
    return columns | {key: [values[key][0] for values in extra] for key in keys}


def elements_of(posterior: Posterior, axis: str | None) -> int:
    """Latent elements behind one value of a row."""
    _, outer, channels, inner = posterior.axes.view
    return outer * inner * (1 if axis == "channel" else channels)
