"""``latentkit stats``: is the encoder healthy? Clamp, channels, scale."""

import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from latentkit.cli.device import check_device_name, resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.options import Choosing, Computing, FactFormat, Files, Messages, Reading, Writing
from latentkit.cli.rows import say_reading
from latentkit.cli.screen import note, track
from latentkit.errors import DataError, RequestError
from latentkit.storage.choice import Posterior
from latentkit.storage.placing import check_place, is_stream, placed
from latentkit.storage.plan import find_posteriors
from latentkit.storage.tables import jsonable, write_all

EXAMPLES = """
[bold]Examples[/bold]

latentkit stats sample_data/healthy-f16.safetensors

latentkit stats sample_data/synthetic-clamp.safetensors --clamp-min -20

latentkit stats sample_data/shards --format json | python -m json.tool
"""


def stats(
    files: Files,
    reading: Reading,
    choosing: Choosing,
    computing: Computing,
    writing: Writing,
    messages: Messages,
    format: Annotated[
        FactFormat | None, typer.Option("--format", help="table on a terminal, json in a pipe, unless said.")
    ] = None,
) -> None:
    """Statistics of the log-variance and its clamp, of every channel, and of the latents' scale."""
    check_device_name(computing.device)
    clamp = computing.clamp()
    form = _format(writing.output, format)
    if writing.output is not None:
        check_place(writing.output, overwrite=writing.overwrite)
    found = find_posteriors(files, reading.selection(), choosing.choice())
    _check_alike(found.posteriors)
    if choosing.dry_run:
        show_plan(found)
        return

    from latentkit.counting import statistics_of

    resolve_device(computing.device, messages)
    say_reading(found, form, messages)
    summary = statistics_of(
        found.spans,
        clamp,
        batch_size=computing.batch_size,
        workers=computing.workers,
        progress=lambda done: track(done, found.nbytes, messages),
    ).summary()
    scale = summary.overall.logvar
    if scale is not None and scale.negative_count:
        raise DataError(
            f"{found.posteriors[0].file.path}: {scale.negative_count:,} values of the second half are negative, so "
            f"they are no {summary.parameterization}; are they log-variances (--parameterization logvar)?"
        )
    if form is FactFormat.table:
        from latentkit.cli.stats_tables import draw_summary

        draw_summary(summary, found.readings)
    else:
        import json

        document = {"measure": "stats", "read": found.readings, **asdict(summary)}
        with placed(writing.output or "-", overwrite=writing.overwrite) as descriptor:
            write_all(descriptor, (json.dumps(jsonable(document), indent=1) + "\n").encode())
    overall = summary.overall
    nonfinite = overall.mean.nan_count + overall.mean.plus_inf_count + overall.mean.minus_inf_count
    nonfinite += scale.nan_count if scale is not None else 0
    if nonfinite:
        note(messages, f"{nonfinite:,} values are NaN, or infinite means: they are counted and left out of the figures")


def _format(output: str | None, format: FactFormat | None) -> FactFormat:
    if output is not None and not is_stream(output):
        if Path(output).suffix.lower() != ".json" or format is FactFormat.table:
            raise RequestError(f"{output}: stats are written as JSON; give -o a name that ends in .json")
        return FactFormat.json
    return format or (FactFormat.table if output is None and sys.stdout.isatty() else FactFormat.json)


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
