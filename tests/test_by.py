"""``--by KEY``: figures per label, the same as of each label's samples alone."""

import csv
import functools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from small_blocks import blocks_of
from torch import Tensor

import latentkit
from latentkit.measures import by_label
from latentkit.read import labels as labels_module

Write = Callable[..., Path]
SHARDS = SAMPLE_DATA / "shards"
HEADER = ["label", "count", "nonfinite", "mean", "sd", "min", "q01", "q25", "q50", "q75", "q99", "max", "element"]


def table_of(cli: Cli, *arguments: object) -> list[dict[str, str]]:
    outcome = cli(*arguments)
    assert outcome.status == 0, outcome.err
    return outcome.rows


def rows_by_label(rows: list[dict[str, str]], key: str = "labels") -> dict[str, list[dict[str, str]]]:
    groups: dict[str, list[dict[str, str]]] = {}
    for row in rows:
        groups.setdefault(row[key], []).append(row)
    return groups


def listed(path: Path, rows: list[dict[str, str]]) -> Path:
    """A list of samples, as ``--indices`` takes it."""
    with path.open("w", newline="") as file:
        csv.DictWriter(file, list(rows[0])).writerows([dict(zip(rows[0], rows[0], strict=True)), *rows])
    return path


def write_labelled(write: Write, labels: Tensor, name: str = "a.safetensors", **more: Tensor) -> Path:
    return write(name, moments=moments_of(len(labels)), labels=labels, **more)


# ---- kl ------------------------------------------------------------------------------------------------------------


def test_a_label_has_what_numpy_says_of_its_rows(cli: Cli) -> None:
    rows = rows_by_label(cli("kl", SHARDS, "--columns", "labels").rows)
    table = table_of(cli, "kl", SHARDS, "--by", "labels")
    assert list(table[0]) == HEADER
    assert [row["label"] for row in table] == sorted(rows, key=int)
    for row in table:
        values = np.array([float(each["kl"]) for each in rows[row["label"]]])
        assert (int(row["count"]), int(row["nonfinite"])) == (len(values), 0)
        assert float(row["mean"]) == math.fsum(values) / len(values)
        assert float(row["element"]) == math.fsum(values) / (64 * len(values))
        assert float(row["sd"]) == pytest.approx(values.std(ddof=1), rel=1e-12)
        for name, level in {"min": 0, "q01": 0.01, "q25": 0.25, "q50": 0.5, "q75": 0.75, "q99": 0.99, "max": 1}.items():
            assert float(row[name]) == np.quantile(values, level, method="inverted_cdf")


def test_a_label_alone_has_the_same_row(cli: Cli, tmp_path: Path) -> None:
    table = table_of(cli, "kl", SHARDS, "--by", "labels")
    rows = rows_by_label(cli("kl", SHARDS, "--columns", "labels").rows)
    for row in table[::3]:
        chosen = listed(tmp_path / "chosen.csv", rows[row["label"]][::-1])
        assert table_of(cli, "kl", SHARDS, "--by", "labels", "--indices", chosen) == [row]


@pytest.mark.parametrize(
    "options", [("--batch-size", 1), ("--batch-size", 7, "--workers", 3), ("--workers", 1), ("--keep-going",)], ids=str
)
def test_no_option_on_computing_changes_a_bit(cli: Cli, options: tuple[object, ...]) -> None:
    command = "kl", SHARDS, "--by", "labels"
    assert cli(*command, *options).out == cli(*command).out


def test_values_beyond_memory_give_the_same(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = cli("kl", SHARDS, "--by", "labels").out
    monkeypatch.setattr(by_label, "_CHUNK", 50)
    monkeypatch.setattr(by_label, "_IN_MEMORY", 1000)
    monkeypatch.setattr(labels_module, "_TOGETHER", 100)
    monkeypatch.setattr(labels_module, "_AHEAD", 3)
    for most in (1000, 300, 129, 10):
        monkeypatch.setattr(by_label, "_SORTED", most)
        assert cli("kl", SHARDS, "--by", "labels").out == expected


@pytest.mark.parametrize("choice", [("--limit", 9), ("--every", 5), ("--every", 3, "--limit", 4)], ids=str)
def test_only_chosen_samples_count(cli: Cli, choice: tuple[object, ...]) -> None:
    rows = rows_by_label(cli("kl", SHARDS, "--columns", "labels", *choice).rows)
    table = table_of(cli, "kl", SHARDS, "--by", "labels", *choice)
    assert {row["label"]: int(row["count"]) for row in table} == {label: len(some) for label, some in rows.items()}


LABELS = {
    "bool": (torch.tensor([True, False, True, True]), ["false", "true"], [1, 3]),
    "int64": (torch.tensor([2**60 + 1, -1, 2**60, 2**60 + 1]), ["-1", str(2**60), str(2**60 + 1)], [1, 1, 2]),
    "uint8": (torch.tensor([255, 0, 255, 3], dtype=torch.uint8), ["0", "3", "255"], [1, 1, 2]),
    "float32": (torch.tensor([0.5, -0.0, 0.0, 0.5]), ["0.0", "0.5"], [2, 2]),
    "float16": (torch.tensor([1, 0.5, 1, 1]).half(), ["0.5", "1.0"], [1, 3]),
    "bfloat16": (torch.tensor([1, 0.5, 1, 1]).bfloat16(), ["0.5", "1.0"], [1, 3]),
    "nan": (torch.tensor([math.nan, 1, -math.inf, math.nan]), ["-inf", "1.0", "nan"], [1, 1, 2]),
    "one column": (torch.tensor([[4], [4], [5], [5]]), ["4", "5"], [2, 2]),
}


@pytest.mark.parametrize("kind", LABELS)
def test_every_kind_of_label(cli: Cli, write: Write, kind: str) -> None:
    labels, expected, counts = LABELS[kind]
    write_labelled(write, labels)
    table = table_of(cli, "kl", "a.safetensors", "--by", "labels")
    assert ([row["label"] for row in table], [int(row["count"]) for row in table]) == (expected, counts)


def test_a_label_that_is_nan_is_null_in_json(cli: Cli, write: Write) -> None:
    write_labelled(write, LABELS["nan"][0])
    document = cli("kl", "a.safetensors", "--by", "labels", "--format", "json").json
    assert (document["by"], [row["label"] for row in document["rows"]]) == ("labels", [None, 1.0, None])


def test_integers_of_several_widths_are_the_same_labels(cli: Cli, write: Write) -> None:
    write_labelled(write, torch.tensor([1, 2], dtype=torch.uint8), "a.safetensors")
    write_labelled(write, torch.tensor([2, 300]), "b.safetensors")
    table = table_of(cli, "kl", "a.safetensors", "b.safetensors", "--by", "labels")
    assert [(row["label"], row["count"]) for row in table] == [("1", "1"), ("2", "2"), ("300", "1")]


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.uint8, "int64"), (torch.int32, "int64"), (torch.uint64, "uint64")], ids=str
)
def test_labels_have_the_type_that_columns_have(cli: Cli, write: Write, dtype: torch.dtype, kind: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write_labelled(write, torch.tensor([1, 2, 2], dtype=dtype))
    for option, column in (("--by", "label"), ("--columns", "labels")):
        assert cli("kl", "a.safetensors", option, "labels", "-o", f"{column}.parquet").status == 0
        assert str(parquet.read_schema(f"{column}.parquet").field(column).type) == kind


def test_labels_of_8_bit_floats_are_refused_as_such(cli: Cli, write: Write) -> None:
    write_labelled(write, torch.zeros(3).to(torch.float8_e4m3fn))
    outcome = cli("kl", "a.safetensors", "--by", "labels")
    assert outcome.status == 1
    assert "'labels' is F8_E4M3, and --by takes whole numbers" in outcome.complaint


def test_a_file_of_one_sample_each(cli: Cli, write: Write) -> None:
    for number in range(7):
        moments = moments_of(1, seed=number)[0].contiguous()
        write(f"f/{number}.safetensors", moments=moments, labels=torch.tensor(number % 2))
    table = table_of(cli, "kl", "f", "--by", "labels", "--layout", "chw")
    assert [(row["label"], row["count"]) for row in table] == [("0", "4"), ("1", "3")]


def test_a_pair_of_mean_and_logvar(cli: Cli, write: Write) -> None:
    mean, logvar = moments_of(5).chunk(2, 1)
    write("a.safetensors", mean=mean.contiguous(), logvar=logvar.contiguous(), labels=torch.tensor([1, 0, 1, 1, 0]))
    assert [row["count"] for row in table_of(cli, "kl", "a.safetensors", "--by", "labels")] == ["2", "3"]


def test_samples_that_are_not_finite_are_counted_apart(cli: Cli, write: Write) -> None:
    moments = moments_of(4)
    moments[0, 0, 0, 0] = math.nan
    moments[3, 0, 0, 0] = math.inf
    write("a.safetensors", moments=moments, labels=torch.tensor([0, 1, 1, 1]))
    outcome = cli("kl", "a.safetensors", "--by", "labels")
    assert [(row["count"], row["nonfinite"]) for row in outcome.rows] == [("0", "1"), ("2", "1")]
    assert outcome.rows[0]["mean"] == "nan"
    assert "2 of 4 samples hold NaN or an infinite mean: counted apart" in outcome.err
    skipped = table_of(cli, "kl", "a.safetensors", "--by", "labels", "--on-nonfinite", "skip")
    assert [(row["label"], row["nonfinite"]) for row in skipped] == [("1", "0")]


def test_top_ranks_labels_by_their_mean(cli: Cli) -> None:
    table = table_of(cli, "kl", SHARDS, "--by", "labels")
    ranked = sorted(table, key=lambda row: -float(row["mean"]))
    assert table_of(cli, "kl", SHARDS, "--by", "labels", "--top", 3) == ranked[:3]


def test_conditions_are_about_all_samples(cli: Cli) -> None:
    mean = math.fsum(cli("kl", SHARDS).values("kl")) / 1285
    command = "kl", SHARDS, "--by", "labels", "--fail-if"
    assert [cli(*command, f"mean > {bound}").status for bound in (mean - 1e-6, mean + 1e-6)] == [3, 0]


def test_an_element_is_by_what_is_behind_a_value(cli: Cli, write: Write) -> None:
    """Samples of several sizes have one label."""
    write("a.safetensors", moments=moments_of(2, 2, 2, 2), labels=torch.tensor([1, 1]))
    write("b.safetensors", moments=moments_of(1, 2, 4, 4), labels=torch.tensor([1]))
    rows = cli("kl", "a.safetensors", "b.safetensors").rows
    (row,) = table_of(cli, "kl", "a.safetensors", "b.safetensors", "--by", "labels")
    assert float(row["element"]) == math.fsum(float(each["kl"]) for each in rows) / (2 * 8 + 32)
    assert "element" not in cli("kl", "a.safetensors", "--by", "labels", "--units", "bits-per-dim").rows[0]


def test_draws_are_pooled_in_nll(cli: Cli) -> None:
    assert cli("sample", SHARDS, "-o", "drawn", "--draws", 2).status == 0
    command = "nll", SHARDS, "--latents", "drawn"
    rows = rows_by_label(cli(*command, "--columns", "labels").rows)
    table = table_of(cli, *command, "--by", "labels")
    assert {row["label"]: int(row["count"]) for row in table} == {label: len(some) for label, some in rows.items()}
    values = [float(row["nll"]) for row in rows["3"]]
    assert float(table[3]["mean"]) == math.fsum(values) / len(values)


def test_every_format(cli: Cli, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    table = table_of(cli, "kl", SHARDS, "--by", "labels")
    outcome = cli("kl", SHARDS, "--by", "labels", "-o", "by.parquet")
    assert outcome.err.splitlines()[-1] == "latentkit: wrote by.parquet: 10 rows"
    parquet = pq.read_table(tmp_path / "by.parquet")
    assert [str(field.type) for field in parquet.schema] == ["int64"] * 3 + ["double"] * 10
    lines = [json.loads(line) for line in cli("kl", SHARDS, "--by", "labels", "--format", "jsonl").out.splitlines()]
    assert parquet.to_pylist() == lines
    assert [row["mean"] for row in lines] == [float(row["mean"]) for row in table]


def test_many_labels_have_room_on_a_screen(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labelled(write, torch.arange(50))
    monkeypatch.setenv("COLUMNS", "80")
    lines = cli("kl", "a.safetensors", "--by", "labels", "--format", "table").out.splitlines()
    assert lines[0] == "KL by labels: 50 labels, 50 finite values [nats]"
    assert (len(lines) <= 39, max(map(len, lines)) <= 80) == (True, True)
    assert "30 of 50, those with the largest means; --format csv writes all" in lines
    markdown = cli("kl", "a.safetensors", "--by", "labels", "--format", "markdown").out
    assert len([line for line in markdown.splitlines() if line.startswith("|")]) == 52


REFUSED = {
    "no such key": (("--by", "label"), 2, "no tensor is called 'label' (did you mean labels?)"),
    "not a value per sample": (("--by", "moments"), 1, "does not hold one number for each of the 4 samples"),
    "one-hot": (("--by", "one_hot"), 1, "tensor 'one_hot' (I64 [4, 3]) does not hold one number for each"),
    "columns": (("--by", "labels", "--columns", "labels"), 2, "leave out one of them"),
    "channels": (("--by", "labels", "--per-channel"), 2, "leave out --per-channel"),
    "a folder": (("--by", "labels", "-o", "out/"), 2, "give -o a file"),
    "resume": (("--by", "labels", "--resume"), 2, "without --resume"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_group_is_refused_in_a_sentence(cli: Cli, write: Write, case: str) -> None:
    options, status, words = REFUSED[case]
    write_labelled(write, torch.arange(4), one_hot=torch.eye(4, 3).long())
    outcome = cli("kl", "a.safetensors", *options)
    assert (outcome.status, words in outcome.complaint) == (status, True), outcome.err


def test_a_value_of_each_sample_s_own_is_no_label(cli: Cli, write: Write) -> None:
    count = labels_module.MOST_LABELS + 1
    write("a.safetensors", moments=torch.zeros(count, 2), labels=torch.rand(count, dtype=torch.float64))
    outcome = cli("kl", "a.safetensors", "--by", "labels", "--layout", "bc")
    assert outcome.status == 2
    assert "--by labels: there are more than 32,768 different values, so they are no labels" in outcome.complaint
    assert (
        len(table_of(cli, "kl", "a.safetensors", "--by", "labels", "--layout", "bc", "--limit", count - 1)) == count - 1
    )


def test_a_file_without_the_labels(cli: Cli, write: Write) -> None:
    write_labelled(write, torch.tensor([1, 1, 2]), "f/a.safetensors")
    write("f/b.safetensors", moments=moments_of(2))
    write_labelled(write, torch.tensor([0.5]), "f/c.safetensors")
    outcome = cli("kl", "f", "--by", "labels")
    assert (outcome.status, "f/b.safetensors: no tensor is called 'labels'" in outcome.complaint) == (2, True)
    outcome = cli("kl", "f", "--by", "labels", "--keep-going")
    assert outcome.status == 1
    assert [(row["label"], row["count"]) for row in outcome.rows] == [("1", "2"), ("2", "1")]
    assert "--by labels: I64 in f/a.safetensors and F32 in f/c.safetensors have no common type" in outcome.err


def test_a_file_that_fails_meanwhile_leaves_no_label(cli: Cli, write: Write) -> None:
    mean, scale = moments_of(3).chunk(2, 1)
    write("f/a.safetensors", moments=torch.cat([mean, scale.exp()], 1), labels=torch.tensor([1, 1, 2]))
    write("f/b.safetensors", moments=torch.cat([mean, -scale.exp()], 1), labels=torch.tensor([1, 3, 3]))
    outcome = cli("kl", "f", "--by", "labels", "--keep-going", "--parameterization", "std")
    assert outcome.status == 1
    assert [(row["label"], row["count"]) for row in outcome.rows] == [("1", "2"), ("2", "1")]


def test_a_plan_knows_the_key(cli: Cli) -> None:
    assert cli("kl", SHARDS, "--by", "labels", "--dry-run").status == 0
    assert cli("kl", SHARDS, "--by", "label", "--dry-run").status == 2


# ---- stats ---------------------------------------------------------------------------------------------------------


def hard_moments(dtype: str = "F32", samples: int = 40) -> Tensor:
    """Moments with a collapsed channel, clamped log-variances, and numbers that are none."""
    moments = moments_of(samples, 3, 5, 7, dtype="F64")
    moments[:, 0] *= 1e-3
    moments[:, 3] *= 1e-3
    moments[::5, 4, 0, :3] = torch.tensor([-40.0, 25.0, -30.0], dtype=torch.float64)
    moments[7, 1, 2, 2], moments[8, 2, 1, 1], moments[9, 5, 0, 0], moments[10, 4, 0, 1] = (
        math.nan, -math.inf, -math.inf, math.nan,
    )  # fmt: skip
    return moments.to(DTYPES[dtype])


def check_alone(group: dict[str, Any], alone: dict[str, Any], error: float = 0) -> None:
    """A label's figures are those of a run on its samples."""
    close = functools.partial(pytest.approx, rel=error, abs=error, nan_ok=True) if error else lambda value: value
    overall, channels = alone["overall"], alone["per_channel"]
    what = "sample_mean_square" if alone["sample_kl"] is None else "sample_kl"
    assert (group["samples"], group[what]["finite"]) == (alone["samples"], alone[what]["finite"])
    assert group[what]["min"] == alone[what]["lowest"][0][what.removeprefix("sample_")]
    assert group[what]["max"] == alone[what]["highest"][0][what.removeprefix("sample_")]
    if what == "sample_kl":
        assert group[what]["mean"] == pytest.approx(overall["kl"]["sample"], rel=1e-15)
    assert group["active_channels"] == alone["active_channels"]
    assert group["latents_mean"] == close(overall["drawn"]["shift_factor"])
    assert group["latents_sd"] == close(overall["drawn"]["sd"])
    assert group["scaling_factor"] == close(overall["drawn"]["scaling_factor"])
    assert group["channels"]["latents_mean"] == close([each["drawn"]["shift_factor"] for each in channels])
    assert group["channels"]["latents_sd"] == close([each["drawn"]["sd"] for each in channels])
    nonfinite = sum(overall["mean"][name] for name in ("nan_count", "minus_inf_count", "plus_inf_count"))
    if overall["logvar"] is None:
        assert (group["kl_element"], group["clamped_fraction"], group["collapsed_channels"]) == (None, None, None)
        assert group["nonfinite_count"] == nonfinite
        return
    assert group["nonfinite_count"] == nonfinite + overall["logvar"]["nan_count"]
    assert group["kl_element"] == close(overall["kl"]["element"])
    assert group["clamped_fraction"] == overall["clamp"]["clamped_fraction"]
    assert group["collapsed_channels"] == alone["collapsed_channels"]
    assert group["channels"]["kl_element"] == close([each["kl"]["element"] for each in channels])


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
@pytest.mark.parametrize("parameterization", ["logvar", "std", "var", "softplus", "none"])
def test_a_label_s_figures_are_those_of_its_samples_alone(
    cli: Cli, write: Write, tmp_path: Path, dtype: str, parameterization: str
) -> None:
    moments = hard_moments(dtype)
    if parameterization in ("std", "var"):
        moments[:, 3:] = moments[:, 3:].abs()
    labels = torch.arange(40) * 7 % 4
    write("a.safetensors", moments=moments, labels=labels)
    command = "stats", "a.safetensors", "--parameterization", parameterization, "--clamp-min", -20
    document = cli(*command, "--by", "labels").json
    assert document["groups"]["key"] == "labels"
    assert [group["label"] for group in document["groups"]["labels"]] == list(range(4))
    for group in document["groups"]["labels"]:
        rows = [
            {"file": "a.safetensors", "tensor": "moments", "index": str(index)}
            for index in torch.nonzero(labels == group["label"]).ravel().tolist()
        ]
        chosen = "--indices", listed(tmp_path / "chosen.csv", rows)
        check_alone(group, cli(*command, *chosen).json, 0 if dtype in ("F64", "F32") else 1e-12)
        assert cli(*command, "--by", "labels", *chosen).json["groups"]["labels"] == [group]
    groups = document.pop("groups")
    assert groups is not None
    without = cli(*command).json
    assert without.pop("groups") is None
    assert document == without


@pytest.mark.parametrize("elements", [1 << 18, 60, 7])
def test_neither_options_nor_cuts_change_a_label(cli: Cli, write: Write, tmp_path: Path, elements: int) -> None:
    """Of samples in pieces, along any axis, too."""
    write("a.safetensors", moments=hard_moments(), labels=torch.arange(40) % 3)
    with blocks_of(elements):
        expected = cli("stats", "a.safetensors", "--by", "labels", "--workers", 1).out
        for options in (("--batch-size", 1), ("--batch-size", 3, "--workers", 3), ("--workers", 4)):
            assert cli("stats", "a.safetensors", "--by", "labels", *options).out == expected
        rows = [{"file": "a.safetensors", "tensor": "moments", "index": str(index)} for index in range(0, 40, 3)]
        alone = cli("stats", "a.safetensors", "--indices", listed(tmp_path / "chosen.csv", rows)).json
        check_alone(json.loads(expected)["groups"]["labels"][0], alone)


def test_values_of_samples_are_those_of_kl(cli: Cli) -> None:
    rows = cli("kl", SHARDS, "--by", "labels", "--format", "json").json["rows"]
    for row, group in zip(rows, cli("stats", SHARDS, "--by", "labels").json["groups"]["labels"], strict=True):
        label, values = group["label"], group["sample_kl"]
        assert row == {"label": label, "count": values.pop("finite"), "element": row["element"], **values}
        assert group["kl_element"] == pytest.approx(row["element"], rel=1e-12)


def test_a_label_of_one_sample_has_no_spread(cli: Cli, write: Write) -> None:
    write_labelled(write, torch.tensor([1, 1, 2]))
    outcome = cli("stats", "a.safetensors", "--by", "labels")
    group = outcome.json["groups"]["labels"][1]
    assert (group["samples"], group["sample_kl"]["sd"], group["latents_sd"]) == (1, None, None)
    assert (group["active_channels"], group["collapsed_channels"]) == (0, 0)
    assert group["channels"]["latents_mean"] == [None, None] and None not in group["channels"]["kl_element"]


def test_csv_has_a_row_per_label(cli: Cli) -> None:
    outcome = cli("stats", SHARDS, "--by", "labels", "--format", "csv")
    groups = cli("stats", SHARDS, "--by", "labels").json["groups"]["labels"]
    assert [float(row["sample_kl_mean"]) for row in outcome.rows] == [group["sample_kl"]["mean"] for group in groups]
    assert [int(row["samples"]) for row in outcome.rows] == [group["samples"] for group in groups]


def test_csv_of_stats_says_booleans_as_that_of_kl(cli: Cli, write: Write) -> None:
    write_labelled(write, LABELS["bool"][0])
    rows = table_of(cli, "stats", "a.safetensors", "--by", "labels", "--format", "csv")
    assert [row["label"] for row in rows] == LABELS["bool"][1]


def test_labels_have_room_on_a_screen(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labelled(write, torch.arange(80) // 2)
    monkeypatch.setenv("COLUMNS", "80")
    command = "stats", "a.safetensors", "--by", "labels", "--format"
    lines = cli(*command, "table").out.splitlines()
    assert (len(lines) <= 40, max(map(len, lines)) <= 80) == (True, True)
    assert "By labels: 40 labels; KL per sample [nats], latents" in lines
    assert any("of 40 labels, those with least and most; --full shows all" in line for line in lines)
    everything = cli(*command, "table", "--full").out.splitlines()
    assert [line.split()[0] for line in everything if line.split()[1:2] == ["2"]] == [str(label) for label in range(40)]
    assert re.search(r"(?m)^\| +39 \| +2 \|", cli(*command, "markdown").out)


def test_a_file_that_fails_meanwhile_leaves_nothing_in_stats(cli: Cli, write: Write) -> None:
    mean, scale = moments_of(3).chunk(2, 1)
    write("f/a.safetensors", moments=torch.cat([mean, scale.exp()], 1), labels=torch.tensor([1, 1, 2]))
    write("f/b.safetensors", moments=torch.cat([mean, -scale.exp()], 1), labels=torch.tensor([1, 3, 3]))
    write("f/c.safetensors", moments=torch.cat([mean, scale.exp()], 1))
    command = "stats", "--by", "labels", "--parameterization", "std"
    outcome = cli(*command, "f", "--keep-going")
    assert (outcome.status, outcome.err.count("f/c.safetensors: no tensor is called 'labels'")) == (1, 1)
    document = outcome.json
    assert document == cli(*command, "f/a.safetensors").json


REFUSED_BY_STATS = {
    "no such key": (("--by", "label"), 2, "no tensor is called 'label' (did you mean labels?)"),
    "a state": (("--by", "labels", "--state", "a.state"), 2, "--state holds no figures per label"),
    "merged": (("--by", "labels", "--merge"), 2, "leave out --layout, --by"),
    "too many": (("--by", "labels", "--limit", 20_000), 2, "20,000 labels of 2 channels each are more than the 32,768"),
}


@pytest.mark.parametrize("case", REFUSED_BY_STATS)
def test_what_stats_cannot_group_is_refused(cli: Cli, write: Write, case: str) -> None:
    options, status, words = REFUSED_BY_STATS[case]
    write("a.safetensors", moments=torch.zeros(20_000, 4), labels=torch.arange(20_000))
    outcome = cli("stats", "a.safetensors", "--layout", "bc", *options)
    assert (outcome.status, words in outcome.complaint) == (status, True), outcome.err


def test_python_has_the_groups(cli: Cli) -> None:
    health = latentkit.stats(SHARDS, by="labels")
    assert health.groups is not None
    assert (health.groups.key, [group.values.label for group in health.groups.labels]) == ("labels", list(range(10)))
    assert health.to_dict()["groups"] == cli("stats", SHARDS, "--by", "labels").json["groups"]
    assert latentkit.stats(SHARDS).groups is None
    in_memory = latentkit.stats({"moments": moments_of(4), "classes": np.array([2, 2, 5, 5])}, by="classes").groups
    assert in_memory is not None and [group.values.count for group in in_memory.labels] == [2, 2]
