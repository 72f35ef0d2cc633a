"""A finding, and the words it is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from latentkit.stats.extrema import Place
from latentkit.stats.summary import Group
from latentkit.text import number

BURDA = "Burda et al. 2016"
OURS = "latentkit"


#: What the figure of a finding is, by its kind.
FIGURES = {
    "nonfinite": "values not finite",
    "clamp_high": "log-variances at or above the clamp",
    "clamp_low": "greatest share of a channel at or below the clamp",
    "misread": "least log-variance",
    "alike": "greatest KL of a sample less the least",
    "far_out_high": "greatest value of a sample",
    "far_out_low": "least value of a sample",
    "duplicates": "copies",
    "dead": "channels whose mean never changes",
    "collapsed": "greatest KL of these channels, in nats per element",
    "unequal_scale": "greatest standard deviation by the least",
    "constant_scale": "channels of one log-variance",
    "deterministic": "mean variance by variance of the means",
    "one_sample": "samples",
    "scaling_factor": "standard deviation by its target",
    "shift_factor": "distance of the mean, in standard deviations",
    **{f"{dtype}_overflow": "elements that would be infinite" for dtype in ("float16", "bfloat16")},
    **{f"{dtype}_kl": "samples whose KL would be infinite" for dtype in ("float16", "bfloat16")},
    **{f"{dtype}_underflow": "elements that would be zero" for dtype in ("float16", "bfloat16")},
}


class Severity(StrEnum):
    """How bad: figures are wrong or a part is lost; worth a look; no fault, good to know."""

    serious = "serious"
    warning = "warning"
    note = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding: a sentence with its evidence.

    ``figure`` was compared with ``threshold``, which ``source`` explains. ``channels`` are those concerned, empty
    where it is no matter of channels; ``place`` is where to look first.
    """

    kind: str
    severity: Severity
    sentence: str
    figure: float
    threshold: float
    source: str
    channels: tuple[int, ...] = ()
    place: Place | None = None


def where(place: Place | None) -> str:
    """A place in words."""
    return "" if place is None else f"{place.name}, tensor {place.key!r}, sample {place.index}"


def channels(groups: Sequence[Group]) -> str:
    """``channel 3``, ``channels 0, 2, 3``, or how many where they are many."""
    names = [str(channel) for channel in numbers(groups)]
    if len(names) > 8:
        return f"{len(names)} channels ({', '.join(names[:6])}, …)"
    return f"{plural(len(names), 'channel')} {', '.join(names)}"


def numbers(groups: Sequence[Group]) -> tuple[int, ...]:
    return tuple(group.channel for group in groups if group.channel is not None)


def values_of(values: Sequence[float]) -> str:
    return ", ".join(number(value) for value in values[:4]) + (", …" if len(values) > 4 else "")


def plural(count: int, noun: str, many: str | None = None) -> str:
    if count == 1:
        return noun
    if many is None:
        head, space, tail = noun.partition(" (")
        many = f"{head}s{space}{tail}"
    return many


def are(count: int) -> str:
    return "is" if count == 1 else "are"
