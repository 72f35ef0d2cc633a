"""``latentkit nll``: how likely latents are under their posterior."""

import os
from typing import Annotated

import typer

from latentkit.cli.device import resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.options import Choosing, Computing, Factors, Faults, Files, Messages, Reading
from latentkit.cli.row_columns import Table
from latentkit.cli.rows import RowOptions, RowWriting, check_rows, say_reading, warn_of_misreading, write_rows
from latentkit.cli.screen import note, track
from latentkit.device import check_device_name
from latentkit.posterior.affine import IDENTITY, Affine, from_factors
from latentkit.read.choice import Posterior
from latentkit.read.metadata import is_drawn
from latentkit.read.pairing import INDEX_NAME, Latents, affine_in, affine_of, pair_latents
from latentkit.read.plan import find_posteriors

EXAMPLES = """
latentkit nll sample_data/healthy-f32.safetensors --latents sample_data/latents.safetensors
latentkit sample sample_data/shards -o drawn && latentkit nll sample_data/shards --latents drawn
latentkit nll sample_data/healthy-f32.safetensors --latents sample_data/latents.safetensors --top 5
"""


def nll(
    files: Files,
    latents: Annotated[
        str,
        typer.Option("--latents", metavar="LATENTS", help="The latents: a file, or a folder that mirrors the inputs."),
    ],
    reading: Reading,
    choosing: Choosing,
    computing: Computing,
    factors: Factors,
    rows: RowOptions,
    writing: RowWriting,
    faults: Faults,
    messages: Messages,
    latents_key: Annotated[
        str | None, typer.Option("--latents-key", metavar="NAME", help="Tensor with the latents.")
    ] = None,
) -> None:
    """Negative log-likelihood of latents under each sample's posterior."""
    check_device_name(computing.device)
    clamp = computing.clamp()
    flagged = from_factors(factors.scaling_factor, factors.shift_factor) if factors.given else None
    with listed(faults, overwrite=writing.overwrite or writing.resume, dry_run=choosing.dry_run) as failures:
        found = find_posteriors(files, reading.selection(), choosing.choice(), failures=failures)
        pairs = pair_latents(
            found.posteriors, latents, latents_key, inputs=found.inputs, failures=failures, failed=found.failed
        )
        affines = {}
        for posterior, of in pairs.items():
            with failures.passing_over(posterior.file.path):
                affines[posterior] = affine_of(posterior, of, flagged)
        axis = "draw" if any(of.drawn_often for of in pairs.values()) else None
        table = Table("nll", found, axis, (clamp,), {each: (pairs[each].identity, affines[each]) for each in affines})
        beside = {latents, os.path.join(latents, INDEX_NAME)}
        beside |= {header.path for of in pairs.values() for _, header, _ in of.runs}
        format, table = check_rows(writing, rows, table, messages, failures, faults.errors, beside)
        found = table.found
        if choosing.dry_run:
            drawn = [(span.count, pairs[span.posterior]) for span in found.spans]
            show_plan(found, beside=sum(of.tensor.nbytes // of.runs[0][0].rows * count for count, of in drawn))
            return

        from latentkit.measures.nll import nll_values

        device = resolve_device(computing.device, messages)
        say_reading(found, format, messages)
        warn_of_misreading(found, messages)
        _say_rounding(pairs, messages)
        _say_factors(pairs, affines, flagged, messages)
        results = nll_values(
            found.spans,
            pairs,
            affines,
            clamp,
            batch_size=computing.batch_size,
            workers=computing.workers,
            device=device,
            failures=failures,
        )
        write_rows(track(results, found.nbytes, messages), table, format, rows, writing, messages, failures)


def _say_factors(
    pairs: dict[Posterior, Latents], affines: dict[Posterior, Affine], flagged: Affine | None, messages: Messages
) -> None:
    """Where another program's word was passed over, or the moments' metadata alone says how latents were scaled."""
    foreign = [each for each in affines if not is_drawn(pairs[each].header)]
    silent = [each for each in foreign if affine_in(pairs[each]) is None]
    strange = {pairs[each].header.path: pairs[each].header.metadata.get("affine") for each in silent}
    if paths := [path for path, said in strange.items() if said is not None]:
        more = f" and {len(paths) - 1:,} more" if len(paths) > 1 else ""
        said = str(strange[paths[0]])[:40]
        note(messages, f"{paths[0]}{more}: its metadata says affine {said!r}, which means nothing here: passed over")
    for affine in {affines[each] for each in silent if flagged is None} - {IDENTITY}:
        note(
            messages,
            f"latents with scaling factor {affine.scale[0]:g}, shift factor {affine.shift[0]:g}, by the metadata of "
            f"the moments; --scaling-factor 1 if they have none",
        )


def _say_rounding(pairs: dict[Posterior, Latents], messages: Messages) -> None:
    coarse = sorted({of.tensor.dtype for of in pairs.values()} & {"F16", "BF16", "F8_E4M3", "F8_E5M2"})
    if coarse:
        note(
            messages,
            f"latents stored as {', '.join(coarse)} are rounded; where σ is finer than that, NLL shows the rounding",
        )
