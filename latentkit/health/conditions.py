"""Conditions on figures, ``NAME OP NUMBER``, for CI and training scripts: ``--fail-if 'clamped_fraction > 0.001'``.

Parsed by hand, never evaluated, and without torch, so that a typing error costs no run.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from latentkit.errors import RequestError

if TYPE_CHECKING:
    from latentkit.health.findings import Finding
    from latentkit.stats.summary import Group, Spread, Summary

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_SHAPE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|==|!=|>|<)\s*(\S+)\s*")


class Needs(Enum):
    """What must be finite for a figure to be defined: a broken file must not turn a check green."""

    nothing = 0
    #: No log-variance is NaN (an infinite one is clamped).
    scale = 1
    #: That, and every mean is finite.
    everything = 2


Read = Callable[["Summary", Sequence["Finding"]], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that conditions may name: what it is, and how it is read."""

    meaning: str
    read: Read
    needs: Needs = Needs.nothing
    #: The name of --with that gives it; None for what is always there.
    extra: str | None = None

    def value(self, summary: "Summary", findings: "Sequence[Finding]") -> float:
        """NaN where it is undefined."""
        mean, logvar = summary.overall.mean, summary.overall.logvar
        broken = logvar is not None and logvar.nan_count + logvar.negative_count > 0
        if self.needs is Needs.everything:
            broken |= mean.finite < summary.overall.count
        if self.needs is not Needs.nothing and broken:
            return math.nan
        return self.read(summary, findings)


@dataclass(frozen=True, slots=True)
class Condition:
    """``name`` compared with ``number``."""

    name: str
    comparison: str
    number: float

    def held(self, value: float) -> bool:
        """Whether it holds for ``value``. NaN holds any: a broken file must not turn a check green."""
        return math.isnan(value) or _COMPARISONS[self.comparison](value, self.number)

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.number:.15g}"


def parse(text: str) -> Condition:
    """Read a condition; raises ``RequestError`` with what would be right, the nearest names among it."""
    match = _SHAPE.fullmatch(text)
    number = _number(match[3]) if match else math.nan
    if match is None or math.isnan(number):
        raise RequestError(
            f"--fail-if {text!r}: a condition is NAME OP NUMBER, with {' '.join(_COMPARISONS)} for OP, such as "
            f"'clamped_fraction > 0.001'"
        )
    if match[1] not in FIGURES:
        wanted = match[1].lower()
        near = [name for name in FIGURES if wanted in name][:3]
        near = near or difflib.get_close_matches(wanted, FIGURES, n=3, cutoff=0.5)
        raise RequestError(
            f"--fail-if {text!r}: no figure is called {match[1]!r}; "
            + (f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(FIGURES)}")
        )
    return Condition(match[1], match[2], number)


def check_asked(conditions: Iterable[Condition], extras: Collection[str]) -> None:
    """Raise ``RequestError`` for a condition on a figure that is not among the extras asked for with ``--with``."""
    for condition in conditions:
        extra = FIGURES[condition.name].extra
        if extra is not None and extra not in extras:
            raise RequestError(f"--fail-if {str(condition)!r}: {condition.name} takes --with {extra}")


def held(
    conditions: Iterable[Condition], summary: "Summary", findings: "Sequence[Finding]"
) -> list[tuple[Condition, float]]:
    """The conditions that hold, each with the figure's value."""
    values = [(condition, FIGURES[condition.name].value(summary, findings)) for condition in conditions]
    return [(condition, value) for condition, value in values if condition.held(value)]


def why_undefined(summary: "Summary") -> str:
    """What may have left a figure undefined."""
    broken = _nan(summary) + summary.overall.mean.minus_inf_count + summary.overall.mean.plus_inf_count
    if broken:
        return f"{broken:,} value{'s are' if broken > 1 else ' is'} NaN, or an infinite mean"
    return "it takes two samples or more" if summary.samples < 2 else "these data do not have it"


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _spreads(summary: "Summary") -> "list[Spread]":
    overall = summary.overall
    return [overall.mean] if overall.logvar is None else [overall.mean, overall.logvar]


def _nan(summary: "Summary") -> int:
    return sum(spread.nan_count + spread.negative_count for spread in _spreads(summary))


def _infinite(summary: "Summary") -> int:
    return sum(spread.minus_inf_count + spread.plus_inf_count for spread in _spreads(summary))


def _of_clamp(name: str) -> Read:
    return lambda summary, _: math.nan if summary.overall.clamp is None else getattr(summary.overall.clamp, name)


def _of_kl(name: str) -> Read:
    return lambda summary, _: math.nan if summary.overall.kl is None else getattr(summary.overall.kl, name)


def _at_bound(summary: "Summary") -> float:
    clamp, count = summary.overall.clamp, summary.overall.count
    return (clamp.at_low + clamp.at_high) / count if clamp is not None and count else math.nan


def _of_logvar(read: "Callable[[Spread], float]") -> Read:
    return lambda summary, _: math.nan if summary.overall.logvar is None else read(summary.overall.logvar)


def _of_channels(choose: Callable[[list[float]], float], read: "Callable[[Group], float]") -> Read:
    """The least or greatest of all channels; NaN if one is."""

    def chosen(summary: "Summary", _: "Sequence[Finding]") -> float:
        values = [read(group) for group in summary.per_channel]
        return math.nan if any(map(math.isnan, values)) else choose(values)

    return chosen


def _kl_element(group: "Group") -> float:
    return math.nan if group.kl is None else group.kl.element


def _sd(group: "Group") -> float:
    return group.drawn.sd


def _known(summary: "Summary", channels: int) -> float:
    """Channels active or collapsed are not known from a single sample."""
    return channels if summary.samples > 1 and summary.overall.kl is not None else math.nan


def _effective_rank(summary: "Summary", _: "Sequence[Finding]") -> float:
    correlation = summary.extras.correlation
    return math.nan if correlation is None else correlation.effective_rank


def _duplicate_count(summary: "Summary", _: "Sequence[Finding]") -> float:
    duplicates = summary.extras.duplicates
    return math.nan if duplicates is None else duplicates.duplicate_count


def _of_severity(*severities: str) -> Read:
    return lambda _, findings: sum(finding.severity in severities for finding in findings)


_SCALE, _EVERYTHING = Needs.scale, Needs.everything

#: Every name, in the order of the guide's table.
FIGURES: dict[str, Figure] = {
    "samples": Figure("samples", lambda summary, _: summary.samples),
    "channels": Figure("latent channels", lambda summary, _: summary.channels),
    "findings": Figure("findings that are more than notes", _of_severity("serious", "warning")),
    "serious_findings": Figure("the serious among them", _of_severity("serious")),
    "notes": Figure("notes", _of_severity("note")),
    "nan_count": Figure("values that are NaN (a negative σ or variance is one)", lambda summary, _: _nan(summary)),
    "nonfinite_count": Figure("values that are NaN or infinite", lambda summary, _: _nan(summary) + _infinite(summary)),
    "clamped_fraction": Figure("share of log-variances beyond the clamp", _of_clamp("clamped_fraction"), _SCALE),
    "at_bound_fraction": Figure(
        "share of log-variances exactly at a bound", lambda summary, _: _at_bound(summary), _SCALE
    ),
    "clamp_margin": Figure("distance of the finite log-variances to the nearest bound", _of_clamp("margin"), _SCALE),
    "logvar_min": Figure(
        "least log-variance before the clamp",
        _of_logvar(lambda spread: -math.inf if spread.minus_inf_count else spread.min),
        _SCALE,
    ),
    "logvar_max": Figure(
        "greatest log-variance before the clamp",
        _of_logvar(lambda spread: math.inf if spread.plus_inf_count else spread.max),
        _SCALE,
    ),
    "logvar_mean": Figure("mean of the finite log-variances", _of_logvar(lambda spread: spread.mean), _SCALE),
    "active_channels": Figure(
        "channels whose means vary by more than 0.01 (Burda et al. 2016)",
        lambda summary, _: _known(summary, summary.active_channels),
        _EVERYTHING,
    ),
    "collapsed_channels": Figure(
        "channels that are not active and whose KL is below 0.01 nats per element",
        lambda summary, _: _known(summary, summary.collapsed_channels),
        _EVERYTHING,
    ),
    "kl_mean": Figure("KL per sample, in nats", _of_kl("sample"), _EVERYTHING),
    "kl_element": Figure("KL per element, in nats", _of_kl("element"), _EVERYTHING),
    "kl_total": Figure("KL of all samples, in nats", _of_kl("total"), _EVERYTHING),
    "channel.kl_min": Figure(
        "KL per element of the channel with the least, in nats", _of_channels(min, _kl_element), _EVERYTHING
    ),
    "channel.kl_max": Figure(
        "KL per element of the channel with the most, in nats", _of_channels(max, _kl_element), _EVERYTHING
    ),
    "channel.sd_min": Figure(
        "standard deviation of the narrowest channel's latents", _of_channels(min, _sd), _EVERYTHING
    ),
    "channel.sd_max": Figure("standard deviation of the widest channel's latents", _of_channels(max, _sd), _EVERYTHING),
    "scaling_factor": Figure(
        "1 / standard deviation of all latents", lambda summary, _: summary.overall.drawn.scaling_factor, _EVERYTHING
    ),
    "shift_factor": Figure("mean of all latents", lambda summary, _: summary.overall.drawn.shift_factor, _EVERYTHING),
    "effective_rank": Figure(
        "effective rank of the latents' channels (`--with correlation`)", _effective_rank, _EVERYTHING, "correlation"
    ),
    "duplicate_count": Figure(
        "samples that are copies of earlier ones (`--with duplicates`)", _duplicate_count, extra="duplicates"
    ),
}
