"""What is drawn, and how it is written into the metadata of latents, so that they can be made again."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

from latentkit import __version__
from latentkit.errors import DataError, RequestError
from latentkit.posterior.affine import IDENTITY, Affine, from_json
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp, check_clamp
from latentkit.read.choice import Posterior, Span
from latentkit.read.header import MAX_HEADER_BYTES, Header
from latentkit.read.metadata import RECIPE_ENTRY
from latentkit.sample.outputs import Output
from latentkit.write.safetensors import Layout, TensorSpec, lay_out

#: Written into the metadata of what is drawn. Any change of a bit, in noise or latents, takes a new number.
RECIPE = 1

#: Samples ``first``, ``first + step``, … of an input, ``count`` of them.
Run = tuple[int, int, int]


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
    """Where latents came from, as their metadata says: ``runs`` of samples (first, count, step) of one input.

    ``reading`` is how the input was read: the key of its scale, if it has one of its own, layout, parameterization.
    ``fingerprint`` is the input's size and the SHA-256 of its header: unlike a time, any copy of it has the same.
    """

    name: str
    key: str
    stream: str
    reading: tuple[str | None, str, str]
    fingerprint: tuple[int, str]
    runs: tuple[Run, ...]

    @property
    def end(self) -> int:
        """Past the last sample."""
        return max(first + (count - 1) * step for first, count, step in self.runs) + 1

    def spans_of(self, posterior: Posterior) -> Iterator[Span]:
        for first, count, step in self.runs:
            if step == 1:
                yield Span(posterior, first, count)
            else:
                yield from (Span(posterior, first + step * number, 1) for number in range(count))


def layout_of(output: Output, recipe: Recipe) -> Layout:
    """The header and the places of everything in an output; raises ``RequestError`` for a header past 16 MiB."""
    tensors = {key: TensorSpec(copy.dtype, copy.shape) for key, copy in output.copies.items()}
    for key, spans in output.latents.items():
        tensors[key] = TensorSpec(recipe.dtype_of(spans[0].posterior), latents_shape(spans, recipe.draws))
    layout = lay_out(tensors, metadata_of(output, recipe))
    if len(layout.header) > MAX_HEADER_BYTES:
        raise RequestError(
            f"{output.path}: naming its {sum(map(len, output.latents.values())):,} runs of samples takes a header of "
            f"{len(layout.header):,} bytes, and {MAX_HEADER_BYTES:,} are the most; make more and smaller files with "
            f"--samples-per-shard"
        )
    return layout


def latents_shape(spans: Sequence[Span], draws: int | None) -> tuple[int, ...]:
    """The shape of spans' latents put end to end: the means' own where a posterior is whole."""
    posterior = spans[0].posterior
    batch, rest = posterior.axes.batch, posterior.axes.shape[len(posterior.axes.batch) :]
    whole = len(spans) == 1 and spans[0].count == posterior.samples
    shape = batch if whole else (sum(span.count for span in spans),)
    return (*(() if draws is None else (draws,)), *shape, *rest)


def metadata_of(output: Output, recipe: Recipe) -> dict[str, str]:
    """Enough to make the file again, and to know it for drawn latents."""
    sources = {key: _sources(spans, recipe) for key, spans in output.latents.items()}
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


def _sources(spans: Sequence[Span], recipe: Recipe) -> list[dict[str, Any]]:
    entries = []
    for posterior, group in groupby(spans, key=lambda span: span.posterior):
        entries.append(
            {
                "name": posterior.file.name,
                "key": posterior.key,
                "scale_key": posterior.scale.key if posterior.scale else None,
                "layout": posterior.layout,
                "parameterization": posterior.parameterization,
                "stream": recipe.stream_of(posterior),
                "bytes": posterior.header.stamp[0],
                "header_sha256": posterior.header.digest,
                "samples": _runs(group),
            }
        )
    return entries


def _runs(spans: Iterable[Span]) -> list[Run]:
    """Samples as (first, count, step), with as few runs as a look at each sample after the other finds."""
    runs: list[Run] = []
    for span in spans:
        first, count, step = runs[-1] if runs else (0, 0, 1)
        gap = span.first - first
        if span.count == 1 and ((count == 1 and gap > 0) or (count > 1 and gap == count * step)):
            runs[-1] = first, count + 1, gap // count
        else:
            runs.append((span.first, span.count, 1))
    return runs


# What reading somebody's metadata may raise.
_UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)


def read_metadata(header: Header) -> tuple[Recipe, dict[str, list[Source]]]:
    """The recipe and the sources that latents were drawn by; raises ``DataError`` where latentkit did not draw them."""
    entries = header.metadata
    if RECIPE_ENTRY not in entries:
        raise DataError(f"{header.path}: latentkit did not draw it: its metadata has no {RECIPE_ENTRY}")
    if entries[RECIPE_ENTRY] != str(RECIPE):
        raise DataError(
            f"{header.path}: drawn by noise recipe {entries[RECIPE_ENTRY][:20]!r}; this latentkit has recipe {RECIPE}"
        )
    try:
        recipe = Recipe(
            seed=_whole(int(entries["seed"]), 0),
            draws=_whole(int(entries["draws"]), 1) if "draws" in entries else None,
            mode={"true": True, "false": False}[entries["mode"]],
            temperature=_temperature(json.loads(entries["temperature"])),
            affine=from_json(entries["affine"], header.path),
            clamp=check_clamp(json.loads(entries["clamp"])),
        )
        sources = {key: [_source(entry) for entry in parts] for key, parts in json.loads(entries["sources"]).items()}
        if not sources or not all(sources.values()):
            raise ValueError("it names no sources")
    except _UNREADABLE as error:
        raise DataError(f"{header.path}: its metadata does not say how it was drawn ({str(error)[:80]})") from error
    return recipe, sources


def _source(entry: Mapping[str, Any]) -> Source:
    runs = tuple((_whole(first, 0), _whole(count, 1), _whole(step, 1)) for first, count, step in entry["samples"])
    if not runs:
        raise ValueError("a source has no samples")
    name, key, stream = (_text(entry[field]) for field in ("name", "key", "stream"))
    reading = entry["scale_key"], entry["layout"], entry["parameterization"]
    return Source(name, key, stream, reading, (entry["bytes"], entry["header_sha256"]), runs)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{str(value)[:20]} is no name")
    value.encode()  # streams are hashed
    return value


def _whole(value: object, least: int) -> int:
    if type(value) is not int or not least <= value < 1 << 64:
        raise ValueError(f"{str(value)[:20]} is no count")
    return value


def _temperature(value: object) -> float:
    if type(value) not in (int, float) or not 0 <= float(value) < math.inf:  # type: ignore[arg-type]
        raise ValueError(f"{str(value)[:20]} is no temperature")
    return float(value)  # type: ignore[arg-type]
