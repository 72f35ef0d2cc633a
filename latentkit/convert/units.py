"""Inputs as rows of outputs: a row is a sample, or an image with its mirror."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from latentkit.errors import DataError, RequestError
from latentkit.posterior.layout import Axes
from latentkit.read.choice import PAIRS, Posterior, Span
from latentkit.read.header import ELEMENT_BITS, Header, TensorInfo
from latentkit.read.inputs import InputFile
from latentkit.read.metadata import is_drawn
from latentkit.read.samples import SampleChoice, choose_samples
from latentkit.write.copies import carried, check_rows

LABELS_KEY = "labels"
_FLIP = "_flip"


@dataclass(frozen=True, slots=True, eq=False)
class Unit:
    """The rows of one input: ``rows`` counts them, ``members`` are the posteriors that are read so.

    A tensor without a batch axis is one row, or half of one beside that of its mirror. ``tensors`` are, by the key of
    the output, those that a row is of.
    """

    rows: Posterior
    members: tuple[Posterior, ...]
    name: str
    tensors: Mapping[str, tuple[TensorInfo, ...]]

    @property
    def is_batched(self) -> bool:
        return self.rows.layout.startswith("b")

    @property
    def samples_per_row(self) -> int:
        """Of one member."""
        return self.members[0].samples // self.rows.samples

    def row_shape(self, key: str) -> tuple[int, ...]:
        first, *others = self.tensors[key]
        shape = first.shape[1:] if self.is_batched else first.shape
        return (1 + len(others), *shape) if others else shape

    @property
    def layout(self) -> str:
        """Of its rows put end to end."""
        return self.rows.layout if self.is_batched else "b" * len(self.members) + self.rows.layout


def units_of(posteriors: Iterable[Posterior], carry: Sequence[str], *, labels: bool) -> list[Unit]:
    """The units of all inputs, each with the tensors that ``carry`` names, and its ``labels`` if wanted.

    Raises ``RequestError`` or ``DataError`` where an input's tensors do not stand side by side.
    """
    by_file: dict[InputFile, list[Posterior]] = {}
    for posterior in posteriors:
        by_file.setdefault(posterior.file, []).append(posterior)
    return [unit for group in by_file.values() for unit in _units(group, carry, labels=labels)]


def choose_rows(units: Iterable[Unit], choice: SampleChoice) -> list[tuple[Unit, Span]]:
    """The spans of rows to be written, in order: a list of samples stands for the rows that they are in, each once."""
    by_rows = {unit.rows: unit for unit in units}
    named = {
        (member.file.path, member.key): (unit.rows, unit.samples_per_row)
        for unit in by_rows.values()
        for member in unit.members
    }
    spans: Iterable[Span] = choose_samples(tuple(by_rows), choice, named)
    if choice.indices is not None:
        spans = {(span.posterior, span.first): span for span in _single(spans)}.values()
    chosen = [(by_rows[span.posterior], span) for span in spans]
    if not chosen:
        raise DataError("no sample is left by --indices and --exclude")
    return chosen


def left_out(units: Iterable[Unit]) -> list[str]:
    """The keys of tensors in inputs that go into no output."""
    taken: dict[Header, set[str]] = {}
    for unit in units:
        keys = taken.setdefault(unit.rows.header, set())
        keys.update(tensor.key for tensors in unit.tensors.values() for tensor in tensors)
    return sorted({key for header, keys in taken.items() for key in header.tensors.keys() - keys})


def samples_of(unit: Unit, span: Span) -> list[Span]:
    """The samples that rows are of, as the input has them."""
    each = unit.samples_per_row
    return [Span(member, span.first * each, span.count * each) for member in unit.members]


def _single(spans: Iterable[Span]) -> Iterable[Span]:
    return (Span(span.posterior, span.first + row, 1) for span in spans for row in range(span.count))


def _units(group: list[Posterior], carry: Sequence[str], *, labels: bool) -> list[Unit]:
    header, batched = group[0].header, [posterior for posterior in group if posterior.layout.startswith("b")]
    if is_drawn(header):
        raise RequestError(f"{header.path}: latentkit drew it; sample --samples-per-shard writes such files anew")
    if batched and len(group) > 1:
        others = [posterior for posterior in group if posterior is not batched[0]]
        raise RequestError(
            f"{header.path}: convert takes one tensor of many samples per file, and there are {batched[0].key!r} and "
            f"{others[0].key!r}; choose with --key, and copy the other with --carry"
        )
    by_key = {} if batched else {posterior.key: posterior for posterior in group}
    pairs = {key: by_key[key + _FLIP] for key in by_key if _is_mirrored(by_key, key)}
    flips = {flip.key for flip in pairs.values()}
    firsts = [posterior for posterior in group if posterior.key not in flips]
    patterns = [*carry, *_beside(firsts[0]), *([LABELS_KEY] if labels and _has_labels(firsts[0]) else [])]
    found = []
    for posterior in firsts:
        members = (posterior, pairs[posterior.key]) if posterior.key in pairs else (posterior,)
        tensors = _tensors(members)
        further = carried(members, patterns, tensors) if patterns else []
        rows = _counted_by_rows(posterior)
        for tensor in further if batched else ():
            check_rows(Span(rows, 0, rows.samples), tensor)
        name = group[0].file.name if len(firsts) == 1 else f"{group[0].file.name}/{posterior.key}"
        found.append(Unit(rows, members, name, tensors | {tensor.key: (tensor,) for tensor in further}))
    return found


def _is_mirrored(by_key: Mapping[str, Posterior], key: str) -> bool:
    flip = by_key.get(key + _FLIP)
    return flip is not None and (flip.mean.shape, flip.mean.dtype) == (by_key[key].mean.shape, by_key[key].mean.dtype)


def _tensors(members: tuple[Posterior, ...]) -> dict[str, tuple[TensorInfo, ...]]:
    first = members[0]
    if first.scale is None:
        key = "latents" if first.parameterization == "none" else "moments"
        return {key: tuple(member.mean for member in members)}
    # Under names that say by themselves what they are, where there are such.
    names = {meaning: (mean, scale) for mean, scale, meaning in reversed(PAIRS)}
    keys = names.get(first.parameterization, (first.mean.key, first.scale.key))
    return {keys[0]: (first.mean,), keys[1]: (first.scale,)}


def _counted_by_rows(posterior: Posterior) -> Posterior:
    axes = posterior.axes
    if len(axes.batch) < 2:
        return posterior
    return replace(posterior, axes=Axes(axes.batch[:1], axes.outer, axes.channels, axes.inner))


def _beside(posterior: Posterior) -> list[str]:
    """What stands a row per sample beside what the preset reads, as LightningDiT's mirrors do."""
    if posterior.preset is None or not posterior.layout.startswith("b"):
        return []
    return [key for key in posterior.preset.beside if key in posterior.header.tensors and key != posterior.key]


def _has_labels(posterior: Posterior) -> bool:
    tensor = posterior.header.tensors.get(LABELS_KEY)
    shape = posterior.mean.shape[:1] if posterior.layout.startswith("b") else ()
    if tensor is None or tensor is posterior.mean or tensor.shape[: len(shape)] != shape:
        return False
    if tensor.dtype not in ELEMENT_BITS:
        raise RequestError(
            f"{posterior.header.path}: its labels are {tensor.dtype}, which no output holds as they are; --no-labels "
            f"converts without them"
        )
    return True
