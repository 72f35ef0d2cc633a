"""The section on KL: of the samples as a histogram, of the channels by rank."""

from collections.abc import Callable, Sequence

from latentkit.report import pictures
from latentkit.report.facts import Document, state_of
from latentkit.report.markup import Columns, data_of, figure, section, short, table, to_open
from latentkit.report.samples import KlHistogram
from latentkit.text import count_of

# With fewer channels than this there is room below their picture.
_FEW_BARS = 8


def divergence(document: Document, histogram: KlHistogram | None) -> str:
    """KL of the samples, and of the channels by rank; of latents already drawn, their spread by rank."""
    groups = document["per_channel"]
    if not document["overall"]["kl"]:
        ranked = _ranked(groups, lambda group: group["drawn"]["sd"])
        return section("Spread of the channels", _ranking(ranked, "standard deviation", "standard deviation"))
    ranked = _ranked(groups, lambda group: group["kl"]["element"])
    channels = _ranking(ranked, "KL", "KL [nats an element]")
    if not histogram:
        return section("KL", channels, _samples(document))
    samples, quantiles = _sample_histogram(document, histogram), _quantiles(document)
    # The table stands where there is room beside the other picture.
    left, right = (samples, channels + quantiles) if len(ranked) < _FEW_BARS else (samples + quantiles, channels)
    return section("KL", f'<div class="pair"><div>{left}</div><div>{right}</div></div>', _samples(document))


def _sample_histogram(document: Document, histogram: KlHistogram) -> str:
    quantiles = dict(zip(document["quantile_levels"], document["sample_kl"]["quantiles"], strict=True))
    marks = [(quantiles[0.5], f"median {short(quantiles[0.5], 4)}")]
    bounds = [each["threshold"] for each in document["findings"] if each["kind"] == "far_out_high"]
    marks += [(bound, f"far out from {short(bound)}") for bound in bounds if bound < histogram.edges[-1]]
    least, most = document["sample_kl"]["lowest"][0]["kl"], document["sample_kl"]["highest"][0]["kl"]
    beyond = (
        f"← {histogram.below:,} below, from {short(least)}" if histogram.below else "",
        f"{histogram.above:,} above, to {short(most)} →" if histogram.above else "",
    )
    count = document["sample_kl"]["finite"]
    alt = (
        f"Histogram of the KL of {count_of(count, 'sample')}: from {short(least)} to "
        f"{short(most)} nats, median {short(quantiles[0.5], 4)}, 1 % below {short(quantiles[0.01], 4)} and "
        f"1 % above {short(quantiles[0.99], 4)}"
    )
    picture = pictures.histogram(histogram.edges, histogram.counts, marks, beyond, alt, is_log=histogram.is_log)
    data = table(
        "Samples by their KL",
        {
            "from [nats]": [None, *histogram.edges],
            "to [nats]": [*histogram.edges, None],
            "samples": [histogram.below, *histogram.counts, histogram.above],
        },
    )
    return figure(picture, "KL of the samples; equal areas are equally many", data_of(data))


def _ranked(groups: Sequence[Document], read: Callable[[Document], float | None]) -> list[tuple[float, Document]]:
    known = [(value, group) for group in groups if (value := read(group)) is not None]
    return sorted(known, key=lambda entry: (-entry[0], entry[1]["channel"]))


def _ranking(ranked: Sequence[tuple[float, Document]], what: str, unit: str) -> str:
    if not ranked:
        return ""
    numbers = [group["channel"] for _, group in ranked]
    values = [value for value, _ in ranked]
    words = ["collapsed" if group["collapsed"] else "" for _, group in ranked]
    collapsed = sum(map(bool, words))
    alt = (
        f"Channels by {what}: the most has channel {numbers[0]} with {short(values[0])}, the least channel "
        f"{numbers[-1]} with {short(values[-1])}" + (f"; {collapsed} of {len(words)} collapsed" if collapsed else "")
    )
    data = table(f"Channels by {what}", {"channel": numbers, unit: values, "state": [state_of(g) for _, g in ranked]})
    return figure(pictures.ranking(numbers, values, words, unit, alt), f"Channels by {what}", data_of(data))


def _quantiles(document: Document) -> str:
    columns: Columns = {
        "share": [f"{100 * level:g} %" for level in document["quantile_levels"]],
        "KL [nats]": document["sample_kl"]["quantiles"],
    }
    return table("Quantiles of the KL of the samples, rounded down by at most 0.8 %", columns)


def _samples(document: Document) -> str:
    sample_kl = document["sample_kl"]
    if not sample_kl:
        return ""
    shown = []
    if sample_kl["nonfinite"]:
        shown.append(f"<p>Without {count_of(sample_kl['nonfinite'], 'sample')} whose KL is not finite.</p>")
    for which in ("highest", "lowest") if sample_kl["finite"] else ():
        rows = sample_kl[which]
        columns: Columns = {
            "rank": list(range(1, len(rows) + 1)),
            "KL [nats]": [row["kl"] for row in rows],
            "file": [row["file"] for row in rows],
            "tensor": [row["tensor"] for row in rows],
            "sample": [row["index"] for row in rows],
        }
        title = f"The {len(rows)} samples of {which} KL"
        shown.append(to_open(title, table(title, columns)))
    return "".join(shown)
