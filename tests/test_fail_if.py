"""``kl`` and ``nll`` with ``--fail-if``: each figure, of all samples whatever rows are shown; the order of statuses."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SAMPLE_DATA, Cli, moments_of
from safetensors.torch import save_file

from latentkit.health.conditions import LEVELS
from latentkit.health.row_figures import ROW_FIGURES

Write = Callable[..., Path]

SHARDS = SAMPLE_DATA / "shards"


@pytest.fixture
def folder(write: Write) -> None:
    """20 samples in ``in``, in three files, and latents of each in ``latents``."""
    for number, count in enumerate((7, 12, 1)):
        moments = moments_of(count, 3, seed=number)
        write(f"in/{number}.safetensors", moments=moments)
        write(f"latents/{number}.safetensors", latents=moments.chunk(2, dim=1)[0] + 0.1)


def said(*conditions: str) -> list[str]:
    return [part for text in conditions for part in ("--fail-if", text)]


def expected(values: np.ndarray) -> dict[str, float]:
    figures = {"samples": 20, "nonfinite": 0, "mean": values.mean(), "sd": values.std(ddof=1)}
    figures |= {"min": values.min(), "max": values.max()}
    quantiles = {f"p{level}": np.quantile(values, level / 100, method="inverted_cdf") for level in LEVELS}
    return figures | quantiles


@pytest.mark.parametrize(
    "command",
    [
        ("kl", "in"),
        ("kl", "in", "--units", "bits-per-dim"),
        ("kl", "in", "--per-channel"),
        ("kl", "in", "--against", "in/2.safetensors"),
        ("nll", "in", "--latents", "latents"),
    ],
    ids=" ".join,
)
@pytest.mark.usefixtures("folder")
def test_every_figure_is_of_the_values_in_the_rows(cli: Cli, command: tuple[str, ...]) -> None:
    rows = cli(*command, "--quiet").out
    values = np.array([float(line.rpartition(",")[2]) for line in rows.splitlines()[1:]])
    figures = expected(values)
    assert figures.keys() == ROW_FIGURES.keys()
    outcome = cli(*command, "--quiet", *said(*(f"{name} > -1e9" for name in figures)))
    assert (outcome.status, outcome.out) == (3, rows)
    found = dict(re.findall(r"holds: (\w+) is (\S+)", outcome.err))
    assert {name: float(value) for name, value in found.items()} == pytest.approx(figures, rel=1e-5)
    assert cli(*command, "--quiet", *said(*(f"{name} > 1e9" for name in figures))).err == ""


@pytest.mark.parametrize(
    "options",
    [(), ("--top", 2), ("-o", "rows.parquet"), ("-o", "parts/"), ("--format", "table"), ("--keep-going",),
     ("--keep-going", "-o", "parts/")],
    ids=str,
)  # fmt: skip
@pytest.mark.usefixtures("folder")
def test_conditions_are_of_all_samples_whichever_rows_are_shown(cli: Cli, options: tuple[object, ...]) -> None:
    outcome = cli("kl", "in", *options, *said("samples == 20"))
    assert outcome.status == 3 and "--fail-if 'samples == 20' holds: samples is 20" in outcome.err
    assert cli("kl", "in", *options, "--overwrite", *said("samples != 20", "nonfinite > 0")).status == 0


def test_labels_leave_conditions_as_they_are(cli: Cli) -> None:
    samples = len(cli("kl", SHARDS).rows)
    assert cli("kl", SHARDS, "--by", "labels", *said(f"samples == {samples}")).status == 3
    assert cli("kl", SHARDS, "--by", "labels", *said(f"samples != {samples}")).status == 0


@pytest.mark.parametrize("name", [name for name in ROW_FIGURES if name not in ("samples", "nonfinite")])
def test_a_sample_that_is_not_finite_turns_no_condition_green(cli: Cli, write: Write, name: str) -> None:
    moments = moments_of(9, 3)
    moments[4, 0, 0, 0] = torch.nan
    write("a.safetensors", moments=moments)
    outcome = cli("kl", "a.safetensors", "-q", *said(f"{name} < -1e9"))
    why = "is undefined (1 of 9 samples hold NaN or an infinite mean)"
    assert (outcome.status, len(outcome.rows)) == (3, 9)
    assert f"latentkit: --fail-if '{name} < -1000000000' holds: {name} {why}\n" in outcome.err
    skipping = ("kl", "a.safetensors", "--on-nonfinite", "skip")
    assert cli(*skipping, *said(f"{name} < -1e9")).status == 0
    assert cli(*skipping, *said("nonfinite == 1")).status == cli(*skipping, *said("samples == 9")).status == 3


def test_one_sample_has_no_deviation(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(1, 3))
    assert "sd is undefined (it takes two samples or more)" in cli("kl", "a.safetensors", *said("sd > 0")).err
    assert cli("kl", "a.safetensors", *said("mean < 0", "p1 < 0")).status == 0


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("p98 > 3", "did you mean p99 or p95"),
        ("p99.9 > 3", "did you mean p99"),
        ("avg > 3", "there are samples, nonfinite, mean"),
        ("kl_mean > 3", "did you mean"),
        ("max = 3", "such as 'p99 > 1000'"),
    ],
)
@pytest.mark.parametrize("command", [("kl", "nosuch"), ("nll", "nosuch", "--latents", "nosuch")], ids=["kl", "nll"])
def test_a_wrong_condition_is_refused_before_anything_is_read(
    cli: Cli, command: tuple[str, ...], text: str, answer: str
) -> None:
    outcome = cli(*command, *said(text))
    assert outcome.status == 2 and answer in outcome.complaint and "nosuch" not in outcome.complaint


@pytest.mark.usefixtures("folder")
def test_what_cannot_be_read_goes_before_a_condition(cli: Cli) -> None:
    os.truncate("in/1.safetensors", 100)
    assert cli("kl", "in", *said("samples > 0")).status == 1
    outcome = cli("kl", "in", "--keep-going", *said("samples == 8"))
    assert outcome.status == 1 and "--fail-if 'samples == 8' holds" in outcome.err and len(outcome.rows) == 8
    save_file({"moments": torch.zeros(0, 8, 4, 4)}, "empty.safetensors")
    assert cli("kl", "empty.safetensors", *said("samples < 1")).status == 1


@pytest.mark.parametrize("out", ["rows.csv", "parts/"])
@pytest.mark.usefixtures("folder")
def test_what_came_of_a_file_that_failed_is_in_no_figure(cli: Cli, write: Write, out: str) -> None:
    moments = moments_of(12, 3)
    moments[5, 0, 0, 0] = torch.nan
    write("in/1.safetensors", moments=moments)
    rule = "--on-nonfinite", "error", "--keep-going", "--batch-size", 1
    outcome = cli("kl", "in", "-o", out, *rule, *said("samples == 8", "nonfinite == 0"))
    assert outcome.status == 1 and outcome.err.count("holds: ") == 2


@pytest.mark.usefixtures("folder")
def test_a_run_that_goes_on_does_not_read_all_values(cli: Cli) -> None:
    outcome = cli("kl", "in", "-o", "parts/", "--resume", *said("max > 3"))
    assert outcome.status == 2 and "--resume" in outcome.complaint


def test_a_condition_stops_a_shell_and_leaves_the_rows() -> None:
    command = [sys.executable, "-m", "latentkit", "kl", SAMPLE_DATA / "pair.safetensors", "-q", *said("p50 > 0")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 3 and done.stdout.startswith("file,tensor,index,kl\n")
    assert re.fullmatch(r"latentkit: --fail-if 'p50 > 0' holds: p50 is [\d.]+\n", done.stderr)


def test_the_guide_lists_every_figure() -> None:
    page = (
        files("latentkit").joinpath("guide/results.md").read_text().partition("## Conditions")[2].partition("\n## ")[0]
    )
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^;|]+)(?:;.*)? \|$", page, re.MULTILINE))
    meanings = {re.sub(r"^p\d+$", "pN", name): meaning for name, (meaning, _) in ROW_FIGURES.items()}
    assert {name: rows.get(name) for name in meanings} == meanings


def test_what_moments_never_have_is_not_put_down_to_a_nan_or_to_one_sample(cli: Cli, write: Write) -> None:
    path = write("one.safetensors", moments=torch.full((1, 8, 2, 2), torch.nan))
    result = cli("stats", path, "--fail-if", "mean_square.p50 > 0", "--fail-if", "kl.p50 > 0")
    assert "mean_square.p50 is undefined (these data do not have it)" in result.err
    assert "kl.p50 is undefined (32 values are NaN" in result.err
