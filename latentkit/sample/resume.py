"""Going on with a run that was interrupted: which outputs are complete, and were made as this run would make them."""

from collections.abc import Sequence

from latentkit.errors import LatentkitError, RequestError
from latentkit.read.header import Header, read_header
from latentkit.sample.outputs import Output
from latentkit.sample.recipe import Recipe, layout_of, metadata_of
from latentkit.write.complete import found_at, is_older
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
            found = found_at(output.path, len(layout.header))
        except FileNotFoundError:
            waiting.append(output)
            continue
        if found == (layout.size, layout.header) and not is_older(output.path, _inputs(output)):
            continue
        if not overwrite:
            raise RequestError(f"{output.path}: {_difference(output, recipe, layout)}; --overwrite makes it again")
        waiting.append(output)
    return waiting


def _inputs(output: Output) -> set[Header]:
    return {span.posterior.header for spans in output.latents.values() for span in spans}


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
