"""``--dry-run``: the plan, by headers alone."""

import json
import sys
from collections.abc import Sequence

from latentkit.cli.screen import dense_table, stdout_screen
from latentkit.read.plan import Found
from latentkit.write.safetensors import free_space


def show_plan(found: Found, folder: str | None = None, sizes: Sequence[int] = (), *, beside: int = 0) -> None:
    """Show what would be read, and written to ``folder`` in files of these ``sizes``: a table, or JSON in a pipe.

    ``beside``: bytes of partners that are read too.
    """
    facts: dict[str, int | None] = {
        "files": len({posterior.file.path for posterior in found.posteriors}),
        "tensors": len(found.posteriors),
        "samples": found.samples,
        "bytes_in": found.nbytes + beside,
    }
    if folder is not None:
        facts |= {"files_out": len(sizes), "bytes_out": sum(sizes), "bytes_free": free_space(folder)}
    if not sys.stdout.isatty():
        print(json.dumps({**facts, "read": found.readings}))
        return
    table = dense_table("plan", "", left=("plan",))
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), "unknown" if value is None else f"{value:,}")
    stdout_screen().put("Nothing was computed or written", table, found.readings)
