"""``latentkit report``: what ``stats`` finds, as one HTML page to send to a colleague."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from latentkit.affine import from_factors
from latentkit.cli.device import check_device_name, resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.options import Choosing, Computing, Files, Messages, Reading, Writing
from latentkit.cli.rows import say_reading
from latentkit.cli.stats import _check, _count, _judge, _merge, _note_nonfinite, _other, _write
from latentkit.cli.stats_options import Asking, Checking, Extra
from latentkit.conditions import check_asked
from latentkit.errors import RequestError
from latentkit.normalization import check_target_std, document
from latentkit.storage.inputs import find_inputs
from latentkit.storage.placing import check_place, is_stream
from latentkit.storage.plan import find_posteriors

if TYPE_CHECKING:
    from latentkit.cli.stats import Result
    from latentkit.report.page import Made

EXAMPLES = """
[bold]Examples[/bold]

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
    messages: Messages,
    merge: Annotated[bool, typer.Option("--merge", help="FILES are states that stats --state wrote.")] = False,
) -> None:
    """One HTML page on the encoder's health: findings, pictures, tables; it needs no network and prints well."""
    check_device_name(computing.device)
    conditions = checking.conditions()
    from_factors(checking.scaling_factor, checking.shift_factor)
    check_target_std(checking.target_std)
    _check_output(writing, checking, files)
    if merge:
        state = _merge(files, reading, choosing, Asking(), checking, computing)
        check_asked(conditions, state.extra_names)
        summary, against = state.summary(), None
        names = [file.path for file in find_inputs(files)]
    else:
        clamp = computing.clamp()
        found = find_posteriors(files, reading.selection(latents=True), choosing.choice())
        other = _other(checking.against, reading, choosing, found)
        names = list(dict.fromkeys(posterior.file.path for posterior in found.posteriors))
        if choosing.dry_run:
            show_plan(found)
            return
        resolve_device(computing.device, messages)
        say_reading(found, "json", messages)
        state, summary = _count(found, clamp, [extra.value for extra in Extra], computing, messages)
        against = None
        if other is not None:
            against = _count(other, clamp, [], computing, messages)[1], other.readings
    result = _judge(state, summary, None, against, checking)
    _write(writing.output or "-", _page(result, _made(names)).encode(), writing)
    _note_nonfinite(summary, messages)
    if checking.save_normalization is not None:
        _write(checking.save_normalization, document(summary, result.factors).encode(), writing)
    _check(conditions, result)


def _check_output(writing: Writing, checking: Checking, files: list[str]) -> None:
    """Refuse, before any work, an output that is no page, and a run without what draws its pictures."""
    import importlib.util

    if importlib.util.find_spec("matplotlib") is None:
        raise RequestError("a report needs matplotlib: pip install 'latentkit[report]'; latentkit stats does without")
    output = writing.output
    if output is None and sys.stdout.isatty():
        raise RequestError("a report is a page of HTML: say where to with -o report.html")
    if output is not None and not is_stream(output) and Path(output).suffix.lower() not in (".html", ".htm"):
        raise RequestError(f"{output}: a report is written as .html; a browser prints it, to PDF as well")
    for path in (output, checking.save_normalization):
        if path is not None:
            check_place(path, overwrite=writing.overwrite, inputs=files)
    if output is not None and output == checking.save_normalization:
        raise RequestError(f"{output}: is named for two outputs; give each its own")


def _page(result: "Result", made: "Made") -> str:
    from latentkit.document import document_of
    from latentkit.report.page import page
    from latentkit.report.samples import kl_histogram

    whole = document_of(
        result.summary, result.readings, result.findings, result.factors, result.sample_kl, result.against
    )
    return page(whole, None if result.sample_kl is None else kl_histogram(result.sample_kl), made)


def _made(names: list[str]) -> "Made":
    import platform
    import shlex
    from importlib.metadata import version

    from latentkit import __version__
    from latentkit.report.page import Made

    versions = {"latentkit": __version__, "Python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "numpy", "matplotlib")}
    return Made(shlex.join(["latentkit", *sys.argv[1:]]), names, versions)
