"""Going on with a run that was interrupted: which outputs are complete, and were made as this run would make them."""

import os
from collections.abc import Sequence

from latentkit.errors import LatentkitError, RequestError
from latentkit.read.header import read_header
from latentkit.sample.outputs import Output
from latentkit.sample.recipe import Recipe, layout_of, metadata_of
from latentkit.write.safetensors import Layout


def incomplete(outputs: Sequence[Output], recipe: Recipe, *, overwrite: bool) -> list[Output]:
    """The outputs that are still to be made.

    An output is placed when it is complete, so one that is there is whole; its header, which names the inputs too,
    must be just what this run would write, and no input may have changed since. One that differs is made again with
    ``overwrite``, and else raises ``RequestError``.
    """
    waiting = []
    for output in outputs:
        layout = layout_of(output, recipe)
        try:
            found = _found(output.path, len(layout.header))
        except FileNotFoundError:
            waiting.append(output)
            continue
        if found == (layout.size, layout.header) and not _is_older(output):
            continue
        if not overwrite:
            raise RequestError(f"{output.path}: {_difference(output, recipe, layout)}; --overwrite makes it again")
        waiting.append(output)
    return waiting


def is_written(path: str, data: bytes, *, overwrite: bool) -> bool:
    """Whether a file that goes with the outputs is there already; another one raises ``RequestError``."""
    try:
        found = _found(path, len(data))
    except FileNotFoundError:
        return False
    if found != (len(data), data) and not overwrite:
        raise RequestError(f"{path}: exists, and is not what this run would write; --overwrite replaces it")
    return found == (len(data), data)


def _found(path: str, length: int) -> tuple[int, bytes]:
    """The size of the file at ``path``, and its first bytes."""
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_size, file.read(length)


def _is_older(output: Output) -> bool:
    """Whether an input was written after the output: its header may be the same as before."""
    made = os.stat(output.path).st_mtime_ns
    headers = {span.posterior.header for spans in output.latents.values() for span in spans}
    return any(made < header.stamp[1] for header in headers)


def _difference(output: Output, recipe: Recipe, layout: Layout) -> str:
    try:
        there = read_header(output.path)
    except LatentkitError:
        return "exists, and is not what this run would write"
    planned = metadata_of(output, recipe)
    names = sorted(key for key in planned.keys() | there.metadata.keys() if planned.get(key) != there.metadata.get(key))
    if names:
        return f"exists, and was made by another recipe (its metadata differs in {', '.join(names)})"
    if there.stamp[0] != layout.size:
        return "exists, and holds other tensors"
    return "exists, and is older than its input"
