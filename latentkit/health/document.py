"""The figures of ``stats`` as others read them: a JSON document of a published schema, and a row per channel.

``stats_schema.json`` describes the document. Names stay; what is new is added. A change that would break a reader
raises the number in ``SCHEMA``.
"""

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from typing import Any

from latentkit.health.comparison import differences, verdict_of
from latentkit.health.findings import Finding
from latentkit.health.normalization import Factors
from latentkit.health.outliers import kl_over
from latentkit.measures.by_label import QUANTILES as OF_LABELS
from latentkit.stats.by_label import Groups, LabelGroup
from latentkit.stats.extrema import Place
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.summary import QUANTILES, ExtraFigures, Group, Spread, Summary

SCHEMA = "latentkit.stats/1"

_OF_SAMPLES = "sample_kl", "sample_mean_square"


def outline_of(
    summary: Summary,
    readings: Sequence[str],
    findings: Sequence[Finding],
    factors: Factors,
    per_sample: SampleValues | None,
    against: tuple[Summary, Sequence[str]] | None = None,
    groups: Groups | None = None,
) -> dict[str, Any]:
    """The document, in which figures are still dataclasses: ``plain`` makes them dicts, at the moment they are written.

    ``per_sample``: the KL of each sample, or of latents already drawn their mean square. ``against``: the summary of
    another input, and how that was read. ``groups``: the figures of each label.
    """
    sample_kl, mean_square = (None, per_sample) if summary.parameterization == "none" else (per_sample, None)
    return {
        "schema": SCHEMA,
        "measure": "stats",
        "read": list(readings),
        "verdict": verdict_of(findings, summary, against[0] if against else None),
        "findings": findings,
        "normalization": factors,
        "sample_kl": None if sample_kl is None else _samples("kl", sample_kl) | _hazards(sample_kl),
        "sample_mean_square": None if mean_square is None else _samples("mean_square", mean_square),
        **_figures(summary),
        "with": summary.extras,
        "against": None if against is None else _against(summary, *against),
        "groups": None if groups is None else _groups(groups, is_drawn=mean_square is not None),
    }


def channel_columns(groups: Sequence[Group], extras: ExtraFigures) -> dict[str, list[Any]]:
    """The per-channel table, by column, with what was asked for besides; NaN where a figure is undefined."""
    columns: dict[str, list[Any]] = {}
    for group in groups:
        # One row at a time: as dicts, thousands of them are tens of megabytes.
        for name, figure in (_row(group) | _asked(group.channel, extras)).items():
            columns.setdefault(name, []).append(figure)
    return columns


def label_columns(groups: Groups, *, is_drawn: bool) -> dict[str, list[Any]]:
    """The table of labels, by column; NaN where a figure is undefined."""
    rows = [_flat(_label(group, is_drawn=is_drawn)) for group in groups.labels]
    return {name: [row[name] for row in rows] for name in rows[0]} if rows else {}


def _groups(groups: Groups, *, is_drawn: bool) -> dict[str, Any]:
    return {"key": groups.key, "labels": [_label(group, is_drawn=is_drawn) for group in groups.labels]}


def _label(group: LabelGroup, *, is_drawn: bool) -> dict[str, Any]:
    values = group.values
    samples: dict[str, Any] = {"finite": values.count, "nonfinite": values.nonfinite}
    samples |= {"mean": values.mean, "sd": values.sd, "min": values.min}
    samples |= {f"q{percent:02}": value for percent, value in zip(OF_LABELS, values.quantiles, strict=True)}
    samples["max"] = values.max
    row = {"label": values.label, "samples": values.count + values.nonfinite}
    row |= {"sample_kl": None if is_drawn else samples, "sample_mean_square": samples if is_drawn else None}
    return row | {field.name: getattr(group, field.name) for field in fields(group) if field.name != "values"}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """Without what there is not, and without channels."""
    samples = {f"{name}_{figure}": row[name][figure] for name in _OF_SAMPLES for figure in row[name] or ()}
    others = {name: value for name, value in row.items() if name not in (*_OF_SAMPLES, "channels")}
    first = {name: others.pop(name) for name in ("label", "samples")}
    return first | samples | {name: value for name, value in others.items() if value is not None}


def _figures(summary: Summary) -> dict[str, Any]:
    # The extras have a name of their own.
    return {field.name: getattr(summary, field.name) for field in fields(summary) if field.name != "extras"}


def plain(value: Any) -> Any:
    """Figures as the document has them: dicts, lists, numbers and texts."""
    if isinstance(value, Place):
        return {"file": value.name, "tensor": value.key, "index": value.index, "position": value.position}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value.value if isinstance(value, StrEnum) else value


def _against(summary: Summary, other: Summary, readings: Sequence[str]) -> dict[str, Any]:
    return {
        "read": list(readings),
        "differences": differences(summary, other),
        "summary": _figures(other),
        "with": other.extras,
    }


def _samples(name: str, values: SampleValues) -> dict[str, Any]:
    return {
        "finite": values.count,
        "nonfinite": values.nonfinite,
        "quantiles": [values.quantile(percent / 100) for percent in QUANTILES],
        "highest": [{name: value, **plain(place)} for value, place in values.highest],
        "lowest": [{name: value, **plain(place)} for value, place in values.lowest],
    }


def _hazards(sample_kl: SampleValues) -> dict[str, Any]:
    return {"hazards": [{"dtype": dtype, "kl_over": count} for dtype, count in kl_over(sample_kl).items()]}


def _row(group: Group) -> dict[str, Any]:
    row: dict[str, Any] = {"channel": group.channel, "elements": group.count, **_spread("mean", group.mean)}
    if group.logvar is not None and group.clamp is not None and group.kl is not None:
        clamp, kl = group.clamp, group.kl
        row |= _spread("logvar", group.logvar)
        row |= {"below": clamp.below, "at_low": clamp.at_low, "at_high": clamp.at_high, "above": clamp.above}
        row |= {"clamped_fraction": clamp.clamped_fraction, "margin": clamp.margin}
        row |= {"kl_element": kl.element, "kl_sample": kl.sample, "kl_share": kl.share}
        row |= {"active": group.active, "collapsed": group.collapsed}
    return row | {
        "mean_variance": group.mean_variance,
        "latents_mean": group.drawn.shift_factor,
        "latents_sd": group.drawn.sd,
        "scaling_factor": group.drawn.scaling_factor,
        "aggregate_kl": group.aggregate_kl,
    }


def _asked(channel: int | None, extras: ExtraFigures) -> dict[str, float]:
    if channel is None:
        return {}
    row: dict[str, float] = {}
    if extras.shape is not None:
        shape = extras.shape.channels[channel]
        row |= {"skewness": shape.skewness, "excess_kurtosis": shape.excess_kurtosis}
    if extras.spectrum is not None:
        row |= {f"lag1_{lag.axis}": lag.channels[channel] for lag in extras.spectrum.lag1}
    return row


def _spread(name: str, spread: Spread) -> dict[str, Any]:
    figures: dict[str, Any] = {"mean": spread.mean, "sd": spread.sd, "min": spread.min}
    figures |= {f"q{percent:02}": value for percent, value in zip(QUANTILES, spread.quantiles, strict=True)}
    figures |= {"max": spread.max, "nan": spread.nan_count + spread.negative_count}
    figures |= {"minus_inf": spread.minus_inf_count, "plus_inf": spread.plus_inf_count}
    return {f"{name}_{figure}": value for figure, value in figures.items()}
