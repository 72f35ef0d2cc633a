"""The figures of ``stats`` that conditions may name."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Protocol

from latentkit.errors import RequestError
from latentkit.health.conditions import LEVELS, Condition, parse

if TYPE_CHECKING:
    from latentkit.health.findings import Finding
    from latentkit.stats.sample_values import SampleFigures
    from latentkit.stats.summary import Group, Spread, Summary


class Judged(Protocol):
    """What figures are read from."""

    @property
    def summary(self) -> "Summary": ...
    @property
    def findings(self) -> "Sequence[Finding]": ...
    @property
    def samples(self) -> "SampleFigures": ...


class Needs(Enum):
    """What must be finite for a figure to be defined: a broken file must not turn a check green."""

    nothing = 0
    #: No log-variance is NaN (an infinite one is clamped).
    scale = 1
    #: That, and every mean is finite.
    everything = 2


Read = Callable[["Summary"], float]


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that conditions may name: what it is, and how it is read."""

    meaning: str
    read: Callable[[Judged], float]
    needs: Needs = Needs.nothing
    #: The name of --with that gives it; None for what is always there.
    extra: str | None = None

    def value(self, judged: Judged) -> float:
        """NaN where it is undefined."""
        overall = judged.summary.overall
        broken = overall.logvar is not None and overall.logvar.nan_count + overall.logvar.negative_count > 0
        if self.needs is Needs.everything:
            broken |= overall.mean.finite < overall.count
        if self.needs is not Needs.nothing and broken:
            return math.nan
        return self.read(judged)


def condition(text: str) -> Condition:
    """Read a condition on figures of ``stats``; raises ``RequestError``, see ``parse``."""
    return parse(text, FIGURES, "clamped_fraction > 0.001", COMPARED)


def check_asked(conditions: Iterable[Condition], extras: Collection[str]) -> None:
    """Raise ``RequestError`` for a condition on a figure that is not among the extras asked for with ``--with``."""
    for condition in conditions:
        extra = FIGURES[_parts(condition.name)[0]].extra
        if extra is not None and extra not in extras:
            raise RequestError(f"--fail-if {str(condition)!r}: {condition.name} takes --with {extra}")


def check_compared(conditions: Iterable[Condition]) -> None:
    """Raise ``RequestError`` for a condition on what only a comparison has."""
    for condition in conditions:
        if condition.name in COMPARED:
            raise RequestError(f"--fail-if {str(condition)!r}: {condition.name} takes --against OTHER")


def value_of(name: str, judged: Judged, other: Judged | None = None) -> float:
    """The figure of this name, NaN where it is undefined; ``other``: what ``judged`` is set beside."""
    if other is None:
        return FIGURES[name].value(judged)
    if name == "differences":
        from latentkit.health.comparison import differences

        return len(differences(judged.summary, other.summary))
    figure, how = _parts(name)
    ours = FIGURES[figure].value(judged)
    return _HOW[how](ours, FIGURES[figure].value(other)) if how else ours


def why_undefined(name: str, judged: Judged, other: Judged | None = None) -> str:
    """What may have left a figure undefined."""
    figure, how = _parts(name)
    if how and other is not None and not math.isnan(FIGURES[figure].value(judged)):
        return f"there, {_why_undefined(figure, other.summary)}"
    return _why_undefined(figure, judged.summary)


def _parts(name: str) -> tuple[str, str]:
    """The figure, and how it is compared; empty where it is not."""
    figure, _, how = name.rpartition(".")
    return (figure, how) if how in _HOW else ("samples" if name == "differences" else name, "")


def _change(ours: float, theirs: float) -> float:
    """By how much it grew, by what it was."""
    if ours == theirs:
        return 0.0
    return (ours - theirs) / abs(theirs) if theirs else (ours - theirs) * math.inf


#: The names of --with whose figures are compared.
BESIDE = "correlation", "spectrum"
#: How a figure is compared with another input's.
_HOW: dict[str, Callable[[float, float], float]] = {
    "difference": lambda ours, theirs: ours - theirs,
    "change": _change,
}


def _why_undefined(name: str, summary: "Summary") -> str:
    if name.partition(".")[0] == ("kl" if summary.parameterization == "none" else "mean_square"):
        return "these data do not have it"
    broken = _nan(summary) + summary.overall.mean.minus_inf_count + summary.overall.mean.plus_inf_count
    if broken:
        return f"{broken:,} value{'s are' if broken > 1 else ' is'} NaN, or an infinite mean"
    return "it takes two samples or more" if summary.samples < 2 else "these data do not have it"


def _spreads(summary: "Summary") -> "list[Spread]":
    overall = summary.overall
    return [overall.mean] if overall.logvar is None else [overall.mean, overall.logvar]


def _nan(summary: "Summary") -> int:
    return sum(spread.nan_count + spread.negative_count for spread in _spreads(summary))


def _infinite(summary: "Summary") -> int:
    return sum(spread.minus_inf_count + spread.plus_inf_count for spread in _spreads(summary))


def _of_clamp(name: str) -> Read:
    return lambda summary: math.nan if summary.overall.clamp is None else getattr(summary.overall.clamp, name)


def _of_kl(name: str) -> Read:
    return lambda summary: math.nan if summary.overall.kl is None else getattr(summary.overall.kl, name)


def _at_bound(summary: "Summary") -> float:
    clamp, count = summary.overall.clamp, summary.overall.count
    return (clamp.at_low + clamp.at_high) / count if clamp is not None and count else math.nan


def _of_logvar(read: "Callable[[Spread], float]") -> Read:
    return lambda summary: math.nan if summary.overall.logvar is None else read(summary.overall.logvar)


def _of_channels(choose: Callable[[list[float]], float], read: "Callable[[Group], float]") -> Read:
    """The least or greatest of all channels; NaN if one is."""

    def chosen(summary: "Summary") -> float:
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


def active_fraction(summary: "Summary") -> float:
    """The share of channels that are active; NaN where that is not known."""
    return _known(summary, summary.active_channels) / summary.channels


def _effective_rank(summary: "Summary") -> float:
    correlation = summary.extras.correlation
    return math.nan if correlation is None else correlation.effective_rank


def _high_frequency_power(summary: "Summary") -> float:
    spectrum = summary.extras.spectrum
    return math.nan if spectrum is None else spectrum.high_frequency_power


def _duplicate_count(summary: "Summary") -> float:
    duplicates = summary.extras.duplicates
    return math.nan if duplicates is None else duplicates.duplicate_count


def _of_severity(*severities: str) -> Callable[[Judged], float]:
    return lambda judged: sum(finding.severity in severities for finding in judged.findings)


def _figure(meaning: str, read: Read, needs: Needs = Needs.nothing, extra: str | None = None) -> Figure:
    return Figure(meaning, lambda judged: read(judged.summary), needs, extra)


def _levels(name: str, meaning: str, read: "Callable[[Summary], Spread | None]", needs: Needs) -> dict[str, Figure]:
    """Quantiles of what is at hand for every element."""

    def quantile(place: int) -> Read:
        return lambda summary: math.nan if (spread := read(summary)) is None else spread.quantiles[place]

    return {f"{name}.p{percent}": _figure(meaning, quantile(place), needs) for place, percent in enumerate(LEVELS)}


def _samples(name: str, what: str, *, of_latents: bool) -> dict[str, Figure]:
    """Extremes and quantiles of what is at hand for every sample."""

    def read(read: "Callable[[SampleFigures], float]") -> Callable[[Judged], float]:
        return lambda judged: (
            read(judged.samples) if (judged.summary.parameterization == "none") is of_latents else math.nan
        )

    def quantile(place: int) -> Callable[[Judged], float]:
        return read(lambda samples: samples.quantiles[place])

    quantiles = {
        f"{name}.p{percent}": Figure(f"quantile of {what}", quantile(place), _EVERYTHING)
        for place, percent in enumerate(LEVELS)
    }
    return {
        f"{name}.min": Figure(f"least {what}", read(lambda samples: samples.least), _EVERYTHING),
        **quantiles,
        f"{name}.max": Figure(f"greatest {what}", read(lambda samples: samples.greatest), _EVERYTHING),
    }


_SCALE, _EVERYTHING = Needs.scale, Needs.everything

#: Every name, in the order of the guide's table.
FIGURES: dict[str, Figure] = {
    "samples": _figure("samples", lambda summary: summary.samples),
    "channels": _figure("latent channels", lambda summary: summary.channels),
    "findings": Figure("findings that are more than notes", _of_severity("serious", "warning")),
    "serious_findings": Figure("the serious among them", _of_severity("serious")),
    "notes": Figure("notes", _of_severity("note")),
    "nan_count": _figure("values that are NaN (a negative σ or variance is one)", _nan),
    "nonfinite_count": _figure("values that are NaN or infinite", lambda summary: _nan(summary) + _infinite(summary)),
    "clamped_fraction": _figure("share of log-variances beyond the clamp", _of_clamp("clamped_fraction"), _SCALE),
    "at_bound_fraction": _figure("share of log-variances exactly at a bound", _at_bound, _SCALE),
    "clamp_margin": _figure("distance of the finite log-variances to the nearest bound", _of_clamp("margin"), _SCALE),
    "logvar_min": _figure(
        "least log-variance before the clamp",
        _of_logvar(lambda spread: -math.inf if spread.minus_inf_count else spread.min),
        _SCALE,
    ),
    "logvar_max": _figure(
        "greatest log-variance before the clamp",
        _of_logvar(lambda spread: math.inf if spread.plus_inf_count else spread.max),
        _SCALE,
    ),
    "logvar_mean": _figure("mean of the finite log-variances", _of_logvar(lambda spread: spread.mean), _SCALE),
    **_levels(
        "logvar",
        "quantile of the finite log-variances before the clamp",
        lambda summary: summary.overall.logvar,
        _SCALE,
    ),
    **_levels(
        "mean",
        "quantile of the means, of drawn latents their values",
        lambda summary: summary.overall.mean,
        _EVERYTHING,
    ),
    "active_channels": _figure(
        "channels whose means vary by more than 0.01 (Burda et al. 2016)",
        lambda summary: _known(summary, summary.active_channels),
        _EVERYTHING,
    ),
    "active_fraction": _figure(
        "their share of all channels",
        active_fraction,
        _EVERYTHING,
    ),
    "collapsed_channels": _figure(
        "channels that are not active and whose KL is below 0.01 nats per element",
        lambda summary: _known(summary, summary.collapsed_channels),
        _EVERYTHING,
    ),
    "kl_mean": _figure("KL per sample, in nats", _of_kl("sample"), _EVERYTHING),
    "kl_element": _figure("KL per element, in nats", _of_kl("element"), _EVERYTHING),
    "kl_total": _figure("KL of all samples, in nats", _of_kl("total"), _EVERYTHING),
    **_samples("kl", "KL of a sample, in nats", of_latents=False),
    **_samples("mean_square", "mean square of a sample (of drawn latents)", of_latents=True),
    "channel.kl_min": _figure(
        "KL per element of the channel with the least, in nats", _of_channels(min, _kl_element), _EVERYTHING
    ),
    "channel.kl_max": _figure(
        "KL per element of the channel with the most, in nats", _of_channels(max, _kl_element), _EVERYTHING
    ),
    "channel.sd_min": _figure(
        "standard deviation of the narrowest channel's latents", _of_channels(min, _sd), _EVERYTHING
    ),
    "channel.sd_max": _figure(
        "standard deviation of the widest channel's latents", _of_channels(max, _sd), _EVERYTHING
    ),
    "scaling_factor": _figure(
        "1 / standard deviation of all latents", lambda summary: summary.overall.drawn.scaling_factor, _EVERYTHING
    ),
    "shift_factor": _figure("mean of all latents", lambda summary: summary.overall.drawn.shift_factor, _EVERYTHING),
    "effective_rank": _figure(
        "effective rank of the latents' channels (`--with correlation`)", _effective_rank, _EVERYTHING, "correlation"
    ),
    "high_frequency_power": _figure(
        "mean power from 0.25 cycles per pixel up; white noise has 1 (`--with spectrum`)",
        _high_frequency_power,
        _EVERYTHING,
        "spectrum",
    ),
    "duplicate_count": _figure(
        "samples that are copies of earlier ones (`--with duplicates`)", _duplicate_count, extra="duplicates"
    ),
}

#: What only a comparison has: how many figures differ, and each figure beside the other's.
COMPARED = [
    "differences",
    *(f"{name}.{how}" for name, figure in FIGURES.items() for how in _HOW if figure.extra in (None, *BESIDE)),
]
