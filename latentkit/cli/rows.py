"""What ``kl`` and ``nll`` share: a row for each value, written as it comes or summed up in a table."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from math import log, prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentkit.cli.options import Messages, OnNonfinite, RowFormat, Writing
from latentkit.cli.screen import count_of, note
from latentkit.errors import DataError, RequestError
from latentkit.storage.choice import Posterior, Span
from latentkit.storage.columns import check_columns, column_types, read_columns
from latentkit.storage.placing import check_place, is_stream, placed
from latentkit.storage.plan import Found
from latentkit.storage.tables import SUFFIXES, Columns, check_rows_format, open_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from latentkit.summary import Ranked

    Measured = Iterator[tuple[Span, NDArray[np.float64]]]

_ROWS = "Rows"


class Units(StrEnum):
    nats = "nats"
    bits = "bits"
    bits_per_dim = "bits-per-dim"


@dataclass
class RowOptions:
    """Which rows, in which form."""

    format: Annotated[
        RowFormat | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="table (terminal), csv (pipe), jsonl, json or parquet.",
            rich_help_panel=_ROWS,
        ),
    ] = None
    no_header: Annotated[
        bool, typer.Option("--no-header", help="CSV without its first line.", rich_help_panel=_ROWS)
    ] = False
    columns: Annotated[
        list[str],
        typer.Option(
            "--columns", metavar="KEY", help="Tensor of one value a sample to add; repeatable.", rich_help_panel=_ROWS
        ),
    ] = field(default_factory=list)
    top: Annotated[
        int | None,
        typer.Option("--top", metavar="K", min=1, help="Only the K largest, descending.", rich_help_panel=_ROWS),
    ] = None
    units: Annotated[
        Units, typer.Option("--units", metavar="UNIT", help="nats, bits or bits-per-dim.", rich_help_panel=_ROWS)
    ] = Units.nats
    on_nonfinite: Annotated[
        OnNonfinite,
        typer.Option(
            "--on-nonfinite",
            metavar="RULE",
            help="NaN and infinities in the data: warn, error or skip.",
            rich_help_panel=_ROWS,
        ),
    ] = OnNonfinite.warn


@dataclass(frozen=True)
class Table:
    """What the rows hold: the measure's name, and the axis that a sample's several values run over."""

    measure: str
    found: Found
    axis: str | None


def check_rows(writing: Writing, options: RowOptions, table: Table) -> RowFormat:
    """The format of the output; refuses what can be refused before any work."""
    format = _format(writing.output, options.format)
    check_rows_format(format)
    if writing.output is not None:
        inputs = {posterior.file.path for posterior in table.found.posteriors}
        check_place(writing.output, overwrite=writing.overwrite, inputs=inputs)
    names = ["file", "tensor", "index", table.measure, *([table.axis] if table.axis else [])]
    check_columns(table.found.posteriors, options.columns, names)
    return format


def write_rows(
    measured: "Measured", table: Table, format: RowFormat, options: RowOptions, writing: Writing, messages: Messages
) -> None:
    """Write or draw all rows, then say what was not finite."""
    keeper = _Nonfinite(options.on_nonfinite)
    measured = keeper.watch(_in_units(measured, options.units, per_channel=table.axis == "channel"))
    if format is RowFormat.table:
        from latentkit.cli.row_table import draw_rows

        draw_rows(measured, table, options, keeper)
    else:
        _write(measured, table, format, options, writing, keeper)
    keeper.report(messages)


def say_reading(found: Found, format: str, messages: Messages) -> None:
    """How the input was read and what was passed over: on stderr, but where the result says it itself."""
    if format not in ("table", "json"):
        for reading in found.readings:
            note(messages, reading)
    if found.drawn:
        note(messages, f"passed over {count_of(found.drawn, 'file')} that latentkit drew")
    if found.empty:
        note(messages, f"passed over {count_of(found.empty, 'tensor')} without samples")


def _format(output: str | None, format: RowFormat | None) -> RowFormat:
    import sys

    if format is not None:
        if format is RowFormat.table and output is not None:
            raise RequestError("--format table is drawn on standard output: leave out -o, or choose another format")
        if format is RowFormat.parquet and (output is None or is_stream(output)) and sys.stdout.isatty():
            raise RequestError("--format parquet is not for a terminal: give -o FILE.parquet")
        return format
    if output is None or is_stream(output):
        return RowFormat.table if output is None and sys.stdout.isatty() else RowFormat.csv
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"{output}: no format goes by this suffix; use {', '.join(SUFFIXES)}, or --format")
    return RowFormat(SUFFIXES[suffix])


def _in_units(measured: "Measured", units: Units, *, per_channel: bool) -> "Measured":
    for span, values in measured:
        if units is Units.nats:
            yield span, values
        elif units is Units.bits:
            yield span, values / log(2)
        else:
            _, outer, channels, inner = span.posterior.axes.view
            elements = outer * inner * (1 if per_channel else channels)
            yield span, values / (log(2) * elements)


class _Nonfinite:
    """Counts samples with NaN or infinite values, and does with them what --on-nonfinite says."""

    def __init__(self, rule: OnNonfinite) -> None:
        self._rule = rule
        self.samples = 0
        self.count = 0

    @property
    def facts(self) -> dict[str, Any]:
        skipped = self.count if self._rule is OnNonfinite.skip else 0
        return {"samples": self.samples, "nonfinite": self.count, "skipped": skipped}

    def watch(self, measured: "Measured") -> "Measured":
        import numpy as np

        for span, values in measured:
            self.samples += span.count
            bad = ~np.isfinite(values).all(axis=1)
            if not bad.any():
                yield span, values
                continue
            first = span.first + int(np.flatnonzero(bad)[0])
            if self._rule is OnNonfinite.error:
                raise DataError(
                    f"{span.posterior.label}, sample {first} holds NaN or an infinite mean; "
                    f"--on-nonfinite skip leaves such samples out"
                )
            self.count += int(bad.sum())
            if self._rule is OnNonfinite.warn:
                yield span, values
                continue
            # Each run of good rows is a span of its own.
            edges = np.flatnonzero(np.diff(np.concatenate(([True], bad, [True])).astype(np.int8)))
            for begin, end in zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True):
                yield Span(span.posterior, span.first + begin, end - begin), values[begin:end]

    def report(self, messages: Messages) -> None:
        if self.count:
            done = "left out" if self._rule is OnNonfinite.skip else "their rows say nan or inf"
            note(messages, f"{self.count:,} of {count_of(self.samples, 'sample')} hold NaN or an infinite mean: {done}")


def _write(
    measured: "Measured", table: Table, format: RowFormat, options: RowOptions, writing: Writing, keeper: _Nonfinite
) -> None:
    facts = {"measure": table.measure, "units": options.units.value, "read": table.found.readings}
    with ExitStack() as stack:
        descriptor = stack.enter_context(placed(writing.output or "-", overwrite=writing.overwrite))
        writer = open_rows(format, descriptor, _types(table, options), header=not options.no_header, facts=facts)
        for columns in _columns(measured, table, options):
            writer.write(columns)
        writer.end(keeper.facts)


def _types(table: Table, options: RowOptions) -> dict[str, str]:
    """The columns in order, each with its type."""
    types = {"file": "string", "tensor": "string", "index": "int64"}
    types |= {table.axis: "int64"} if table.axis else {}
    types[table.measure] = "double"
    return types | column_types(table.found.posteriors, options.columns)


def _columns(measured: "Measured", table: Table, options: RowOptions) -> Iterator[Columns]:
    if options.top is not None:
        from latentkit.summary import Top

        top = Top(options.top)
        for span, values in measured:
            top.add(values, span)
        yield ranked_columns(top.ranked(), table, options.columns)
        return
    for span, values in measured:
        count, width = values.shape
        extra = read_columns(span.posterior, options.columns, span.first, count)
        columns: dict[str, Sequence[Any]] = {
            "file": [span.posterior.file.path] * (count * width),
            "tensor": [span.posterior.key] * (count * width),
            "index": [index for index in range(span.first, span.first + count) for _ in range(width)],
        }
        if table.axis:
            columns[table.axis] = list(range(width)) * count
        columns[table.measure] = values.ravel().tolist()
        yield columns | {key: [value for value in values for _ in range(width)] for key, values in extra.items()}


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
    return prod((outer, inner)) * (1 if axis == "channel" else channels)
