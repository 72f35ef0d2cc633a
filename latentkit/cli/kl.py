"""``latentkit kl``: the KL divergence of each sample's posterior."""

from typing import Annotated

import typer

from latentkit.cli.device import resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.options import Choosing, Computing, Faults, Files, Messages, Reading
from latentkit.cli.row_columns import Table
from latentkit.cli.rows import (
    RowOptions,
    RowWriting,
    check_rows,
    say_partners,
    say_reading,
    warn_of_misreading,
    write_rows,
)
from latentkit.cli.screen import track
from latentkit.device import check_device_name
from latentkit.errors import RequestError
from latentkit.read.choice import Span
from latentkit.read.pairing import pair_posteriors
from latentkit.read.plan import find_posteriors

EXAMPLES = """
latentkit kl sample_data/healthy-f16.safetensors
latentkit kl sample_data/shards --top 10 --columns labels
latentkit kl sample_data/shards -o kl.csv
"""


def kl(
    files: Files,
    reading: Reading,
    choosing: Choosing,
    computing: Computing,
    rows: RowOptions,
    writing: RowWriting,
    faults: Faults,
    messages: Messages,
    against: Annotated[
        str | None,
        typer.Option("--against", metavar="OTHER", help="KL to the posteriors of OTHER, not to the standard normal."),
    ] = None,
    symmetric: Annotated[
        bool, typer.Option("--symmetric", help="With --against: the sum of both directions (Jeffreys).")
    ] = False,
    per_channel: Annotated[bool, typer.Option("--per-channel", help="A row for each channel of a sample.")] = False,
) -> None:
    """KL of each sample's posterior to the prior, or to another posterior."""
    if symmetric and against is None:
        raise RequestError("--symmetric needs --against: the KL to the standard normal has one direction")
    check_device_name(computing.device)
    clamp = computing.clamp()
    selection = reading.selection()
    with listed(faults, overwrite=writing.overwrite or writing.resume, dry_run=choosing.dry_run) as failures:
        found = find_posteriors(files, selection, choosing.choice(), failures=failures)
        partners, others = {}, None
        if against is not None:
            others = find_posteriors([against], selection, failures=failures)
            failed = found.failed, others.failed
            partners = pair_posteriors(
                found.posteriors, others.posteriors, inputs=found.inputs, failures=failures, failed=failed
            )
        axis = "channel" if per_channel else None
        facing = {posterior: partner.identity for posterior, partner in partners.items()}
        table = Table("kl", found, axis, (clamp, symmetric), facing)
        format, table = check_rows(
            writing, rows, table, messages, failures, faults.errors, others.read if others else ()
        )
        found = table.found
        if choosing.dry_run:
            pairs = [(span, partners[span.posterior]) for span in found.spans] if partners else []
            facing_spans = [Span(partner, 0, min(span.count, partner.samples)) for span, partner in pairs]
            show_plan(found, beside=sum(span.nbytes for span in facing_spans))
            return

        from latentkit.measures.kl import kl_values

        device = resolve_device(computing.device, messages)
        say_reading(found, format, messages)
        warn_of_misreading(found, messages)
        if others is not None:
            say_partners(others, found, messages)
        results = kl_values(
            found.spans,
            clamp,
            partners=partners,
            symmetric=symmetric,
            per_channel=per_channel,
            batch_size=computing.batch_size,
            workers=computing.workers,
            device=device,
            failures=failures,
        )
        measured = track(results, found.nbytes, messages)
        write_rows(measured, table, format, rows, writing, messages, failures)
