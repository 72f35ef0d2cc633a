"""``latentkit stats``: is the encoder healthy? Findings, the clamp, channels, scale."""

import sys
from itertools import islice
from pathlib import Path

from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.health import (
    Result,
    check_fits,
    check_merge,
    check_options,
    check_outputs,
    examine,
    find,
    finish,
    merge,
    note_device,
    note_nonfinite,
    write,
)
from latentkit.cli.options import Choosing, Computing, Faults, Files, Messages, Reading, Writing
from latentkit.cli.rows import say_reading
from latentkit.cli.screen import note
from latentkit.cli.stats_options import Asking, Checking, Merging, Showing, StatsFormat
from latentkit.errors import RequestError
from latentkit.health.conditions import check_asked
from latentkit.write.csv_rows import CsvRows
from latentkit.write.json_rows import jsonable
from latentkit.write.placing import is_stream, placed
from latentkit.write.stream import write_all

# Pieces of JSON, a few characters each, that are written together.
_PIECES = 1 << 15

EXAMPLES = """
[bold]Examples[/bold]

latentkit stats sample_data/healthy-f16.safetensors

latentkit stats sample_data/shards --save-normalization normalization.json

latentkit stats sample_data/video.safetensors --fail-if 'clamped_fraction > 0.001' -o channels.csv
"""


def stats(
    files: Files,
    reading: Reading,
    choosing: Choosing,
    asking: Asking,
    checking: Checking,
    computing: Computing,
    showing: Showing,
    merging: Merging,
    writing: Writing,
    faults: Faults,
    messages: Messages,
) -> None:
    """Is the encoder healthy? Findings in words, the clamp, every channel, the scale of the latents."""
    conditions = check_options(checking, computing)
    form = _format(writing.output, showing.format)
    check_outputs([checking.save_normalization, merging.state], files, writing)
    with listed(faults, overwrite=writing.overwrite, dry_run=choosing.dry_run) as failures:
        if merging.merge:
            check_merge(checking, computing, reading, choosing, asking, faults)
            result = merge(files, conditions, checking)
            channels = showing.chosen(result.summary.channels)
        else:
            check_asked(conditions, asking.names)
            found, other = find(files, reading, choosing, checking.against, failures)
            channels = showing.chosen(found.posteriors[0].axes.channels)
            check_fits(asking.extra, found)
            if choosing.dry_run:
                show_plan(found)
                return
            note_device(computing.device, messages)
            say_reading(found, "csv" if form is StatsFormat.csv else form, messages)
            result = examine(found, other, asking.names, checking, computing, messages, failures)
        _put(result, channels, form, writing)
        if form is not StatsFormat.table:
            note_nonfinite(result.summary, messages)
            _note_left_out(result, messages)
        if merging.state is not None:
            from latentkit.stats.state import to_bytes

            write(merging.state, to_bytes(result.state), writing)
        finish(result, conditions, checking, writing)


def _put(result: Result, channels: list[int] | None, form: StatsFormat, writing: Writing) -> None:
    if form is StatsFormat.table:
        from latentkit.cli.stats_tables import draw

        draw(result, channels)
    elif form is StatsFormat.csv:
        _put_channels(result, channels, writing)
    else:
        from json import JSONEncoder

        from latentkit.health.document import plain

        # Thousands of channels are tens of megabytes: made and written piece by piece.
        encoder = JSONEncoder(indent=1, default=lambda figures: jsonable(plain(figures)))
        pieces = encoder.iterencode(jsonable(result.outline()))
        with placed(writing.output or "-", overwrite=writing.overwrite) as descriptor:
            while some := "".join(islice(pieces, _PIECES)):
                write_all(descriptor, some.encode())
            write_all(descriptor, b"\n")


def _put_channels(result: Result, channels: list[int] | None, writing: Writing) -> None:
    from latentkit.health.document import channel_columns

    groups = result.summary.per_channel
    columns = channel_columns(groups if channels is None else [groups[channel] for channel in channels])
    with placed(writing.output or "-", overwrite=writing.overwrite) as descriptor:
        rows = CsvRows(descriptor, columns)
        rows.write(columns)
        rows.end({})


def _note_left_out(result: Result, messages: Messages) -> None:
    from latentkit.health.document import plain
    from latentkit.health.wording import left_out

    for sentence in left_out(plain(result.summary.extras)):
        note(messages, sentence)


def _format(output: str | None, format: StatsFormat | None) -> StatsFormat:
    if output is None or is_stream(output):
        return format or (StatsFormat.table if output is None and sys.stdout.isatty() else StatsFormat.json)
    if format is StatsFormat.table:
        raise RequestError("--format table is drawn on standard output: leave out -o, or choose another format")
    suffix = Path(output).suffix.lower().removeprefix(".")
    if format is None and suffix not in ("json", "csv"):
        raise RequestError(f"{output}: stats are written as .json (everything) or .csv (a row a channel); or --format")
    return format or StatsFormat(suffix)
