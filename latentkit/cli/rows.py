"""What ``kl`` and ``nll`` share: a row for each value, written as it comes or summed up in a table."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import log
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentkit.cli.faults import stop_if_held
from latentkit.cli.interrupts import deferred
from latentkit.cli.nonfinite import Nonfinite, refuse_nonfinite
from latentkit.cli.options import Messages, OnNonfinite, RowFormat, Writing
from latentkit.cli.row_columns import Table, open_table, row_columns
from latentkit.cli.screen import note, note_unreadable, warn
from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.health.conditions import Condition, held
from latentkit.health.row_figures import RowValues, row_condition
from latentkit.read.choice import Span
from latentkit.read.columns import check_columns, read_columns
from latentkit.read.plan import Found
from latentkit.text import count_of
from latentkit.write.places import check_outputs
from latentkit.write.placing import is_stream, placed
from latentkit.write.tables import SUFFIXES, check_rows_format

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Measured = Iterator[tuple[Span, NDArray[np.float64]]]

_ROWS = "Rows"
_WRITING = "Writing"
_DRAWN = RowFormat.table, RowFormat.markdown


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
            help="table, csv, jsonl, json, parquet or markdown.",
            rich_help_panel=_ROWS,
        ),
    ] = None
    no_header: Annotated[
        bool, typer.Option("--no-header", help="CSV without its first line.", rich_help_panel=_ROWS)
    ] = False
    columns: Annotated[
        list[str],
        typer.Option(
            "--columns", metavar="KEY", help="Tensor of one value per sample to add; repeatable.", rich_help_panel=_ROWS
        ),
    ] = field(default_factory=list)
    by: Annotated[
        str | None,
        typer.Option("--by", metavar="KEY", help="A row per label, of a tensor of labels.", rich_help_panel=_ROWS),
    ] = None
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
            help="NaN, infinities: warn, error or skip.",
            rich_help_panel=_ROWS,
        ),
    ] = OnNonfinite.warn
    fail_if: Annotated[
        list[Condition],
        typer.Option(
            "--fail-if",
            metavar="COND",
            parser=row_condition,
            help="Exit with 3 if it holds: 'p99 > 1000'; repeatable.",
            rich_help_panel=_ROWS,
        ),
    ] = field(default_factory=list)


@dataclass
class RowWriting(Writing):
    """Where rows go."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="The suffix chooses the format; FOLDER/: one per input.",
            rich_help_panel=_WRITING,
        ),
    ] = None
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Into a folder: go on with an interrupted run.",
            rich_help_panel=_WRITING,
        ),
    ] = False

    @property
    def is_folder(self) -> bool:
        """Whether each input's rows go into a file of their own."""
        return self.output is not None and (self.output.endswith("/") or os.path.isdir(self.output))


def check_rows(
    writing: RowWriting,
    options: RowOptions,
    table: Table,
    messages: Messages,
    failures: Failures,
    errors: str | None = None,
    others: Iterable[str] = (),
) -> tuple[RowFormat, Table]:
    """The format of the output, and the table without files that failed; refuses what can be refused before any work.

    ``errors`` is the file of --errors; ``others`` are the files read besides those of the table. A table for a folder
    comes back with its parts, and with what is still to be read for them alone.
    """
    format = _format(writing, options.format)
    check_rows_format(format)
    if options.top is not None:
        from latentkit.measures.ranking import MOST_RANKED

        if options.top > MOST_RANKED:
            raise RequestError(
                f"--top {options.top}: at most {MOST_RANKED:,} rows are ranked; leave it out to write all of them"
            )
    if options.fail_if and writing.resume:
        raise RequestError(
            "--fail-if is of the values of all samples, and --resume does not read again what is complete: leave out "
            "one of them"
        )
    if options.by is not None:
        _check_by(writing, options, table)
    names = ["file", "tensor", "index", table.measure, *([table.axis] if table.axis else [])]
    check_columns(table.found.posteriors, options.columns, names, failures)
    table = replace(table, found=table.found.without(failures))
    if options.by is not None:
        from latentkit.read.labels import find_labels

        labels = find_labels(table.found, options.by, failures)
        table = replace(table, labels=labels, found=table.found.without(failures))
    read = [*table.found.read, *others]
    if writing.is_folder:
        from latentkit.cli.row_parts import plan_parts

        return format, plan_parts(table, format, options, writing, messages, errors, read)
    if writing.resume:
        raise RequestError("--resume goes on with a folder of parts, one for each input: give -o FOLDER/")
    check_outputs([writing.place, errors], overwrite=writing.overwrite, read=read)
    return format, table


def _check_by(writing: RowWriting, options: RowOptions, table: Table) -> None:
    """Refuse what has no place in a row per label."""
    if options.columns:
        raise RequestError("--by gives a row per label, and --columns go beside samples: leave out one of them")
    if table.axis == "channel":
        raise RequestError("--by pools a sample's channels: leave out --per-channel; stats --by gives each label's")
    if writing.is_folder or writing.resume:
        raise RequestError("--by sums up the samples of all inputs: give -o a file, not a folder, without --resume")


def write_rows(
    measured: "Measured",
    table: Table,
    format: RowFormat,
    options: RowOptions,
    writing: RowWriting,
    messages: Messages,
    failures: Failures,
) -> None:
    """Write or draw all rows, then say what was not finite, and which conditions hold."""
    paired = bool(table.beside)
    keeper = Nonfinite(options.on_nonfinite, paired=paired)
    measured = _in_units(measured, options.units, per_channel=table.axis == "channel")
    if options.on_nonfinite is OnNonfinite.error:
        measured = refuse_nonfinite(measured, failures, paired=paired)
    if failures.keep_going:
        measured = _with_columns(measured, [*options.columns, *([options.by] if options.by else [])], failures)
    if failures.keep_going and (table.parts is None or options.fail_if):
        from latentkit.measures.whole_files import of_whole_files

        measured = of_whole_files(measured, table.found.spans, failures)
    values = RowValues(skip=options.on_nonfinite is OnNonfinite.skip) if options.fail_if else None
    if values is not None:
        measured = values.watch(measured)
    with deferred():
        if table.parts is not None:
            from latentkit.cli.row_parts import write_parts

            write_parts(measured, table, table.parts, format, options, writing, keeper, messages)
            table.found.without(failures)
        else:
            _write_rows(measured, table, format, options, writing, messages, keeper)
        keeper.report(messages, has_rows=table.labels is None and format not in _DRAWN)
        if values is not None:
            stop_if_held(held(options.fail_if, values.value), lambda _: values.why_undefined())


def _write_rows(
    measured: "Measured",
    table: Table,
    format: RowFormat,
    options: RowOptions,
    writing: Writing,
    messages: Messages,
    keeper: Nonfinite,
) -> None:
    measured, written = keeper.watch(measured), None
    if table.labels is not None:
        from latentkit.cli.label_rows import put_labels
        from latentkit.measures.by_label import by_label

        groups = by_label(measured, table.labels)
        written = put_labels(groups, table.labels, table, format, options, writing, keeper)
    elif format in _DRAWN:
        from latentkit.cli.row_table import draw_rows

        draw_rows(measured, table, options, format, keeper)
    else:
        written = _write(measured, table, format, options, writing, keeper)
    if written is not None and writing.output is not None and not is_stream(writing.output):
        note(messages, f"wrote {writing.output}: {count_of(written, 'row')}")


def say_reading(found: Found, format: str, messages: Messages) -> None:
    """How the input was read and what was passed over: on stderr, but where the result says it itself."""
    if format not in ("table", "json", "markdown"):
        for reading in found.readings:
            note(messages, reading)
    note_unreadable(found.unreadable, messages)
    for remark in found.remarks:
        note(messages, remark)
    own = "other " if found.drawn or found.states else ""
    for suffix, count in sorted(found.others.items()):
        note(messages, f"no {own}.safetensors there: read {count_of(count, f'{suffix} file')}")
    if found.twice:
        more = f", and {len(found.twice) - 1:,} more" if len(found.twice) > 1 else ""
        warn(messages, f"given more than once, and read as often: {found.twice[0]}{more}")
    if found.strangers:
        note(
            messages,
            f"passed over {count_of(len(found.strangers), 'file')} of other things, such as {found.strangers[0]}",
        )
    if found.drawn:
        note(messages, f"passed over {count_of(found.drawn, 'file')} that latentkit drew")
    if found.bare:
        note(messages, f"passed over {count_of(found.bare, 'file')} without floating-point tensors")
    if found.states:
        note(messages, f"passed over {count_of(found.states, 'state')} that stats wrote")
    if found.empty:
        note(messages, f"passed over {count_of(found.empty, 'tensor')} without samples")


def say_partners(others: Found, found: Found, messages: Messages) -> None:
    """How what ``found`` is set against is read, where that is another way, and whether it can be."""
    for words in (*(reading for reading in others.readings if reading not in found.readings), *others.remarks):
        note(messages, f"--against: {words}")
    warn_of_misreading(others, messages, "--against: ")


def warn_of_misreading(found: Found, messages: Messages, where: str = "") -> None:
    """Say, before the work, where log-variances look like something else."""
    from latentkit.measures.misread import doubtful_logvars

    doubt = doubtful_logvars(found.spans)
    if doubt is not None:
        warn(messages, where + doubt)


def _format(writing: RowWriting, format: RowFormat | None) -> RowFormat:
    import sys

    output = writing.output
    if format is not None:
        if format in _DRAWN and output is not None:
            raise RequestError(f"--format {format} is drawn on standard output: leave out -o, or choose another format")
        if format is RowFormat.parquet and (output is None or is_stream(output)) and sys.stdout.isatty():
            raise RequestError("--format parquet is not for a terminal: give -o FILE.parquet")
        return format
    if output is None or is_stream(output):
        return RowFormat.table if output is None and sys.stdout.isatty() else RowFormat.csv
    if writing.is_folder:
        return RowFormat.csv
    suffix = Path(output).suffix.lower()
    if suffix not in SUFFIXES:
        raise RequestError(f"{output}: end it with {', '.join(SUFFIXES)} or give --format; / ends a folder")
    return RowFormat(SUFFIXES[suffix])


def _with_columns(measured: "Measured", keys: list[str], failures: Failures) -> "Measured":
    """Those whose further columns can be read, too: rows are not made before the whole file came."""
    for span, values in measured:
        with failures.passing_over(span.posterior.file.path):
            read_columns(span.posterior, keys, span.first, span.count)
            yield span, values


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


def _write(
    measured: "Measured", table: Table, format: RowFormat, options: RowOptions, writing: Writing, keeper: Nonfinite
) -> int:
    """Returns how many rows there are."""
    rows = 0
    with placed(writing.place, overwrite=writing.overwrite) as descriptor:
        writer = open_table(descriptor, table, format, options)
        try:
            for columns in row_columns(measured, table, options.columns, options.top):
                writer.write(columns)
                rows += len(next(iter(columns.values())))
        except BaseException:
            writer.abandon()
            raise
        writer.end(keeper.facts)
    return rows
