"""Signals and failures at any moment: what is complete is kept, nothing half done is left, and it says so."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import REPOSITORY, Cli, files_below, moments_of
from safetensors import safe_open
from safetensors.torch import save_file

Write = Callable[..., Path]
LATENTKIT = [sys.executable, "-m", "latentkit"]
ENDING = [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten files that take some tenths of a second each with many draws."""
    folder = tmp_path_factory.mktemp("interrupts") / "in"
    folder.mkdir()
    for number in range(10):
        save_file({"moments": torch.zeros(32, 8, 64, 64, dtype=torch.float16)}, folder / f"{number}.safetensors")
    return folder


def begin(arguments: list[str], folder: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [*LATENTKIT, *arguments], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def until(condition: Callable[[], bool], process: "subprocess.Popen[str]") -> None:
    end = time.monotonic() + 60
    while not condition():
        assert process.poll() is None
        assert time.monotonic() < end
        time.sleep(0.005)


def whole(path: Path) -> bool:
    with safe_open(path, framework="np") as file:
        return "latents" in file.keys()  # noqa: SIM118 - not a mapping


@pytest.mark.parametrize(("number", "status"), ENDING)
@pytest.mark.parametrize("again", [False, True])
def test_a_signal_keeps_what_is_complete(
    files: Path, tmp_path: Path, number: signal.Signals, status: int, again: bool
) -> None:
    process = begin(["sample", str(files), "-o", "out", "--draws", "60", "--workers", "1"], tmp_path)
    until(lambda: any((tmp_path / "out").glob(".7.*.part")), process)
    process.send_signal(number)
    while again and process.poll() is None:
        process.send_signal(number)
        time.sleep(0.001)
    out, err = process.communicate(timeout=30)
    there = files_below(tmp_path / "out")
    assert 1 <= len(there) < 10
    assert there == [f"{number}.safetensors" for number in range(len(there))]
    assert all(whole(tmp_path / "out" / name) for name in there)
    # In its last moments the interpreter has put the system's own handlers back.
    assert process.returncode == status or (again and process.returncode == -number)
    assert out == ""
    assert err.splitlines()[-1] == f"latentkit: interrupted: {len(there)} of 10 files kept"


def listens(process: "subprocess.Popen[str]") -> bool:
    """Whether its handlers are there: SIGTERM's comes last, and Python has none of its own."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("SigCgt:"):
            return bool(int(line.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
    return False


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("command", ["sample in -o out", "kl in -o kl.csv", "stats in -o stats.json", "info in"])
def test_a_signal_at_any_moment_is_quiet_and_leaves_no_half_file(tmp_path: Path, command: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(300):
        save_file({"moments": moments_of(1, 2, 2, 2)}, tmp_path / "in" / f"{number:03}.safetensors")
    start = time.monotonic()
    process = begin([*command.split(), "--quiet"], tmp_path)
    until(lambda: listens(process), process)
    listening = time.monotonic()
    process.communicate()
    whole_run = time.monotonic() - listening
    assert listening - start < 5
    moments = 12
    for moment in range(moments):
        for name in {"out", "kl.csv", "stats.json"} & set(os.listdir(tmp_path)):
            subprocess.run(["rm", "-r", name], cwd=tmp_path, check=True)
        process = begin([*command.split(), "--quiet"], tmp_path)
        until(lambda process=process: listens(process), process)  # type: ignore[misc]
        time.sleep(whole_run * moment / moments)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
        assert err == ""
        assert process.returncode in (130, -signal.SIGINT, 0)
        assert moment > 0 or process.returncode == 130
        assert not [name for name in files_below(tmp_path) if name.endswith(".part")]


def test_hardly_anything_is_loaded_before_signals_are_taken() -> None:
    script = """
import sys
before = set(sys.modules)
from latentkit.__main__ import listen
print(*sorted(name for name in set(sys.modules) - before if not name.startswith("latentkit")))
"""
    # Until then a Ctrl-C ends in Python's traceback.
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=REPOSITORY)
    assert (run.stdout.split(), run.stderr) == ([], "")


SWALLOWING = """
import os, signal, sys
from latentkit.cli.interrupts import listen
listen()
class Careless:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        sum(range(1000))
try:
    Careless()
except BaseException:
    pass
print("went on")
"""


def test_a_signal_is_never_swallowed() -> None:
    run = subprocess.run([sys.executable, "-c", SWALLOWING], capture_output=True, text=True)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "")


HANGING = """
import sys, threading
from latentkit.__main__ import main
from latentkit.sample import drawing
def hang(*_):
    threading.Event().wait()
drawing.draw_on = lambda device: hang
sys.argv = ["latentkit", "sample", "in", "-o", "out"]
main()
"""


def test_a_second_signal_ends_a_run_that_cannot_stop(files: Path, tmp_path: Path) -> None:
    (tmp_path / "in").symlink_to(files)
    process = subprocess.Popen([sys.executable, "-c", HANGING], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    until(lambda: any((tmp_path / "out").glob("*.part")), process)
    for _ in range(2):
        process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


INTERRUPTED_IMPORT = """
import _imp, sys
_imp.acquire_lock()
from latentkit.__main__ import main
sys.argv = ["latentkit", "sample", "a.safetensors", "-o", "out.safetensors", "-q"]
main()
"""


def test_an_interrupted_import_before_signals_are_taken_hangs_nothing(tmp_path: Path, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_IMPORT], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stderr) == (0, "")


def test_a_signal_that_is_ignored_stays_so(tmp_path: Path, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    script = f"""
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_IGN)
os.execv(sys.executable, [sys.executable, "-c", {NOHUP!r}])
"""
    run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")


NOHUP = """
import os, signal, sys
from latentkit.__main__ import main
import latentkit.cli.screen as screen
check = screen.check
def hang_up():
    os.kill(os.getpid(), signal.SIGHUP)
    check()
screen.check = hang_up
sys.argv = ["latentkit", "kl", "a.safetensors", "-q"]
main()
"""


@pytest.mark.parametrize("error", [OSError(errno.EIO, "Input/output error", "1.safetensors"), MemoryError()])
def test_a_worker_that_raises_keeps_what_is_complete(
    cli: Cli, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    for number in range(10):
        write(f"in/{number}.safetensors", moments=moments_of())
    from latentkit.sample import drawing

    draw, calls = drawing.draw_block, iter(range(100))

    def fail(*arguments: Any) -> Any:
        if next(calls) == 4:
            raise error
        return draw(*arguments)

    monkeypatch.setattr(drawing, "draw_block", fail)
    outcome = cli("sample", "in", "-o", "out", "--batch-size", "5", "--workers", "1")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-2] == "latentkit: stopped: 4 of 10 files kept"
    assert files_below(tmp_path / "out") == [f"{number}.safetensors" for number in range(4)]


@pytest.mark.parametrize("command", ["sample in -o out", "kl in", "stats in"])
@pytest.mark.parametrize("after", [0, 1])
def test_no_more_threads_is_a_sentence(
    cli: Cli, write: Write, monkeypatch: pytest.MonkeyPatch, command: str, after: int
) -> None:
    for number in range(10):
        write(f"in/{number}.safetensors", moments=moments_of())
    start, started = threading.Thread.start, iter(range(100))

    def fail(thread: threading.Thread) -> None:
        if next(started) >= after:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", fail)
    outcome = cli(*command.split(), "--workers", "4", "--batch-size", "1", "--quiet")
    assert outcome.status == 1
    assert "can't start new thread" in outcome.err
    assert "--workers" in outcome.err
