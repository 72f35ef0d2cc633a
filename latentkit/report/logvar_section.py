"""The section on log-variances and their clamp: all, and channel by channel."""

from itertools import pairwise

from latentkit.health.wording import clamp_rows
from latentkit.report import pictures
from latentkit.report.facts import IN_TABLE, Document, with_minus
from latentkit.report.markup import Columns, data_of, figure, number, section, short, table

#: Channels that get a picture each.
MOST_DISTRIBUTIONS = 16
# Channels of one finding among those: it may name them all.
_NAMED = 4


def clamp(document: Document) -> str:
    """Log-variances against their clamp: all, and channel by channel."""
    overall = document["overall"]
    if not overall["logvar"]:
        return ""
    low, high = document["clamp"]
    counts, edges = overall["histogram"], document["histogram_edges"]
    picture = pictures.logvars(counts, edges, _logvar_alt("all channels", overall), is_small=False)
    caption = f"Log-variances of all channels; the clamp is at {short(low)} and {short(high)}"
    chosen = _notable(document)
    several = [
        f"<div><a href='#channel-{group['channel']}'>channel {group['channel']}</a>"
        + pictures.logvars(group["histogram"], edges, _logvar_alt(f"channel {group['channel']}", group), is_small=True)
        + "</div>"
        for group in chosen
    ]
    all_shown = len(chosen) == document["channels"]
    words = "" if all_shown else f": the {len(chosen)} of {document['channels']} with findings, or nearest to the clamp"
    bins = with_minus(["below", *(f"{edge:.4g} to {upper:.4g}" for edge, upper in pairwise(edges)), "above"])
    overall_data = data_of(table("Log-variances of all channels", {"log-variance": bins, "elements": counts}))
    each = {f"ch {group['channel']}": group["histogram"] for group in chosen}
    data = data_of(table("Log-variances by channel", {"log-variance": bins, **each}))
    return section(
        "Log-variance and its clamp",
        f'<div class="pair">{figure(picture, caption, overall_data)}{_logvar_ranges(document)}</div>',
        figure(f'<div class="several">{"".join(several)}</div>', f"Log-variances by channel{words}", data),
        _clamp_counts(document),
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
    picture = pictures.ranges(quantiles, document["clamp"], alt)
    return figure(picture, "Log-variances by channel: 1 % to 99 %, the middle half, the median", IN_TABLE)


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
