"""An examination: what is counted together, and what the counts come to, judged.

``found_alike`` -> ``blank_state`` -> ``stats.counting.count`` -> ``judged``.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.health.normalization import factors_of
from latentkit.posterior.parameterization import Clamp
from latentkit.read.choice import Posterior, Selection
from latentkit.read.plan import Found, find_posteriors
from latentkit.read.samples import SampleChoice
from latentkit.stats import MOST_CHANNELS, MOST_CORRELATED

if TYPE_CHECKING:
    from latentkit.health.findings import Finding
    from latentkit.health.normalization import Factors
    from latentkit.read.labels import Labels
    from latentkit.stats.by_label import Groups
    from latentkit.stats.extrema import Place
    from latentkit.stats.sample_values import SampleFigures, SampleValues
    from latentkit.stats.state import State
    from latentkit.stats.summary import Summary


@dataclass(frozen=True)
class Other:
    """What figures are set beside: those of another input, counted now, or kept by an earlier run."""

    summary: "Summary"
    findings: "Sequence[Finding]"
    readings: Sequence[str]
    samples: "SampleFigures"
    #: The values of its samples, where they are known.
    values: "SampleValues | None" = None


@dataclass(frozen=True)
class Result:
    """All that an examination came to."""

    state: "State"
    summary: "Summary"
    findings: "list[Finding]"
    factors: "Factors"
    against: Other | None = None
    #: The figures of each label, where they were asked for.
    groups: "Groups | None" = None

    @property
    def samples(self) -> "SampleFigures":
        return self.state.per_sample.figures()

    @property
    def verdict(self) -> str:
        """One line on the whole, as in the document."""
        from latentkit.health.comparison import verdict_of

        return verdict_of(self.findings, self.summary, self.against.summary if self.against else None)

    def as_other(self) -> Other:
        """What others may be set beside."""
        return Other(self.summary, self.findings, self.state.readings, self.samples, self.state.per_sample)

    def outline(self) -> dict[str, Any]:
        """As JSON has it, once ``plain`` has made dicts of its dataclasses."""
        from latentkit.health.document import outline_of

        state = self.state
        known = self.summary, state.readings, self.findings, self.factors, state.per_sample
        against = None if self.against is None else (self.against.summary, self.against.readings)
        return outline_of(*known, against, self.groups)


def found_alike(
    arguments: Iterable[str], selection: Selection, choice: SampleChoice | None = None, failures: Failures | None = None
) -> Found:
    """What ``find_posteriors`` finds, and raises; and ``RequestError`` where it cannot be counted together."""
    failures = Failures() if failures is None else failures
    return alike(find_posteriors(arguments, selection, choice, failures=failures), failures)


def alike(found: Found, failures: Failures) -> Found:
    """Channels are pooled over all inputs, so their number and meaning must agree with the first one's.

    Unless ``failures`` take it, raises ``RequestError`` for a file in which they do not, or where they are too many.
    """
    first = found.posteriors[0]
    if first.axes.channels > MOST_CHANNELS:
        raise RequestError(
            f"{first.label} has {first.axes.channels:,} latent channels, and at most {MOST_CHANNELS:,} have "
            f"statistics; if they are positions, say so with --layout"
        )
    for other in found.posteriors[1:]:
        with failures.passing_over(other.file.path):
            _refuse_unlike(first, other)
    return found.without(failures)


def _refuse_unlike(first: Posterior, other: Posterior) -> None:
    if other.axes.channels != first.axes.channels:
        raise RequestError(
            f"{first.label} has {first.axes.channels} latent channels and {other.label} has "
            f"{other.axes.channels}: run stats for each",
            tensor=other.key,
        )
    if other.parameterization != first.parameterization:
        raise RequestError(
            f"{first.label} is read as {first.parameterization} and {other.label} as {other.parameterization}: run "
            f"stats for each, or say --parameterization",
            tensor=other.key,
        )


def check_held(channels: int, beside: int, most: int) -> None:
    """Refuse more channels than have figures in memory at once, with those that they are set ``beside``."""
    if channels + beside > most:
        and_theirs = f" and {beside:,} of --against" if beside else ""
        raise RequestError(
            f"there are {channels:,} channels{and_theirs}, and figures of at most {most:,} are held at once here: "
            "write those of each with stats FILES -o FILE.csv"
        )


def fits(extra: str, found: Found, sets: int = 1) -> bool:
    """Whether there is memory for so many sets of the figures of this name: a correlation has one for every two
    channels."""
    return extra != "correlation" or sets * found.posteriors[0].axes.channels <= MOST_CORRELATED


def check_fits(extras: Iterable[str], found: Found, sets: int = 1) -> None:
    """Refuse what there is no memory for."""
    if not all(fits(extra, found, sets) for extra in extras):
        raise RequestError(
            f"--with correlation: there are {found.posteriors[0].axes.channels:,} channels, and the correlation of at "
            f"most {MOST_CORRELATED // sets} is held in memory{', beside that of others' if sets > 1 else ''}"
        )


def blank_state(
    found: Found,
    clamp: Clamp,
    extras: Collection[str] = (),
    failures: Failures | None = None,
    labels: "Labels | None" = None,
) -> "State":
    """A state to count what was found into; ``extras`` names figures wanted besides, and ``labels`` are counted apart.

    Raises ``RequestError`` for more labels than are counted apart.
    """
    from latentkit.stats.accumulate import Statistics
    from latentkit.stats.by_label import ByLabel
    from latentkit.stats.extras import Extras, center_of
    from latentkit.stats.sample_values import SampleValues
    from latentkit.stats.state import State

    first = found.posteriors[0]
    kind = first.axes.channels, first.parameterization, clamp
    more = Extras(extras, *kind, center_of(found.spans, failures)) if extras else None
    by = None if labels is None else ByLabel(labels, *kind)
    return State(Statistics(*kind), SampleValues(), found.readings, more, by)


def figures_of(state: "State", first: Posterior) -> "Summary":
    """The figures of what was counted; raises ``DataError`` for scales that are negative. ``first`` of its inputs."""
    summary = state.summary()
    scale = summary.overall.logvar
    if scale is not None and scale.negative_count:
        raise DataError(
            f"{first.file.path}: {scale.negative_count:,} values of the second half are negative, so "
            f"they are no {summary.parameterization}; the first value that is no number stands"
            f"{_place(scale.nonfinite_at)}; are they log-variances (--parameterization logvar)?"
        )
    return summary


def _place(place: "Place | None") -> str:
    return "" if place is None else f" in {place.name}, tensor {place.key!r}, sample {place.index}"


def judged(
    state: "State",
    summary: "Summary",
    against: Other | None = None,
    *,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    target_std: float = 1.0,
) -> Result:
    """The counts with findings and factors, see ``health.findings.find``."""
    from latentkit.health.findings import find

    findings = find(
        summary,
        state.per_sample,
        scaling_factor=scaling_factor,
        shift_factor=shift_factor,
        target_std=target_std,
    )
    groups = None if state.by is None else state.by.figures()
    return Result(state, summary, findings, factors_of(summary, target_std), against, groups=groups)
