"""Files of latents to be written: what goes into each, from which inputs, under which keys."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.read.choice import Posterior, Span
from latentkit.read.header import TensorInfo
from latentkit.read.inputs import InputFile
from latentkit.read.pairing import latents_key, latents_name
from latentkit.write.copies import Copy, carried, rows_of
from latentkit.write.places import refuse_one_place
from latentkit.write.safetensors import shards_index

#: Files of a re-sharded output.
SHARD_NAME = "latents-{number:05}-of-{count:05}.safetensors"


@dataclass(frozen=True, slots=True)
class Output:
    """A file to be written: under each key the latents of spans, put end to end, and tensors carried over."""

    path: str
    latents: Mapping[str, tuple[Span, ...]]
    copies: Mapping[str, Copy]


def mirrored(
    spans: Sequence[Span], output: str, carry: Sequence[str], *, as_file: bool, failures: Failures | None = None
) -> list[Output]:
    """One output for each input file: ``output`` itself, or a folder in which each has its input's name.

    Raises ``RequestError`` when one file is to hold several inputs, or, unless ``failures`` take it, a tensor to be
    carried is not there.
    """
    failures = Failures() if failures is None else failures
    by_file: dict[InputFile, dict[Posterior, list[Span]]] = {}
    for span in spans:
        by_file.setdefault(span.posterior.file, {}).setdefault(span.posterior, []).append(span)
    if as_file and len(by_file) > 1:
        raise RequestError(f"{output}: one file, and there are {len(by_file)} inputs; give a folder")
    planned = []
    places: dict[str, InputFile] = {}
    for file, group in by_file.items():
        path = output if as_file else os.path.join(output, *latents_name(file.name).split("/"))
        if (first := places.setdefault(path, file)) is not file:
            refuse_one_place(path, first.path, file.path)
        latents = {latents_key(posterior, len(group)): tuple(spans) for posterior, spans in group.items()}
        with failures.passing_over(file.path):
            planned.append(Output(path, latents, _copies(group, carry, latents)))
    return planned


def resharded(spans: Sequence[Span], folder: str, carry: Sequence[str], samples: int) -> list[Output]:
    """Outputs of ``samples`` each, of all inputs put end to end.

    Raises ``RequestError`` or ``DataError`` when their latents, or what is carried, do not go end to end.
    """
    keys: dict[InputFile, Posterior] = {}
    for span in spans:
        first = keys.setdefault(span.posterior.file, span.posterior)
        if first is not span.posterior:
            raise RequestError(
                f"{first.file.path}: --samples-per-shard takes one tensor per file, and there are {first.key!r} and "
                f"{span.posterior.key!r}; choose with --key"
            )
        check_joinable(spans[0].posterior, span.posterior)
    further = {posterior: carried([posterior], carry, {"latents": ()}) for posterior in keys.values()}
    shards = list(_cut(spans, samples))
    planned = []
    for number, part in enumerate(shards, 1):
        path = os.path.join(folder, SHARD_NAME.format(number=number, count=len(shards)))
        planned.append(
            Output(path, {"latents": part}, _copied_rows([(span, further[span.posterior]) for span in part]))
        )
    return planned


def index_of(outputs: Sequence[Output], sizes: Sequence[int]) -> bytes:
    """A Hugging Face index of re-sharded outputs, with the total of their sizes."""
    return shards_index([(output.path, (*output.latents, *output.copies)) for output in outputs], sum(sizes))


def _cut(whole: Sequence[Span], samples: int) -> Iterator[tuple[Span, ...]]:
    spans: list[Span] = []
    room = samples
    for span in whole:
        first, end = span.first, span.first + span.count
        while first < end:
            count = min(room, end - first)
            spans.append(Span(span.posterior, first, count))
            first, room = first + count, room - count
            if room == 0:
                yield tuple(spans)
                spans, room = [], samples
    if spans:
        yield tuple(spans)


def check_joinable(first: Posterior, other: Posterior) -> None:
    """Raise ``DataError`` where the latents of one cannot be put behind the other's."""
    ours, theirs = ((p.axes.shape[len(p.axes.batch) :], p.mean.dtype) for p in (first, other))
    if ours != theirs or len(other.axes.batch) > 1:
        raise DataError(
            f"{other.label} ({other.mean.dtype} {list(other.axes.shape)}) does not go end to end with {first.label} "
            f"({first.mean.dtype} {list(first.axes.shape)}): that needs equal dtypes, and shapes but for the batch"
        )


def _copies(
    group: Mapping[Posterior, Sequence[Span]], carry: Sequence[str], latents: Mapping[str, Sequence[Span]]
) -> dict[str, Copy]:
    """What one input's output carries: whole tensors with whole inputs, else the rows of the samples chosen."""
    further = carried(list(group), carry, latents)
    (posterior, *_), (spans, *others) = group.keys(), group.values()
    if all(_is_whole(spans) for spans in group.values()):
        return {
            tensor.key: Copy(tensor.dtype, tensor.shape, ((posterior.header, tensor, 0, tensor.nbytes),))
            for tensor in further
        }
    rows = [(span.first, span.count) for span in spans]
    if further and any([(span.first, span.count) for span in other] != rows for other in others):
        raise RequestError(
            f"{posterior.file.path}: other samples were chosen of one tensor than of another, so {further[0].key!r} "
            f"cannot be carried beside both; choose one tensor with --key"
        )
    return _copied_rows([(span, further) for span in spans])


def _is_whole(spans: Sequence[Span]) -> bool:
    return len(spans) == 1 and spans[0].count == spans[0].posterior.samples


def _copied_rows(spans: Sequence[tuple[Span, Sequence[TensorInfo]]]) -> dict[str, Copy]:
    """The rows that belong to the spans' samples, of the tensors to be carried with each."""
    found: dict[str, list[tuple[Span, TensorInfo]]] = {}
    for span, tensors in spans:
        for tensor in tensors:
            found.setdefault(tensor.key, []).append((span, tensor))
    copies = {}
    for key, rows in found.items():
        first = rows[0][1]
        for span, tensor in rows:
            per_sample = tensor.shape[:1] == (span.posterior.samples,) and tensor.nbytes % span.posterior.samples == 0
            if not per_sample or (tensor.dtype, tensor.shape[1:]) != (first.dtype, first.shape[1:]):
                raise DataError(
                    f"{span.posterior.file.path}: tensor {key!r} ({tensor.dtype} {list(tensor.shape)}) cannot be "
                    f"carried row by row: it needs a row for each sample, alike in every input"
                )
        if len(rows) != len(spans):
            raise RequestError(f"tensor {key!r} cannot be carried row by row: some of the inputs do not have it")
        parts = tuple(rows_of(span, tensor) for span, tensor in rows)
        copies[key] = Copy(first.dtype, (sum(span.count for span, _ in rows), *first.shape[1:]), parts)
    return copies
