"""Rows of ``kl`` and ``nll`` into a folder of parts: a table for each input, placed when it is complete."""

import os
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from latentkit import __version__
from latentkit.cli.nonfinite import Nonfinite
from latentkit.cli.options import Messages, OnNonfinite, RowFormat
from latentkit.cli.row_columns import Table, open_table, row_columns, row_types
from latentkit.cli.screen import note, say_kept
from latentkit.errors import RequestError
from latentkit.read.choice import Span
from latentkit.text import count_of
from latentkit.write.batch import Batch
from latentkit.write.leftovers import at_work_in
from latentkit.write.parts import NOTE_NAME, Part, digest_of, is_complete, place_note, read_note
from latentkit.write.places import check_outputs, refuse_one_place
from latentkit.write.placing import Placement

if TYPE_CHECKING:
    from latentkit.cli.row_columns import Measured
    from latentkit.cli.rows import RowOptions, RowWriting
    from latentkit.run import Values


@dataclass(frozen=True)
class Parts:
    """The parts of a folder, by the paths of their inputs; ``waiting`` are those that are still to be made."""

    folder: str
    all: Mapping[str, Part]
    waiting: Mapping[str, Part]


def plan_parts(
    table: Table,
    format: RowFormat,
    options: "RowOptions",
    writing: "RowWriting",
    messages: Messages,
    errors: str | None,
    read: Sequence[str],
) -> Table:
    """The table with a part for each input, and what is to be read for those that wait, one part after the other.

    ``--resume`` leaves out what is complete. Raises ``RequestError`` for parts that cannot be written.
    """
    if options.top is not None:
        raise RequestError("--top ranks the samples of all inputs: give -o a file, not a folder")
    folder = writing.place
    parts = _parts_of(table, format, options, folder)
    may_exist = writing.overwrite or writing.resume
    check_outputs([errors, *(part.path for part in parts.values())], overwrite=may_exist, read=read)
    check_outputs([os.path.join(folder, NOTE_NAME)], overwrite=True, read=read)
    waiting = parts
    if writing.resume:
        noted = read_note(folder)
        waiting = {
            path: part
            for path, part in parts.items()
            if not is_complete(part, noted, folder, overwrite=writing.overwrite)
        }
        note(messages, f"resume: {len(parts) - len(waiting):,} of {len(parts):,} files were complete")
    spans = tuple(span for path, some in _by_input(table).items() if path in waiting for span in some)
    posteriors = tuple(dict.fromkeys(span.posterior for span in spans))
    found = replace(table.found, spans=spans, posteriors=posteriors)
    return replace(table, found=found, parts=Parts(folder, parts, waiting))


def _parts_of(table: Table, format: RowFormat, options: "RowOptions", folder: str) -> dict[str, Part]:
    skips = options.on_nonfinite is OnNonfinite.skip
    types = row_types(table, options.columns)
    request = digest_of(
        __version__, types, format.value, options.no_header, options.units.value, skips, *table.made_with
    )
    parts: dict[str, Part] = {}
    inputs: dict[str, str] = {}
    for path, spans in _by_input(table).items():
        name = f"{os.path.splitext(spans[0].posterior.file.name)[0]}.{format.value}"
        place = os.path.join(folder, *name.split("/"))
        if place in inputs:
            refuse_one_place(place, inputs[place], path)
        inputs[place] = path
        sources = [
            (span.posterior.identity, span.first, span.count, table.beside.get(span.posterior)) for span in spans
        ]
        parts[path] = Part(place, digest_of(request, sources))
    return parts


def _by_input(table: Table) -> dict[str, list[Span]]:
    spans: dict[str, list[Span]] = {}
    for span in table.found.spans:
        spans.setdefault(span.posterior.file.path, []).append(span)
    return spans


def write_parts(
    measured: "Measured",
    table: Table,
    parts: Parts,
    format: RowFormat,
    options: "RowOptions",
    writing: "RowWriting",
    keeper: Nonfinite,
    messages: Messages,
) -> None:
    """Write rows as they come, each input's to its part; parts that are complete stay when the work ends early."""
    batch = Batch()
    left_by = [*(part.path for part in parts.all.values()), os.path.join(parts.folder, NOTE_NAME)]
    with at_work_in(parts.folder, left_by if writing.resume else (), alone=True):
        try:
            with ExitStack() as ending:
                ending.callback(batch.commit)
                whole = ending.enter_context(closing(_whole(measured, table, parts, format, options, writing)))
                for number, part in enumerate(whole):
                    if number == 0:
                        place_note(parts.folder, parts.waiting.values())
                    batch.add(part.placement, part.end(keeper))
        except BaseException as error:
            say_kept(error, len(parts.all) - len(parts.waiting) + batch.placed, len(parts.all), messages)
            raise
    if batch.placed:
        note(messages, f"wrote {writing.place}: {count_of(batch.placed, 'file')}")


def _whole(
    measured: "Measured", table: Table, parts: Parts, format: RowFormat, options: "RowOptions", writing: "RowWriting"
) -> Generator["_OpenPart"]:
    """The parts, each when all rows are in it. An input of which some do not come has failed, and its part is gone."""
    spans = _by_input(table)
    part: _OpenPart | None = None
    try:
        for span, values in measured:
            path = span.posterior.file.path
            if part is None or part.input != path:
                if part is not None:
                    part.discard()
                placement = Placement(parts.waiting[path].path, overwrite=writing.overwrite)
                part = _OpenPart(path, spans[path], placement, table, format, options)
            part.write(span, values)
            if not part.missing:
                yield part
                part = None
    finally:
        if part is not None:
            part.discard()


class _OpenPart:
    """The part of one input while it is written; ``missing`` are the samples that are still to come."""

    def __init__(
        self,
        path: str,
        spans: Sequence[Span],
        placement: Placement,
        table: Table,
        format: RowFormat,
        options: "RowOptions",
    ) -> None:
        self.input = path
        self.missing = sum(span.count for span in spans)
        self.placement = placement
        posteriors = tuple(dict.fromkeys(span.posterior for span in spans))
        self._table = replace(table, found=replace(table.found, posteriors=posteriors))
        self._options = options
        self._keeper = Nonfinite(options.on_nonfinite)
        self._rows = open_table(placement.descriptor, self._table, format, options)

    def write(self, span: Span, values: "Values") -> None:
        watched = self._keeper.watch(iter([(span, values)]))
        with self.placement.opened():
            for columns in row_columns(watched, self._table, self._options.columns, None):
                self._rows.write(columns)
        self.missing -= span.count

    def end(self, keeper: Nonfinite) -> int:
        """Write what is left, and let ``keeper`` count all of it; returns the bytes."""
        keeper.include(self._keeper)
        with self.placement.opened() as descriptor:
            self._rows.end(self._keeper.facts)
            return os.fstat(descriptor).st_size

    def discard(self) -> None:
        with suppress(OSError):
            self._rows.abandon()
        self.placement.discard()
