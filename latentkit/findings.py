"""What a summary says about an encoder, in words: each finding with its figure, its threshold and that one's source.

No finding without evidence, and none for a healthy encoder. What is worth knowing but no fault is a note.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from latentkit.outliers import CHANCE, FarOut, SampleKl
from latentkit.statistics import Group, Place, Spread, Summary
from latentkit.statistics.quantity import HALF_PRECISIONS
from latentkit.statistics.summary import ACTIVE_VARIANCE, COLLAPSED_KL

#: Share of a channel's log-variances clamped or at the lower bound. Where the clamp holds, no gradient passes; below
#: one in a thousand it moves no figure of a channel by a digit that the tables show.
CLAMPED_SHARE = 1e-3
#: Ratio of two channels' standard deviations.
UNEQUAL_SCALE = 10.0
#: Mean variance of a channel's posteriors by the variance of its means.
NOISE_SHARE = 1e-4
#: Standard deviation of scaled latents, or its inverse, and the absolute value of their mean.
SCALE_OFF = 1.25
SHIFT_OFF = 0.25
#: Log-variances that are all positive are no evidence of a wrong reading when they are fewer.
LEAST_POSITIVE = 100

_BURDA = "Burda et al. 2016"
_OURS = "latentkit"


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


def find(
    summary: Summary,
    sample_kl: SampleKl | None = None,
    *,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    target_std: float = 1.0,
) -> list[Finding]:
    """All findings, the most serious first.

    Args:
        summary: the figures.
        sample_kl: the KL of every sample, to find those far out.
        scaling_factor, shift_factor: those in use, to be compared with the latents' own; None: not compared.
        target_std: the standard deviation that scaled latents should have.
    """
    found = [
        *_nonfinite(summary),
        *_clamped(summary),
        *_dead(summary),
        *_collapsed(summary),
        *_misread(summary),
        *_far_out(sample_kl),
        *_unequal(summary),
        *_factors(summary, scaling_factor, shift_factor, target_std),
        *_half_precision(summary, sample_kl),
        *_constant_scale(summary),
        *_deterministic(summary),
    ]
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


def faults(findings: Sequence[Finding]) -> list[Finding]:
    """The findings that are more than notes."""
    return [finding for finding in findings if finding.severity is not Severity.note]


def verdict(findings: Sequence[Finding]) -> str:
    """One line on the whole."""
    count, notes = len(faults(findings)), len(findings) - len(faults(findings))
    text = f"{count} finding{'s' * (count != 1)}" if count else "healthy: nothing to find fault with"
    return text + (f"; {notes} note{'s' * (notes != 1)}" if notes else "")


def _nonfinite(summary: Summary) -> Iterator[Finding]:
    counts, places = [], []
    for name, overall, groups in _halves(summary):
        infinite = "infinite mean" if name == "mean" else "infinite log-variance (taken as clamped)"
        counts += [
            (overall.nan_count, f"NaN {name}"),
            (overall.minus_inf_count + overall.plus_inf_count, infinite),
            (overall.negative_count, "negative scale"),
        ]
        places += [(group.nonfinite_at, name, channel) for channel, group in enumerate(groups) if group.nonfinite_at]
    total = sum(count for count, _ in counts)
    if not total or not places:
        return
    place, name, channel = min(places)
    parts = [f"{count:,} {_plural(count, what)}" for count, what in counts if count]
    yield Finding(
        "nonfinite",
        Severity.serious,
        f"{total:,} {_plural(total, 'value')} {_are(total)} not finite: {', '.join(parts)}; the first is the {name} of "
        f"channel {channel} in {where(place)}",
        total,
        0,
        "not one is expected",
        tuple(sorted({channel for _, _, channel in places})),
        place,
    )


def _clamped(summary: Summary) -> Iterator[Finding]:
    """Above the clamp one is too many: its σ of 22,026 (e^10) drowns every other latent. Below, a share."""
    overall = summary.overall.clamp
    groups = [(group, group.clamp, group.logvar) for group in summary.per_channel if group.clamp and group.logvar]
    high = [(group, logvar) for group, clamp, logvar in groups if clamp.above + clamp.at_high]
    if overall is not None and high:
        beyond = overall.above + overall.at_high
        _, furthest = max(high, key=lambda entry: entry[1].max)
        place = furthest.max_at or furthest.nonfinite_at
        yield Finding(
            "clamp_high",
            Severity.serious,
            f"{_beyond(beyond, summary, 'above', overall.high)}, in {_channels([group for group, _ in high])}: drawn "
            f"there, latents have a standard deviation of {math.exp(overall.high / 2):,.5g}; the highest is in "
            f"{where(place)}",
            beyond,
            0,
            "one such latent outweighs all others in the scale",
            _numbers([group for group, _ in high]),
            place,
        )
    low = [
        (group, (clamp.below + clamp.at_low) / group.count, logvar)
        for group, clamp, logvar in groups
        if clamp.below + clamp.at_low > CLAMPED_SHARE * group.count
    ]
    if overall is not None and low:
        _, share, logvar = max(low, key=lambda entry: entry[1])
        place = logvar.min_at or logvar.nonfinite_at
        yield Finding(
            "clamp_low",
            Severity.warning,
            f"{_beyond(overall.below + overall.at_low, summary, 'below', overall.low)}, in "
            f"{_channels([group for group, _, _ in low])} (up to {_percent(share)} of a channel): no gradient passes "
            f"there; the lowest is in {where(place)}",
            share,
            CLAMPED_SHARE,
            f"{_OURS}: fewer change no figure that is shown",
            _numbers([group for group, _, _ in low]),
            place,
        )


def _beyond(count: int, summary: Summary, side: str, bound: float) -> str:
    share = _percent(count / summary.overall.count)
    return f"{count:,} {_plural(count, 'log-variance')} ({share}) {_are(count)} at or {side} the clamp at {bound:g}"


def _dead(summary: Summary) -> Iterator[Finding]:
    dead = [group for group in summary.per_channel if _is_dead(group)]
    if dead and summary.samples > 1:
        values = _values([group.mean.min for group in dead])
        yield Finding(
            "dead",
            Severity.serious,
            f"{_channels(dead)} {_are(len(dead))} dead: the mean is the same everywhere ({values})",
            len(dead),
            0,
            "a mean that never changes says nothing of its sample",
            _numbers(dead),
            dead[0].mean.min_at,
        )


def _collapsed(summary: Summary) -> Iterator[Finding]:
    groups = [group for group in summary.per_channel if group.collapsed and not _is_dead(group) and group.kl]
    if not groups:
        return
    count = len(groups)
    variance = max(group.mean_variance for group in groups)
    kl = max(group.kl.element for group in groups if group.kl)
    up_to = "" if count == 1 else "at most "
    yield Finding(
        "collapsed",
        Severity.serious,
        f"{_channels(groups)} {_are(count)} collapsed: the variance of {_plural(count, 'its mean', 'their means')} is "
        f"{up_to}{variance:.3g} (active: above {ACTIVE_VARIANCE:g}) and the KL {up_to}{kl:.3g} nats an element "
        f"(below {COLLAPSED_KL:g})",
        kl,
        COLLAPSED_KL,
        f"{_BURDA} for the variance, {_OURS} for the KL",
        _numbers(groups),
    )


def _misread(summary: Summary) -> Iterator[Finding]:
    logvar = summary.overall.logvar
    if logvar is None or summary.parameterization != "logvar" or logvar.finite < LEAST_POSITIVE or logvar.min <= 0:
        return
    yield Finding(
        "misread",
        Severity.warning,
        f"every log-variance is above 0 (the least is {logvar.min:.4g}), so each posterior is wider than the prior: "
        f"are they standard deviations (--parameterization std) or variances (var)?",
        logvar.min,
        0,
        "an encoder that is trained with a KL narrows its posteriors",
        place=logvar.min_at,
    )


def _far_out(sample_kl: SampleKl | None) -> Iterator[Finding]:
    if sample_kl is None:
        return
    for kind, severity, side, far in (
        ("far_out_high", Severity.warning, "above", sample_kl.far_above()),
        ("far_out_low", Severity.note, "below", sample_kl.far_below()),
    ):
        if far is not None:
            yield Finding(
                kind,
                severity,
                f"{far.count:,} {_plural(far.count, 'sample')} of {sample_kl.count:,} {_are(far.count)} far out: "
                f"{_plural(far.count, 'its', 'their')} KL is {side} {far.bound:.4g} nats (the median is "
                f"{far.median:.4g}): {_listed(far)}",
                far.worst[0][0] if far.worst else far.bound,
                far.bound,
                f"going by the tail of the others, a set of this size has one there with a chance of {CHANCE:g}",
                place=far.worst[0][1] if far.worst else None,
            )


def _unequal(summary: Summary) -> Iterator[Finding]:
    groups = [
        group
        for group in summary.per_channel
        if group.drawn.sd > 0
        and not _is_dead(group)
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
            f"{greatest.drawn.sd:.4g} and that of channel {least.channel} {least.drawn.sd:.4g}, a ratio of "
            f"{ratio:.4g}; one scaling factor will not do for both (latents_mean and latents_std will)",
            ratio,
            UNEQUAL_SCALE,
            f"{_OURS}: at a tenth of the scale a channel has 1 % of the variance",
            _numbers([least, greatest]),
        )


def _factors(
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
            f"with the scaling factor {factor:g} latents have a standard deviation of {sd * target_std:.4g}, not "
            f"{target_std:g}: the factor of these latents is {target_std * own.scaling_factor:.5g}",
            sd,
            SCALE_OFF if sd > 1 else 1 / SCALE_OFF,
            f"{_OURS}: a quarter in scale is half in variance",
        )
    if own.sd and abs(own.shift_factor - shift) > SHIFT_OFF * own.sd:
        yield Finding(
            "shift_factor",
            Severity.warning,
            f"with {f'the shift factor {shift:g}' if shift_factor is not None else 'no shift factor'} latents have a "
            f"mean of {mean * target_std:.4g}, {abs(own.shift_factor - shift) / own.sd:.3g} of their standard "
            f"deviation: the shift of these latents is {own.shift_factor:.5g}",
            abs(own.shift_factor - shift) / own.sd,
            SHIFT_OFF,
            f"{_OURS}: at a quarter of the standard deviation",
        )


def _half_precision(summary: Summary, sample_kl: SampleKl | None) -> Iterator[Finding]:
    """What the usual formulas, e^l and ½ Σ (m² + e^l − 1 − l), lose in 16 bits."""
    if summary.overall.logvar is None:
        return
    count = summary.overall.count
    for hazards in summary.overall.hazards:
        dtype, under = hazards.dtype, hazards.var_under
        # Infinite means are found already.
        squares = hazards.square_over - summary.overall.mean.minus_inf_count - summary.overall.mean.plus_inf_count
        over = hazards.var_over + squares
        infinite = sample_kl.at_least(largest_kl(dtype)) if sample_kl is not None else 0
        if over:
            yield Finding(
                f"{dtype}_overflow",
                Severity.warning,
                f"in {dtype}, e^l would be infinite for {hazards.var_over:,} and m² for {squares:,} of {count:,} "
                f"elements, and with them the KL of their samples",
                over,
                0,
                f"the largest number of {dtype}",
            )
        elif infinite and sample_kl is not None:
            yield Finding(
                f"{dtype}_kl",
                Severity.note,
                f"in {dtype}, the KL of {infinite:,} of {sample_kl.count:,} samples would be infinite, as its sum "
                f"leaves the range",
                infinite,
                0,
                f"the largest number of {dtype}",
            )
        if under:
            yield Finding(
                f"{dtype}_underflow",
                Severity.note,
                f"in {dtype}, e^l would be 0 for {under:,} of {count:,} elements ({_percent(under / count)}), and an "
                f"NLL divides by it"
                + (f"; σ for {hazards.std_under:,}" if hazards.std_under else "; drawing takes no harm"),
                under,
                0,
                f"the least number of {dtype}",
            )


def _constant_scale(summary: Summary) -> Iterator[Finding]:
    """A note: some encoders have one standard deviation by design. At a bound, the clamp's finding says it."""
    constant = [
        group
        for group in summary.per_channel
        if group.logvar is not None
        and not _is_dead(group)
        and group.logvar.finite > 1
        and group.logvar.min == group.logvar.max
        and summary.clamp[0] < group.logvar.min < summary.clamp[1]
    ]
    if constant and summary.samples > 1:
        values = _values([group.logvar.min for group in constant if group.logvar])
        yield Finding(
            "constant_scale",
            Severity.note,
            f"{_channels(constant)} {'has' if len(constant) == 1 else 'have'} one log-variance everywhere ({values}), "
            f"by design or because it was never trained",
            len(constant),
            0,
            "a log-variance that never changes says nothing of its sample",
            _numbers(constant),
        )


def _deterministic(summary: Summary) -> Iterator[Finding]:
    shares = [
        # What is less than the rounding of the two variances is lost in their difference.
        (group, max(group.drawn.sd**2 / group.mean_variance - 1, 1e-14))
        for group in summary.per_channel
        if group.logvar is not None and group.mean_variance > 0
    ]
    quiet = [group for group, share in shares if share < NOISE_SHARE]
    if not quiet:
        return
    share = max(share for _, share in shares if share < NOISE_SHARE)
    whose = "every channel" if len(quiet) == summary.channels else _channels(quiet)
    yield Finding(
        "deterministic",
        Severity.note,
        f"drawing adds next to nothing in {whose}: the noise is at most {_percent(math.sqrt(share))} of the spread of "
        f"the means, so a sample and the mode agree to {math.floor(-math.log10(share) / 2)} digits",
        share,
        NOISE_SHARE,
        f"{_OURS}: mean variance by variance of means; at 1e-4 the noise is 1 % of the spread",
        _numbers(quiet),
    )


def where(place: Place | None) -> str:
    """A place in words."""
    return "" if place is None else f"{place.name}, tensor {place.key!r}, sample {place.index}"


def _halves(summary: Summary) -> Iterator[tuple[str, Spread, list[Spread]]]:
    """The means and the log-variances: over all, and of each channel."""
    yield "mean", summary.overall.mean, [group.mean for group in summary.per_channel]
    if summary.overall.logvar is not None:
        yield "log-variance", summary.overall.logvar, [group.logvar for group in summary.per_channel if group.logvar]


def _is_dead(group: Group) -> bool:
    return group.mean.finite > 1 and group.mean.min == group.mean.max


def largest_kl(dtype: str) -> float:
    """The KL in nats from which the sum that the usual formula halves is infinite in ``float16`` or ``bfloat16``."""
    return next(half.over / 2 for half in HALF_PRECISIONS if half.dtype == dtype)


def _listed(far: FarOut) -> str:
    shown = [f"{where(place)} ({value:.4g})" for value, place in far.worst[:3]]
    return "; ".join(shown) + (", and others" if far.count > len(shown) else "")


def _numbers(groups: Sequence[Group]) -> tuple[int, ...]:
    return tuple(group.channel for group in groups if group.channel is not None)


def _channels(groups: Sequence[Group]) -> str:
    """``channel 3``, ``channels 0, 2, 3``, or how many where they are many."""
    numbers = _numbers(groups)
    if len(numbers) > 8:
        return f"{len(numbers)} channels ({', '.join(map(str, numbers[:6]))}, …)"
    return f"{_plural(len(numbers), 'channel')} {', '.join(map(str, numbers))}"


def _values(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values[:4]) + (", …" if len(values) > 4 else "")


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def _plural(count: int, noun: str, many: str | None = None) -> str:
    if count == 1:
        return noun
    if many is None:
        head, space, tail = noun.partition(" (")
        many = f"{head}s{space}{tail}"
    return many


def _are(count: int) -> str:
    return "is" if count == 1 else "are"
