"""Verification: whether latents are just what their metadata says was drawn. ``files.compare`` draws them again."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from latentkit.errors import DataError, RequestError
from latentkit.read.choice import Posterior, Span
from latentkit.read.header import Header, TensorInfo
from latentkit.read.plan import Found
from latentkit.sample.recipe import Recipe, Source, latents_shape, read_metadata

# What latents are written as.
_DTYPES = ("F16", "BF16", "F32")


class Claim(NamedTuple):
    """What a tensor of latents is by its metadata: the spans of which it holds the latents, and the recipe.

    ``altered`` are those of the inputs that are of another size, or have another header, than they had then.
    """

    spans: tuple[Span, ...]
    header: Header
    tensor: TensorInfo
    recipe: Recipe
    altered: tuple[Posterior, ...]

    @property
    def nbytes(self) -> int:
        return sum(span.nbytes for span in self.spans)


def claims_of(headers: Sequence[Header], found: Found) -> Iterator[Claim]:
    """What each file of latents claims to be drawn from the inputs that were found.

    Raises ``DataError`` where latents cannot be what their metadata says, ``RequestError`` where inputs are missing.
    """
    inputs = {(posterior.file.name, posterior.key): posterior for posterior in found.inputs}
    for header in headers:
        recipe, sources = read_metadata(header)
        for key, parts in sources.items():
            # One alone may have been renamed since.
            alone = len(headers) == len(sources) == len(parts) == len(inputs) == 1
            posteriors = list(inputs.values()) if alone else [_input(inputs, part, header) for part in parts]
            pairs = list(zip(posteriors, parts, strict=True))
            for posterior, part in pairs:
                _check(posterior, part, recipe, header)
            spans = tuple(span for posterior, part in pairs for span in part.spans_of(posterior))
            tensor = _tensor(header, key, spans, recipe)
            streams = {posterior: part.stream for posterior, part in pairs}
            altered = tuple(of for of, part in pairs if part.fingerprint != (of.header.stamp[0], of.header.digest))
            yield Claim(spans, header, tensor, replace(recipe, dtype=tensor.dtype, streams=streams), altered)


def refuse_mixed(claims: Sequence[Claim]) -> None:
    """Raise ``DataError`` where no one run drew all of a folder's latents, as when two wrote into it at once."""
    for claim in claims:
        for name in ("seed", "draws", "mode", "temperature", "affine", "clamp"):
            if getattr(claim.recipe, name) != getattr(claims[0].recipe, name):
                raise DataError(
                    f"{claim.header.path}: was not drawn as {claims[0].header.path} was, by its {name}, so no one run "
                    "gave both; draw again with --overwrite, or verify them file by file"
                )


def refuse_difference(claim: Claim, first: tuple[Posterior, int] | None) -> None:
    """Raise ``DataError`` for the ``first`` sample that differs from a new draw, if there is one."""
    if first is not None:
        posterior, index = first
        raise DataError(
            f"{claim.header.path}: tensor {claim.tensor.key!r} is not what its metadata says: it differs from a new "
            f"draw, first at sample {index} of {posterior.file.name}, tensor {posterior.key!r}"
        )


def refuse_missing(found: Found, held: Mapping[Posterior, int], output: str) -> None:
    """Raise ``DataError`` where a folder of latents holds less than all samples that were found."""
    chosen: Counter[Posterior] = Counter()
    for span in found.spans:
        chosen[span.posterior] += span.count
    for posterior, count in chosen.items():
        if held.get(posterior, 0) < count:
            raise DataError(
                f"{output}: holds {held.get(posterior, 0):,} of the {count:,} samples of {posterior.label}; if only "
                f"some were drawn, choose them here as well (--limit, --every, --indices)"
            )


def _input(inputs: Mapping[tuple[str, str], Posterior], source: Source, header: Header) -> Posterior:
    if (source.name, source.key) not in inputs:
        raise RequestError(
            f"{header.path}: was drawn from {source.name!r}, tensor {source.key!r}, which is not among the inputs"
        )
    return inputs[source.name, source.key]


def _check(posterior: Posterior, source: Source, recipe: Recipe, header: Header) -> None:
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


def _tensor(header: Header, key: str, spans: Sequence[Span], recipe: Recipe) -> TensorInfo:
    """The tensor of latents, if it is one that the spans can give."""
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
