"""What ``stats`` counted, as a file: runs over parts are merged into what one run over all would give.

A state is a safetensors file: arrays, and one metadata entry of JSON, with a checksum of the whole file. Never pickle.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.errors import DataError, RequestError
from latentkit.read.bytes import HELD_AS, read_at, read_span
from latentkit.read.header import Header, read_header
from latentkit.read.metadata import STATE_ENTRY
from latentkit.stats.accumulate import Statistics
from latentkit.stats.by_label import ByLabel
from latentkit.stats.extras import Extras
from latentkit.stats.extrema import Place, place_rows, places_of
from latentkit.stats.sample_values import Extreme, SampleValues
from latentkit.stats.summary import Summary
from latentkit.stats.sums import Arrays, ExactSums, fill
from latentkit.write.safetensors import TensorSpec, lay_out

_VERSION = 5
# Far more than any state has but for names without end: a larger one is not written, nor read.
_MOST_BYTES = 1 << 30
# What stands in the file for its own SHA-256 while that is computed.
_NO_DIGEST = "0" * 64


@dataclass(slots=True)
class State:
    """Statistics, the KL or mean square of each sample, how the input was read, and what was asked for besides.

    ``by`` is not in its file.
    """

    statistics: Statistics
    per_sample: SampleValues
    readings: list[str] = field(default_factory=list)
    extras: Extras | None = None
    by: ByLabel | None = None

    @property
    def extra_names(self) -> list[str]:
        return [] if self.extras is None else self.extras.names

    def summary(self) -> Summary:
        """All figures; the mean KL per sample is that of ``kl``, over the samples where it is finite."""
        summary = self.statistics.summary()
        if summary.overall.kl is not None and self.per_sample.count + self.per_sample.nonfinite:
            kl = replace(summary.overall.kl, sample=self.per_sample.mean)
            summary = replace(summary, overall=replace(summary.overall, kl=kl))
        return summary if self.extras is None else replace(summary, extras=self.extras.figures())

    def merge(self, other: "State") -> None:
        """Take what another has counted; raises ``ValueError`` where they do not fit."""
        self.statistics.merge(other.statistics)
        self.per_sample.merge(other.per_sample)
        if self.extras is not None and other.extras is not None:
            self.extras.merge(other.extras)
        self.readings = list(dict.fromkeys(self.readings + other.readings))


def to_pieces(state: State) -> list[bytes | memoryview]:
    """The state as a safetensors file, piece by piece; equal states give equal bytes.

    Raises ``DataError`` for one that would be too large to be read again.
    """
    names: dict[tuple[str, str], int] = {}

    def number_of(place: Place) -> int:
        return names.setdefault((place.name, place.key), len(names))

    statistics, values = state.statistics, state.per_sample
    arrays = statistics.arrays(number_of)
    facts: dict[str, Any] = {
        "version": _VERSION,
        "sha256": _NO_DIGEST,
        "channels": statistics.channels,
        "parameterization": statistics.parameterization,
        "clamp": list(statistics.clamp),
        "samples": statistics.samples,
        "readings": state.readings,
        "nonfinite_samples": values.nonfinite,
    }
    seen, what = np.flatnonzero(values.counts), _what(statistics)
    if values.exact is not None:
        arrays[f"{what}.values"] = values.exact
    else:
        arrays[f"{what}.cells"], arrays[f"{what}.counts"] = seen, values.counts[seen]
    arrays |= values.total.parts(f"{what}.total")
    for name, extremes in (("highest", values.highest), ("lowest", values.lowest)):
        arrays[f"{what}.{name}"] = np.array([value for value, _ in extremes], np.float64)
        arrays[f"{what}.{name}_at"] = place_rows([place for _, place in extremes], number_of)
    if state.extras is not None:
        facts["with"] = state.extra_names
        arrays |= {f"with.{name}": array for name, array in state.extras.arrays(number_of).items()}
    # Names may be many and long: data have room, the header has little.
    text = json.dumps(list(names)).encode(errors="surrogatepass")
    arrays["names"] = np.frombuffer(text, np.uint8)
    if (nbytes := sum(array.nbytes for array in arrays.values())) > _MOST_BYTES:
        raise DataError(
            f"the state would be {nbytes:,} bytes, with the names of {len(names):,} tensors, and states of up to "
            f"{_MOST_BYTES:,} are read: count fewer files at a time, or leave out --with duplicates"
        )
    specs = {name: TensorSpec(_dtype_of(array), array.shape) for name, array in arrays.items()}
    layout = lay_out(specs, {STATE_ENTRY: json.dumps(facts)})
    data = [np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data for name in layout.offsets]
    digest = sha256(layout.header)
    for piece in data:
        digest.update(piece)
    # In the header no other text has so many zeros.
    return [layout.header.replace(_NO_DIGEST.encode(), digest.hexdigest().encode(), 1), *data]


def _dtype_of(array: NDArray[Any]) -> str:
    """As safetensors names it, of whole numbers and floats."""
    return f"{array.dtype.kind.upper()}{8 * array.itemsize}"


def from_file(path: str) -> State:
    """Read a state; raises ``DataError`` for a file that is none, is damaged, or contradicts itself."""
    no_state = f"{path}: not a state of stats; write one with stats FILES --state FILE"
    try:
        header = read_header(path)
    except DataError as error:
        if error.kind != "wrong":
            raise
        raise DataError(no_state) from error
    if STATE_ENTRY not in header.metadata:
        raise DataError(no_state)
    if header.stamp[0] > _MOST_BYTES:
        raise DataError(f"{path}: not a state that can be read: it has {header.stamp[0]:,} bytes, and none is so large")
    try:
        facts = json.loads(header.metadata[STATE_ENTRY])
        if facts["version"] != _VERSION:
            raise ValueError(
                f"its version is {facts['version']}, and this latentkit reads {_VERSION}; make it again with stats "
                f"FILES --state FILE"
            )
        if facts["sha256"] != _digest(header, facts["sha256"]):
            raise ValueError("it is damaged: its checksum does not fit; copy it again, or make it again")
        return _state(facts, _arrays(header))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, IndexError) as error:
        raise DataError(f"{path}: not a state that can be read: {str(error)[:200]}") from error


def _digest(header: Header, recorded: str) -> str:
    """The SHA-256 of the whole file but for itself, ``recorded``; read in chunks, so that nothing large is held yet."""
    size = header.stamp[0]
    start = min((tensor.offset for tensor in header.tensors.values()), default=size)
    head = b"".join(map(bytes, read_span(header, 0, start)))
    digest = sha256(head.replace(recorded.encode(), _NO_DIGEST.encode(), 1))
    for chunk in read_span(header, start, size):
        digest.update(chunk)
    return digest.hexdigest()


def _arrays(header: Header) -> Arrays:
    arrays = {}
    for key, tensor in header.tensors.items():
        flat = np.empty(tensor.elements, HELD_AS[tensor.dtype])
        read_at(header, tensor, 0, flat)
        arrays[key] = flat.reshape(tensor.shape)
    return arrays


def merged(paths: Sequence[str]) -> State:
    """All states as one; raises ``RequestError`` where two are not of the same kind, or are one file."""
    whole, files = from_file(paths[0]), {os.path.realpath(paths[0])}
    for path in paths[1:]:
        if os.path.realpath(path) in files:
            raise RequestError(f"{path}: is given more than once, and its samples would count as often")
        files.add(os.path.realpath(path))
        other = from_file(path)
        for what in ("channels", "parameterization", "clamp"):
            ours, theirs = (getattr(state.statistics, what) for state in (whole, other))
            if ours != theirs:
                raise RequestError(f"{paths[0]} and {path} cannot be merged: their {what} are {ours} and {theirs}")
        if whole.extra_names != other.extra_names:
            ours, theirs = (" ".join(state.extra_names) or "none" for state in (whole, other))
            raise RequestError(f"{paths[0]} and {path} cannot be merged: their --with are {ours} and {theirs}")
        whole.merge(other)
    return whole


def _state(facts: dict[str, Any], arrays: Arrays) -> State:
    channels, parameterization, samples = facts["channels"], facts["parameterization"], facts["samples"]
    # Of the arrays, as memory is taken for as many channels.
    rows = len(arrays["extrema.least"])
    if not (type(channels) is int and rows in (channels, 2 * channels) and type(samples) is int and samples >= 0):
        raise ValueError(f"it counts {samples} samples of {channels} channels, and has extremes of {rows} halves")
    low, high = map(float, facts["clamp"])
    names = [
        (str(name), str(key)) for name, key in json.loads(arrays["names"].tobytes().decode(errors="surrogatepass"))
    ]
    statistics = Statistics(channels, parameterization, (low, high))
    statistics.restore(arrays, names, samples)
    values = _sample_values(facts, arrays, names, _what(statistics))
    if values.count + values.nonfinite != samples:
        raise ValueError(f"it counts {samples} samples, and {values.count + values.nonfinite} values of samples")
    extras = _extras(facts, arrays, names, statistics)
    return State(statistics, values, [str(reading) for reading in facts["readings"]], extras)


def _extras(
    facts: dict[str, Any], arrays: Arrays, names: list[tuple[str, str]], statistics: Statistics
) -> Extras | None:
    if not facts.get("with"):
        return None
    kind = statistics.channels, statistics.parameterization, statistics.clamp
    extras = Extras(facts["with"], *kind, np.zeros(statistics.channels))
    own = {key.removeprefix("with."): array for key, array in arrays.items() if key.startswith("with.")}
    extras.restore(own, names, statistics.samples)
    return extras


def _what(statistics: Statistics) -> str:
    """What there is a value of for each sample."""
    return "mean_square" if statistics.parameterization == "none" else "kl"


def _sample_values(facts: dict[str, Any], arrays: Arrays, names: Sequence[tuple[str, str]], what: str) -> SampleValues:
    counts, exact = np.zeros_like(SampleValues().counts), arrays.get(f"{what}.values")
    if exact is None:
        _fill_cells(counts, arrays, what)
    elif exact.dtype != np.float64 or exact.ndim != 1:
        raise ValueError(f"its values of samples are {exact.dtype} {exact.shape}")
    extremes: list[list[Extreme]] = []
    for name in ("highest", "lowest"):
        places = places_of(arrays[f"{what}.{name}_at"], names)
        pairs = zip(arrays[f"{what}.{name}"].tolist(), places, strict=True)
        extremes.append([(value, place) for value, place in pairs if place is not None])
    total = ExactSums(1)
    fill(total.parts(f"{what}.total"), arrays)
    highest, lowest = extremes
    return SampleValues.restored(exact, counts, int(facts["nonfinite_samples"]), highest, lowest, total)


def _fill_cells(counts: NDArray[np.int64], arrays: Arrays, what: str) -> None:
    cells, found = (arrays[f"{what}.{name}"].astype(np.int64, casting="safe") for name in ("cells", "counts"))
    if cells.shape != found.shape or np.diff(cells, prepend=-1).min(initial=1) < 1:
        raise ValueError(f"{found.shape} counts of values do not fit {cells.shape} cells")
    counts[cells] = found
