"""``kl`` and ``nll`` into a folder: a part for each input, kept when the run ends early, and gone on with."""

import csv
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Cli, another_run_in, files_below, moments_of

from latentkit.cli import screen

Write = Callable[..., Path]
NOTE = ".latentkit.json"
NAMES = [f"{'ab'[number % 2]}/{number}" for number in range(10)]


@pytest.fixture(autouse=True)
def inputs(write: Write) -> None:
    for number, name in enumerate(NAMES):
        write(f"in/{name}.safetensors", moments=moments_of(seed=number), labels=torch.arange(5))


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


def parts(suffix: str) -> list[str]:
    return sorted(f"{name}.{suffix}" for name in NAMES)


COMMANDS = {"kl": ["kl", "in"], "nll": ["nll", "in", "--latents", "drawn"]}


@pytest.mark.parametrize("measure", COMMANDS)
@pytest.mark.parametrize("format", ["csv", "jsonl", "json", "parquet"])
def test_each_part_has_the_rows_of_its_input(cli: Cli, tmp_path: Path, measure: str, format: str) -> None:
    assert cli("sample", "in", "-o", "drawn").status == 0
    outcome = cli(*COMMANDS[measure], "-o", "out/", "--format", format)
    assert (outcome.status, outcome.out) == (0, "")
    assert files_below(tmp_path / "out") == [NOTE, *parts(format)]
    for name in NAMES:
        latents = ["--latents", f"drawn/{name}.safetensors"] if measure == "nll" else []
        one = cli(measure, f"in/{name}.safetensors", *latents, "-o", f"one.{format}", "--overwrite")
        assert one.status == 0
        assert (tmp_path / f"out/{name}.{format}").read_bytes() == (tmp_path / f"one.{format}").read_bytes()


def test_a_folder_that_exists_gets_csv(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert cli("kl", "in", "-o", "out").status == 0
    assert files_below(tmp_path / "out") == [NOTE, *parts("csv")]


MORE = {
    "plain": [],
    "skipped": ["--on-nonfinite", "skip", "--format", "json"],
    "against": ["--against", "in", "--symmetric", "--per-channel"],
    "columns": ["--columns", "labels", "--units", "bits", "--no-header"],
    "parquet": ["--format", "parquet", "--batch-size", "2"],
}


@pytest.mark.parametrize("more", MORE)
@pytest.mark.parametrize("gone", [slice(0, None), slice(3, None), slice(1, None, 2), slice(0, 0)])
def test_what_is_missing_is_made(cli: Cli, write: Write, tmp_path: Path, more: str, gone: slice) -> None:
    write("in/c/nan.safetensors", moments=torch.full((5, 4, 3, 4), torch.nan), labels=torch.arange(5))
    assert cli("kl", "in", "-o", "out/", *MORE[more]).status == 0
    expected = contents(tmp_path / "out")
    names = [name for name in expected if name != NOTE]
    assert len(names) == 11
    for name in names[gone]:
        (tmp_path / "out" / name).unlink()
    before = {name: os.stat(tmp_path / "out" / name).st_ino for name in names if name not in names[gone]}
    outcome = cli("kl", "in", "-o", "out/", *MORE[more], "--resume")
    assert outcome.status == 0
    assert f"latentkit: resume: {len(before)} of 11 files were complete" in outcome.err.splitlines()
    assert contents(tmp_path / "out") == expected
    assert all(os.stat(tmp_path / "out" / name).st_ino == inode for name, inode in before.items())


DIFFERENT = [
    ["--units", "bits"],
    ["--columns", "labels"],
    ["--no-header"],
    ["--on-nonfinite", "skip"],
    ["--per-channel"],
    ["--against", "in"],
    ["--clamp-min", "-20"],
    ["--parameterization", "softplus"],
    ["--limit", "3"],
    ["--every", "2"],
]


@pytest.mark.parametrize("more", DIFFERENT, ids=" ".join)
def test_what_another_request_made_is_refused(cli: Cli, tmp_path: Path, more: list[str]) -> None:
    assert cli("kl", "in", "-o", "out/").status == 0
    old = contents(tmp_path / "out")
    outcome = cli("kl", "in", "-o", "out/", "--resume", "--quiet", *more)
    assert outcome.status == 2
    assert outcome.complaint.startswith("latentkit: out/a/0.csv: exists, and is not known to be made by this request")
    assert contents(tmp_path / "out") == old
    assert cli("kl", "in", "-o", "out/", "--resume", "--overwrite", *more).status == 0
    assert cli("kl", "in", "-o", "fresh/", *more).status == 0
    fresh = contents(tmp_path / "fresh")
    assert {name: data for name, data in contents(tmp_path / "out").items() if name in fresh and name != NOTE} == {
        name: data for name, data in fresh.items() if name != NOTE
    }


@pytest.mark.parametrize("changed", ["in/a/2.safetensors", "drawn/a/2.safetensors"])
def test_what_was_made_of_other_files_is_refused(cli: Cli, tmp_path: Path, changed: str) -> None:
    assert cli("sample", "in", "-o", "drawn").status == 0
    assert cli(*COMMANDS["nll"], "-o", "out/").status == 0
    assert cli(*COMMANDS["nll"], "-o", "out/", "--resume").status == 0
    os.utime(tmp_path / changed, ns=(1, 1))
    assert "out/a/2.csv: exists" in cli(*COMMANDS["nll"], "-o", "out/", "--resume", "--quiet").complaint
    outcome = cli(*COMMANDS["nll"], "-o", "out/", "--resume", "--overwrite")
    assert "resume: 9 of 10 files were complete" in outcome.err


def test_what_is_to_be_replaced_is_not_complete(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out/a").mkdir(parents=True)
    for name in parts("csv")[:5]:
        (tmp_path / "out" / name).write_text("old\n")
    end_after(3, monkeypatch)
    assert "exists already" in cli("kl", "in", "-o", "out/", "--quiet").complaint
    outcome = cli("kl", "in", "-o", "out/", "--overwrite", "--batch-size", "5")
    assert (outcome.status, outcome.err.splitlines()[-1]) == (130, "latentkit: interrupted: 3 of 10 files kept")
    assert [(tmp_path / "out" / name).read_text() == "old\n" for name in parts("csv")[:5]] == 3 * [False] + 2 * [True]
    monkeypatch.undo()
    os.chdir(tmp_path)
    assert "out/a/6.csv: exists, and is not" in cli("kl", "in", "-o", "out/", "--resume", "--quiet").complaint
    outcome = cli("kl", "in", "-o", "out/", "--resume", "--overwrite")
    assert "resume: 3 of 10 files were complete" in outcome.err
    assert cli("kl", "in", "-o", "expected/").status == 0
    for name in parts("csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "expected" / name).read_bytes()


def end_after(items: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIGINT that comes once the work has passed on so many values."""
    check, calls = screen.check, iter(range(100))

    def interrupt() -> None:
        if next(calls) == items - 1:
            os.kill(os.getpid(), signal.SIGINT)
        check()

    monkeypatch.setattr(screen, "check", interrupt)


@pytest.mark.parametrize("number", [0, 1, 4, 10])
def test_a_signal_keeps_what_is_complete(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    end_after(number or 1, monkeypatch)
    size = ["--batch-size", "5" if number else "1"]
    outcome = cli("kl", "in", "-o", "out/", *size)
    assert (outcome.status, outcome.err.splitlines()[-1]) == (
        130, f"latentkit: interrupted: {number} of 10 files kept",
    )  # fmt: skip
    # Where nothing is complete there is no folder either.
    assert files_below(tmp_path / "out") == ([NOTE, *parts("csv")[:number]] if number else [])
    assert (tmp_path / "out").exists() == bool(number)
    monkeypatch.undo()
    os.chdir(tmp_path)
    outcome = cli("kl", "in", "-o", "out/", *size, "--resume")
    assert f"resume: {number} of 10 files were complete" in outcome.err
    assert cli("kl", "in", "-o", "expected/").status == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


def test_an_error_keeps_what_is_complete(cli: Cli, write: Write, tmp_path: Path) -> None:
    bad = moments_of(seed=4)
    bad[0] = torch.nan
    write("in/a/4.safetensors", moments=bad, labels=torch.arange(5))
    outcome = cli("kl", "in", "-o", "out/", "--on-nonfinite", "error")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-2] == "latentkit: stopped: 2 of 10 files kept"
    assert files_below(tmp_path / "out") == [NOTE, "a/0.csv", "a/2.csv"]


def test_what_fails_has_no_part(cli: Cli, write: Write, tmp_path: Path) -> None:
    bad = moments_of(seed=4)
    bad[3] = torch.nan
    write("in/a/4.safetensors", moments=bad, labels=torch.arange(5))
    (tmp_path / "in/b/3.safetensors").write_bytes(b"nothing")
    request = ["kl", "in", "-o", "out/", "--on-nonfinite", "error", "--keep-going", "--batch-size", "2"]
    outcome = cli(*request, "--errors", "bad.jsonl")
    assert outcome.status == 1
    there = [name for name in parts("csv") if name not in ("a/4.csv", "b/3.csv")]
    assert files_below(tmp_path / "out") == [NOTE, *there]
    failed = [json.loads(line)["file"] for line in (tmp_path / "bad.jsonl").read_text().splitlines()]
    assert sorted(failed) == ["in/a/4.safetensors", "in/b/3.safetensors"]
    for number in (3, 4):
        write(f"in/{NAMES[number]}.safetensors", moments=moments_of(seed=number), labels=torch.arange(5))
    assert "resume: 8 of 10 files were complete" in cli(*request, "--resume").err
    assert files_below(tmp_path / "out") == [NOTE, *parts("csv")]


def test_where_all_fail_nothing_is_left(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("kl", "in", "-o", "out/", "--parameterization", "std", "--keep-going")
    assert outcome.status == 1
    assert "nothing is left to do" in outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("kl in -o out/ --top 3", "--top ranks the samples of all inputs"),
        ("kl in -o kl.csv --resume", "--resume"),
        ("kl in --resume", "--resume"),
        ("kl in -o out/ --format table", "--format table is drawn on standard output"),
        ("kl in/a/0.safetensors copy/0.safetensors -o out/", "would both be written to out/0.csv"),
        ("kl in -o list.txt/", "is not a folder"),
        ("kl in -o out/ --errors out/a/0.csv --keep-going", "is named for two outputs"),
    ],
)
def test_what_cannot_be_is_refused(cli: Cli, write: Write, tmp_path: Path, request_: str, words: str) -> None:
    write("copy/0.safetensors", moments=moments_of())
    (tmp_path / "list.txt").write_text("in/a/0.safetensors\n")
    outcome = cli(*request_.split(), "--quiet")
    assert outcome.status == 2
    assert words in outcome.complaint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("note", [b"", b"[]", b"{", b'{"a/0.csv": 3}', b"\xff", b"[" * 100_000])
def test_a_note_that_is_none_says_nothing(cli: Cli, tmp_path: Path, note: bytes) -> None:
    assert cli("kl", "in", "-o", "out/").status == 0
    (tmp_path / "out" / NOTE).write_bytes(note)
    assert "--overwrite makes it again" in cli("kl", "in", "-o", "out/", "--resume", "--quiet").complaint
    assert cli("kl", "in", "-o", "out/", "--overwrite").status == 0


def test_a_pipe_in_the_place_of_the_note_is_not_waited_for(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    os.mkfifo(tmp_path / "out" / NOTE)
    assert cli("kl", "in", "-o", "out/", "--resume").status == 0
    assert (tmp_path / "out" / NOTE).is_file()


def test_one_run_at_a_time(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with another_run_in(tmp_path / "out"):
        assert "another run is writing there" in cli("kl", "in", "-o", "out/", "--quiet").complaint
    assert files_below(tmp_path / "out") == []


def test_a_dry_run_writes_nothing(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("kl", "in", "-o", "out/", "--dry-run")
    assert (outcome.status, outcome.json["files"]) == (0, 10)
    assert not (tmp_path / "out").exists()


def test_a_kill_while_parts_are_written_is_gone_on_with(cli: Cli, write: Write, tmp_path: Path) -> None:
    for number in range(400):
        write(f"many/{number:03}.safetensors", moments=moments_of(1, seed=number))
    assert cli("kl", "many", "-o", "expected/").status == 0
    command = [sys.executable, "-m", "latentkit", "kl", "many", "-o", "out/", "--resume"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while run.poll() is None and not (tmp_path / "out" / NOTE).exists():
        pass
    run.kill()
    run.wait()
    assert cli("kl", "many", "-o", "out/", "--resume").status == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    with open(tmp_path / "out/000.csv", encoding="utf-8") as file:
        assert [row["file"] for row in csv.DictReader(file)] == ["many/000.safetensors"]
