"""``latentkit sample INPUT --verify OUT``: whether latents are just what their metadata says was drawn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latentkit.cli.device import resolve_device
from latentkit.cli.options import Computing, Messages
from latentkit.cli.screen import count_of, harmless, note, track
from latentkit.errors import DataError, RequestError
from latentkit.storage.choice import Posterior, Span
from latentkit.storage.header import Header, TensorInfo, read_header
from latentkit.storage.inputs import find_inputs
from latentkit.storage.plan import Found

if TYPE_CHECKING:
    from latentkit.recipe import Recipe, Source


def verify(found: Found, output: str, computing: Computing, messages: Messages) -> None:
    """Draw every file of ``output`` again by its metadata; raises ``DataError`` at the first latent that differs."""
    headers = [read_header(file.path) for file in find_inputs([output])]

    from latentkit.recipe import read_metadata

    resolve_device(computing.device, messages)
    samples = 0
    for header in headers:
        recipe, sources = read_metadata(header)
        for key, parts in sources.items():
            tensor = _tensor(header, key, parts, recipe.draws)
            alone = len(sources) == len(parts) == 1
            spans = [_span(found.posteriors, part, header, messages, alone=alone) for part in parts]
            streams = {span.posterior: part.stream for span, part in zip(spans, parts, strict=True)}
            recipe = replace(recipe, dtype=tensor.dtype, streams=streams)
            _compare(spans, header, tensor, recipe, computing, messages)
            samples += sum(span.count for span in spans)
    print(harmless(f"{output}: {count_of(len(headers), 'file')}, {count_of(samples, 'sample')}: just what was drawn"))


def _compare(
    spans: list[Span], header: Header, tensor: TensorInfo, recipe: "Recipe", computing: Computing, messages: Messages
) -> None:
    from latentkit.sampling import compare

    for differs in track(compare(spans, header, tensor, recipe, workers=computing.workers), tensor.nbytes, messages):
        if differs is not None:
            posterior, index = differs
            raise DataError(
                f"{header.path}: tensor {tensor.key!r} is not what its metadata says: it differs from a new draw, "
                f"first at sample {index} of {posterior.file.name}, tensor {posterior.key!r}"
            )


def _tensor(header: Header, key: str, parts: "Sequence[Source]", draws: int | None) -> TensorInfo:
    tensor = header.tensors.get(key)
    rows = sum(part.count for part in parts)
    if tensor is None or tensor.elements % max(1, rows * (draws or 1)):
        raise DataError(f"{header.path}: does not hold {key!r} as its metadata says")
    return tensor


def _span(
    posteriors: Sequence[Posterior], source: "Source", header: Header, messages: Messages, *, alone: bool
) -> Span:
    """The samples that a run of latents was drawn from."""
    named = [p for p in posteriors if (p.file.name, p.key) == (source.name, source.key)]
    if not named and alone and len(posteriors) == 1:
        named = list(posteriors)
    if not named:
        raise RequestError(
            f"{header.path}: was drawn from {source.name!r}, tensor {source.key!r}, which is not among the inputs"
        )
    posterior = named[0]
    if source.first + source.count > posterior.samples:
        raise DataError(f"{header.path}: was drawn from more samples than {posterior.label} has")
    if source.stamp != posterior.header.stamp:
        note(messages, f"{posterior.file.path}: its size or time is not that of the input of {header.path}")
    return Span(posterior, source.first, source.count)
