"""Findings on values and samples: not finite, at the clamp, misread, far out, lost in 16 bits."""

import math
from collections.abc import Iterator
from itertools import groupby

from latentkit.health.findings.channels import is_dead
from latentkit.health.findings.finding import OURS, Finding, Severity, are, channels, numbers, plural, where
from latentkit.health.outliers import CHANCE, FarOut, far_above, far_below, kl_over
from latentkit.measures.misread import LEAST_POSITIVE, no_logvars
from latentkit.stats.extrema import Place
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.summary import Spread, Summary
from latentkit.text import number, percent

#: Share of a channel's log-variances clamped or at the lower bound. Where the clamp holds, no gradient passes; below
#: one in a thousand it moves no figure of a channel by a digit that the tables show.
CLAMPED_SHARE = 1e-3


def nonfinite(summary: Summary) -> Iterator[Finding]:
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
    parts = [f"{count:,} {plural(count, what)}" for count, what in counts if count]
    yield Finding(
        "nonfinite",
        Severity.serious,
        f"{total:,} {plural(total, 'value')} {are(total)} not finite: {', '.join(parts)}; the first is the {name} of "
        f"channel {channel} in {where(place)}",
        total,
        0,
        "not one is expected",
        tuple(sorted({channel for _, _, channel in places})),
        place,
    )


def _halves(summary: Summary) -> Iterator[tuple[str, Spread, list[Spread]]]:
    """The means and the log-variances: over all, and of each channel."""
    yield "mean", summary.overall.mean, [group.mean for group in summary.per_channel]
    if summary.overall.logvar is not None:
        yield "log-variance", summary.overall.logvar, [group.logvar for group in summary.per_channel if group.logvar]


def _sigma(logvar: float) -> float:
    return math.exp(min(logvar / 2, 700.0))


def clamped(summary: Summary) -> Iterator[Finding]:
    """Above the clamp one is too many: its σ of 22,026 (e^10) drowns every other latent. Below, a share."""
    overall, logvar = summary.overall.clamp, summary.overall.logvar
    if overall is None or logvar is None:
        return
    groups = [(group, group.clamp) for group in summary.per_channel if group.clamp]
    high = [group for group, clamp in groups if clamp.above + clamp.at_high]
    if high:
        beyond = overall.above + overall.at_high
        place = logvar.max_at if logvar.max >= overall.high else None
        yield Finding(
            "clamp_high",
            Severity.serious,
            f"{_beyond(beyond, summary, 'above', overall.high)}, in {channels(high)}: drawn there, latents have a "
            f"standard deviation of {_sigma(overall.high):,.5g}; {_furthest('highest', place, logvar.plus_inf_count)}",
            beyond,
            0,
            "one such latent outweighs all others in the scale",
            numbers(high),
            place,
        )
    low = [
        (group, (clamp.below + clamp.at_low) / group.count)
        for group, clamp in groups
        if clamp.below + clamp.at_low > CLAMPED_SHARE * group.count
    ]
    if low:
        share = max(share for _, share in low)
        place = logvar.min_at if logvar.min <= overall.low else None
        yield Finding(
            "clamp_low",
            Severity.warning,
            f"{_beyond(overall.below + overall.at_low, summary, 'below', overall.low)}, in "
            f"{channels([group for group, _ in low])} (up to {percent(share)} of a channel): no gradient passes "
            f"there; {_furthest('lowest', place, logvar.minus_inf_count)}",
            share,
            CLAMPED_SHARE,
            f"{OURS}: fewer change no figure that is shown",
            numbers([group for group, _ in low]),
            place,
        )


def _furthest(which: str, place: Place | None, infinite: int) -> str:
    """Where the one furthest out is: extremes and their places are of finite log-variances."""
    if place is None:
        return "it is infinite" if infinite == 1 else "all are infinite"
    return f"the {which}{' that is finite' if infinite else ''} is in {where(place)}"


def _beyond(count: int, summary: Summary, side: str, bound: float) -> str:
    share = percent(count / summary.overall.count)
    return f"{count:,} {plural(count, 'log-variance')} ({share}) {are(count)} at or {side} the clamp at {bound:g}"


def misread(summary: Summary) -> Iterator[Finding]:
    logvar = summary.overall.logvar
    if logvar is None or summary.parameterization != "logvar" or logvar.finite < LEAST_POSITIVE or logvar.min < 0:
        return
    yield Finding(
        "misread",
        Severity.warning,
        no_logvars(logvar.min),
        logvar.min,
        0,
        "an encoder that is trained with a KL narrows its posteriors",
        place=logvar.min_at,
    )


def alike(summary: Summary, per_sample: SampleValues | None) -> Iterator[Finding]:
    """Not of drawn latents, whose mean square may be one number by design (binary codes, a unit sphere)."""
    duplicates = summary.extras.duplicates
    if per_sample is None or per_sample.count < 2 or summary.parameterization == "none":
        return
    if (duplicates and duplicates.duplicate_count) or all(map(is_dead, summary.per_channel)):
        return  # that is said already
    (least, place), (greatest, _) = per_sample.lowest[0], per_sample.highest[0]
    if least == greatest:
        yield Finding(
            "alike",
            Severity.warning,
            f"the KL of all {per_sample.count:,} samples is the very same ({number(least)} nats): they are copies of "
            f"one another, or what the encoder gives does not depend on its input (--with duplicates tells copies)",
            greatest - least,
            0,
            "samples that differ have sums that differ, in the last digit at least",
            place=place,
        )


def one_sample(summary: Summary) -> Iterator[Finding]:
    if summary.samples == 1:
        yield Finding(
            "one_sample",
            Severity.note,
            "there is one sample: whether channels are dead or collapsed, and what their scale is, it cannot tell",
            1,
            2,
            "a variance takes two",
        )


def far_out(summary: Summary, per_sample: SampleValues | None) -> Iterator[Finding]:
    if per_sample is None:
        return
    what, unit = ("mean square", "") if summary.parameterization == "none" else ("KL", " nats")
    for kind, severity, side, far in (
        ("far_out_high", Severity.warning, "above", far_above(per_sample)),
        ("far_out_low", Severity.note, "below", far_below(per_sample)),
    ):
        if far is not None:
            yield Finding(
                kind,
                severity,
                f"{far.count:,} {plural(far.count, 'sample')} of {per_sample.count:,} {are(far.count)} far out: "
                f"{plural(far.count, 'its', 'their')} {what} is {side} {number(far.bound)}{unit} (the median is "
                f"{number(far.median)}): {_listed(far)}",
                far.worst[0][0] if far.worst else far.bound,
                far.bound,
                f"going by the tail of the others, a set of this size has one there with a chance of {CHANCE:g}",
                place=far.worst[0][1] if far.worst else None,
            )


def copies(summary: Summary) -> Iterator[Finding]:
    duplicates = summary.extras.duplicates
    if duplicates is None or not duplicates.duplicate_count:
        return
    count, first = duplicates.duplicate_count, duplicates.pairs[0]
    among = f" among the first {duplicates.samples_hashed:,}" if duplicates.is_capped else ""
    what = plural(count, "a copy of an earlier one", "copies of earlier ones")
    yield Finding(
        "duplicates",
        Severity.warning,
        f"{count:,} {plural(count, 'sample')}{among} {are(count)} {what}, to the last byte; the "
        f"first is {where(first.sample)}, which equals {where(first.copy_of)}",
        count,
        0,
        "diffusion models memorize what is repeated: Carlini et al. 2023",
        place=first.sample,
    )


def _listed(far: FarOut) -> str:
    """The worst three, those of one tensor together."""
    shown, parts = far.worst[:3], []
    for (name, key), group in groupby(shown, key=lambda entry: (entry[1].name, entry[1].key)):
        samples = [f"{place.index} ({number(value)})" for value, place in group]
        parts.append(f"{name}, tensor {key!r}, {plural(len(samples), 'sample')} {', '.join(samples)}")
    return "; ".join(parts) + (", and others" if far.count > len(shown) else "")


def half_precision(summary: Summary, sample_kl: SampleValues | None) -> Iterator[Finding]:
    """What the usual formulas, e^l and ½ Σ (m² + e^l − 1 − l), lose in 16 bits."""
    if summary.overall.logvar is None:
        return
    count = summary.overall.count
    infinite_kl = {} if sample_kl is None else kl_over(sample_kl)
    for hazards in summary.overall.hazards:
        dtype, under = hazards.dtype, hazards.var_under
        # Infinite means are found already.
        squares = hazards.square_over - summary.overall.mean.minus_inf_count - summary.overall.mean.plus_inf_count
        over, infinite = hazards.var_over + squares, infinite_kl.get(dtype, 0)
        of_samples = "of their samples" if sample_kl is None else f"of {infinite:,} of {sample_kl.count:,} samples"
        if over:
            parts = [f"{what} for {many:,}" for what, many in (("e^l", hazards.var_over), ("m²", squares)) if many]
            which = f"{' and '.join(parts)} of {count:,} elements"
            yield Finding(
                f"{dtype}_overflow",
                Severity.warning,
                f"in {dtype}, {which} would be infinite, and so would the KL {of_samples}",
                over,
                0,
                f"the largest number of {dtype}",
            )
        elif infinite:
            yield Finding(
                f"{dtype}_kl",
                Severity.note,
                f"in {dtype}, the KL {of_samples} would be infinite, as its sum leaves the range",
                infinite,
                0,
                f"the largest number of {dtype}",
            )
        if under:
            yield Finding(
                f"{dtype}_underflow",
                Severity.note,
                f"in {dtype}, e^l would be 0 for {under:,} of {count:,} elements ({percent(under / count)}), and an "
                f"NLL divides by it"
                + (f"; σ for {hazards.std_under:,}" if hazards.std_under else "; drawing takes no harm"),
                under,
                0,
                f"the least number of {dtype}",
            )
