"""``latentkit stats``: is the encoder healthy? Findings, the clamp, channels, scale."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from latentkit.affine import from_factors
from latentkit.cli.commands import CONDITION_HELD
from latentkit.cli.device import check_device_name, resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.options import Choosing, Computing, Files, Messages, Reading, Writing
from latentkit.cli.rows import say_reading
from latentkit.cli.screen import complain, note, track
from latentkit.cli.stats_options import Asking, Checking, Merging, Showing, StatsFormat
from latentkit.conditions import Condition, check_asked, held, why_undefined
from latentkit.errors import DataError, RequestError
from latentkit.normalization import check_target_std, document, factors_of
from latentkit.storage.choice import Posterior
from latentkit.storage.inputs import find_inputs
from latentkit.storage.placing import check_place, is_stream, placed
from latentkit.storage.plan import Found, find_posteriors
from latentkit.storage.tables import CsvRows, jsonable, write_all

if TYPE_CHECKING:
    from latentkit.findings import Finding
    from latentkit.normalization import Factors as Normalization
    from latentkit.outliers import SampleKl
    from latentkit.state import State
    from latentkit.statistics import Place, Summary

EXAMPLES = """
[bold]Examples[/bold]

latentkit stats sample_data/healthy-f16.safetensors

latentkit stats sample_data/shards --save-normalization normalization.json

latentkit stats sample_data/video.safetensors --fail-if 'clamped_fraction > 0.001' -o channels.csv
"""


@dataclass(frozen=True)
class Result:
    """All that a run came to."""

    summary: "Summary"
    sample_kl: "SampleKl | None"
    findings: "list[Finding]"
    factors: "Normalization"
    readings: list[str]
    channels: list[int] | None
    #: The summary that these figures are set beside, and how its input was read.
    against: "tuple[Summary, list[str]] | None"


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
    messages: Messages,
) -> None:
    """Is the encoder healthy? Findings in words, the clamp, every channel, the scale of the latents."""
    check_device_name(computing.device)
    conditions = checking.conditions()
    from_factors(checking.scaling_factor, checking.shift_factor)
    check_target_std(checking.target_std)
    form = _format(writing.output, showing.format)
    outputs = [path for path in (writing.output, checking.save_normalization, merging.state) if path is not None]
    for path in outputs:
        check_place(path, overwrite=writing.overwrite, inputs=files)
        if outputs.count(path) > 1:
            raise RequestError(f"{path}: is named for two outputs; give each its own")
    if merging.merge:
        state = _merge(files, reading, choosing, asking, checking, computing)
        check_asked(conditions, state.extra_names)
        summary, against = state.summary(), None
        channels = showing.chosen(summary.channels)
    else:
        check_asked(conditions, asking.names)
        clamp = computing.clamp()
        found = find_posteriors(files, reading.selection(latents=True), choosing.choice())
        other = _other(checking.against, reading, choosing, found)
        channels = showing.chosen(found.posteriors[0].axes.channels)
        if choosing.dry_run:
            show_plan(found)
            return
        resolve_device(computing.device, messages)
        say_reading(found, "csv" if form is StatsFormat.csv else form, messages)
        state, summary = _count(found, clamp, asking.names, computing, messages)
        against = None
        if other is not None:
            against = _count(other, clamp, [], computing, messages)[1], other.readings
    result = _judge(state, summary, channels, against, checking)
    _put(result, form, writing)
    if form is not StatsFormat.table:
        _note_nonfinite(summary, messages)
        _note_left_out(summary, messages)
    if merging.state is not None:
        from latentkit.state import to_bytes

        _write(merging.state, to_bytes(state), writing)
    if checking.save_normalization is not None:
        _write(checking.save_normalization, document(summary, result.factors).encode(), writing)
    _check(conditions, result)


def _merge(
    files: list[str], reading: Reading, choosing: Choosing, asking: Asking, checking: Checking, computing: Computing
) -> "State":
    """States as one; options that say how to read tensors say nothing here, and are refused."""
    clamped = (computing.clamp_min, computing.clamp_max) != (Computing.clamp_min, Computing.clamp_max)
    if (reading, choosing, asking) != (Reading(), Choosing(), Asking()) or clamped or checking.against is not None:
        raise RequestError(
            "--merge reads states, in which tensors, samples, clamp and --with are settled: leave out the options on "
            "reading, samples, the clamp, --with and --against"
        )
    paths = [file.path for file in find_inputs(files)]

    from latentkit.state import merged

    state = merged(paths)
    if state.statistics.samples == 0:
        raise DataError(f"{paths[0]}: there are no samples in it")
    return state


def _other(against: str | None, reading: Reading, choosing: Choosing, found: Found) -> Found | None:
    _check_alike(found.posteriors)
    if against is None:
        return None
    other = find_posteriors([against], reading.selection(latents=True), choosing.choice())
    _check_alike(other.posteriors)
    first, theirs = found.posteriors[0], other.posteriors[0]
    if theirs.axes.channels != first.axes.channels:
        raise RequestError(
            f"{first.label} has {first.axes.channels} latent channels and {theirs.label} has {theirs.axes.channels}: "
            f"they cannot be set side by side"
        )
    return other


def _write(path: str, data: bytes, writing: Writing) -> None:
    with placed(path, overwrite=writing.overwrite) as descriptor:
        write_all(descriptor, data)


def _count(
    found: Found, clamp: tuple[float, float], extras: list[str], computing: Computing, messages: Messages
) -> "tuple[State, Summary]":
    """What was counted, and the figures; ``extras`` names those asked for besides."""
    from latentkit.counting import statistics_of
    from latentkit.extras import Extras
    from latentkit.outliers import SampleKl
    from latentkit.state import State

    first = found.posteriors[0]
    sample_kl = None if first.parameterization == "none" else SampleKl()
    more = Extras(extras, first.axes.channels, first.parameterization, clamp) if extras else None
    statistics = statistics_of(
        found.spans,
        clamp,
        batch_size=computing.batch_size,
        workers=computing.workers,
        sample_kl=sample_kl,
        extras=more,
        progress=lambda done: track(done, found.nbytes, messages),
    )
    state = State(statistics, sample_kl, found.readings, more)
    summary = state.summary()
    scale = summary.overall.logvar
    if scale is not None and scale.negative_count:
        raise DataError(
            f"{first.file.path}: {scale.negative_count:,} values of the second half are negative, so "
            f"they are no {statistics.parameterization}; the first value that is no number stands"
            f"{_place(scale.nonfinite_at)}; are they log-variances (--parameterization logvar)?"
        )
    return state, summary


def _place(place: "Place | None") -> str:
    return "" if place is None else f" in {place.name}, tensor {place.key!r}, sample {place.index}"


def _judge(
    state: "State",
    summary: "Summary",
    channels: list[int] | None,
    against: "tuple[Summary, list[str]] | None",
    checking: Checking,
) -> Result:
    from latentkit.findings import find

    findings = find(
        summary,
        state.sample_kl,
        scaling_factor=checking.scaling_factor,
        shift_factor=checking.shift_factor,
        target_std=checking.target_std,
    )
    factors = factors_of(summary, checking.target_std)
    return Result(summary, state.sample_kl, findings, factors, state.readings, channels, against)


def _put(result: Result, form: StatsFormat, writing: Writing) -> None:
    if form is StatsFormat.table:
        from latentkit.cli.stats_tables import draw

        draw(result)
        return
    from latentkit.document import channel_columns, document_of

    summary = result.summary
    with placed(writing.output or "-", overwrite=writing.overwrite) as descriptor:
        if form is StatsFormat.csv:
            chosen = result.channels if result.channels is not None else range(summary.channels)
            columns = channel_columns([summary.per_channel[channel] for channel in chosen])
            rows = CsvRows(descriptor, columns)
            rows.write(columns)
            rows.end({})
        else:
            import json

            whole = document_of(
                summary, result.readings, result.findings, result.factors, result.sample_kl, result.against
            )
            write_all(descriptor, (json.dumps(jsonable(whole), indent=1) + "\n").encode())


def _check(conditions: Sequence[Condition], result: Result) -> None:
    """Say which conditions hold, and end with their status if one does."""
    broken = held(conditions, result.summary, result.findings)
    for condition, value in broken:
        figure = f"is undefined ({why_undefined(result.summary)})" if value != value else f"is {value:.6g}"
        complain(f"--fail-if {str(condition)!r} holds: {condition.name} {figure}")
    if broken:
        raise typer.Exit(CONDITION_HELD)


def _note_nonfinite(summary: "Summary", messages: Messages) -> None:
    mean, scale = summary.overall.mean, summary.overall.logvar
    nonfinite = mean.nan_count + mean.plus_inf_count + mean.minus_inf_count
    nonfinite += scale.nan_count if scale is not None else 0
    if nonfinite:
        note(messages, f"{nonfinite:,} values are NaN, or infinite means: they are counted and left out of the figures")


def _note_left_out(summary: "Summary", messages: Messages) -> None:
    from latentkit.cli.stats_extras import left_out

    for sentence in left_out(summary.extras):
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


def _check_alike(posteriors: Sequence[Posterior]) -> None:
    """Channels are pooled over all inputs, so their number and meaning must agree."""
    first = posteriors[0]
    for other in posteriors[1:]:
        if other.axes.channels != first.axes.channels:
            raise RequestError(
                f"{first.label} has {first.axes.channels} latent channels and {other.label} has "
                f"{other.axes.channels}: run stats for each"
            )
        if other.parameterization != first.parameterization:
            raise RequestError(
                f"{first.label} holds a {first.parameterization} and {other.label} a {other.parameterization}: run "
                f"stats for each, or say --parameterization"
            )
