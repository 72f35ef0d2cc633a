"""``latentkit sample INPUT --verify OUT``: whether latents are just what their metadata says was drawn."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from latentkit.cli.device import resolve_device
from latentkit.cli.options import Computing, Messages
from latentkit.cli.screen import note, track
from latentkit.errors import DataError, RequestError
from latentkit.read.choice import Posterior, Span
from latentkit.read.header import Header, TensorInfo, read_header
from latentkit.read.inputs import find_inputs
from latentkit.read.plan import Found
from latentkit.text import count_of, harmless

if TYPE_CHECKING:
    from latentkit.sample.recipe import Recipe, Source

# What latents are written as.
_DTYPES = ("F16", "BF16", "F32")


def verify(found: Found, output: str, computing: Computing, messages: Messages) -> None:
    """Draw every file of ``output`` again by its metadata.

    Raises ``DataError`` at the first latent that differs, and for a folder that lacks some of the samples.
    """
    headers = [read_header(file.path) for file in find_inputs([output])]

    from latentkit.sample.recipe import read_metadata

    resolve_device(computing.device, messages)
    inputs = {(posterior.file.name, posterior.key): posterior for posterior in found.posteriors}
    held: Counter[Posterior] = Counter()
    for header in headers:
        recipe, sources = read_metadata(header)
        for key, parts in sources.items():
            # One alone may have been renamed since.
            alone = len(headers) == len(sources) == len(parts) == len(inputs) == 1
            posteriors = list(inputs.values()) if alone else [_input(inputs, part, header) for part in parts]
            for posterior, part in zip(posteriors, parts, strict=True):
                _check(posterior, part, recipe, header, messages)
            spans = [span for of, part in zip(posteriors, parts, strict=True) for span in part.spans_of(of)]
            tensor = _tensor(header, key, spans, recipe)
            streams = {of: part.stream for of, part in zip(posteriors, parts, strict=True)}
            _compare(spans, header, tensor, replace(recipe, dtype=tensor.dtype, streams=streams), computing, messages)
            for span in spans:
                held[span.posterior] += span.count
    if os.path.isdir(output):
        _refuse_missing(found, held, output)
    print(
        harmless(f"{output}: {count_of(len(headers), 'file')}, {count_of(held.total(), 'sample')}: just what was drawn")
    )


def _compare(
    spans: list[Span], header: Header, tensor: TensorInfo, recipe: "Recipe", computing: Computing, messages: Messages
) -> None:
    from latentkit.sample.files import compare

    nbytes = sum(span.nbytes for span in spans)
    for differs in track(compare(spans, header, tensor, recipe, workers=computing.workers), nbytes, messages):
        if differs is not None:
            posterior, index = differs
            raise DataError(
                f"{header.path}: tensor {tensor.key!r} is not what its metadata says: it differs from a new draw, "
                f"first at sample {index} of {posterior.file.name}, tensor {posterior.key!r}"
            )


def _input(inputs: Mapping[tuple[str, str], Posterior], source: "Source", header: Header) -> Posterior:
    if (source.name, source.key) not in inputs:
        raise RequestError(
            f"{header.path}: was drawn from {source.name!r}, tensor {source.key!r}, which is not among the inputs"
        )
    return inputs[source.name, source.key]


def _check(posterior: Posterior, source: "Source", recipe: "Recipe", header: Header, messages: Messages) -> None:
    """Refuse an input that cannot be what latents were drawn from."""
    reading = posterior.scale.key if posterior.scale else None, posterior.layout, posterior.parameterization
    if reading != source.reading:
        _, layout, parameterization = source.reading
        raise RequestError(
            f"{header.path}: was drawn from another reading of {posterior.label}, which is now read as "
            f"{posterior.reading}; add --layout {layout} --parameterization {parameterization}, or name its tensors"
        )
    if source.end > posterior.samples:
        raise DataError(f"{header.path}: was drawn from more samples than {posterior.label} has")
    if recipe.affine.channels() not in (1, posterior.axes.channels):
        raise DataError(
            f"{header.path}: its metadata has an affine of {recipe.affine.channels()} channels; {posterior.label} has "
            f"{posterior.axes.channels}"
        )
    if source.fingerprint != (posterior.header.stamp[0], posterior.header.digest):
        note(messages, f"{posterior.file.path}: its size or header is not that of the input of {header.path}")


def _tensor(header: Header, key: str, spans: Sequence[Span], recipe: "Recipe") -> TensorInfo:
    """The tensor of latents, if it is one that the spans can give."""
    from latentkit.sample.recipe import latents_shape

    tensor = header.tensors.get(key)
    shape = latents_shape(spans, recipe.draws)
    alike = len({(span.posterior.axes.view[1:], span.posterior.mean.dtype) for span in spans}) == 1
    if tensor is None or tensor.shape != shape or not alike:
        there = f"{tensor.dtype} {list(tensor.shape)}" if tensor else "no such tensor"
        raise DataError(
            f"{header.path}: by its metadata {key!r} holds latents of shape {list(shape)}, and there is {there}"
        )
    if tensor.dtype not in _DTYPES and not (tensor.dtype == "F64" and recipe.mode):
        raise DataError(f"{header.path}: {key!r} is {tensor.dtype}, and latentkit draws no latents of that dtype")
    return tensor


def _refuse_missing(found: Found, held: Mapping[Posterior, int], output: str) -> None:
    chosen: Counter[Posterior] = Counter()
    for span in found.spans:
        chosen[span.posterior] += span.count
    for posterior, count in chosen.items():
        if held.get(posterior, 0) < count:
            raise DataError(
                f"{output}: holds {held.get(posterior, 0):,} of the {count:,} samples of {posterior.label}; if only "
                f"some were drawn, choose them here as well (--limit, --every, --indices)"
            )
