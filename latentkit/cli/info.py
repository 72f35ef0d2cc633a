"""``latentkit info``: what is in files, and what would be read as moments; loads no torch."""

import json
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from latentkit.cli.faults import listed
from latentkit.cli.options import FactFormat, Faults, Files, KeepGoing, Messages, Reading
from latentkit.cli.screen import fitting_table, note_unreadable, stdout_screen
from latentkit.errors import LatentkitError
from latentkit.failures import Failures
from latentkit.read.choice import Selection, choose
from latentkit.read.header import Header, read_header
from latentkit.read.inputs import InputFile, find_inputs
from latentkit.read.presets import fitting
from latentkit.text import harmless

if TYPE_CHECKING:
    from rich.console import RenderableType

    from latentkit.cli.screen import Screen

# Rows of a table: a terminal is slow to draw, and nobody reads more.
_MOST_SHOWN = 200

EXAMPLES = """
latentkit info sample_data/healthy-f16.safetensors
latentkit info sample_data
latentkit info sample_data/shards | python -m json.tool
"""


def info(
    files: Files,
    reading: Reading,
    messages: Messages,
    format: Annotated[
        FactFormat | None,
        typer.Option("--format", metavar="FORMAT", help="table (on a terminal), json (in a pipe) or markdown."),
    ] = None,
    keep_going: KeepGoing = False,
) -> None:
    """What is in files, and which tensors are moments, and why."""
    selection = reading.selection(latents=True)
    found = find_inputs(files)
    note_unreadable(found.unreadable, messages)
    with listed(Faults(keep_going)) as failures:
        if (format or (FactFormat.table if sys.stdout.isatty() else FactFormat.json)) is FactFormat.json:
            _print_json(_headers(found, failures), selection)
            return
        screen = stdout_screen(markdown=format is FactFormat.markdown)
        for file, header in _headers(found, failures):
            _draw(screen, file, header, selection)


def _headers(found: list[InputFile], failures: Failures) -> Iterator[tuple[InputFile, Header]]:
    for file in found:
        with failures.passing_over(file.path):
            yield file, read_header(file.path)


def _facts(file: InputFile, header: Header, selection: Selection) -> dict[str, Any]:
    tensors = [
        {"key": tensor.key, "dtype": tensor.dtype, "shape": list(tensor.shape), "bytes": tensor.nbytes}
        for tensor in header.tensors.values()
    ]
    facts: dict[str, Any] = {"file": file.path, "name": file.name, "bytes": header.stamp[0]}
    facts |= {"tensors": tensors, "metadata": dict(sorted(header.metadata.items())), "presets": _presets(header)}
    try:
        chosen = choose(file, header, selection)
    except LatentkitError as error:
        return facts | {"posteriors": [], "problem": str(error)}
    facts["posteriors"] = [
        {
            "key": posterior.key,
            "scale_key": posterior.scale.key if posterior.scale else None,
            "layout": posterior.layout,
            "parameterization": posterior.parameterization,
            "samples": posterior.samples,
            "channels": posterior.axes.channels,
            "read": posterior.reading,
            "reason": posterior.reason,
        }
        for posterior in chosen
    ]
    return facts | {"problem": None}


def _presets(header: Header) -> list[dict[str, str]]:
    """What writes such files, and how they are then to be taken."""
    names = ("name", "tool", "evidence", "parameterization", "applied", "labels")
    return [{name: getattr(preset, name) for name in names} for preset in fitting(header)]


def _print_json(headers: Iterator[tuple[InputFile, Header]], selection: Selection) -> None:
    """One object with a list of files, printed file by file; whole even when a bad file ends it."""
    begun = False
    try:
        for file, header in headers:
            facts = json.dumps(_facts(file, header, selection))
            print((",\n" if begun else '{"files": [\n') + facts, end="")
            begun = True
    finally:
        if begun:
            print("\n]}")


def _draw(screen: "Screen", file: InputFile, header: Header, selection: Selection) -> None:
    facts = _facts(file, header, selection)
    chosen = {
        key: "latents" if posterior["parameterization"] == "none" else "moments"
        for posterior in facts["posteriors"]
        for key in (posterior["key"], posterior["scale_key"])
    }
    lines = [
        posterior["read"]
        if posterior["reason"] in posterior["read"]
        else f"{posterior['read']} ({posterior['reason']})"
        for posterior in facts["posteriors"]
    ]
    lines += [f"not read as moments: {facts['problem']}"] if facts["problem"] else []
    lines += [
        f"written as by {preset['tool']} (preset {preset['name']}): {preset['evidence']}; already applied: "
        f"{preset['applied']}; labels: {preset['labels']}"
        for preset in facts["presets"]
    ]
    lines += [f"{key}: {value}" for key, value in facts["metadata"].items()]
    tensors = facts["tensors"]
    if len(tensors) > _MOST_SHOWN:
        tensors = sorted(tensors, key=lambda tensor: tensor["key"] not in chosen)[:_MOST_SHOWN]
        lines.insert(0, f"{_MOST_SHOWN} of {len(facts['tensors']):,} tensors; --format json lists all")
    columns: dict[str, list[RenderableType]] = {
        "tensor": [harmless(tensor["key"]) for tensor in tensors],
        "dtype": [tensor["dtype"] for tensor in tensors],
        "shape": [str(tensor["shape"]) for tensor in tensors],
        "bytes": [f"{tensor['bytes']:,}" for tensor in tensors],
        "read as": [chosen.get(tensor["key"], "") for tensor in tensors],
    }
    table = fitting_table(screen.console, columns, ["bytes"], left=("tensor", "dtype", "shape", "read as"))
    screen.put(f"{file.path} ({facts['bytes']:,} bytes)", table, lines[:_MOST_SHOWN])
