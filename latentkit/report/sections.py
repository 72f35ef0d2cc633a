"""The sections that every report has: the JSON document of ``stats`` -> HTML. One without its figures is empty."""

from collections.abc import Sequence
from html import escape
from typing import Any

from latentkit.health.findings.finding import FIGURES
from latentkit.health.normalization import Factors, for_all, for_each
from latentkit.report.facts import IN_TABLE, Document, asked_for, shape_rows, state_of
from latentkit.report.heat_maps import heat_map
from latentkit.report.markup import figure, fixed, number, section, short, table, text
from latentkit.text import count_of

_COMPARED = {
    "sd": "standard deviation",
    "mean": "mean",
    "kl_element": "KL [nats per element]",
    "active": "state",
    "clamped_fraction": "share beyond the clamp",
    "nonfinite_count": "values not finite",
    "channels": "channels",
    "active_fraction": "share of active channels",
    "effective_rank": "effective rank",
    "high_frequency_power": "power at high frequencies",
}
_SEVERITIES = {"serious": "Serious", "warning": "Warning", "note": "Note"}


def findings(document: Document) -> str:
    """What is to be said, most serious first."""
    items = [
        f"<li class={finding['severity']!r}><p><strong class='mark'>{_SEVERITIES[finding['severity']]}</strong> "
        f"{text(_sentence(finding['sentence']))}</p><p class='source'>{_sentence(FIGURES[finding['kind']])}: "
        f"{short(finding['figure'])}; threshold: {short(finding['threshold'])} ({text(finding['source'])})</p></li>"
        for finding in document["findings"]
    ]
    healthy = not any(finding["severity"] != "note" for finding in document["findings"])
    differ = document["against"] and document["against"]["differences"]
    kind = "verdict healthy" if healthy and not differ else "verdict"
    verdict = f'<p class="{kind}">{text(_sentence(document["verdict"]))}</p>'
    return section("Findings", verdict, '<ol class="findings">' + "".join(items) + "</ol>" if items else "")


def overview(document: Document) -> str:
    """The figures that are asked for first, and those of the other encoder below them."""
    others = dict(_tiles(document["against"]["summary"]) if document["against"] else ())
    there = {name: f"<dd class='there'>other {value}</dd>" for name, value in others.items()}
    shown = "".join(
        f"<div><dt>{text(name)}</dt><dd>{value}</dd>{there.get(name, '')}</div>" for name, value in _tiles(document)
    )
    return section("At a glance", f'<dl class="tiles">{shown}</dl>')


def _tiles(document: Document) -> list[tuple[str, str]]:
    overall, channels = document["overall"], document["channels"]
    tiles = [("samples", f"{document['samples']:,}"), ("channels", f"{channels:,}")]
    if overall["kl"]:
        if document["samples"] > 1:
            tiles[1] = ("active channels", f"{document['active_channels']:,} of {channels:,}")
        tiles.append(("KL per sample [nats]", number(overall["kl"]["sample"])))
        tiles.append(("KL per element [nats]", number(overall["kl"]["element"])))
    if overall["logvar"]:
        tiles.append(("log-variance", f"{short(overall['logvar']['min'], 2)} … {short(overall['logvar']['max'], 2)}"))
        tiles.append(("beyond the clamp", _percent(overall["clamp"]["clamped_fraction"])))
    tiles.append(("mean of the latents", number(overall["drawn"]["shift_factor"])))
    tiles.append(("sd of the latents", number(overall["drawn"]["sd"])))
    return tiles


def channel_map(document: Document) -> str:
    """Every channel by every figure that sets channels apart."""
    groups = document["per_channel"]
    rows: list[tuple[str, list[float | None], bool]] = []
    if groups[0]["kl"]:
        rows.append(("KL [nats per element]", [group["kl"]["element"] for group in groups], False))
    rows.append(("mean of the latents", [group["drawn"]["shift_factor"] for group in groups], True))
    rows.append(("sd of the latents", [group["drawn"]["sd"] for group in groups], False))
    if groups[0]["logvar"]:
        rows.append(("variance of the means", [group["mean_variance"] for group in groups], False))
        rows.append(("mean log-variance", [group["logvar"]["mean"] for group in groups], False))
        rows.append(("sd of log-variance", [group["logvar"]["sd"] for group in groups], False))
    rows += shape_rows(document)
    rows = [row for row in rows if any(value is not None for value in row[1])]
    if not rows or len(groups) < 2:
        return ""
    names = [name for name, *_ in rows]
    alt = f"Heat map of {count_of(len(groups), 'channel')}: " + "; ".join(
        f"{name} from {short(min(known))} to {short(max(known))}"
        for name, values, _ in rows
        if (known := [value for value in values if value is not None])
    )
    picture = heat_map(names, [values for _, values, _ in rows], [signed for *_, signed in rows], alt)
    caption = "Channels at a glance; each row from its least (pale) to its greatest"
    if any(signed for *_, signed in rows):
        caption += ", orange below zero"
    return section("Channel map", figure(picture, caption, IN_TABLE, is_wide=True))


def channels(document: Document) -> str:
    """A row per channel, and one for all."""
    groups = [*document["per_channel"], document["overall"]]
    columns: dict[str, Sequence[Any]] = {
        "channel": [str(group["channel"]) if group["channel"] is not None else "all" for group in groups]
    }
    has_scale = document["overall"]["logvar"] is not None
    if has_scale:
        columns["state"] = [state_of(group) for group in groups]
        columns["KL [nats per element]"] = [group["kl"]["element"] for group in groups]
        columns["share [%]"] = [_times(100, group["kl"]["share"]) for group in groups]
        columns["aggregate KL"] = [group["aggregate_kl"] for group in groups]
    columns["mean of latents"] = [group["drawn"]["shift_factor"] for group in groups]
    columns["sd of latents"] = [group["drawn"]["sd"] for group in groups]
    if has_scale:
        columns["variance of means"] = [group["mean_variance"] for group in groups]
        for name, place in (("l 1 %", 0), ("l median", 3), ("l 99 %", -1)):
            columns[name] = [group["logvar"]["quantiles"][place] for group in groups]
        columns["l min"] = [group["logvar"]["min"] for group in groups]
        columns["l max"] = [group["logvar"]["max"] for group in groups]
        columns["clamped [%]"] = [_times(100, group["clamp"]["clamped_fraction"]) for group in groups]
    else:
        columns["min"] = [group["mean"]["min"] for group in groups]
        columns["max"] = [group["mean"]["max"] for group in groups]
    for name, values, _ in shape_rows(document):
        overall = asked_for(document, "shape")["overall"]["skewness" if name == "skewness" else "excess_kurtosis"]
        columns[name] = [*values, overall]
    columns["not finite"] = [_nonfinite(group) for group in groups]
    for name in ("clamped [%]", "not finite", "skewness", "excess kurtosis"):
        if not any(columns.get(name, ())):
            columns.pop(name, None)
    show = {name: fixed(2) for name in columns if name.startswith("l ")}
    caption = "All channels" + ("; l is the log-variance before the clamp" if has_scale else "")
    return section("Channels", table(caption, columns, ids="channel-", has_total=True, show=show))


def comparison(document: Document) -> str:
    """What differs from another encoder's outputs."""
    part = document["against"]
    if not part:
        return ""
    told = part["differences"]
    if not told:
        return section("Comparison", "<p>No figure differs by more than a tenth from the other encoder's.</p>")
    columns = {
        "channel": ["all" if each["channel"] is None else str(each["channel"]) for each in told],
        "figure": [_COMPARED[each["figure"]] for each in told],
        "here": [_compared(document, each, "ours") for each in told],
        "the other": [_compared(part["summary"], each, "theirs") for each in told],
    }
    return section("Comparison", table("Differences of more than a tenth", columns))


def _compared(summary: Document, difference: Document, whose: str) -> str:
    if difference["figure"] == "active":
        return state_of(summary["per_channel"][difference["channel"]])
    value = difference[whose]
    return f"{value:,.0f}" if difference["figure"] in ("nonfinite_count", "channels") else number(value)


def hazards(document: Document) -> str:
    """What the usual formulas would lose in 16 bits."""
    rows = document["overall"]["hazards"]
    if not document["overall"]["logvar"] or not rows:
        return ""
    headings = {
        "σ² infinite": "var_over", "σ² zero": "var_under", "σ infinite": "std_over", "σ zero": "std_under",
        "m² infinite": "square_over",
    }  # fmt: skip
    columns: dict[str, list[Any]] = {heading: [row[name] for row in rows] for heading, name in headings.items()}
    columns["KL infinite [samples]"] = [row["kl_over"] for row in document["sample_kl"]["hazards"]]
    columns = {heading: counts for heading, counts in columns.items() if any(counts)}
    dtypes = [row["dtype"] for row in rows]
    if not columns:
        return section("In 16 bits", f"<p>The usual formulas lose nothing in {' or '.join(dtypes)}.</p>")
    columns = {"dtype": dtypes, **columns}
    return section("In 16 bits", table("Elements that the usual formulas would lose, and samples by their KL", columns))


def normalization(document: Document) -> str:
    """Scale and shift, ready to paste."""
    if document["samples"] < 2:
        return ""
    part = {name: _numbers(value) for name, value in document["normalization"].items()}
    factors = Factors(**part)
    blocks = (("One factor for all channels", for_all(factors)), ("Or a mean and sd per channel", for_each(factors)))
    return section(
        "Normalization",
        f"<p>These give latents a mean of 0 and a standard deviation of {factors.target_std:g}.</p>",
        *(
            f'<h3>{title}</h3><pre tabindex="0" role="group" aria-label="{title}">{escape(block)}</pre>'
            for title, block in blocks
        ),
    )


def _nonfinite(group: Document) -> int:
    return sum(group["count"] - spread["finite"] for spread in (group["mean"], group["logvar"]) if spread)


def _sentence(words: str) -> str:
    return words[:1].upper() + words[1:]


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{short(100 * share)} %"


def _times(factor: float, value: float | None) -> float | None:
    return None if value is None else factor * value


def _numbers(value: Any) -> Any:
    """Null as NaN."""
    if isinstance(value, list):
        return tuple(map(_numbers, value))
    return float("nan") if value is None else value
