"""What is drawn, and how it is written into the metadata of latents, so that they can be made again."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from latentkit import __version__
from latentkit.affine import IDENTITY, Affine, from_json
from latentkit.errors import DataError
from latentkit.noise import RECIPE
from latentkit.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.storage.choice import RECIPE_ENTRY, Posterior, Span
from latentkit.storage.header import Header
from latentkit.storage.outputs import Output
from latentkit.storage.writer import Layout, TensorSpec, lay_out


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is drawn: the same for every input of a run.

    ``draws`` None: one draw, without an axis for it. ``mode``: the mean, without noise. ``dtype``: safetensors' name,
    or None for the input's own. ``streams`` name inputs in place of their files' names.
    """

    seed: int = 0
    draws: int | None = None
    mode: bool = False
    temperature: float = 1.0
    dtype: str | None = None
    affine: Affine = IDENTITY
    clamp: Clamp = DEFAULT_CLAMP
    streams: Mapping[Posterior, str] = field(default_factory=dict)

    def stream_of(self, posterior: Posterior) -> str:
        return self.streams.get(posterior, posterior.file.name)

    def dtype_of(self, posterior: Posterior) -> str:
        """The dtype of the latents: as asked, or the input's; float32 for 8-bit and float64 input."""
        return self.dtype or (posterior.mean.dtype if posterior.mean.dtype in ("F16", "BF16") else "F32")


@dataclass(frozen=True, slots=True)
class Source:
    """Where a run of latents came from, as their metadata says."""

    name: str
    key: str
    stream: str
    first: int
    count: int
    stamp: tuple[int, int]


def layout_of(output: Output, recipe: Recipe) -> Layout:
    """The header and the places of everything in an output."""
    leading = () if recipe.draws is None else (recipe.draws,)
    tensors = {key: TensorSpec(copy.dtype, copy.shape) for key, copy in output.copies.items()}
    for key, spans in output.latents.items():
        posterior = spans[0].posterior
        batch, rest = posterior.axes.batch, posterior.axes.shape[len(posterior.axes.batch) :]
        whole = len(spans) == 1 and spans[0].count == posterior.samples
        shape = batch if whole else (sum(span.count for span in spans),)
        tensors[key] = TensorSpec(recipe.dtype_of(posterior), (*leading, *shape, *rest))
    return lay_out(tensors, metadata_of(output, recipe))


def metadata_of(output: Output, recipe: Recipe) -> dict[str, str]:
    """Enough to make the file again, and to know it for drawn latents."""
    sources = {key: [_source(span, recipe) for span in spans] for key, spans in output.latents.items()}
    metadata = {
        RECIPE_ENTRY: str(RECIPE),
        "latentkit_version": __version__,
        "seed": str(recipe.seed),
        "mode": json.dumps(recipe.mode),
        "temperature": json.dumps(recipe.temperature),
        "clamp": json.dumps(recipe.clamp),
        "affine": recipe.affine.to_json(),
        "sources": json.dumps(sources),
    }
    return metadata if recipe.draws is None else metadata | {"draws": str(recipe.draws)}


def read_metadata(header: Header) -> tuple[Recipe, dict[str, list[Source]]]:
    """The recipe and the sources that latents were drawn by; raises ``DataError`` where latentkit did not draw them."""
    if RECIPE_ENTRY not in header.metadata:
        raise DataError(f"{header.path}: latentkit did not draw it: its metadata has no {RECIPE_ENTRY}")
    if header.metadata[RECIPE_ENTRY] != str(RECIPE):
        raise DataError(
            f"{header.path}: drawn by noise recipe {header.metadata[RECIPE_ENTRY]}; this latentkit has recipe {RECIPE}"
        )
    try:
        entries = header.metadata
        sources = {
            key: [Source(**{**entry, "stamp": tuple(entry["stamp"])}) for entry in map(_known, spans)]
            for key, spans in json.loads(entries["sources"]).items()
        }
        low, high = json.loads(entries["clamp"])
        recipe = Recipe(
            seed=int(entries["seed"]),
            draws=int(entries["draws"]) if "draws" in entries else None,
            mode=json.loads(entries["mode"]),
            temperature=json.loads(entries["temperature"]),
            affine=from_json(entries["affine"], header.path),
            clamp=(low, high),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{header.path}: its metadata does not say how it was drawn ({error})") from error
    return recipe, sources


def _source(span: Span, recipe: Recipe) -> dict[str, Any]:
    posterior = span.posterior
    return {
        "name": posterior.file.name,
        "key": posterior.key,
        "scale_key": posterior.scale.key if posterior.scale else None,
        "layout": posterior.layout,
        "parameterization": posterior.parameterization,
        "stream": recipe.stream_of(posterior),
        "first": span.first,
        "count": span.count,
        "stamp": posterior.header.stamp,
    }


def _known(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in ("name", "key", "stream", "first", "count", "stamp")}
