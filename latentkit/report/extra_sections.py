"""Sections on what ``stats --with`` adds: correlation, smoothness over space, duplicates."""

from collections.abc import Sequence
from typing import Any

from latentkit.report import pictures
from latentkit.report.facts import Document, asked_for, beside
from latentkit.report.heat_maps import correlations
from latentkit.report.markup import data_of, figure, fixed, number, section, short, table, to_open
from latentkit.text import count_of

#: Channels of which every correlation and every power is given; of more, the strongest, and the mean.
MOST_IN_FULL = 128


def correlation(document: Document) -> str:
    """How channels go together."""
    part = asked_for(document, "correlation")
    if not part or document["channels"] < 2:
        return ""
    matrix, channels, strongest = part["matrix"], document["channels"], part["strongest"]
    listed = table(
        "Strongest correlations",
        {
            "channels": [" and ".join(map(str, pair["channels"])) for pair in strongest],
            "correlation": [pair["correlation"] for pair in strongest],
        },
        show={"correlation": fixed(3)},
    )
    effective = _effective_rank(part["effective_rank"], channels, _there(document, "correlation"))
    if not strongest:
        return section("Correlation", effective) if effective else ""
    if channels > MOST_IN_FULL:
        return section("Correlation", effective, listed)
    (one, other), value = strongest[0]["channels"], strongest[0]["correlation"]
    alt = (
        f"Correlation matrix of {channels} channels: the strongest is {short(value)}, of channels {one} and {other}; "
        f"the effective rank is {short(part['effective_rank'])}"
    )
    columns: dict[str, list[Any]] = {"channel": list(range(channels))}
    columns |= {str(channel): list(cells) for channel, cells in enumerate(zip(*matrix, strict=True))}
    data = table("Correlation of the channels", columns, show=dict.fromkeys(columns, fixed(2)))
    picture = figure(
        correlations(matrix, alt),
        "Correlation of the channels, from −1 (orange) to 1 (blue)",
        data_of(data),
    )
    return section("Correlation", f'<div class="pair">{picture}<div>{effective}{listed}</div></div>')


def _there(document: Document, name: str) -> Any:
    """The figures of this name of the other encoder, where it has them."""
    return document["against"]["with"][name] if document["against"] else None


def _effective_rank(rank: float | None, channels: int, there: Any) -> str:
    if rank is None:
        return ""
    other = f" The other encoder's is {number(there['effective_rank'])} of {len(there['matrix'])}." if there else ""
    return (
        f"<p>The effective rank is {number(rank)} of {channels}: as many channels, uncorrelated and of equal scale, "
        f"would be as spread out (Roy &amp; Vetterli 2007).{other}</p>"
    )


def spectrum(document: Document) -> str:
    """How smooth latents are over space: power by frequency, and the correlation of neighbours."""
    part = asked_for(document, "spectrum")
    if not part or not part["lag1"]:
        return ""
    listed = _neighbours(part["lag1"])
    frequencies, overall = part["frequencies"], part["overall"]
    kept = [place for place, value in enumerate(overall) if value and frequencies[place] > 0]
    if len(kept) < 2:
        return section("Smoothness over space", listed)
    frequencies, overall = [frequencies[place] for place in kept], [overall[place] for place in kept]
    power = part["power"] if document["channels"] <= MOST_IN_FULL else []
    channels = [[row[place] for place in kept] for row in power]
    alt = (
        f"Power spectrum, where white noise is 1 throughout: {short(overall[0])} at {short(frequencies[0])} cycles per "
        f"pixel, {short(overall[-1])} at {short(frequencies[-1])}, mean over channels"
    )
    other = _there(document, "spectrum")
    powers = dict(zip(other["frequencies"], other["overall"], strict=True)) if other else {}
    theirs = [powers.get(frequency) for frequency in frequencies] if powers else []
    columns = {"cycles per pixel": frequencies, "all": overall} | ({"the other": theirs} if theirs else {})
    columns |= {f"ch {channel}": row for channel, row in enumerate(channels)}
    data = table("Power by spatial frequency", columns)
    caption = "Power by spatial frequency, where white noise has 1: mean of the channels"
    caption += ", each of which is a thin line" if channels else ""
    caption += beside(theirs, "dashed")
    picture = figure(pictures.spectrum(frequencies, overall, channels, theirs, alt), caption, data_of(data))
    return section("Smoothness over space", f'<div class="pair">{picture}<div>{listed}</div></div>')


def _neighbours(lags: Sequence[Document]) -> str:
    whole = {"axis": [lag["axis"] for lag in lags], "mean of the channels": [lag["overall"] for lag in lags]}
    columns: dict[str, list[Any]] = {"channel": list(range(len(lags[0]["channels"])))}
    columns |= {f"along {lag['axis']}": lag["channels"] for lag in lags}
    each = table("Correlation of latents one step apart, by channel", columns)
    return table("Correlation of latents one step apart", whole) + to_open("By channel", each)


def duplicates(document: Document) -> str:
    """Samples that are copies of others."""
    part = asked_for(document, "duplicates")
    if not part:
        return ""
    count, hashed = part["duplicate_count"], part["samples_hashed"]
    among = f"the first {hashed:,} samples" if part["is_capped"] else count_of(hashed, "sample")
    what = "None" if not count else f"{count:,}"
    words = f"<p>{what} of {among} {'repeat' if count > 1 else 'repeats'} an earlier one, byte for byte.</p>"
    if not part["pairs"]:
        return section("Duplicates", words)
    columns = {
        f"{whose} {what}": [pair[which][name] for pair in part["pairs"]]
        for which, whose in (("sample", "copy:"), ("copy_of", "first:"))
        for what, name in (("file", "file"), ("tensor", "tensor"), ("sample", "index"))
    }
    return section("Duplicates", words, table("The first copies", columns))
