"""Figures that an earlier run kept, to set others beside: the JSON document of ``stats``, or its state."""

import json
import math
import os
import sys
from contextlib import suppress
from dataclasses import MISSING, fields, is_dataclass
from enum import StrEnum
from functools import cache
from itertools import pairwise
from types import UnionType
from typing import TYPE_CHECKING, Any, get_args, get_origin, get_type_hints

from latentkit.errors import DataError, RequestError
from latentkit.health.examination import Other, judged
from latentkit.posterior.parameterization import Clamp
from latentkit.read.header import container_of, read_header
from latentkit.read.inputs import INDEX_SUFFIX, find_inputs
from latentkit.read.metadata import is_state

if TYPE_CHECKING:
    from latentkit.stats.sample_values import SampleFigures
    from latentkit.stats.summary import Summary

# A document of 8,192 channels has two thirds of that.
_MOST_BYTES = 1 << 25
_DAMAGE = ValueError, KeyError, TypeError, IndexError, OverflowError, AttributeError
_AGAIN = "with stats FILES -o FILE.json"


def is_kept(path: str) -> bool:
    """Whether ``path`` names such figures, and no tensors to be counted."""
    if os.path.isdir(path):
        return False
    if path.lower().endswith(".json"):
        return not path.endswith(INDEX_SUFFIX)
    if not os.path.isfile(path) or container_of(path) not in (None, "safetensors"):
        return False
    try:
        return is_state(read_header(path))
    except (DataError, OSError):
        return False  # counting it says why


def kept(path: str, clamp: Clamp, **factors: Any) -> Other:
    """Read them; ``factors``: see ``judged``.

    Raises ``RequestError`` where there is no such file, or its figures are of another clamp, and ``DataError`` for one
    that is no document or state, is of another version, or is damaged.
    """
    find_inputs([path])
    if path.lower().endswith(".json"):
        other = _from_document(path)
    else:
        from latentkit.stats.state import from_file

        state = from_file(path)
        if not state.statistics.samples:
            raise DataError(f"{path}: there are no samples in it")
        other = judged(state, state.summary(), **factors).as_other()
    theirs = other.summary.clamp
    if other.summary.overall.clamp is not None and theirs != clamp:
        raise RequestError(
            f"{path}: made with a clamp of [{theirs[0]:g}, {theirs[1]:g}], and here it is [{clamp[0]:g}, "
            f"{clamp[1]:g}]: say --clamp-min and --clamp-max, or make it again"
        )
    return other


def _from_document(path: str) -> Other:
    from latentkit.health.document import SCHEMA

    with open(path, "rb") as file:
        data = file.read(_MOST_BYTES + 1)
    if len(data) > _MOST_BYTES:
        raise DataError(
            f"{path}: over {_MOST_BYTES:,} bytes of JSON, more than is held in memory: compare with a state instead, "
            "stats FILES --state FILE"
        )
    try:
        text = data.decode("utf-8-sig")
        del data
        document = json.loads(text, object_hook=_group_or_part)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, or not all of it: {str(error)[:100]}; make it again {_AGAIN}") from error
    schema = document.get("schema") if isinstance(document, dict) else None
    if not str(schema).startswith("latentkit.stats/"):
        raise DataError(f"{path}: not a document of stats; write one {_AGAIN}")
    if schema != SCHEMA:
        raise DataError(f"{path}: its schema is {schema}, and this latentkit reads {SCHEMA}; make it again {_AGAIN}")
    try:
        return _other_of(document)
    except _DAMAGE as error:
        raise DataError(f"{path}: a damaged document of stats ({str(error)[:100]}); make it again {_AGAIN}") from error


def _group_or_part(part: dict[str, Any]) -> Any:
    """The figures of a channel as soon as they are read: as dicts, those of thousands would take twice the memory."""
    from latentkit.stats.summary import Group

    if "histogram" in part:
        with suppress(*_DAMAGE):  # found again, and said
            return _restored(Group, part)
    return part


def _other_of(document: dict[str, Any]) -> Other:
    from latentkit.health.findings import Finding
    from latentkit.stats.sample_values import SampleFigures
    from latentkit.stats.summary import Summary

    summary: Summary = _restored(Summary, document | {"extras": document["with"]})
    samples, name = document["sample_kl"], "kl"
    if summary.parameterization == "none":
        samples, name = document["sample_mean_square"], "mean_square"
    lowest, highest = ([row[name] for row in samples[end]] for end in ("lowest", "highest"))
    figures: SampleFigures = _restored(
        SampleFigures,
        {"least": next(iter(lowest), None), "quantiles": samples["quantiles"], "greatest": next(iter(highest), None)},
    )
    _check(summary, figures)
    findings: list[Finding] = _restored(list[Finding], document["findings"])
    return Other(summary, findings, _restored(list[str], document["read"]), figures)


def _check(summary: "Summary", samples: "SampleFigures") -> None:
    """Raise ``ValueError`` where figures do not go together."""
    from latentkit.stats.summary import QUANTILES

    levels = [percent / 100 for percent in QUANTILES]
    groups = [summary.overall, *summary.per_channel]
    if len(groups) != summary.channels + 1 or summary.channels < 1 or summary.samples < 1:
        raise ValueError(f"{summary.samples} samples, {summary.channels} channels and figures of {len(groups) - 1}")
    is_drawn = summary.parameterization == "none"
    if any((part is None) is not is_drawn for group in groups for part in (group.logvar, group.clamp, group.kl)):
        raise ValueError("channels with a scale and without")
    spreads = [spread for group in groups for spread in (group.mean, group.logvar) if spread is not None]
    quantiles = [samples.quantiles, *(spread.quantiles for spread in spreads)]
    if summary.quantile_levels != levels or any(len(values) != len(levels) for values in quantiles):
        raise ValueError("other quantiles")
    edges = summary.histogram_edges
    if len(edges) < 2 or not all(low < high < math.inf for low, high in pairwise(edges)):
        raise ValueError("edges of histograms that do not ascend")
    if any(group.logvar and len(group.histogram) != len(edges) + 1 for group in groups):
        raise ValueError("histograms without their edges")
    spectrum = summary.extras.spectrum
    if spectrum is not None and len(spectrum.frequencies) != len(spectrum.overall):
        raise ValueError("a spectrum without its frequencies")


def _restored(kind: Any, value: Any) -> Any:
    """The inverse of ``document.plain``: what is declared as ``kind``. Null is NaN where there must be a float.

    Raises ``TypeError``, ``KeyError`` or ``ValueError`` for what cannot be that.
    """
    if kind is float:
        return math.nan if value is None else float(_of_kind((int, float), value))
    if kind in (int, bool, str):
        return _of_kind((kind,), value)
    if isinstance(kind, UnionType):
        return None if value is None else _restored(get_args(kind)[0], value)
    if get_origin(kind) is list:
        (inner,) = get_args(kind)
        return [_restored(inner, item) for item in _of_kind((list,), value)]
    if get_origin(kind) is tuple:
        first, *others = get_args(kind)
        items = _of_kind((list,), value)
        if others != [...] and len(items) != 1 + len(others):
            raise ValueError(f"{len(items)} numbers for {1 + len(others)}")
        return tuple(_restored(first, item) for item in items)
    if is_dataclass(kind):
        return _fields_of(kind, value)
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(value)
    raise TypeError(f"nothing is declared as {kind}")


def _fields_of(kind: Any, value: Any) -> Any:
    from latentkit.stats.extrema import Place

    if kind is Place:
        file, tensor, *numbers = (_restored(of, value[name]) for of, name in _PLACE)
        return Place(sys.intern(file), sys.intern(tensor), *numbers)
    if isinstance(value, kind):
        return value
    hints = _hints(kind)
    known = {field.name: value[field.name] for field in fields(kind) if field.name in value or _is_needed(field)}
    return kind(**{name: _restored(hints[name], item) for name, item in known.items()})


_PLACE = (str, "file"), (str, "tensor"), (int, "index"), (int, "position")
_hints = cache(get_type_hints)


def _is_needed(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING


def _of_kind(kinds: tuple[type, ...], value: Any) -> Any:
    # A bool is no number here.
    if type(value) not in kinds or (type(value) is int and abs(value) >= 1 << 63):
        raise TypeError(f"{str(value)[:40]!r} is no {' or '.join(kind.__name__ for kind in kinds)}")
    return value
