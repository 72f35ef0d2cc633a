"""``latentkit stats``: is the encoder healthy? Findings, the clamp, channels, scale."""

import sys
from itertools import chain, islice
from pathlib import Path

from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.health import (
    check_merge,
    check_options,
    examine,
    find,
    finish,
    merge,
    note_device,
    note_nonfinite,
    say_written,
    write,
)
from latentkit.cli.options import Choosing, Computing, Faults, Files, Messages, Reading, Typed, Writing
from latentkit.cli.rows import say_partners, say_reading
from latentkit.cli.screen import note
from latentkit.cli.stats_options import Asking, Checking, Merging, Showing, StatsFormat
from latentkit.errors import RequestError
from latentkit.health.examination import Result, check_fits
from latentkit.health.figures import check_asked
from latentkit.read.inputs import find_inputs
from latentkit.write.csv_rows import csv_pieces
from latentkit.write.json_rows import jsonable
from latentkit.write.places import check_outputs
from latentkit.write.placing import Pieces, is_stream

# Pieces of JSON, a few characters each, that are written together.
_PIECES = 1 << 15
_DRAWN = StatsFormat.table, StatsFormat.markdown

EXAMPLES = """
latentkit stats sample_data/healthy-f16.safetensors
latentkit stats sample_data/shards --save-normalization normalization.json
latentkit stats sample_data/shards --fail-if 'clamped_fraction > 0.001'
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
    typed: Typed,
) -> None:
    """Is the encoder healthy? Findings, the clamp, channels, scaling."""
    conditions = check_options(checking, computing)
    form = _format(writing.output, showing.format)
    if asking.by is not None and merging.state is not None:
        raise RequestError("--state holds no figures per label: leave out --by, or --state")
    beside = [checking.against] if checking.against else []
    outputs = [writing.place, merging.state, checking.save_normalization, faults.errors]
    with listed(faults, overwrite=writing.overwrite, dry_run=choosing.dry_run) as failures:
        if merging.merge:
            check_merge(checking, typed)
            states = [file.path for file in find_inputs(files)]
            check_outputs(outputs, overwrite=writing.overwrite, read=[*states, *beside])
            result = merge(states, conditions, checking, messages)
            channels = showing.chosen(result.summary.channels)
        else:
            check_asked(conditions, asking.names)
            found, other = find(files, reading, choosing, checking.against, failures)
            check_outputs(outputs, overwrite=writing.overwrite, read=[*found.read, *(other.read if other else beside)])
            channels = showing.chosen(found.posteriors[0].axes.channels)
            for part in filter(None, (found, other)):
                check_fits(asking.extra, part, 1 + len(beside))
            labels = None
            if asking.by is not None:
                from latentkit.read.labels import find_labels

                labels = find_labels(found, asking.by, failures)
                found = found.without(failures)
            if choosing.dry_run:
                show_plan(found, beside=other.nbytes if other else 0)
                return
            note_device(computing.device, messages)
            say_reading(found, "csv" if form is StatsFormat.csv else form, messages)
            if other is not None:
                say_partners(other, found, messages)
            how = asking.names, checking, computing, messages, failures, labels
            result = examine(found, other, *how, keep_state=merging.state is not None)
        _write(result, channels, form, checking, showing, merging, writing, messages)
        finish(result, conditions)


def _write(
    result: Result,
    channels: list[int] | None,
    form: StatsFormat,
    checking: Checking,
    showing: Showing,
    merging: Merging,
    writing: Writing,
    messages: Messages,
) -> None:
    if channels is not None and (form is StatsFormat.json or (form is StatsFormat.csv and result.groups is not None)):
        note(
            messages, f"--channels chooses rows of tables and of the CSV of channels: this {form.upper()} has them all"
        )
    outputs: dict[str, Pieces] = {} if form in _DRAWN else {writing.place: _content(result, channels, form)}
    try:
        if merging.state is not None:
            from latentkit.stats.state import to_pieces

            outputs[merging.state] = to_pieces(result.state)
        write(outputs, result, checking, writing)
        say_written(outputs, result, checking, messages)
    finally:
        # What took long is shown even where there is no room to write it.
        if form in _DRAWN:
            from latentkit.cli.stats_tables import draw

            markdown = form is StatsFormat.markdown
            draw(result, channels, against=checking.against, full=showing.full, markdown=markdown)
        else:
            note_nonfinite(result.summary, messages)
            _note_left_out(result, messages)


def _content(result: Result, channels: list[int] | None, form: StatsFormat) -> Pieces:
    if form is StatsFormat.json:
        from json import JSONEncoder

        from latentkit.health.document import plain

        # Thousands of channels are tens of megabytes: made and written piece by piece.
        encoder = JSONEncoder(indent=1, default=lambda figures: jsonable(plain(figures)))
        pieces = encoder.iterencode(jsonable(result.outline()))
        return chain(iter(lambda: "".join(islice(pieces, _PIECES)).encode(), b""), [b"\n"])
    from latentkit.health.document import channel_columns, label_columns

    if result.groups is not None:
        return csv_pieces(label_columns(result.groups, is_drawn=result.summary.parameterization == "none"))
    groups = result.summary.per_channel
    chosen = groups if channels is None else [groups[channel] for channel in channels]
    return csv_pieces(channel_columns(chosen, result.summary.extras))


def _note_left_out(result: Result, messages: Messages) -> None:
    from latentkit.health.document import plain
    from latentkit.health.wording import left_out

    for sentence in left_out(plain(result.summary.extras)):
        note(messages, sentence)


def _format(output: str | None, format: StatsFormat | None) -> StatsFormat:
    if output is None or is_stream(output):
        return format or (StatsFormat.table if output is None and sys.stdout.isatty() else StatsFormat.json)
    if format in _DRAWN:
        raise RequestError(f"--format {format} is drawn on standard output: leave out -o, or choose another format")
    suffix = Path(output).suffix.lower().removeprefix(".")
    if format is None and suffix not in ("json", "csv"):
        raise RequestError(f"{output}: stats are written as .json (all) or .csv (a row per channel); or --format")
    return format or StatsFormat(suffix)
