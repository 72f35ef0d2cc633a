"""``latentkit report``: one page that says what the JSON of ``stats`` says, harmless and complete in itself."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from importlib.metadata import version
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import matplotlib
import numpy as np
import pytest
import torch
from conftest import SAMPLE_DATA, Cli, moments_of
from counted import statistics_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from report_page import Page, figure, parse
from safetensors.torch import save_file

from latentkit.health.document import outline_of, plain
from latentkit.health.findings import find
from latentkit.health.findings.finding import FIGURES
from latentkit.health.normalization import factors_of
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.report.heat_maps import correlations, heat_map
from latentkit.report.markup import number, short, text
from latentkit.report.page import Made
from latentkit.report.page import page as page_of
from latentkit.report.pictures import histogram, ranges, ranking
from latentkit.report.samples import Histogram, histogram_of
from latentkit.stats.extras import NAMES, Extras
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.state import State
from latentkit.write.json_rows import jsonable

Write = Callable[..., Path]

EXTRAS = [option for name in ("correlation", "shape", "spectrum", "duplicates") for option in ("--with", name)]
MOST_BYTES = 2_000_000
CLAMP = (-30.0, 20.0)


def report(cli: Cli, *arguments: object) -> tuple[str, Page]:
    """The page that ``latentkit report`` writes, and what is in it."""
    outcome = cli("report", *arguments, "-o", "report.html", "--overwrite", "--quiet")
    assert (outcome.status, outcome.out, outcome.err) == (0, "", "")
    page = Path("report.html").read_text(encoding="utf-8")
    return page, parse(page)


def stats(cli: Cli, *arguments: object) -> Any:
    return cli("stats", *arguments, *EXTRAS, "--format", "json").json


def shows(shown: str, value: float | None) -> bool:
    """Whether what is shown is the value to four digits, or to two decimals."""
    got = figure(shown)
    if got is None or value is None:
        return got is value is None
    return got == pytest.approx(value, rel=6e-4, abs=1e-12) or (
        re.fullmatch(r"−?[\d,]+\.\d\d", shown) is not None and abs(got - value) <= 0.00501
    )


@cache
def made(channels: int) -> tuple[str, Page, Any]:
    """A page on so many channels, read back, and the document it is of: one at the clamp, one in ten collapsed."""
    moments = moments_of(40, channels, 8, 8, seed=channels)
    moments[:, 3:channels:10] *= 1e-3
    moments[:, channels + 3 :: 10] = 1e-3 * moments[:, channels + 3 :: 10] + 1e-3
    moments[5, channels + channels // 2] = -31.0
    with TemporaryDirectory() as folder:
        path = f"{folder}/moments.safetensors"
        save_file({"moments": moments}, path)
        found = find_posteriors([path], Selection())
        per_sample, extras = SampleValues(), Extras(NAMES, channels, "logvar", CLAMP, np.zeros(channels))
        statistics = statistics_of(found.spans, CLAMP, per_sample=per_sample, extras=extras)
    summary = State(statistics, per_sample, found.readings, extras).summary()
    figures = plain(outline_of(summary, found.readings, find(summary, per_sample), factors_of(summary), per_sample))
    document = jsonable(figures)
    how = Made("latentkit report moments.safetensors", ["moments.safetensors"], {"latentkit": "0"})
    html = page_of(document, (histogram_of(per_sample), None), how)
    return html, parse(html), document


# ---- the page as a whole ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 4, 16, 128])
def test_the_page_is_well_formed_accessible_and_small(channels: int) -> None:
    html, page, _ = made(channels)
    assert len(html.encode()) < MOST_BYTES
    (root,) = page.all("html")
    assert root.attributes["lang"] == "en"
    levels = [int(tag.name[1]) for tag in page.tags if re.fullmatch("h[1-6]", tag.name)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [tag.attributes["id"] for tag in page.tags if "id" in tag.attributes]
    assert len(ids) == len(set(ids))
    for tag in page.tags:
        assert tag.attributes.get("aria-labelledby", "findings") in ids
        assert tag.attributes.get("href", "#findings").removeprefix("#") in ids
    for tag in page.all("svg"):
        assert tag.attributes["role"] == "img"
        assert re.search(r"\d", tag.attributes["aria-label"])
    assert len(page.all("caption")) == len(page.all("table"))
    assert {tag.attributes["scope"] for tag in page.all("th")} == {"row", "col"}
    for tag in page.tags:
        # What scrolls can be reached with the keyboard, and has a name.
        if tag.attributes.get("class") == "scroll" or tag.name == "pre":
            assert tag.attributes["tabindex"] == "0" and tag.attributes["aria-label"]


def test_the_page_needs_nothing_else_and_forbids_it() -> None:
    html, page, _ = made(16)
    policies = [tag.attributes for tag in page.all("meta") if "http-equiv" in tag.attributes]
    assert [policy["content"] for policy in policies] == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert {tag.name for tag in page.tags} & {"script", "link", "img", "image", "iframe", "object", "base"} == set()
    assert [tag for tag in page.tags if {"src", "srcset", "action", "xlink:href"} & tag.attributes.keys()] == []
    assert not any(name.startswith("on") for tag in page.tags for name in tag.attributes)
    assert re.findall(r"//|@import|url\((?!#)", html) == []


def test_pictures_take_the_colours_and_the_font_of_the_page() -> None:
    html, _, _ = made(16)
    pictures = re.findall("<svg.*?</svg>", html, re.DOTALL)
    assert len(pictures) > 16
    for picture in pictures:
        colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", picture))
        assert colours <= {"none", "currentColor", *(f"var(--{name})" for name in ("muted", "line", "accent", "warm"))}
        assert "font-family" not in picture and "DejaVu" not in picture
        references = set(re.findall(r"url\(#([^)]+)\)", picture))
        assert references <= set(re.findall(r' id="([^"]+)"', picture))


def contrast(one: str, other: str) -> float:
    """The contrast ratio of WCAG 2.2."""

    def luminance(colour: str) -> float:
        digits = colour.lstrip("#")
        digits = "".join(2 * digit for digit in digits) if len(digits) == 3 else digits
        parts = [int(digits[place : place + 2], 16) / 255 for place in (0, 2, 4)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    lesser, greater = sorted((luminance(one), luminance(other)))
    return (greater + 0.05) / (lesser + 0.05)


def test_contrast_is_that_of_wcag_aa_in_light_and_dark() -> None:
    style = files("latentkit.report").joinpath("page.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w+);", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    )
    assert light.keys() == dark.keys()
    for colours in (light, dark):
        for name in ("ink", "muted", "accent", "warm", "serious"):
            assert contrast(colours[name], colours["paper"]) >= 4.5
            assert contrast(colours[name], colours["soft"]) >= 4.5


def test_equal_input_gives_equal_bytes_whatever_style_matplotlib_has(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    path = SAMPLE_DATA / "healthy-f16.safetensors"
    first, _ = report(cli, path)
    monkeypatch.setitem(matplotlib.rcParams, "font.size", 30.0)
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)
    assert report(cli, path)[0] == first
    assert (matplotlib.rcParams["font.size"], matplotlib.rcParams["text.usetex"]) == (30.0, True)


# ---- what it says -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["healthy-f16", "collapsed", "synthetic-clamp", "video"])
def test_findings_come_first_and_are_those_of_stats(cli: Cli, name: str) -> None:
    path = SAMPLE_DATA / f"{name}.safetensors"
    _, page = report(cli, path)
    found = stats(cli, path)
    heading, *_ = page.all("h2")
    assert heading.text == "Findings"
    words = page.section("Findings")
    assert found["verdict"].casefold() in words.casefold()
    items = [tag for tag in page.all("li") if "ol" in tag.parents]
    assert [tag.attributes["class"] for tag in items] == [finding["severity"] for finding in found["findings"]]
    for tag, finding in zip(items, found["findings"], strict=True):
        assert finding["sentence"][1:] in tag.text and finding["source"] in tag.text


@pytest.mark.parametrize("channels", [4, 16, 128])
def test_the_figures_are_those_of_the_json_document(channels: int) -> None:
    _, page, document = made(channels)
    table = page.table("All channels")
    groups = [*document["per_channel"], document["overall"]]
    assert table["channel"] == [*map(str, range(channels)), "all"]
    columns: dict[str, Callable[[Any], float | None]] = {
        "KL [nats per element]": lambda group: group["kl"]["element"],
        "share [%]": lambda group: 100 * group["kl"]["share"],
        "aggregate KL": lambda group: group["aggregate_kl"],
        "mean of latents": lambda group: group["drawn"]["shift_factor"],
        "sd of latents": lambda group: group["drawn"]["sd"],
        "variance of means": lambda group: group["mean_variance"],
        "l 1 %": lambda group: group["logvar"]["quantiles"][0],
        "l median": lambda group: group["logvar"]["quantiles"][3],
        "l 99 %": lambda group: group["logvar"]["quantiles"][-1],
        "l min": lambda group: group["logvar"]["min"],
        "l max": lambda group: group["logvar"]["max"],
        "clamped [%]": lambda group: 100 * group["clamp"]["clamped_fraction"],
    }
    for name, read in columns.items():
        for shown, group in zip(table[name], groups, strict=True):
            assert shows(shown, read(group)), (name, group["channel"])
    shape = document["with"]["shape"]
    for shown, figures in zip(table["skewness"], [*shape["channels"], shape["overall"]], strict=True):
        assert shows(shown, figures["skewness"])
    assert table["state"][3] == "collapsed" and table["state"][0] == "active"


def test_sections_on_what_with_adds_agree_with_it() -> None:
    _, page, document = made(16)
    extras = document["with"]
    matrix = page.table("Correlation of the channels")
    for channel, row in enumerate(extras["correlation"]["matrix"]):
        assert all(shows(matrix[str(other)][channel], value) for other, value in enumerate(row))
    assert f"rank is {number(extras['correlation']['effective_rank'])} of 16" in page.section("Correlation")
    spectrum = page.table("Power by spatial frequency")
    kept = [place for place, frequency in enumerate(extras["spectrum"]["frequencies"]) if frequency]
    assert [figure(shown) for shown in spectrum["cycles per pixel"]] == pytest.approx(
        [extras["spectrum"]["frequencies"][place] for place in kept], rel=1e-3
    )
    for channel, power in enumerate(extras["spectrum"]["power"]):
        assert all(shows(cell, power[place]) for cell, place in zip(spectrum[f"ch {channel}"], kept, strict=True))
    assert "None of 40 samples repeats" in page.section("Duplicates")


def test_copies_are_listed(cli: Cli, write: Write) -> None:
    moments = moments_of(6)
    moments[4] = moments[1]
    write("a.safetensors", moments=moments)
    _, page = report(cli, "a.safetensors")
    copies = page.table("The first copies")
    assert (copies["copy: sample"], copies["first: sample"]) == (["4"], ["1"])
    assert "1 of 6 samples repeats" in page.section("Duplicates")


def test_the_histogram_of_kl_holds_every_sample_once(cli: Cli) -> None:
    path = SAMPLE_DATA / "healthy-f32.safetensors"
    _, page = report(cli, path)
    table = page.table("Samples by their KL")
    values = np.array(cli("kl", path).values("kl"))
    assert sum(map(int, table["samples"])) == len(values) == 512
    # Edges are shown to four digits; a sample or two may lie between one and what is shown of it.
    edges = [figure(shown) for shown in table["to [nats]"][:-1]]
    counted = np.histogram(values, np.array([-np.inf, *edges, np.inf], float))[0]  # type: ignore[list-item]
    assert np.abs(np.cumsum(counted) - np.cumsum([*map(int, table["samples"])])).max() <= 6


def test_of_many_channels_those_with_findings_get_a_picture() -> None:
    _, page, _ = made(128)
    labels = [tag.attributes["aria-label"] for tag in page.all("svg")]
    shown = {int(found[1]) for label in labels if (found := re.match(r"Log-variances of channel (\d+):", label))}
    # 3 is the first of those that collapsed, 64 the one at the clamp.
    assert len(shown) == 16 and {3, 13, 23, 33, 64} <= shown
    assert len(page.table("Channels by KL")["channel"]) == 128


def test_latents_already_drawn_have_a_page_without_log_variances(cli: Cli) -> None:
    path = SAMPLE_DATA / "latents.safetensors"
    _, page = report(cli, path, "--parameterization", "none")
    headings = [tag.text for tag in page.all("h2")]
    assert headings[0] == "Findings" and "Correlation" in headings
    assert not {"KL", "Log-variance and its clamp", "In 16 bits"} & set(headings)
    document = stats(cli, path, "--parameterization", "none")
    assert sum(map(int, page.table("Samples by their mean square")["samples"])) == 512
    assert "Clamp" not in page.section("How this was made")
    rows = document["sample_mean_square"]["highest"]
    table = page.table("The 20 samples of highest mean square")
    assert table["sample"] == [str(row["index"]) for row in rows]
    assert all(shows(shown, row["mean_square"]) for shown, row in zip(table["mean square"], rows, strict=True))
    for shown, group in zip(page.table("All channels")["sd of latents"], document["per_channel"], strict=False):
        assert shows(shown, group["drawn"]["sd"])


@pytest.mark.parametrize(
    "moments",
    [
        torch.full((3, 4, 2, 2), float("nan")),
        torch.zeros(3, 4, 2, 2),
        torch.zeros(1, 2, 1, 1),
        torch.full((30, 4, 2, 2), 40.0),
        torch.zeros(40, 60, 1, 1),
        torch.cat([torch.full((5, 1, 2, 2), float("nan")), moments_of(5, 1, 2, 2), torch.zeros(5, 1, 2, 2)], 1),
    ],
    ids=["nan", "prior", "one", "clamped", "many of prior", "nan in one"],
)
def test_figures_that_are_undefined_leave_a_page(cli: Cli, write: Write, moments: torch.Tensor) -> None:
    write("a.safetensors", moments=moments)
    html, page = report(cli, "a.safetensors")
    assert page.all("h2")[0].text == "Findings"
    assert ("Channel map" in html) == (moments.shape[1] > 2 and bool(moments.isfinite().any()))
    assert "<tbody></tbody>" not in html
    assert "nan" not in {cell.text for cell in page.all("td")}


def test_what_differs_from_another_encoder_is_told(cli: Cli) -> None:
    ours, theirs = (SAMPLE_DATA / f"{name}.safetensors" for name in ("collapsed", "healthy-f32"))
    _, page = report(cli, ours, "--against", theirs)
    told = cli("stats", ours, "--against", theirs, "--format", "json").json["against"]["differences"]
    table = page.table("Differences")
    assert len(told) == len(table["figure"]) > 4
    for row, difference in enumerate(told):
        if difference["figure"] == "active":
            assert (table["here"][row], table["the other"][row]) == ("collapsed", "active")
        else:
            assert shows(table["here"][row], difference["ours"])
            assert shows(table["the other"][row], difference["theirs"])
    (header,) = page.all("header")
    assert f"Beside the other encoder: {theirs}512 samples" in header.text
    assert f"{len(told)} differences from the other encoder" in page.section("Findings")
    captions = [tag.text for tag in page.all("figcaption") if "the other encoder" in tag.text]
    assert [caption.partition(";")[0] for caption in captions] == [
        "KL of the samples",
        "Channels by KL",
        "Log-variances of all channels",
        "Log-variances by channel: 1 % to 99 %, the middle half, the median",
        "Power by spatial frequency, where white noise has 1: mean of the channels, each of which is a thin line",
    ]
    assert "The other encoder's is " in page.section("Correlation")


@pytest.mark.parametrize(
    ("name", "options", "shared"),
    [
        ("tokens", (), ["KL of the samples", "Log-variances of all channels"]),
        ("latents", ("--parameterization", "none"), ["Mean square of the samples", "Channels by standard deviation"]),
    ],
)
def test_another_number_of_channels_is_set_beside_as_a_whole(
    cli: Cli, name: str, options: tuple[str, ...], shared: list[str]
) -> None:
    ours, theirs = (SAMPLE_DATA / f"{one}.safetensors" for one in (name, "latents" if options else "healthy-f32"))
    _, page = report(cli, ours, "--against", theirs, *options)
    captions = [tag.text for tag in page.all("figcaption") if "the other encoder" in tag.text]
    assert [caption.partition(";")[0] for caption in captions][:2] == shared
    if not options:
        assert page.table("Differences")["figure"][0] == "channels"
        assert "." not in page.table("Differences")["here"][0]
        assert "the other" not in page.table("Channels by KL")


def test_one_that_differs_from_another_is_not_called_healthy_alone(cli: Cli) -> None:
    ours, theirs = (SAMPLE_DATA / f"{name}.safetensors" for name in ("healthy-f32", "collapsed"))
    html, page = report(cli, ours, "--against", theirs)
    assert "differences from the other encoder" in page.section("Findings")
    assert "ealthy" not in page.section("Findings")
    assert "verdict healthy" not in html
    html, page = report(cli, ours, "--against", ours)
    assert "verdict healthy" in html and "No figure differs" in page.section("Comparison")


def test_contents_lead_to_every_section() -> None:
    _, page, _ = made(4)
    links = [(tag.attributes["href"], tag.text) for tag in page.all("a") if "nav" in tag.parents]
    assert links == [(f"#{tag.attributes['id']}", tag.text) for tag in page.all("h2")]


def test_every_kind_of_finding_says_what_its_figure_is() -> None:
    kinds = set()
    for source in files("latentkit.health.findings").iterdir():
        if source.name.endswith(".py"):
            kinds |= set(re.findall(r'Finding\(\s*f?"([^"]+)"', source.read_text(encoding="utf-8")))
    spelled = {kind.replace("{dtype}", dtype) for kind in kinds for dtype in ("float16", "bfloat16")}
    assert len(kinds) > 10 and spelled <= FIGURES.keys()


def test_what_would_be_zeros_throughout_is_left_out(cli: Cli) -> None:
    _, page = report(cli, SAMPLE_DATA / "healthy-f32.safetensors")
    assert not {"clamped [%]", "not finite"} & page.table("All channels").keys()
    assert "lose nothing in float16 or bfloat16" in page.section("In 16 bits")


def test_of_many_channels_the_first_and_the_last_have_a_bar_each() -> None:
    html, _, _ = made(128)
    (picture,) = re.findall('<svg[^>]*aria-label="Channels by KL.*?</svg>', html, re.DOTALL)
    assert "104 channels between" in picture and len(re.findall(">[0-9.e−-]+ collapsed<", picture)) == 12


def test_states_give_the_page_that_their_files_give(cli: Cli) -> None:
    paths = sorted((SAMPLE_DATA / "shards").glob("*.safetensors"))[:2]
    for number_of, path in enumerate(paths):
        cli("stats", path, *EXTRAS, "--state", f"{number_of}.state")
    merged, whole = report(cli, "--merge", "0.state", "1.state")[1], report(cli, *paths)[1]
    for heading in ("Findings", "At a glance", "KL", "Log-variance and its clamp", "Correlation", "Channels"):
        assert merged.section(heading) == whole.section(heading)
    assert "0.state1.state" in merged.section("How this was made")


def test_how_it_was_made_is_told(cli: Cli, write: Write) -> None:
    write("d e/a.safetensors", moments=moments_of())
    _, page = report(cli, "d e/a.safetensors", "--clamp-min", -20)
    made = page.section("How this was made")
    assert "latentkit report 'd e/a.safetensors' --clamp-min -20 -o report.html --overwrite --quiet" in made
    assert "[−20, 20]" in made
    assert f"numba {version('numba')}" in made and f"matplotlib {matplotlib.__version__}" in made
    assert "moments: 4 channels = 2 mean + 2 logvar, bchw" in made


# ---- what comes from data does no harm ----------------------------------------------------------------------------

HOSTILE = "</td><script>alert(\"1\")</script><b onclick='x'>&amp;\u202e\x07\x1b[31m"


def test_names_out_of_data_are_shown_and_do_nothing(cli: Cli, write: Write) -> None:
    moments = moments_of(40)
    moments[7, 0, 0, 0] = float("nan")
    name = "<img src=x onerror=alert(1)>'\"&\u202e.safetensors"
    write(name, **{HOSTILE: moments, "copy": moments.clone()})
    html, page = report(cli, name, "--key", HOSTILE, "--key", "copy")
    assert {tag.name for tag in page.tags} & {"script", "b", "img"} == set()
    assert not any(key.startswith("on") for tag in page.tags for key in tag.attributes)
    assert not [char for char in html if not char.isprintable() and char != "\n"]
    spelled = HOSTILE.replace("\u202e", "\\u202e").replace("\x07", "\\x07").replace("\x1b", "\\x1b")
    # In the finding, in the tables of samples and copies, and among the files.
    assert '</td><script>alert("1")</script><b onclick=' in page.section("Findings")
    assert spelled in page.table("The 20 samples of highest KL")["tensor"]
    assert spelled in page.table("The first copies")["first: tensor"] + page.table("The first copies")["copy: tensor"]
    assert "<img src=x onerror=alert(1)>'\"&\\u202e.safetensors" in page.section("How this was made")


@given(st.text(st.characters(exclude_categories=())))
def test_text_comes_back_from_the_parser_as_it_was_but_for_what_is_not_printable(words: str) -> None:
    page = parse(f'<p title="{text(words)}">{text(words)}</p>')
    (tag,) = page.tags
    spelled = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in words
    )
    assert (tag.text, tag.attributes["title"]) == (spelled, spelled)


# ---- numbers and pictures -----------------------------------------------------------------------------------------


@given(st.floats(-1e300, 1e300))
def test_numbers_are_shown_to_four_digits(value: float) -> None:
    assert figure(number(value)) == pytest.approx(value, rel=5.01e-4)
    assert figure(short(value)) == pytest.approx(value, rel=5.01e-3)


def test_numbers_have_their_usual_look() -> None:
    values = (None, float("nan"), 0.0, -0.5, 12345.6, 1e-7, 118.25)
    assert [number(value) for value in values] == ["–", "–", "0", "−0.5000", "12,346", "1.000e−7", "118.2"]
    assert [short(value) for value in values] == ["–", "–", "0", "−0.5", "12,346", "1.00e−7", "118"]


@given(
    st.lists(st.floats(0, width=32, allow_infinity=False), min_size=1, max_size=300),
    st.sampled_from([1.0, 1e-3]),
)
@example([3.4e38] * 20, 1.0)
@settings(max_examples=60)
def test_bins_of_kl_hold_what_numpy_counts(values: list[float], scale: float) -> None:
    kl = np.array(values) if scale == 1 else 100 + scale * (np.array(values) % 1000)
    kl = kl.astype(np.float32).astype(float)
    per_sample = SampleValues()
    per_sample.tally(kl)
    found = histogram_of(per_sample)
    assert found is not None
    assert found.below + sum(found.counts) + found.above == len(kl)
    assert sorted(found.edges) == found.edges and np.isfinite(found.edges).all()
    # numpy puts what is at the last edge into the last bin, and a KL of zero has no place on an axis.
    inside = np.maximum(kl[kl < found.edges[-1]], found.edges[0] if found.edges[0] <= 1e-6 else 0)
    assert found.counts == np.histogram(inside, found.edges)[0].tolist()


def test_no_samples_have_no_histogram() -> None:
    assert histogram_of(SampleValues()) is None


@pytest.mark.parametrize("channels", [2, 5, 40])
def test_the_cells_of_a_correlation_matrix_are_its_values(channels: int) -> None:
    matrix = np.corrcoef(np.random.default_rng(channels).normal(size=(channels, 8)))
    svg = correlations(matrix.tolist(), "1")
    seen = np.zeros((channels, channels))
    left, top, cell = 32, 46, 400 / channels
    for path, style in re.findall(r'<path d="([^"]+)"[^>]*style="([^"]+)"', svg):
        level = re.search(r"stroke: var\(--(accent|warm)\).*?opacity: ([\d.]+)|opacity: ([\d.]+); stroke: var", style)
        if level is None or "L" not in path:
            continue
        opacity = float(re.search(r"opacity: ([\d.]+)", style)[1])  # type: ignore[index]
        strongest = 0.5 if channels <= 16 else 0.95
        value = round(opacity / strongest * 12) / 12 * (1 if "--accent" in style else -1)
        for x0, y, x1 in re.findall(r"M ([\d.]+) ([\d.]+) \s*L ([\d.]+) [\d.]+", path.replace("\n", " ")):
            first, last = (round((float(x) - left) / cell) for x in (x0, x1))
            if float(y) > top:  # above is the scale
                seen[int((float(y) - top) / cell), first:last] = value
    assert np.abs(seen - matrix).max() <= 0.5 / 12 + 1e-9


# ---- at the command line ------------------------------------------------------------------------------------------


def test_without_matplotlib_it_says_what_to_install(
    cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write("a.safetensors", moments=moments_of())
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    outcome = cli("report", "a.safetensors", "-o", "r.html")
    assert outcome.status == 2
    assert "pip install 'vae-latentkit[report]'" in outcome.complaint
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (("a.safetensors", "-o", "r.pdf"), 2, "a report is written as .html"),
        (("a.safetensors", "-o", "old.html"), 2, "exists already"),
        (("nosuch", "-o", "r.html"), 2, "nosuch"),
        (("a.safetensors", "-o", "r.html", "--fail-if", "nonsense > 1"), 2, "no figure is called"),
        (("a.safetensors", "-o", "r.html", "--save-normalization", "r.html"), 2, "named for two outputs"),
        (("--merge", "a.safetensors", "-o", "r.html"), 1, "not a state"),
        (("--merge", "a.safetensors", "-o", "r.html", "--layout", "bchw"), 2, "--merge reads states"),
        (("odd.safetensors", "-o", "r.html"), 1, "odd"),
    ],
)
def test_errors_are_one_sentence_and_leave_no_page(
    cli: Cli, write: Write, tmp_path: Path, arguments: tuple[str, ...], status: int, words: str
) -> None:
    write("a.safetensors", moments=moments_of())
    write("odd.safetensors", moments=torch.zeros(2, 3, 1, 1))
    (tmp_path / "old.html").write_text("old")
    outcome = cli("report", *arguments)
    assert outcome.status == status
    assert words in outcome.complaint
    assert not (tmp_path / "r.html").exists()
    assert (tmp_path / "old.html").read_text() == "old"


def test_a_terminal_is_no_place_for_a_page(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write("a.safetensors", moments=moments_of())
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    outcome = cli("report", "a.safetensors")
    assert (outcome.status, "-o report.html" in outcome.complaint) == (2, True)


def test_a_condition_that_holds_ends_with_its_status_after_the_page_is_written(
    cli: Cli, write: Write, tmp_path: Path
) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = cli(
        "report", "a.safetensors", "-o", "r.html", "--fail-if", "samples > 4", "--save-normalization", "n.json"
    )
    assert outcome.status == 3
    assert "samples is 5" in outcome.err
    assert parse((tmp_path / "r.html").read_text()).all("h1")
    assert json.loads((tmp_path / "n.json").read_text())["samples"] == 5


def test_a_dry_run_writes_nothing(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = cli("report", "a.safetensors", "-o", "r.html", "--dry-run")
    assert (outcome.status, outcome.json["samples"]) == (0, 5)
    assert not (tmp_path / "r.html").exists()


def test_a_pipe_gets_the_page_and_help_loads_nothing_heavy(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    command = [sys.executable, "-m", "latentkit", "report", "a.safetensors"]
    process = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    assert process.stderr == b""
    assert parse(process.stdout.decode()).all("h1")[0].text == "Encoder health"
    code = """
import sys
sys.argv = ["latentkit", "report", "--help"]
from latentkit.cli.main import main
try:
    main()
finally:
    assert not {"torch", "numpy", "matplotlib"} & set(sys.modules)
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"report.html" in shown.stdout


@pytest.mark.parametrize("width", [0.9, 0.001])
def test_no_share_of_a_histogram_is_more_than_all(width: float) -> None:
    one = Histogram([0.0, 0.9, 1.8], [97, 3], 0, 0)
    other = Histogram([0.5, 0.5 + width, 0.5 + 2 * width], [50, 50], 0, 0)
    drawn = histogram(one, other, [], ((), ()), "KL", "")
    ticks = [float(text.replace(",", "")) for text in re.findall(r">([\d.,]+)</text>", drawn)]
    assert 80 in ticks and max(ticks) <= 100


def lengths_of(picture: str) -> list[float]:
    """Of the bars of a ranking, in their order."""
    bars = re.findall(r'<path d="([^"]+)"[^>]*style="fill: var\(--(?:accent|warm)\)', picture)
    across = [[float(x) for x in re.findall(r"[ML] ([\d.]+)", bar)] for bar in bars]
    return [max(xs) - min(xs) for xs in across]


@pytest.mark.parametrize("greatest", [4e6, 1e300])
def test_one_huge_channel_leaves_bars_of_the_others_to_be_seen(greatest: float) -> None:
    values, words = [greatest, 2.0, 1.0, 1e-6], ["", "", "", "collapsed"]
    picture = ranking(range(4), values, [None, 3.0, None, 1.0], words, "KL [nats]", "")
    lengths = lengths_of(picture)
    assert lengths == sorted(lengths, reverse=True)
    if greatest < 1e100:  # further than that no axis of matplotlib's reaches
        assert "KL [nats], logarithmic" in picture and lengths[2] > 0.3 * lengths[0] > 20
    first, second, third = lengths_of(plain := ranking(range(3), [3.0, 2.0, 1e-6], [None] * 3, words[1:], "KL", ""))
    assert "logarithmic" not in plain and second == pytest.approx(2 / 3 * first, rel=1e-3) and third < 1


def test_log_variances_far_beyond_the_clamp_are_said_and_leave_the_others_room() -> None:
    rows = [[-4.0, -3.0, -2.5, -2.0, -1.5, -1.0, 0.0]] * 5
    far = [[-6e5, -5e5, -4e5, -3e5, -2e5, -1e5, -9e4], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 7e5]]
    picture = ranges([*rows, *far], [], CLAMP, "")
    assert "1 channel as far as −600,000 ↓" in picture and "1 channel as far as 700,000 ↑" in picture
    ticks = [figure(words) for words in re.findall(r">([−\d,.]+)</text>", picture)]
    assert all(tick is not None and -45 < tick < 35 for tick in ticks)
    assert "as far as" not in ranges(rows, [], CLAMP, "")
    assert "as far as" not in ranges(far[:1], [], CLAMP, "")


def test_one_channel_far_out_leaves_the_others_their_shades() -> None:
    row = [1 + 0.01 * (channel % 12) for channel in range(40)]
    for outlier in (row[0], 1e6):
        picture = heat_map(["KL", "mean"], [[*row, outlier]] * 2, [False, True], "")
        assert len(set(re.findall(r"opacity: ([\d.]+)", picture))) > 5
