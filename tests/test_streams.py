"""The world around a command: streams closed, full or slow, and an environment that is none."""

import csv
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import torch
from conftest import Cli, moments_of

from latentkit.write.stream import Patient, write_all

Write = Callable[..., Path]

LATENTKIT = f"{shlex.quote(sys.executable)} -m latentkit"


def shell(command: str, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run a shell's command line in which ``latentkit`` is this one."""
    return subprocess.run(
        ["bash", "-c", re.sub(r"\blatentkit\b", lambda _: LATENTKIT, command)],
        cwd=folder, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


# ---- standard input -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", ["kl @-", "kl a.safetensors --indices -"])
def test_a_closed_standard_input(write: Write, tmp_path: Path, arguments: str) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = shell(f"latentkit {arguments} <&-", tmp_path)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert re.fullmatch(r"latentkit: .*-: standard input is closed; give a file, or a pipe\n", outcome.stderr)


def test_a_closed_standard_input_is_not_missed(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = shell("latentkit sample a.safetensors -o out.safetensors -q <&- >&- 2>&-", tmp_path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
    shell("latentkit sample a.safetensors -o other.safetensors", tmp_path)
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "other.safetensors").read_bytes()


# ---- names through a pipe -----------------------------------------------------------------------------------------

NAMES = [b"plain", b"a,b", b'a "quote"', b"a\rb", b"a\nb", b"a\r\nb", b"\xff\xfe", b"\xc3\xa9\xff", b"=1+1", b" a "]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse such names")
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_names_come_back_through_a_pipe(cli: Cli, tmp_path: Path, write: Write, form: str) -> None:
    whole = write("a.safetensors", moments=moments_of(3)).read_bytes()
    (tmp_path / "d").mkdir()
    for name in NAMES:
        (tmp_path / "d" / f"{os.fsdecode(name)}.safetensors").write_bytes(whole)
    script = (
        f"latentkit kl d --top {3 * len(NAMES)} --format {form} -q | tee rows | latentkit sample d --indices - -o e -q"
    )
    outcome = shell(f"set -o pipefail; {script}", tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert len(list((tmp_path / "e").rglob("*.safetensors"))) >= 1
    rows = (tmp_path / "rows").read_bytes()
    for start, end in (("\ufeff", "\n"), ("", "\r\n")):
        # As other programs save it, where no name holds a line's end.
        if form == "jsonl" or end == "\n":
            (tmp_path / "list").write_bytes(start.encode() + rows.replace(b"\n", end.encode()))
            assert cli("kl", "d", "--indices", "list", "--quiet").status == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,tensor\n", "has the columns file, tensor, index"),
        ("", "has the columns file, tensor, index"),
        ('{"file": "a.safetensors", "tensor": "moments"}\n', "has the columns"),
        ('{"file": 3, "tensor": [], "index": 0}\n', "has the columns"),
        ('{"file": "a.safetensors", "tensor": "moments", "index": true}\n', "no sample True"),
        ('{"file": "a.safetensors", "tensor": "moments", "index": 0}\n[]\n', "has the columns"),
        ('{"file": \n', "not a list of samples as CSV or JSON lines"),
        ("{" * 100_000, "not a list of samples as CSV or JSON lines"),
        ('{"a":' * 100_000, "not a list of samples as CSV or JSON lines"),
        ("file,tensor,index\na.safetensors,moments\n", "no sample None"),
        ("file,tensor,index\na.safetensors,moments,0,1\n\0", "no sample"),
        (f"file,tensor,index\n{'x' * 200_000},moments,0\n", "not a list of samples as CSV or JSON lines"),
        (f"file,tensor,index\na.safetensors,moments,{'9' * 30}\n", "no sample 999"),
    ],
)
def test_a_list_of_samples_that_is_none(cli: Cli, write: Write, tmp_path: Path, text: str, words: str) -> None:
    write("a.safetensors", moments=moments_of())
    (tmp_path / "list").write_text(text)
    outcome = cli("kl", "a.safetensors", "--indices", "list")
    assert outcome.status == 2
    assert outcome.complaint.startswith("latentkit: list")
    assert words in outcome.complaint


# ---- standard output ----------------------------------------------------------------------------------------------

SLOW_READER = """
import fcntl, os, subprocess, sys, time
read, write = os.pipe()
os.set_blocking(write, False)
process = subprocess.Popen(sys.argv[1:], stdout=write)
os.close(write)
time.sleep(1)
with open(read, "rb") as file:
    data = file.read()
sys.stdout.buffer.write(data)
sys.exit(process.wait())
"""


@pytest.mark.parametrize(
    ("arguments", "rows"),
    [("kl a.safetensors", 20_001), ("kl a.safetensors --format jsonl", 20_000), ("info", 20_002)],
)
def test_all_rows_arrive_in_a_pipe_that_does_not_block(write: Write, tmp_path: Path, arguments: str, rows: int) -> None:
    write("a.safetensors", moments=torch.zeros(20_000, 2))
    command = f"{arguments} -q"
    if arguments == "info":
        command = f"info {'a.safetensors ' * 20_000}"
    outcome = subprocess.run(
        [sys.executable, "-c", SLOW_READER, sys.executable, "-m", "latentkit", *command.split()],
        cwd=tmp_path, capture_output=True, timeout=120,
    )  # fmt: skip
    assert (outcome.returncode, outcome.stderr) == (0, b"")
    assert len(outcome.stdout.splitlines()) == rows
    if arguments == "info":
        assert len(json.loads(outcome.stdout)["files"]) == 20_000


def test_what_does_not_block_is_waited_for() -> None:
    read, write = os.pipe()
    os.set_blocking(write, False)

    def write_much() -> None:
        write_all(write, bytes(200_000))
        Patient(write).write(b"1" * 200_000)
        os.close(write)

    writer = Thread(target=write_much)
    writer.start()
    time.sleep(0.1)
    with open(read, "rb") as file:
        assert file.read() == bytes(200_000) + b"1" * 200_000
    writer.join()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [("kl a.safetensors", 0), ("kl gone", 2), ("kl void.safetensors", 1), ("kl --nosuch", 2)],
)
def test_a_note_that_cannot_be_written_changes_no_status(
    write: Write, tmp_path: Path, arguments: str, status: int
) -> None:
    write("a.safetensors", moments=moments_of())
    (tmp_path / "void.safetensors").touch()
    assert shell(f"latentkit {arguments} 2>/dev/full", tmp_path).returncode == status


# ---- the environment ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("columns", ["0", "1", "-1", "", "²", "x", "9" * 30])
def test_a_terminal_of_no_width(cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    write("a.safetensors", moments=moments_of())
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("LINES", columns)
    for arguments in (["info", "a.safetensors", "--format", "table"], ["kl", "a.safetensors", "--format", "table"]):
        outcome = cli(*arguments)
        assert outcome.status == 0, outcome.err
        assert len(outcome.out) > 50


# Or all would be compiled anew; that a cache is not needed is tested elsewhere.
COMPILED = {"NUMBA_CACHE_DIR": os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")}

ENVIRONMENTS = {
    "backend": {"MPLBACKEND": "nonsense"},
    "config": {"MPLCONFIGDIR": "/dev/null/x"},
    "home": {"HOME": "/dev/null", "XDG_CACHE_HOME": "/dev/null/x"},
    "no home": {"HOME": ""},
    "locale": {"LC_ALL": "nosuch", "LANG": "nosuch"},
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "terminal": {"TERM": "nonsense", "FORCE_COLOR": "1"},
}


@pytest.mark.parametrize("case", ENVIRONMENTS)
def test_an_environment_that_is_none(write: Write, tmp_path: Path, case: str) -> None:
    write("a.safetensors", moments=moments_of())
    settings = " ".join(f"{name}={value}" for name, value in (COMPILED | ENVIRONMENTS[case]).items())
    outcome = shell(f"env {settings} latentkit report a.safetensors -o a.html -q", tmp_path)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")


def test_a_setting_of_matplotlib_that_is_none(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: nonsense\n\xff\xfe\nnosuch: 1\n")
    outcome = shell("latentkit report a.safetensors -o a.html -q", tmp_path)
    assert "Traceback" not in outcome.stderr
    assert len(outcome.stderr.splitlines()) <= 1


def test_rows_that_a_spreadsheet_could_take_for_a_formula_are_what_they_are(cli: Cli, write: Write) -> None:
    write("=1+1.safetensors", **{"@x": moments_of(1)})
    row = next(csv.DictReader(cli("kl", "=1+1.safetensors").out.splitlines()))
    assert (row["file"], row["tensor"]) == ("=1+1.safetensors", "@x")
