"""Rows -> files to be written: which rows go into each, where in it, and what its metadata says of them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

import numpy as np

from latentkit import __version__
from latentkit.convert.labels import Labels
from latentkit.convert.names import NAMES, Name, names_of
from latentkit.convert.units import LABELS_KEY, Unit
from latentkit.errors import RequestError
from latentkit.read.choice import Span
from latentkit.read.header import MAX_HEADER_BYTES, Header, container_of
from latentkit.write.copies import Copy, Part, rows_of
from latentkit.write.npy import lay_out_npy
from latentkit.write.safetensors import Layout, TensorSpec, lay_out

# Bytes of a shard's tensors, and of the names in its header, unless it is to have so many samples.
_SHARD_BYTES = 1 << 30
_NAMES_BYTES = MAX_HEADER_BYTES // 2

# What metadata may say of rows that stays true of them elsewhere.
_KEPT = (
    "scaling_factor",
    "shift_factor",
    "converted_from",
    "applied",
    "classes",
    "architecture",
    "latent_space_version",
)


class Kind(NamedTuple):
    """What the rows of one file have in common: rows of two kinds go into files of their own."""

    tensors: tuple[tuple[str, str, tuple[int, ...]], ...]
    said: tuple[tuple[str, str], ...]

    @property
    def row_bytes(self) -> int:
        return max(1, sum(TensorSpec(dtype, shape).nbytes for _, dtype, shape in self.tensors))

    @property
    def stem(self) -> str:
        return "latents" if dict(self.said)["parameterization"] == "none" else "moments"


@dataclass(frozen=True, slots=True)
class Place:
    """Where outputs go: one file or, in a folder, shards of so many samples; a list of files for each shard."""

    path: str
    suffix: str
    as_file: bool
    samples_per_shard: int | None = None

    def file(self, stem: str, number: int, count: int) -> str:
        """The path of a shard's file, by what it holds; as many digits as sort them as they are counted."""
        if self.as_file:
            return self.path
        digits = max(5, len(str(count)))
        return os.path.join(self.path, f"{stem}-{number:0{digits}}-of-{count:0{digits}}{self.suffix}")


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written: ``copies`` of tensors of the inputs, and ``values`` that are held in memory, by key."""

    path: str
    rows: int
    layout: Layout
    copies: Mapping[str, Copy] = field(default_factory=dict)
    values: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def keys(self) -> tuple[str, ...]:
        return (*self.copies, *self.values)

    @property
    def inputs(self) -> set[Header]:
        return {part[0] for copy in self.copies.values() for part in copy.parts}


def plan_outputs(chosen: Sequence[tuple[Unit, Span]], labels: Labels, place: Place) -> list[Output]:
    """The files that the rows go into; raises ``RequestError`` where they cannot be as asked."""
    by_kind: dict[Kind, list[tuple[Unit, Span]]] = {}
    for unit, span in chosen:
        by_kind.setdefault(_kind_of(unit, labels), []).append((unit, span))
    if place.as_file and len(by_kind) > 1:
        first, second = (group[0][0] for group in list(by_kind.values())[:2])
        raise RequestError(
            f"{place.path}: one file, and the rows of {first.rows.label} and {second.rows.label} are not of one shape, "
            f"dtype and meaning; give -o a folder, where each kind has files of its own"
        )
    shards = [(kind, shard) for kind, group in by_kind.items() for shard in _cut(kind, group, place)]
    write = _WRITERS[place.suffix]
    return [
        output
        for number, (kind, shard) in enumerate(shards, 1)
        for output in write(_Shard(kind, shard, labels), place, number, len(shards))
    ]


def index_name(outputs: Sequence[Output]) -> str:
    """The name of the index of shards, which goes by theirs."""
    return os.path.basename(outputs[0].path).rpartition("-of-")[0].rpartition("-")[0] + ".safetensors.index.json"


def _kind_of(unit: Unit, labels: Labels) -> Kind:
    header, preset = unit.rows.header, unit.rows.preset
    said = {key: header.metadata[key] for key in _KEPT if key in header.metadata}
    container = container_of(header.path) or "safetensors"
    said.setdefault("converted_from", container if preset is None else preset.name)
    if preset is not None and preset.applied != "nothing":
        said.setdefault("applied", preset.applied)
    said |= {"parameterization": unit.rows.parameterization, "layout": unit.layout}
    tensors = [(key, tensor.dtype, unit.row_shape(key)) for key, (tensor, *_) in unit.tensors.items()]
    if LABELS_KEY not in unit.tensors and unit.rows in labels.values:
        tensors.append((LABELS_KEY, "I64", ()))
    return Kind(tuple(tensors), tuple(sorted(said.items())))


@dataclass(frozen=True, slots=True)
class _Shard:
    """Rows of one kind that go into one file."""

    kind: Kind
    parts: Sequence[tuple[Unit, Span, Sequence[Name]]]
    labels: Labels

    @property
    def rows(self) -> int:
        return sum(span.count for _, span, _ in self.parts)

    @property
    def metadata(self) -> dict[str, str]:
        names = [name for *_, names in self.parts for name in names]
        said = dict(self.kind.said) | {"latentkit_version": __version__, NAMES: _json(names)}
        if self.labels.classes and LABELS_KEY in self.held:
            said["classes"] = _json(self.labels.classes)
        return said

    @property
    def held(self) -> dict[str, bytes]:
        unit = self.parts[0][0]
        if LABELS_KEY in unit.tensors or unit.rows not in self.labels.values:
            return {}
        parts = (self.labels.values[unit.rows][span.first : span.first + span.count] for unit, span, _ in self.parts)
        return {LABELS_KEY: np.fromiter(chain.from_iterable(parts), "<i8").tobytes()}

    @property
    def copies(self) -> dict[str, Copy]:
        return {
            key: Copy(dtype, (self.rows, *shape), tuple(chain.from_iterable(self._parts(key))))
            for key, dtype, shape in self.kind.tensors
            if key not in self.held
        }

    def _parts(self, key: str) -> Iterator[list[Part]]:
        for unit, span, _ in self.parts:
            yield [rows_of(span, tensor) for tensor in unit.tensors[key]]


def _cut(kind: Kind, group: Sequence[tuple[Unit, Span]], place: Place) -> Iterator[list[tuple[Unit, Span, list[Name]]]]:
    """Rows of a kind, shard by shard: as many as asked, or as bytes allow, while their names fit into a header."""
    most = place.samples_per_shard or max(1, _SHARD_BYTES // kind.row_bytes)
    if place.as_file:
        most = sum(span.count for _, span in group)
    shard: list[tuple[Unit, Span, list[Name]]] = []
    rows = length = 0
    for unit, whole in group:
        first, end = whole.first, whole.first + whole.count
        while first < end:
            span = Span(unit.rows, first, min(most - rows, end - first))
            names = names_of(unit, span)
            more = len(_json(names))
            if shard and not place.as_file and length + more > _NAMES_BYTES:
                yield shard
                shard, rows, length = [], 0, 0
                continue
            shard.append((unit, span, names))
            first, rows, length = first + span.count, rows + span.count, length + more
            if rows == most:
                yield shard
                shard, rows, length = [], 0, 0
    if shard:
        yield shard


def _safetensors(shard: _Shard, place: Place, number: int, count: int) -> list[Output]:
    values, copies = shard.held, shard.copies
    specs = {key: TensorSpec(dtype, (shard.rows, *shape)) for key, dtype, shape in shard.kind.tensors}
    path = place.file(shard.kind.stem, number, count)
    output = Output(path, shard.rows, lay_out(specs, shard.metadata), copies, values)
    if len(output.layout.header) > MAX_HEADER_BYTES:
        raise RequestError(
            f"{output.path}: naming its {shard.rows:,} rows takes a header of {len(output.layout.header):,} bytes, and "
            f"{MAX_HEADER_BYTES:,} are the most; give -o a folder, or fewer --samples-per-shard"
        )
    return [output]


def _npy(shard: _Shard, place: Place, number: int, count: int) -> list[Output]:
    """A file for each tensor; one row alone has no batch axis when files are to have one sample each."""
    values, copies = shard.held, shard.copies
    if place.as_file and len(shard.kind.tensors) > 1:
        keys = ", ".join(key for key, *_ in shard.kind.tensors)
        raise RequestError(
            f"{place.path}: an .npy holds one array, and there are {keys}; give -o a folder and --format npy, or "
            f"--no-labels"
        )
    outputs = []
    for key, dtype, shape in shard.kind.tensors:
        layout = lay_out_npy(key, dtype, shape if place.samples_per_shard == 1 else (shard.rows, *shape))
        own = {key: values[key]} if key in values else {}
        outputs.append(
            Output(place.file(key, number, count), shard.rows, layout, {} if own else {key: copies[key]}, own)
        )
    return outputs


_WRITERS = {".safetensors": _safetensors, ".npy": _npy}


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
