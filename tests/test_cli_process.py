"""``latentkit`` as a real process: pipes, exit statuses, signals, full disks, and what is left behind."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from conftest import SAMPLE_DATA, Cli, files_below, moments_of
from safetensors.torch import save_file

Write = Callable[..., Path]
LATENTKIT = [sys.executable, "-m", "latentkit"]


def shell(script: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    script = f"latentkit() {{ '{sys.executable}' -m latentkit \"$@\"; }}\n{script}"
    return subprocess.run(["sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=60)


# ---- pipes --------------------------------------------------------------------------------------------------------


def test_a_reader_that_goes_away_ends_it_quietly(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(60_000, 1, 1, 1))
    outcome = shell("{ latentkit kl a.safetensors --quiet; echo status $? >&2; } | head -2", tmp_path)
    assert outcome.stdout.splitlines()[0] == "file,tensor,index,kl"
    assert len(outcome.stdout.splitlines()) == 2
    assert outcome.stderr == "status 0\n"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["kl", "--help"], ["--version"], ["guide"], ["info", str(SAMPLE_DATA)]]
)
def test_a_reader_that_was_never_there_ends_it_quietly(tmp_path: Path, arguments: list[str]) -> None:
    read, write = os.pipe()
    os.close(read)
    process = subprocess.run([*LATENTKIT, *arguments], cwd=tmp_path, stdout=write, stderr=subprocess.PIPE, timeout=60)
    os.close(write)
    assert (process.returncode, process.stderr) == (0, b"")


def test_a_pipe_gets_the_file_of_another_process_in_another_folder(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a b.safetensors", moments=moments_of())
    cli("sample", "d/a b.safetensors", "-o", "file.safetensors", "--seed", 7)
    script = "find . -name 'a*.safetensors' -print0 | latentkit sample @- -o - --seed 7 --quiet > ../pipe.safetensors"
    outcome = shell(script, tmp_path / "d")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert (tmp_path / "pipe.safetensors").read_bytes() == (tmp_path / "file.safetensors").read_bytes()


def test_dev_stdout_adds_to_what_is_there(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(1))
    shell("echo before > out.csv; latentkit kl a.safetensors -o /dev/stdout >> out.csv", tmp_path)
    assert (tmp_path / "out.csv").read_text().splitlines()[:2] == ["before", "file,tensor,index,kl"]


def test_an_error_is_one_sentence_and_a_status(tmp_path: Path) -> None:
    outcome = shell("latentkit kl nosuch", tmp_path)
    assert (outcome.returncode, outcome.stdout) == (2, "")
    assert outcome.stderr == "latentkit: nosuch: no such file or folder\n"


def test_a_closed_standard_error_leaves_the_data_alone(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = shell("latentkit kl a.safetensors 2>&-", tmp_path)
    assert outcome.returncode == 0
    assert len(outcome.stdout.splitlines()) == 6


def test_a_closed_standard_output_is_no_crash(write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of())
    outcome = shell("latentkit info a.safetensors >&-", tmp_path)
    assert (outcome.returncode, outcome.stderr) == (0, "")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["info", "kl -q", "stats -q", "--version", "info --help"])
def test_a_full_standard_output_is_an_error_of_one_sentence(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, unbuffered: str
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    write("a.safetensors", moments=moments_of())
    outcome = shell(f"latentkit {command} a.safetensors > /dev/full", tmp_path)
    assert outcome.returncode == 1
    assert re.fullmatch(r"latentkit: .*No space left on device\n", outcome.stderr)


# ---- signals and full disks ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Moments that take some seconds to sample: 64 MiB of them, and many draws."""
    path = tmp_path_factory.mktemp("large") / "a.safetensors"
    save_file({"moments": torch.zeros(256, 8, 128, 128, dtype=torch.float16)}, path)
    return path


def started(path: Path, folder: Path, *options: str) -> "subprocess.Popen[bytes]":
    """``sample`` on its way: some of the output is written."""
    command = [*LATENTKIT, "sample", str(path), "-o", "out.safetensors", "--draws", "64", "--quiet", *options]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    until = time.monotonic() + 30
    while not any(part.stat().st_size > 1 << 20 for part in folder.glob(".out*.part")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.02)
    return process


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An output that is there already."""
    path = tmp_path / "out.safetensors"
    path.write_bytes(b"old")
    return path


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_soon_and_leaves_what_was_there(
    large: Path, tmp_path: Path, old: Path, number: signal.Signals, status: int
) -> None:
    process = started(large, tmp_path, "--overwrite")
    start = time.monotonic()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (status, b"", b"")
    assert time.monotonic() - start < 5
    assert files_below(tmp_path) == ["out.safetensors"]
    assert old.read_bytes() == b"old"


def test_a_kill_leaves_what_was_there_and_nothing_that_looks_like_data(large: Path, tmp_path: Path, old: Path) -> None:
    process = started(large, tmp_path, "--overwrite")
    process.kill()
    process.communicate(timeout=30)
    assert old.read_bytes() == b"old"
    assert [name for name in files_below(tmp_path) if name.endswith(".safetensors")] == ["out.safetensors"]


@contextmanager
def limited(kind: int, limit: int) -> Iterator[None]:
    """Let this process have no more than ``limit`` of something."""
    soft, hard = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(kind, (soft, hard))


@pytest.mark.parametrize("command", ["sample", "kl"])
def test_a_disk_that_fills_up_is_an_error_that_names_the_output(
    cli: Cli, write: Write, tmp_path: Path, command: str
) -> None:
    write("a.safetensors", moments=torch.zeros(40_000, 20))
    output = tmp_path / ("out.safetensors" if command == "sample" else "out.csv")
    output.write_bytes(b"old")
    with limited(resource.RLIMIT_FSIZE, 1 << 20):
        outcome = cli(command, "a.safetensors", "-o", output.name, "--overwrite", "--quiet")
    assert outcome.status == 1
    assert outcome.complaint.endswith(f"{output.name}: File too large")
    assert output.read_bytes() == b"old"
    assert files_below(tmp_path) == ["a.safetensors", output.name]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB, where the machine allows to mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if mount.returncode:
        pytest.skip("cannot mount a file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_without_room_is_noticed_before_any_work(cli: Cli, large: Path, small_disk: Path) -> None:
    outcome = cli("sample", large, "-o", small_disk / "out.safetensors", "--quiet")
    assert outcome.status == 1
    assert "are free; nothing was written" in outcome.complaint
    assert files_below(small_disk) == []


def test_many_files_share_the_open_files_that_are_allowed(cli: Cli, write: Write, tmp_path: Path) -> None:
    for number in range(300):
        write(f"d/{number:03}.safetensors", moments=moments_of(1, 2, 2, 2))
    with limited(resource.RLIMIT_NOFILE, 256):
        assert cli("sample", "d", "-o", "out").status == 0
    assert len(files_below(tmp_path / "out")) == 300
