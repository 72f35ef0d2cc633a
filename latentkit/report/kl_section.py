"""The section on KL: of the samples as a histogram, of the channels by rank. Of latents already drawn, their spread."""

from collections.abc import Callable
from dataclasses import dataclass

from latentkit.report import pictures
from latentkit.report.facts import Document, beside, others_of, state_of
from latentkit.report.markup import Columns, data_of, figure, section, short, table, to_open
from latentkit.report.samples import Histogram
from latentkit.stats.sample_values import MOST_EXACT
from latentkit.text import count_of

# With fewer channels than this there is room below their picture.
_FEW_BARS = 8

#: Bars of the samples here, and of those they are set beside; None: no picture.
Histograms = tuple[Histogram | None, Histogram | None]


@dataclass(frozen=True, slots=True)
class _Measure:
    """What there is of each sample: its name and its unit, and its key in the document's rows."""

    name: str
    unit: str
    key: str

    def with_unit(self, words: str) -> str:
        return f"{words} [{self.unit}]" if self.unit else words


_KL, _MEAN_SQUARE = _Measure("KL", "nats", "kl"), _Measure("mean square", "", "mean_square")


def divergence(document: Document, histograms: Histograms) -> str:
    """KL of the samples, and of the channels by rank."""
    channels = _ranking(document, lambda group: group["kl"]["element"], "KL", "KL [nats per element]")
    return _section("KL", _KL, document, histograms, channels)


def spread(document: Document, histograms: Histograms) -> str:
    """Of latents already drawn: the mean square of the samples, and the standard deviation of the channels by rank."""
    channels = _ranking(document, lambda group: group["drawn"]["sd"], "standard deviation", "standard deviation")
    return _section("Spread", _MEAN_SQUARE, document, histograms, channels)


def _section(title: str, measure: _Measure, document: Document, histograms: Histograms, channels: str) -> str:
    ours, theirs = histograms
    listed = _samples(measure, document)
    if not ours:
        return section(title, channels, listed)
    samples, quantiles = _sample_histogram(measure, document, ours, theirs), _quantiles(measure, document)
    # The table stands where there is room beside the other picture.
    is_right = document["channels"] < _FEW_BARS
    left, right = (samples, channels + quantiles) if is_right else (samples + quantiles, channels)
    return section(title, f'<div class="pair"><div>{left}</div><div>{right}</div></div>', listed)


def _sample_histogram(measure: _Measure, document: Document, ours: Histogram, theirs: Histogram | None) -> str:
    part = _part(measure, document)
    quantiles = dict(zip(document["quantile_levels"], part["quantiles"], strict=True))
    marks = [(quantiles[0.5], f"median {short(quantiles[0.5], 4)}")]
    bounds = [each["threshold"] for each in document["findings"] if each["kind"] == "far_out_high"]
    marks += [(bound, f"far out from {short(bound)}") for bound in bounds if bound < ours.edges[-1]]
    least, most = (part[end][0][measure.key] for end in ("lowest", "highest"))
    corners = (
        [f"← {ours.below:,} below, from {short(least)}"] if ours.below else [],
        [f"{ours.above:,} above, to {short(most)} →"] if ours.above else [],
    )
    unit = f" {measure.unit}" if measure.unit else ""
    alt = (
        f"Histogram of the {measure.name} of {count_of(part['finite'], 'sample')}: from {short(least)} to "
        f"{short(most)}{unit}, median {short(quantiles[0.5], 4)}, 1 % below {short(quantiles[0.01], 4)} and "
        f"1 % above {short(quantiles[0.99], 4)}"
    )
    label = measure.with_unit(f"{measure.name} of a sample")
    picture = pictures.histogram(ours, theirs, marks, corners, label, alt)
    data = table(
        f"Samples by their {measure.name}",
        {
            measure.with_unit("from"): [None, *ours.edges],
            measure.with_unit("to"): [*ours.edges, None],
            "samples": [ours.below, *ours.counts, ours.above],
        },
    )
    return figure(picture, f"{_capital(measure.name)} of the samples{beside(theirs)}", data_of(data))


def _part(measure: _Measure, document: Document) -> Document:
    part: Document = document[f"sample_{measure.key}"]
    return part


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _ranking(document: Document, read: Callable[[Document], float | None], what: str, unit: str) -> str:
    """Channels from the greatest value to the least."""
    others = list(map(read, others_of(document))) or [None] * document["channels"]
    known = [(value, group) for group in document["per_channel"] if (value := read(group)) is not None]
    if not known:
        return ""
    values, groups = zip(*sorted(known, key=lambda entry: (-entry[0], entry[1]["channel"])), strict=True)
    numbers = [group["channel"] for group in groups]
    there = [others[number] for number in numbers]
    words = ["collapsed" if group["collapsed"] else "" for group in groups]
    collapsed = sum(map(bool, words))
    alt = (
        f"Channels by {what}: the most has channel {numbers[0]} with {short(values[0])}, the least channel "
        f"{numbers[-1]} with {short(values[-1])}" + (f"; {collapsed} of {len(words)} collapsed" if collapsed else "")
    )
    columns: Columns = {"channel": numbers, unit: values, "state": list(map(state_of, groups))}
    if others_of(document):
        columns = {**columns, "the other": there}
    data = table(f"Channels by {what}", columns)
    picture = pictures.ranking(numbers, values, there, words, unit, alt)
    return figure(picture, f"Channels by {what}{beside(others_of(document), 'a mark across each bar')}", data_of(data))


def _quantiles(measure: _Measure, document: Document) -> str:
    columns: Columns = {
        "share": [f"{100 * level:g} %" for level in document["quantile_levels"]],
        measure.with_unit(measure.name): _part(measure, document)["quantiles"],
    }
    rounded = ", rounded down by at most 0.8 %" if _part(measure, document)["finite"] > MOST_EXACT else ""
    return table(f"Quantiles of the {measure.name} of the samples{rounded}", columns)


def _samples(measure: _Measure, document: Document) -> str:
    """Those that are not finite, and those furthest out."""
    part = _part(measure, document)
    if not part:
        return ""
    shown = []
    if part["nonfinite"]:
        shown.append(f"<p>Without {count_of(part['nonfinite'], 'sample')} whose {measure.name} is not finite.</p>")
    for which in ("highest", "lowest") if part["finite"] else ():
        rows = part[which]
        columns: Columns = {
            "rank": list(range(1, len(rows) + 1)),
            measure.with_unit(measure.name): [row[measure.key] for row in rows],
            "file": [row["file"] for row in rows],
            "tensor": [row["tensor"] for row in rows],
            "sample": [row["index"] for row in rows],
        }
        title = f"The {len(rows)} samples of {which} {measure.name}"
        shown.append(to_open(title, table(title, columns)))
    return "".join(shown)
