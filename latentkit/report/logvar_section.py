"""The section on log-variances and their clamp: all, and channel by channel."""

import math
from itertools import pairwise

from latentkit.health.wording import clamp_rows
from latentkit.report import pictures
from latentkit.report.facts import IN_TABLE, Document, beside, others_of, with_minus
from latentkit.report.markup import Columns, data_of, figure, number, section, short, table
from latentkit.report.samples import Histogram

#: Channels that get a picture each.
MOST_DISTRIBUTIONS = 16
# Channels of one finding among those: it may name them all.
_NAMED = 4


def clamp(document: Document) -> str:
    """Log-variances against their clamp: all, and channel by channel."""
    overall = document["overall"]
    if not overall["logvar"]:
        return ""
    counts, edges = overall["histogram"], document["histogram_edges"]
    alt = _logvar_alt("all channels", overall)
    theirs = _theirs(document, None)
    label = "log-variance before the clamp"
    picture = pictures.histogram(_bars(document, None), theirs, [], _corners(document), label, alt)
    chosen = _notable(document)
    several = [
        f"<div><a href='#channel-{group['channel']}'>channel {group['channel']}</a>"
        + _small(document, group["channel"])
        + "</div>"
        for group in chosen
    ]
    all_shown = len(chosen) == document["channels"]
    words = "" if all_shown else f": the {len(chosen)} of {document['channels']} with findings, or nearest to the clamp"
    bins = with_minus(["below", *(f"{edge:.4g} to {upper:.4g}" for edge, upper in pairwise(edges)), "above"])
    overall_data = data_of(table("Log-variances of all channels", {"log-variance": bins, "elements": counts}))
    each = {f"ch {group['channel']}": group["histogram"] for group in chosen}
    data = data_of(table("Log-variances by channel", {"log-variance": bins, **each}))
    first = figure(picture, f"Log-variances of all channels{beside(theirs)}", overall_data)
    caption = f"Log-variances by channel, each with heights of its own{words}"
    return section(
        "Log-variance and its clamp",
        f'<div class="pair">{first}{_logvar_ranges(document)}</div>',
        # One channel is all of them.
        figure(f'<div class="several">{"".join(several)}</div>', caption, data) if document["channels"] > 1 else "",
        _clamp_counts(document),
    )


def _bars(summary: Document, channel: int | None) -> Histogram:
    """The histogram of one channel, or of all."""
    group = summary["overall"] if channel is None else summary["per_channel"][channel]
    below, *inside, above = group["histogram"]
    infinite = group["logvar"]["minus_inf_count"], group["logvar"]["plus_inf_count"]
    return Histogram(summary["histogram_edges"], inside, below + infinite[0], above + infinite[1])


def _theirs(document: Document, channel: int | None) -> Histogram | None:
    """The other encoder's, where there is one; of a channel, where channels go together."""
    if channel is not None and not others_of(document):
        return None
    other = document["against"]
    return _bars(other["summary"], channel) if other and other["summary"]["overall"]["logvar"] else None


def _small(document: Document, channel: int) -> str:
    """The histogram of one channel; how many lie beyond it stands below."""
    bars = _bars(document, channel)
    theirs = _theirs(document, channel)
    alt = _logvar_alt(f"channel {channel}", document["per_channel"][channel])
    picture = pictures.histogram(bars, theirs, [], ((), ()), "", alt, is_small=True)
    words = [f"← {bars.below:,}"] * (bars.below > 0) + [f"{bars.above:,} →"] * (bars.above > 0)
    return picture + (f'<p class="beyond">{" · ".join(words)}</p>' if words else "")


def _corners(document: Document) -> tuple[list[str], list[str]]:
    """Where the clamp is, and how many lie beyond the bars: at the left and at the right."""
    bars, logvar = _bars(document, None), document["overall"]["logvar"]
    least = -math.inf if logvar["minus_inf_count"] else logvar["min"]
    most = math.inf if logvar["plus_inf_count"] else logvar["max"]
    left = [f"clamp {short(document['clamp'][0])}", f"{bars.below:,} below, from {short(least)}"]
    right = [f"clamp {short(document['clamp'][1])}", f"{bars.above:,} above, to {short(most)}"]
    return (
        [f"← {words}" for words in left[: 1 + (bars.below > 0)]],
        [f"{words} →" for words in right[: 1 + (bars.above > 0)]],
    )


def _logvar_ranges(document: Document) -> str:
    quantiles = [group["logvar"]["quantiles"] for group in document["per_channel"]]
    known = [(row[3], channel) for channel, row in enumerate(quantiles) if row[3] is not None]
    if not known:
        return ""
    (least, lowest), (greatest, highest) = min(known), max(known)
    alt = (
        f"Range of the log-variances of each channel: the median is lowest in channel {lowest} with {short(least)} and "
        f"highest in channel {highest} with {short(greatest)}"
    )
    theirs = [group["logvar"]["quantiles"] for group in others_of(document)]
    picture = pictures.ranges(quantiles, theirs, document["clamp"], alt)
    caption = f"Log-variances by channel: 1 % to 99 %, the middle half, the median{beside(theirs, 'grey')}"
    return figure(picture, caption, IN_TABLE)


def _logvar_alt(whose: str, group: Document) -> str:
    spread, bounds = group["logvar"], group["clamp"]
    levels = f"median {short(spread['quantiles'][3])}" if spread["finite"] else "none is finite"
    return (
        f"Log-variances of {whose}: {short(spread['min'])} to {short(spread['max'])}, {levels}; {bounds['below']:,} "
        f"below the clamp and {bounds['above']:,} above"
    )


def _notable(document: Document) -> list[Document]:
    """The first channels of every finding, then those nearest to the clamp; in their own order."""
    groups = document["per_channel"]
    named = [channel for finding in document["findings"] for channel in finding["channels"][:_NAMED]]
    near = sorted(groups, key=lambda group: -1e9 if (margin := group["clamp"]["margin"]) is None else margin)
    chosen = list(dict.fromkeys([*named, *(group["channel"] for group in near)]))[:MOST_DISTRIBUTIONS]
    return [groups[channel] for channel in sorted(chosen)]


def _clamp_counts(document: Document) -> str:
    overall = document["overall"]
    kept = clamp_rows(overall)
    if not kept:
        nearest = number(overall["clamp"]["margin"])
        return f"<p>None is at or beyond a bound, NaN or infinite; the nearest is {nearest} nats from a bound.</p>"
    shares = [100 * count / overall["count"] for count in kept.values()]
    columns: Columns = {"log-variance": with_minus(kept), "elements": list(kept.values()), "share [%]": shares}
    return table("Log-variances at the clamp, and what is not finite", columns)
