"""``latentkit stats`` as a check of health: findings, conditions, formats."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from latentkit.health.figures import FIGURES
from tests.conftest import SAMPLE_DATA, Cli, moments_of

HEALTHY = SAMPLE_DATA / "healthy-f16.safetensors"
COLLAPSED = SAMPLE_DATA / "collapsed.safetensors"
CLAMPED = SAMPLE_DATA / "synthetic-clamp.safetensors"
WITH_ALL = [part for name in ("correlation", "shape", "spectrum", "duplicates") for part in ("--with", name)]
SCHEMA = json.loads(files("latentkit").joinpath("stats_schema.json").read_text())


def test_findings_come_first_on_a_terminal_and_name_their_source_in_full(cli: Cli) -> None:
    lines = cli("stats", COLLAPSED, "--format", "table", "--full").out.splitlines()
    assert lines[0] == "1 finding"
    text = " ".join(lines[: lines.index("")])
    assert "channels 0, 2, 3 are collapsed" in re.sub(r"\s+", " ", text) and "Burda et al. 2016" in text


def test_a_healthy_encoder_begins_with_one_line(cli: Cli) -> None:
    assert cli("stats", HEALTHY, "--format", "table").out.splitlines()[0] == "Healthy: nothing to find fault with"


def test_factors_in_use_are_checked(cli: Cli) -> None:
    document = cli("stats", HEALTHY, "--scaling-factor", 0.18215).json
    (finding,) = document["findings"]
    assert finding["kind"] == "scaling_factor" and "the factor of these latents is 1.00" in finding["sentence"]
    assert cli("stats", HEALTHY, "--scaling-factor", 0.5, "--target-std", 0.5).json["findings"] == []


@pytest.mark.parametrize(
    ("conditions", "status"),
    [
        (["clamped_fraction > 0.001"], 3),
        (["nonfinite_count > 6"], 0),
        (["nonfinite_count > 6", "nan_count > 0"], 3),
        (["kl_mean < 0"], 3),
        (["samples < 1", "channels != 4"], 0),
    ],
)
def test_a_condition_that_holds_ends_in_3_after_the_result(cli: Cli, conditions: list[str], status: int) -> None:
    outcome = cli("stats", CLAMPED, "--quiet", *(part for text in conditions for part in ("--fail-if", text)))
    assert outcome.status == status
    assert outcome.json["samples"] == 64
    assert bool(outcome.err) == (status == 3)


def test_a_condition_that_holds_stops_a_shell_script(tmp_path: Path) -> None:
    script = "set -e; for name in healthy-f16 collapsed video; do $LATENTKIT $name.safetensors; echo $name; done"
    command = (
        f"{sys.executable} -m latentkit stats -q --format json -o {tmp_path}/out.json --overwrite --fail-if findings>0"
    )
    done = subprocess.run(
        ["sh", "-c", script], cwd=SAMPLE_DATA, env=os.environ | {"LATENTKIT": command}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (3, "healthy-f16\n")
    assert done.stderr == "latentkit: --fail-if 'findings > 0' holds: findings is 1\n"
    assert json.loads((tmp_path / "out.json").read_text())["collapsed_channels"] == 3


def test_which_condition_held_is_said_with_its_value(cli: Cli) -> None:
    err = cli("stats", CLAMPED, "-q", "--fail-if", "clamped_fraction>0.001", "--fail-if", "kl_mean < 0").err
    why = "is undefined (4 values are NaN, or an infinite mean)"
    assert err.splitlines() == [
        f"latentkit: --fail-if 'clamped_fraction > 0.001' holds: clamped_fraction {why}",
        f"latentkit: --fail-if 'kl_mean < 0' holds: kl_mean {why}",
    ]
    err = cli("stats", COLLAPSED, "-q", "--fail-if", "collapsed_channels > 0").err
    assert err == "latentkit: --fail-if 'collapsed_channels > 0' holds: collapsed_channels is 3\n"


def test_a_wrong_condition_is_refused_before_anything_is_read(cli: Cli) -> None:
    outcome = cli("stats", "not-there", "--fail-if", "kl_men > 3")
    assert outcome.status == 2 and "did you mean kl_mean" in outcome.complaint


def test_a_file_that_cannot_be_read_goes_before_a_condition(cli: Cli, tmp_path: Path) -> None:
    save_file({"moments": torch.zeros(0, 8, 4, 4)}, tmp_path / "empty.safetensors")
    assert cli("stats", "empty.safetensors", "--fail-if", "samples < 1").status == 1


@pytest.mark.parametrize(
    ("path", "options"),
    [
        (HEALTHY, ()),
        (CLAMPED, ()),
        (COLLAPSED, ("--scaling-factor", "2")),
        (SAMPLE_DATA / "per-image", ("--layout", "chw", "--limit", "1")),
        (SAMPLE_DATA / "per-image", ("--layout", "chw", "--limit", "1", *WITH_ALL)),
        (SAMPLE_DATA / "video.safetensors", WITH_ALL),
        (CLAMPED, WITH_ALL),
        (SAMPLE_DATA / "shards", ("--by", "labels")),
        (SAMPLE_DATA / "shards", ("--by", "labels", "--limit", "3", "--parameterization", "none")),
    ],
)
def test_the_document_is_what_the_schema_says(cli: Cli, path: Path, options: tuple[str, ...]) -> None:
    document = cli("stats", path, *options).json
    assert document["schema"] == "latentkit.stats/1" == SCHEMA["properties"]["schema"]["const"]
    assert list(faults_of(document, SCHEMA)) == []


def test_the_schema_names_nothing_that_the_document_lacks() -> None:
    """Every object is closed, and requires all that it names: so the test above goes both ways."""

    def walk(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("type") == "object":
                assert schema["additionalProperties"] is False
                assert sorted(schema["required"]) == sorted(schema["properties"])
            for part in schema.values():
                walk(part)
        elif isinstance(schema, list):
            for part in schema:
                walk(part)

    walk(SCHEMA)


TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "number": int | float, "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip


def faults_of(value: Any, schema: Any, where: str = "$") -> Any:
    """What breaks the schema: as much of JSON Schema as ours uses."""
    if "$ref" in schema:
        yield from faults_of(value, SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")], where)
        return
    if "anyOf" in schema:
        if all(list(faults_of(value, choice, where)) for choice in schema["anyOf"]):
            yield f"{where}: {value!r} is none of {schema['anyOf']}"
        return
    if "const" in schema and value != schema["const"]:
        yield f"{where}: {value!r}"
    if "enum" in schema and value not in schema["enum"]:
        yield f"{where}: {value!r} is none of {schema['enum']}"
    kinds = schema.get("type")
    if kinds is None:
        return
    kinds = [kinds] if isinstance(kinds, str) else kinds
    fits = [kind for kind in kinds if isinstance(value, TYPES[kind]) and isinstance(value, bool) == (kind == "boolean")]
    if not fits:
        yield f"{where}: {value!r} is no {kinds}"
    if isinstance(value, dict):
        for name in sorted(set(schema["required"]) ^ set(value)):
            yield f"{where}.{name}: is in one alone"
        for name, part in value.items():
            if name in schema["properties"]:
                yield from faults_of(part, schema["properties"][name], f"{where}.{name}")
    if isinstance(value, list):
        for number, part in enumerate(value):
            yield from faults_of(part, schema["items"], f"{where}[{number}]")


def test_the_table_of_channels_as_csv(cli: Cli, tmp_path: Path) -> None:
    assert cli("stats", CLAMPED, "-o", "channels.csv").status == 0
    rows = list(csv.DictReader(io.StringIO((tmp_path / "channels.csv").read_text())))
    document = cli("stats", CLAMPED).json
    assert [int(row["channel"]) for row in rows] == [0, 1, 2, 3]
    for row, group in zip(rows, document["per_channel"], strict=True):
        assert float(row["logvar_q50"]) == group["logvar"]["quantiles"][3]
        assert float(row["latents_sd"]) == group["drawn"]["sd"]
        assert int(row["above"]) == group["clamp"]["above"]
        assert row["active"] == "true" and row["collapsed"] == "false"
    assert cli("stats", CLAMPED, "--format", "csv", "--channels", "1-2").values("channel") == [1, 2]


def test_what_is_asked_for_besides_is_in_the_csv_of_channels(cli: Cli) -> None:
    asked = "--with", "shape", "--with", "spectrum", "--with", "duplicates"
    extras = cli("stats", CLAMPED, *asked).json["with"]
    outcome = cli("stats", CLAMPED, *asked, "--format", "csv", "--channels", "1-2")
    assert outcome.values("skewness") == [one["skewness"] for one in extras["shape"]["channels"][1:3]]
    assert outcome.values("excess_kurtosis") == [one["excess_kurtosis"] for one in extras["shape"]["channels"][1:3]]
    for lag in extras["spectrum"]["lag1"]:
        assert outcome.values(f"lag1_{lag['axis']}") == lag["channels"][1:3]


def test_few_of_many_channels_are_shown_unless_asked_for(cli: Cli, tmp_path: Path) -> None:
    save_file({"moments": moments_of(8, 128, 6)}, tmp_path / "a.safetensors")

    def channels(*options: str) -> list[int]:
        out = cli("stats", "a.safetensors", "--layout", "bcl", "--format", "table", *options).out
        table = out[out.index("Channels:") : out.index("Scale")]
        assert max(map(len, out.splitlines())) <= 80
        return [int(line.split()[0]) for line in table.splitlines() if re.match(r" *\d+ ", line) and "." in line][:130]

    assert 8 <= len(channels()) <= 16
    assert channels("--channels", "0,3,8-11") == [0, 3, 8, 9, 10, 11]
    assert channels("--channels", "0-127") == list(range(128))


@pytest.mark.parametrize(("text", "why"), [("4", "there are 4 channels"), ("3-1", "ranges"), ("x", "ranges"), ("", "")])
def test_channels_that_are_not_there_are_refused(cli: Cli, text: str, why: str) -> None:
    outcome = cli("stats", HEALTHY, "--channels", text)
    assert outcome.status == 2 and why in outcome.complaint


def test_samples_whose_kl_16_bits_cannot_hold_are_told_alike_everywhere(cli: Cli) -> None:
    kl = cli("kl", CLAMPED, "--quiet").values("kl")
    expected = sum(2**15 <= value < float("inf") for value in kl)
    document = cli("stats", CLAMPED).json
    assert document["sample_kl"]["hazards"] == [
        {"dtype": "float16", "kl_over": expected},
        {"dtype": "bfloat16", "kl_over": 0},
    ]
    (finding,) = [finding for finding in document["findings"] if finding["kind"] == "float16_overflow"]
    assert f"so would the KL of {expected} of 60 samples" in finding["sentence"]
    lines = cli("stats", CLAMPED, "--format", "table", "--full").out.splitlines()
    (row,) = [line.split() for line in lines if line.startswith("float16 ") and "KL infinite" in line]
    assert int(row[-1]) == expected > 0


def test_a_zero_of_a_correlation_has_no_sign_and_no_copies_are_no_table(cli: Cli, tmp_path: Path) -> None:
    moments = torch.randn(400, 8, 8, 8, generator=torch.Generator().manual_seed(1))
    save_file({"moments": moments}, tmp_path / "a.safetensors")
    out = cli("stats", "a.safetensors", *WITH_ALL, "--format", "table", "--full").out
    assert "0.00" in out and not re.search(r"-0\.0+(?!\d)", out)
    lines = out.splitlines()
    start = lines.index("Copies among 400 samples: 0")
    assert lines[start + 1 : start + 3] == ["", lines[start + 2]] and lines[start + 2].startswith("Normalization")


def test_the_guide_lists_every_figure_that_a_condition_may_name() -> None:
    page = files("latentkit").joinpath("guide/health.md").read_text()
    rows = dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", page, re.MULTILINE))
    meanings = {re.sub(r"\.p\d+$", ".pN", name): figure.meaning for name, figure in FIGURES.items()}
    assert {name: rows.get(name) for name in meanings} == meanings


def test_latents_already_drawn_have_the_same_tables_without_the_scale(cli: Cli) -> None:
    path = SAMPLE_DATA / "latents.safetensors"
    document = cli("stats", path, "--parameterization", "none").json
    assert list(faults_of(document, SCHEMA)) == [] and document["findings"] == []
    assert (document["samples"], document["channels"], document["parameterization"]) == (512, 4, "none")
    assert document["overall"]["logvar"] is None and document["sample_kl"] is None
    latents = load_file(path)["latents"].double().flatten(1).numpy()
    squares = np.sort((latents**2).mean(axis=1))
    assert [row["mean_square"] for row in document["sample_mean_square"]["lowest"]] == pytest.approx(squares[:20])
    assert document["sample_mean_square"]["quantiles"] == pytest.approx(
        np.quantile(squares, document["quantile_levels"], method="inverted_cdf"), rel=1e-6
    )
    moments = cli("stats", SAMPLE_DATA / "healthy-f32.safetensors").json
    for drawn, posterior in zip(document["per_channel"], moments["per_channel"], strict=True):
        assert drawn["drawn"]["sd"] == pytest.approx(posterior["drawn"]["sd"], rel=0.01)
    out = cli("stats", path, "--parameterization", "none", "--format", "table").out
    assert "latents: 4 channels of latents, bchw" in out and "log-variance" not in out and "KL per sample" not in out
    (row,) = [line.split() for line in out.splitlines() if line.startswith("mean square per sample")]
    assert row[4:] == [f"{squares[0]:.4f}", f"{squares.mean():.4f}", f"{squares[255]:.3f}", f"{squares[-1]:.3f}"]
    assert max(map(len, out.splitlines())) <= 80


def test_draws_are_so_many_samples_more(cli: Cli) -> None:
    assert cli("sample", HEALTHY, "-o", "z.safetensors", "--draws", 3).status == 0
    document = cli("stats", "z.safetensors", "--parameterization", "none").json
    assert (document["samples"], document["channels"]) == (3 * 512, 4)
    assert document["read"] == ["latents: 4 channels of latents, bbchw"]


def test_a_dead_channel_of_latents_is_found(cli: Cli, tmp_path: Path) -> None:
    latents = torch.randn(50, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    latents[:, 1] = 0.25
    save_file({"latents": latents}, tmp_path / "a.safetensors")
    (finding,) = cli("stats", "a.safetensors", "--parameterization", "none").json["findings"]
    assert (finding["kind"], finding["channels"]) == ("dead", [1])


@pytest.mark.parametrize("command", [("kl",), ("sample", "-o", "z"), ("nll", "--latents", "z.safetensors")])
def test_what_needs_a_posterior_refuses_latents(cli: Cli, command: tuple[str, ...]) -> None:
    path = SAMPLE_DATA / "latents.safetensors"
    outcome = cli(command[0], path, *command[1:], "--parameterization", "none")
    assert outcome.status == 2 and "stats reads them" in outcome.complaint


def test_two_encoders_side_by_side(cli: Cli) -> None:
    document = cli("stats", HEALTHY, "--against", COLLAPSED).json
    assert list(faults_of(document, SCHEMA)) == []
    against = document["against"]
    assert against["summary"]["samples"] == 256 and against["summary"]["collapsed_channels"] == 3
    found = {(entry["figure"], entry["channel"]) for entry in against["differences"]}
    assert {("active", 0), ("active", 2), ("active", 3), ("kl_element", None), ("kl_element", 1), ("sd", 1)} <= found
    assert ("active", 1) not in found and ("sd", 0) not in found
    sentences = [entry["sentence"] for entry in against["differences"]]
    assert "channel 0: active, and collapsed there" in sentences
    assert "over all: the KL is 1.857 nats per element, 0.1067 there" in sentences


def test_the_same_encoder_differs_in_nothing(cli: Cli) -> None:
    for other in (SAMPLE_DATA / "healthy-bf16.safetensors", SAMPLE_DATA / "shards"):
        assert cli("stats", HEALTHY, "--against", other).json["against"]["differences"] == []


def test_both_are_drawn_in_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("stats", HEALTHY, "--against", COLLAPSED, "--format", "table").out
    assert max(map(len, out.splitlines())) <= 80
    assert "active → collapsed" in out and out.startswith(f"10 differences from {COLLAPSED}")


def test_encoders_of_other_channel_counts_are_compared_over_all(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    both = "stats", HEALTHY, "--against", SAMPLE_DATA / "tokens.safetensors", *WITH_ALL
    document = cli(*both).json
    against = document["against"]
    assert list(faults_of(document, SCHEMA)) == [] and against["summary"]["channels"] == 8
    assert {entry["channel"] for entry in against["differences"]} == {None}
    found = {entry["figure"]: (entry["ours"], entry["theirs"]) for entry in against["differences"]}
    assert found["channels"] == (4, 8)
    assert found["effective_rank"] == tuple(
        part["with"]["correlation"]["effective_rank"] for part in (document, against)
    )
    assert against["with"]["duplicates"] is None and document["with"]["duplicates"] is not None
    out = cli(*both, "--format", "table").out
    assert max(map(len, out.splitlines())) <= 80
    words = " ".join(out.split())
    assert "all of 4 channels, and all of 8 there" in words and "effective rank 3.670 of 4, 5.539 of 8 there" in words


def test_collapsed_channels_of_another_count_are_a_share(cli: Cli, tmp_path: Path) -> None:
    moments = moments_of(40, 6, 2, 2)
    save_file({"moments": moments}, tmp_path / "six.safetensors")
    moments[:, :3] *= 1e-3
    save_file({"moments": torch.cat([moments[:, :4], moments[:, 6:10]], 1)}, tmp_path / "four.safetensors")
    document = cli("stats", "four.safetensors", "--against", "six.safetensors").json
    (entry,) = [entry for entry in document["against"]["differences"] if entry["figure"] == "active_fraction"]
    assert (entry["ours"], entry["theirs"]) == (0.25, 1.0)


def test_smoothness_is_compared(cli: Cli) -> None:
    video = SAMPLE_DATA / "video.safetensors"
    document = cli("stats", HEALTHY, "--against", video, "--with", "spectrum").json
    (entry,) = [entry for entry in document["against"]["differences"] if entry["figure"] == "high_frequency_power"]
    for side, part in (("ours", document), ("theirs", document["against"])):
        spectrum = part["with"]["spectrum"]
        pairs = zip(spectrum["frequencies"], spectrum["overall"], strict=True)
        assert entry[side] == pytest.approx(np.mean([power for frequency, power in pairs if frequency >= 0.25]))
    alone = cli("stats", video, "--with", "spectrum", "--fail-if", f"high_frequency_power > {entry['theirs'] - 1e-9}")
    assert alone.status == 3


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_difference_and_a_change(cli: Cli, name: str) -> None:
    """Of an input beside itself there is none, or it is undefined on both sides."""
    both = "stats", SAMPLE_DATA / "pair.safetensors", "--against", SAMPLE_DATA / "pair.safetensors", "-q"
    asked = [option for extra in filter(None, [FIGURES[name].extra]) for option in ("--with", extra)]
    if FIGURES[name].extra == "duplicates":
        assert "no figure is called" in cli(*both, *asked, "--fail-if", f"{name}.change > 0").complaint
        return
    undefined = name.startswith("mean_square.")
    for how in ("difference", "change"):
        outcome = cli(*both, *asked, "--limit", "64", "--fail-if", f"{name}.{how} != 0")
        assert outcome.status == (3 if undefined else 0), outcome.err


@pytest.mark.parametrize(
    ("condition", "status", "said"),
    [
        ("kl_element.change < -94 %", 3, "kl_element.change is -0.942"),
        ("kl_element.change < -95 %", 0, ""),
        ("kl_element.difference < -1.7", 3, "kl_element.difference is -1.75001"),
        ("active_channels.difference < 0", 3, "active_channels.difference is -3"),
        ("collapsed_channels.change > 1e9", 3, "collapsed_channels.change is inf"),
        ("kl.p99.change > 0", 0, ""),
        ("differences == 10", 3, "differences is 10"),
        ("mean_square.p50.change > 0", 3, "is undefined (these data do not have it)"),
    ],
)
def test_conditions_on_what_is_between_two(cli: Cli, condition: str, status: int, said: str) -> None:
    outcome = cli("stats", COLLAPSED, "--against", SAMPLE_DATA / "healthy-f32.safetensors", "--fail-if", condition)
    assert outcome.status == status and said in outcome.err


def test_a_broken_file_there_turns_no_condition_green(cli: Cli) -> None:
    outcome = cli("stats", HEALTHY, "--against", CLAMPED, "-q", "--fail-if", "kl_mean.change > 1e9")
    assert outcome.status == 3 and "is undefined (there, 4 values are NaN, or an infinite mean)" in outcome.err


@pytest.mark.parametrize(
    ("condition", "answer"),
    [
        ("kl_element.change > 0", "kl_element.change takes --against OTHER"),
        ("differences > 0", "differences takes --against OTHER"),
        ("kl_element.chang > 0", "did you mean kl_element.change"),
    ],
)
@pytest.mark.parametrize("command", ["stats", "report"])
def test_what_only_a_comparison_has_is_refused_without_one(cli: Cli, command: str, condition: str, answer: str) -> None:
    outcome = cli(command, "nosuch", "-o", "a.html" if command == "report" else "a.json", "--fail-if", condition)
    assert outcome.status == 2 and answer in outcome.complaint


def test_figures_not_asked_for_are_not_compared(cli: Cli) -> None:
    outcome = cli("stats", HEALTHY, "--against", COLLAPSED, "--fail-if", "effective_rank.change > 0")
    assert outcome.status == 2 and "takes --with correlation" in outcome.complaint


def test_one_name_for_two_outputs_is_refused(cli: Cli) -> None:
    outcome = cli("stats", HEALTHY, "-o", "a.json", "--save-normalization", "a.json")
    assert outcome.status == 2 and "two outputs" in outcome.complaint
    for options in (("--save-normalization", "-"), ("--state", "-"), ("-o", "-", "--save-normalization", "-")):
        assert "standard output: is named for two outputs" in cli("stats", HEALTHY, *options).complaint
    assert cli("stats", HEALTHY, "-o", "a.json", "--save-normalization", "-").json["samples"] == 512


def test_what_was_written_is_said_in_one_line(cli: Cli) -> None:
    assert "latentkit: wrote a.json: 1 finding\n" in cli("stats", COLLAPSED, "-o", "a.json").err
    assert cli("stats", COLLAPSED, "-o", "b.json", "--quiet").err == ""


def test_a_suffix_that_sample_does_not_write_is_refused_and_makes_no_folder(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("sample", HEALTHY, "-o", "out.pt")
    assert outcome.status == 2 and ".safetensors" in outcome.complaint
    assert not (tmp_path / "out.pt").exists()


@pytest.mark.parametrize("command", [("stats",), ("report", "-o", "r.html")], ids=["stats", "report"])
def test_the_other_side_is_doubted_where_it_cannot_be_log_variances(
    cli: Cli, tmp_path: Path, command: tuple[str, ...]
) -> None:
    mean, logvar = moments_of(30).chunk(2, 1)
    save_file({"moments": torch.cat([mean, logvar.exp()], 1)}, tmp_path / "b.safetensors")
    outcome = cli(*command, HEALTHY, "--against", "b.safetensors")
    assert (outcome.status, "--against: no log-variance is below 0" in outcome.err) == (0, True)
    assert "--against: moments: 4 channels = 2 mean + 2 logvar" in outcome.err


def test_channels_that_a_format_does_not_choose_are_said(cli: Cli) -> None:
    assert "--channels chooses rows" in cli("stats", HEALTHY, "--channels", "0").err
    assert "--channels" not in cli("stats", HEALTHY, "--channels", "0", "--format", "csv").err


def test_what_differs_is_not_called_healthy_in_any_form(cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "stats.json"
    result = cli("stats", HEALTHY, "--against", SAMPLE_DATA / "collapsed.safetensors", "-o", place)
    verdict = json.loads(place.read_text())["verdict"]
    assert verdict.endswith("differences from the other encoder of more than a tenth; no finding")
    assert f"wrote {place}: {verdict}" in result.err


@pytest.mark.parametrize("options", [(), WITH_ALL], ids=["plain", "with"])
def test_differences_that_have_no_room_are_counted(cli: Cli, options: tuple[str, ...]) -> None:
    out = cli("stats", HEALTHY, "--against", COLLAPSED, "--format", "table", *options).out
    assert re.search(r"(• and \d+ more|\d+ differences): --full", out)


def test_markdown_holds_what_is_drawn_in_blocks_of_code_and_differences_as_a_list(cli: Cli) -> None:
    out = cli("stats", HEALTHY, "--against", COLLAPSED, "--format", "markdown", "--full").out
    text, *blocks = out.split("```")
    assert len(blocks) == 4 and "below" in blocks[0] and blocks[2].startswith("python\n# one factor for all\n{")
    outside = "".join([text, *blocks[1::2]])
    assert "•" not in outside and "█" not in outside and "\n# " not in outside
    assert "\n- over all: " in outside
