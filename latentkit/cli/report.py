"""``latentkit report``: what ``stats`` finds, as one HTML page to send to a colleague."""

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

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
from latentkit.cli.stats_options import Checking, Extra, Merge
from latentkit.errors import RequestError
from latentkit.health.examination import Result, fits
from latentkit.read.inputs import find_inputs
from latentkit.read.plan import Found
from latentkit.stats import MOST_REPORTED
from latentkit.write.places import check_outputs
from latentkit.write.placing import is_stream

if TYPE_CHECKING:
    from latentkit.report.page import Made

EXAMPLES = """
latentkit report sample_data/healthy-f16.safetensors -o report.html
latentkit report sample_data/shards -o shards.html --scaling-factor 0.18215
latentkit report sample_data/collapsed.safetensors -o collapsed.html --against sample_data/healthy-f32.safetensors
"""


def report(
    files: Files,
    reading: Reading,
    choosing: Choosing,
    checking: Checking,
    computing: Computing,
    writing: Writing,
    faults: Faults,
    messages: Messages,
    typed: Typed,
    merging: Merge = False,
) -> None:
    """One HTML page on the encoder's health: findings, pictures, tables."""
    conditions = check_options(checking, computing)
    _check_page(writing.output)
    outputs = [writing.place, checking.save_normalization, faults.errors]
    against = beside = [checking.against] if checking.against else []
    with listed(faults, overwrite=writing.overwrite, dry_run=choosing.dry_run) as failures:
        if merging:
            check_merge(checking, typed)
            names = [file.path for file in find_inputs(files)]
            check_outputs(outputs, overwrite=writing.overwrite, read=[*names, *beside])
            result = merge(names, conditions, checking, messages, MOST_REPORTED)
        else:
            found, other = find(files, reading, choosing, checking.against, failures)
            check_outputs(outputs, overwrite=writing.overwrite, read=[*found.read, *(other.read if other else beside)])
            if choosing.dry_run:
                show_plan(found, beside=other.nbytes if other else 0)
                return
            note_device(computing.device, messages)
            say_reading(found, "json", messages)
            if other is not None:
                say_partners(other, found, messages)
            parts, sets = list(filter(None, (found, other))), 1 + (checking.against is not None)
            extras = [extra.value for extra in Extra if all(fits(extra, part, sets) for part in parts)]
            result = examine(found, other, extras, checking, computing, messages, failures, most=MOST_REPORTED)
            names, against = (_names(part.without(failures)) if part else beside for part in (found, other))
        write({writing.place: [_page(result, _made(names, against)).encode()]}, result, checking, writing)
        say_written([writing.place], result, checking, messages)
        note_nonfinite(result.summary, messages)
        finish(result, conditions)


def _check_page(output: str | None) -> None:
    """Refuse, before any work, an output that is no page, and a run without what draws its pictures."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("a report needs matplotlib: pip install 'vae-latentkit[report]'; stats does without")
    if output is None and sys.stdout.isatty():
        raise RequestError("a report is a page of HTML: say where to with -o report.html")
    if output is not None and not is_stream(output) and Path(output).suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{output}: a report is written as .html; a browser prints it, to PDF as well")
    _load_matplotlib()


def _load_matplotlib() -> None:
    import logging

    # Pictures go into the page, whatever is set for windows; where its caches are concerns nobody.
    os.environ["MPLBACKEND"] = "agg"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    try:
        import matplotlib  # noqa: F401
    except Exception as error:
        raise RequestError(f"matplotlib, which draws the pictures of a report, cannot be loaded: {error}") from error


def _page(result: Result, made: "Made") -> str:
    from latentkit.report.page import page
    from latentkit.report.samples import histogram_of
    from latentkit.report.seen import seen

    ours, theirs = result.state.per_sample, result.against.values if result.against else None
    histograms = histogram_of(ours) if ours else None, histogram_of(theirs) if theirs else None
    # Each picture leaves a cycle of megabytes behind, which is looked for without going through all that is there now.
    gc.collect()
    gc.freeze()
    return page(seen(result.outline()), histograms, made)


def _names(found: Found) -> list[str]:
    return list(dict.fromkeys(posterior.file.path for posterior in found.posteriors))


def _made(names: list[str], against: list[str]) -> "Made":
    import platform
    import shlex
    from importlib.metadata import version

    from latentkit import __version__
    from latentkit.report.page import Made

    versions = {"latentkit": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in ("numba", "numpy", "matplotlib")}
    return Made(shlex.join(["latentkit", *sys.argv[1:]]), names, versions, against)
