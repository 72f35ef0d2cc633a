"""The recipes of the guide do what they say: each block of code is taken out of the page and run."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from conftest import moments_of
from safetensors import safe_open
from torch import Tensor

Write = Callable[..., Path]

PAGE = (Path(__file__).parent.parent / "latentkit" / "guide" / "recipes.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.usefixtures("cache")

SECTIONS = dict(re.findall(r"(?ms)^## (.+?)\n(.*?)(?=^## |\Z)", PAGE))
SHARDS = ["a.safetensors", "b.safetensors"]


def blocks(section: str) -> list[str]:
    return re.findall(r"(?ms)^```\w+\n(.*?)^```$", SECTIONS[section])


@pytest.fixture
def cache(tmp_path: Path, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two shards of 80 samples with labels, in the current folder, and commands that recipes type."""
    for number, name in enumerate(SHARDS):
        moments = moments_of(80, 4, 4, 4, seed=number)
        write(f"moments/{name}", moments=moments, labels=torch.arange(80) % 2)
    (tmp_path / "bin").mkdir()
    for name, line in {
        "latentkit": f'exec "{sys.executable}" -P -m latentkit "$@"',
        "python": f'exec "{sys.executable}" "$@"',
        "pip": "",
    }.items():
        command = tmp_path / "bin" / name
        command.write_text(f"#!/bin/sh\n{line}\n")
        command.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")


def spoil(write: Write) -> None:
    """A sample that is NaN, and one far out, in the second shard."""
    moments = moments_of(80, 4, 4, 4, seed=1)
    moments[7, 0] = torch.nan
    moments[60] *= 5
    write("moments/b.safetensors", moments=moments, labels=torch.arange(80) % 2)


def run(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)


def done(*command: str, **variables: str) -> str:
    """Standard output of what has to succeed."""
    outcome = run(*command, **variables)
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


def rows(path: str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def place(row: dict[str, str]) -> tuple[str, str, int]:
    return row["file"], row["tensor"], int(row["index"])


def test_code_fits_a_terminal_and_can_be_copied_from_one() -> None:
    lines = [line for section in SECTIONS for block in blocks(section) for line in block.splitlines()]
    assert [line for line in lines if len(line) > 80 or "\t" in line] == []


@pytest.mark.skipif(not shutil.which("make"), reason="needs make")
def test_make_makes_what_is_missing_or_old_and_fails_with_its_check(write: Write) -> None:
    (makefile,) = blocks("make")
    Path("Makefile").write_text(makefile)
    done("make", "-j2")
    made = {path: path.stat().st_mtime_ns for folder in ("latents", "kl", "states") for path in Path(folder).iterdir()}
    assert len(made) == 6
    assert json.loads(Path("stats.json").read_text())["samples"] == 160

    # Of what changed, all is made again; of the other shard nothing.
    spoil(write)
    outcome = run("make")
    assert outcome.returncode == 2
    assert "'serious_findings > 0' holds" in outcome.stderr
    assert {path.stem for path, time in made.items() if path.stat().st_mtime_ns != time} == {"b"}
    assert run("make").returncode == 2


def workflow_steps() -> list[str]:
    (text,) = blocks("GitHub Actions")
    workflow: dict[str, Any] = yaml.safe_load(text)
    (job,) = workflow["jobs"].values()
    return [step["run"] for step in job["steps"] if "run" in step]


def collapsed(moments: Tensor) -> None:
    moments[:, 2] *= 0.01
    moments[:, 6] = 0


def wider(moments: Tensor) -> None:
    moments[:, 4:] += 1


ENCODERS: dict[str, tuple[Callable[[Tensor], object], str]] = {
    "as it was": (Tensor.clone, ""),
    "collapsed": (collapsed, "channel 2 is collapsed"),
    "wider": (wider, "kl_element.change is -0.2"),
}


@pytest.mark.parametrize(("change", "said"), ENCODERS.values(), ids=ENCODERS)
def test_the_workflow_fails_where_the_encoder_got_worse(
    write: Write, change: Callable[[Tensor], object], said: str
) -> None:
    moments = moments_of(80, 4, 4, 4)
    write("moments.safetensors", moments=moments)
    (make_baseline,) = re.findall(r"`(latentkit stats [^`]* -o baseline.json)`", SECTIONS["GitHub Actions"])
    done("sh", "-c", make_baseline)
    os.remove("moments.safetensors")
    change(moments)
    write("encoded.safetensors", moments=moments)
    Path("encode.py").write_text("import shutil, sys\nshutil.copy('encoded.safetensors', sys.argv[1])\n")
    *before, check = workflow_steps()
    for step in before:
        done("bash", "-e", "-c", step)
    outcome = run("bash", "-e", "-c", check, GITHUB_STEP_SUMMARY="summary.md")
    assert outcome.returncode == (3 if said else 0), outcome.stderr
    summary = Path("summary.md").read_text()
    assert "|----" in summary
    assert said in summary + outcome.stderr


def test_training_stops_when_channels_collapse() -> None:
    Path("train.py").write_text(*blocks("A training script"))
    *_, figures, finding = done("python", "train.py").splitlines()
    assert int(figures.split()[0]) <= 200
    assert "serious channels 0, 1, 2, 3 are collapsed" in finding


QUERIES = {
    "DuckDB": ("python", "-c", "import duckdb, sys; duckdb.execute(sys.argv[1])"),
    "polars": ("python", "-W", "error", "-c", "import sys; exec(sys.argv[1])"),
    "pandas": ("python", "-c", "import sys; exec(sys.argv[1])"),
}


@pytest.fixture
def tables(write: Write) -> list[dict[str, str]]:
    """kl.csv, of some data that is not finite, and images.csv; gives the rows of ``kl --top 100``."""
    spoil(write)
    done("latentkit", "kl", "moments", "-o", "kl.csv")
    with open("images.csv", "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["shard", "index", "image", "label"])
        # In another order than the table of KL.
        writer.writerows([name, i, f"{name[0]}/{i}.png", i % 2] for i in reversed(range(80)) for name in SHARDS)
    done("latentkit", "kl", "moments", "--top", "100", "-o", "top.csv")
    return rows("top.csv")


def test_each_query_lists_the_100_worst_images(tables: list[dict[str, str]]) -> None:
    for section, command in QUERIES.items():
        done(*command, *blocks(section))
        worst = rows("worst.csv")
        assert [(place(row), float(row["kl"])) for row in worst] == [(place(row), float(row["kl"])) for row in tables]
        for row in worst:
            shard = Path(row["file"]).name
            assert (row["image"], row["label"]) == (f"{shard[0]}/{row['index']}.png", str(int(row["index"]) % 2))
        os.remove("worst.csv")

    # The largest of each label, as a list that every command takes.
    assert [place(row)[1:] for row in rows("outliers.csv")] != []
    assert {row["label"] for row in rows("outliers.csv")} == {"0", "1"}
    done("latentkit", "convert", "moments", "-o", "clean.safetensors", "--exclude", "outliers.csv")
    with safe_open("clean.safetensors", "numpy") as file:
        assert file.get_slice("moments").get_shape()[0] == 160 - len(rows("outliers.csv"))


def test_a_cache_is_cleaned_of_its_outliers(write: Write) -> None:
    spoil(write)
    done("bash", "-e", "-c", *blocks("A cache without its outliers"))
    done("latentkit", "kl", "cleaned", "-o", "kl.csv")
    assert len(rows("kl.csv")) == 60
    assert max(float(row["kl"]) for row in rows("kl.csv")) < min(float(row["kl"]) for row in rows("worst.csv"))


def test_jobs_of_a_cluster_draw_together_what_one_run_draws() -> None:
    job, verify = blocks("A cluster")
    for number in range(2):
        done("bash", "-c", job, SLURM_ARRAY_TASK_COUNT="2", SLURM_ARRAY_TASK_ID=str(number))
    assert sorted(os.listdir("latents")) == SHARDS
    assert "just what was drawn" in done("sh", "-c", verify)


def test_a_diffusers_config_gets_scale_and_shift() -> None:
    Path("vae").mkdir()
    Path("vae/config.json").write_text('{"_class_name": "AutoencoderKL", "scaling_factor": 0.18215}')
    done("python", "-c", *blocks("Scale and shift in a diffusers config"))
    done("latentkit", "stats", "moments", "--save-normalization", "normalization.json", "-o", "stats.json")
    factors = json.loads(Path("normalization.json").read_text())
    config = json.loads(Path("vae/config.json").read_text())
    assert config == {"_class_name": "AutoencoderKL"} | {
        name: factors[name] for name in ("scaling_factor", "shift_factor")
    }
