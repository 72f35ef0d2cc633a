"""Two encoders, or two epochs of one, side by side: where their figures differ by more than a tenth."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from latentkit.health.figures import active_fraction
from latentkit.health.findings import Finding, verdict
from latentkit.health.findings.values import CLAMPED_SHARE
from latentkit.stats.summary import COLLAPSED_KL, Group, Summary
from latentkit.text import count_of, number

#: Ratio of two standard deviations or KL, and distance of two means in standard deviations, from which they differ.
#: Half the data and the other half of one encoder seldom do, from some hundred samples on.
RATIO = 1.1
DISTANCE = 0.1


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that differs; ``channel`` None: of all channels. ``ours`` is of the first, ``theirs`` of the other."""

    figure: str
    channel: int | None
    ours: float
    theirs: float
    sentence: str


def differences(summary: Summary, other: Summary) -> list[Difference]:
    """Where two summaries differ: over all, then channel by channel, if they have equally many channels."""
    found = [Difference(figure, None, *pair, f"over all: {text}") for figure, pair, text in _of_all(summary, other)]
    pairs = [(summary.overall, other.overall)]
    if summary.channels == other.channels:
        pairs += zip(summary.per_channel, other.per_channel, strict=True)
    for ours, theirs in pairs:
        whose = "over all" if ours.channel is None else f"channel {ours.channel}"
        for figure, (one, another), text in _of_group(ours, theirs):
            found.append(Difference(figure, ours.channel, one, another, f"{whose}: {text}"))
    return found


def in_words(found: Sequence[Difference], other: str = "the other encoder") -> str:
    """How many differences there are."""
    return f"{count_of(len(found), 'difference')} from {other} of more than a tenth"


def verdict_of(findings: Sequence[Finding], summary: Summary, other: Summary | None) -> str:
    """One line on the whole: findings, after how many differences there are from the other, if there is one."""
    return verdict(findings, in_words(differences(summary, other)) if other else "")


def state_of(group: Group) -> str:
    """``active``, ``inactive`` or ``collapsed``; empty where it is not known."""
    if group.active is None:
        return ""
    return "collapsed" if group.collapsed else "active" if group.active else "inactive"


_Found = Iterator[tuple[str, tuple[float, float], str]]


def _of_all(ours: Summary, theirs: Summary) -> _Found:
    """What there is over all channels alone."""
    if ours.channels != theirs.channels:
        counts = float(ours.channels), float(theirs.channels)
        yield "channels", counts, f"there are {ours.channels} channels, {theirs.channels} there"
        shares = active_fraction(ours), active_fraction(theirs)
        if abs(shares[0] - shares[1]) > DISTANCE:
            yield "active_fraction", shares, f"the share of active channels is {_pair(shares)}"
    one, other = ours.extras.correlation, theirs.extras.correlation
    if one and other and _ratio(ranks := (one.effective_rank, other.effective_rank)) > RATIO:
        text = f"{number(ranks[0])} of {ours.channels} channels, {number(ranks[1])} of {theirs.channels} there"
        yield "effective_rank", ranks, f"the effective rank is {text}"
    smooth, there = ours.extras.spectrum, theirs.extras.spectrum
    if smooth and there and _ratio(powers := (smooth.high_frequency_power, there.high_frequency_power)) > RATIO:
        yield "high_frequency_power", powers, f"the power at high spatial frequencies is {_pair(powers)}"


def _of_group(ours: Group, theirs: Group) -> _Found:
    sds = ours.drawn.sd, theirs.drawn.sd
    means = ours.drawn.shift_factor, theirs.drawn.shift_factor
    if _ratio(sds) > RATIO:
        yield "sd", sds, f"the standard deviation of the latents is {_pair(sds)}"
    if abs(means[0] - means[1]) > DISTANCE * max(sds):
        yield "mean", means, f"the mean is {_pair(means)}"
    if ours.kl and theirs.kl:
        kls = ours.kl.element, theirs.kl.element
        if _ratio(kls) > RATIO and abs(kls[0] - kls[1]) > COLLAPSED_KL:
            yield "kl_element", kls, f"the KL is {number(kls[0])} nats per element, {number(kls[1])} there"
    states = state_of(ours), state_of(theirs)
    if "" not in states and states[0] != states[1]:
        yield "active", _numbers(lambda group: bool(group.active), ours, theirs), f"{states[0]}, and {states[1]} there"
    if ours.clamp and theirs.clamp:
        shares = ours.clamp.clamped_fraction, theirs.clamp.clamped_fraction
        if abs(shares[0] - shares[1]) > CLAMPED_SHARE:
            yield "clamped_fraction", shares, f"the share of log-variances beyond the clamp is {_pair(shares)}"
    broken = _numbers(_nonfinite, ours, theirs)
    if ours.channel is None and (broken[0] > 0) != (broken[1] > 0):
        yield "nonfinite_count", broken, f"{broken[0]:,.0f} values are not finite, {broken[1]:,.0f} there"


def _nonfinite(group: Group) -> int:
    spreads = [group.mean] if group.logvar is None else [group.mean, group.logvar]
    return sum(group.count - spread.finite for spread in spreads)


def _numbers(read: Callable[[Group], float], ours: Group, theirs: Group) -> tuple[float, float]:
    return float(read(ours)), float(read(theirs))


def _ratio(figures: tuple[float, float]) -> float:
    """The greater by the lesser; NaN where it is undefined."""
    least, greatest = sorted(figures)
    return greatest / least if least > 0 else math.inf if greatest > 0 else math.nan


def _pair(figures: tuple[float, float]) -> str:
    return f"{number(figures[0])}, {number(figures[1])} there"
