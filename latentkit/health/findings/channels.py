"""Findings on channels and their scale: dead, collapsed, unequal, constant, deterministic, off the factors in use."""

import math
from collections.abc import Iterator

from latentkit.health.findings.finding import (
    BURDA,
    OURS,
    Finding,
    Severity,
    are,
    channels,
    numbers,
    plural,
    values_of,
)
from latentkit.stats.summary import ACTIVE_VARIANCE, COLLAPSED_KL, Group, Summary
from latentkit.text import number, percent

#: Ratio of two channels' standard deviations.
UNEQUAL_SCALE = 10.0
#: Of fewer elements two standard deviations differ by as much by chance.
LEAST_ELEMENTS = 30
#: Mean variance of a channel's posteriors by the variance of its means.
NOISE_SHARE = 1e-4
#: Standard deviation of scaled latents by its target, or the inverse.
SCALE_OFF = 1.25
#: Mean of the latents by their standard deviation.
SHIFT_OFF = 0.25


def dead(summary: Summary) -> Iterator[Finding]:
    dead = [group for group in summary.per_channel if is_dead(group)]
    if dead and summary.samples > 1:
        values = values_of([group.mean.min for group in dead])
        yield Finding(
            "dead",
            Severity.serious,
            f"{channels(dead)} {are(len(dead))} dead: the mean is the same everywhere ({values})",
            len(dead),
            0,
            "a mean that never changes says nothing of its sample",
            numbers(dead),
            dead[0].mean.min_at,
        )


def is_dead(group: Group) -> bool:
    return group.mean.finite > 1 and group.mean.min == group.mean.max


def collapsed(summary: Summary) -> Iterator[Finding]:
    groups = [group for group in summary.per_channel if group.collapsed and not is_dead(group) and group.kl]
    if not groups:
        return
    count = len(groups)
    variance = max(group.mean_variance for group in groups)
    kl = max(group.kl.element for group in groups if group.kl)
    up_to = "" if count == 1 else "at most "
    yield Finding(
        "collapsed",
        Severity.serious,
        f"{channels(groups)} {are(count)} collapsed: the variance of {plural(count, 'its mean', 'their means')} is "
        f"{up_to}{number(variance, 3)} (active: above {ACTIVE_VARIANCE:g}) and the KL {up_to}{number(kl, 3)} nats per "
        f"element (collapsed: below {COLLAPSED_KL:g})",
        kl,
        COLLAPSED_KL,
        f"{BURDA} for the variance, {OURS} for the KL",
        numbers(groups),
    )


def unequal_scale(summary: Summary) -> Iterator[Finding]:
    groups = [
        group
        for group in summary.per_channel
        if group.drawn.sd > 0
        and group.mean.finite >= LEAST_ELEMENTS
        and not is_dead(group)
        # At the upper bound it is the clamp whose scale one sees.
        and not (group.clamp and group.clamp.above + group.clamp.at_high)
    ]
    if len(groups) < 2:
        return
    least, greatest = (choose(groups, key=lambda group: group.drawn.sd) for choose in (min, max))
    ratio = greatest.drawn.sd / least.drawn.sd
    if ratio > UNEQUAL_SCALE:
        yield Finding(
            "unequal_scale",
            Severity.warning,
            f"channels are of very unequal scale: the standard deviation of channel {greatest.channel} is "
            f"{number(greatest.drawn.sd)} and that of channel {least.channel} {number(least.drawn.sd)}, a ratio of "
            f"{number(ratio)}; one scaling factor will not do for both (latents_mean and latents_std will)",
            ratio,
            UNEQUAL_SCALE,
            f"{OURS}: at a tenth of the scale a channel has 1 % of the variance",
            numbers([least, greatest]),
        )


def constant_scale(summary: Summary) -> Iterator[Finding]:
    """A note: some encoders have one standard deviation by design. At a bound, the clamp's finding says it."""
    constant = [
        group
        for group in summary.per_channel
        if group.logvar is not None
        and not is_dead(group)
        and group.logvar.finite > 1
        and group.logvar.min == group.logvar.max
        and summary.clamp[0] < group.logvar.min < summary.clamp[1]
    ]
    if constant and summary.samples > 1:
        values = values_of([group.logvar.min for group in constant if group.logvar])
        yield Finding(
            "constant_scale",
            Severity.note,
            f"{channels(constant)} {'has' if len(constant) == 1 else 'have'} one log-variance everywhere ({values}), "
            f"by design or because it was never trained",
            len(constant),
            0,
            "a log-variance that never changes says nothing of its sample",
            numbers(constant),
        )


def deterministic(summary: Summary) -> Iterator[Finding]:
    shares = [
        # What is less than the rounding of the two variances is lost in their difference.
        (group, max(group.drawn.sd * group.drawn.sd / group.mean_variance - 1, 1e-14))
        for group in summary.per_channel
        if group.logvar is not None and group.mean_variance > 0
    ]
    quiet = [group for group, share in shares if share < NOISE_SHARE]
    if not quiet:
        return
    share = max(share for _, share in shares if share < NOISE_SHARE)
    whose = "every channel" if len(quiet) == summary.channels else channels(quiet)
    yield Finding(
        "deterministic",
        Severity.note,
        f"drawing adds next to nothing in {whose}: the noise is at most {percent(math.sqrt(share))} of the spread of "
        f"the means, so a sample and the mode agree to {math.floor(-math.log10(share) / 2)} digits",
        share,
        NOISE_SHARE,
        f"{OURS}: mean variance by variance of means; at 1e-4 the noise is 1 % of the spread",
        numbers(quiet),
    )


def factors_off(
    summary: Summary, scaling_factor: float | None, shift_factor: float | None, target_std: float
) -> Iterator[Finding]:
    if scaling_factor is None and shift_factor is None:
        return
    own = summary.overall.drawn
    factor, shift = scaling_factor or 1.0, shift_factor or 0.0
    sd, mean = own.sd * abs(factor) / target_std, (own.shift_factor - shift) * factor / target_std
    if scaling_factor is not None and (sd > SCALE_OFF or sd * SCALE_OFF < 1):
        yield Finding(
            "scaling_factor",
            Severity.warning,
            f"with the scaling factor {factor:g} latents have a standard deviation of {number(sd * target_std)}, not "
            f"{target_std:g}: the factor of these latents is {target_std * own.scaling_factor:.5g}",
            sd,
            SCALE_OFF if sd > 1 else 1 / SCALE_OFF,
            f"{OURS}: a quarter in scale is half in variance",
        )
    if own.sd and abs(own.shift_factor - shift) > SHIFT_OFF * own.sd:
        yield Finding(
            "shift_factor",
            Severity.warning,
            f"with {f'the shift factor {shift:g}' if shift_factor is not None else 'no shift factor'} latents have a "
            f"mean of {number(mean * target_std)}, {number(abs(own.shift_factor - shift) / own.sd, 3)} of their "
            f"standard deviation: the shift of these latents is {own.shift_factor:.5g}",
            abs(own.shift_factor - shift) / own.sd,
            SHIFT_OFF,
            f"{OURS}: at a quarter of the standard deviation",
        )
