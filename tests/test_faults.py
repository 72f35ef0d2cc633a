"""The fault matrix: whatever goes wrong, what existed is whole, what failed is named, and no half file stays.

Runs are forks of one warm process (``faults.py``), so that each call of the operating system can be made to fail once.
``pytest -v tests/test_faults.py`` prints the matrix; ``FAULT_MOMENTS=1000`` moves signals in time by as many steps.
"""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import count, product
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import moments_of
from faults import Ended, Runs, contents, fault_process, record
from safetensors.torch import save_file

# Who owns nothing, where the tests run as one who may do everything.
NOBODY = 65534
SEED = ("--seed", "7", "--workers", "1")


@pytest.fixture(scope="module")
def process() -> "Iterator[subprocess.Popen[str]]":
    with fault_process() as process:
        yield process


@pytest.fixture
def runs(process: "subprocess.Popen[str]") -> Iterator[Runs]:
    """Runs in a new folder that any user may read, with two files of moments in ``in``."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o777)
        (folder / "in").mkdir()
        for number, name in enumerate("ab"):
            path = folder / "in" / f"{name}.safetensors"
            save_file({"moments": moments_of(4, seed=number)}, path)
            path.chmod(0o644)
        yield Runs(process, folder)


FOLDER, ROWS, THREE, SHARDS = "sample to a folder", "kl to CSV", "stats to three files", "convert to shards"
OPERATIONS = {
    "sample to a file": ("sample", "in/a.safetensors", "-o", "out/a.safetensors", *SEED),
    FOLDER: ("sample", "in", "-o", "out", *SEED),
    "sample to shards": ("sample", "in", "-o", "out", "--samples-per-shard", "5", *SEED),
    ROWS: ("kl", "in", "-o", "out/kl.csv", "--workers", "1"),
    "kl to JSON lines": ("kl", "in", "-o", "out/kl.jsonl", "--workers", "1"),
    "kl to JSON": ("kl", "in", "-o", "out/kl.json", "--workers", "1"),
    "kl to Parquet": ("kl", "in", "-o", "out/kl.parquet", "--workers", "1"),
    THREE: (
        "stats", "in", "-o", "out/stats.json", "--state", "out/state", "--save-normalization", "out/n.json",
    ),
    "report": ("report", "in", "-o", "out/report.html"),
    "convert to a file": ("convert", "in", "-o", "out/all.npy", "--no-labels", "--workers", "1"),
    SHARDS: ("convert", "in", "-o", "out", "--samples-per-shard", "3", "--workers", "1"),
}  # fmt: skip


def is_sentence(text: str) -> bool:
    """Whether that is one error as the command line says it, of bearable length."""
    return text.startswith("latentkit: ") and text.count("\n") == 1 and len(text) < 400


class Operation:
    """A command that writes into ``out``, again and again: what was there, and what should be there in the end."""

    def __init__(self, runs: Runs, name: str, *, overwrite: bool) -> None:
        self._runs = runs
        self._out = runs.folder / "out"
        self._overwrite = overwrite
        self._together = name == THREE
        self.name = f"{name}, overwriting" if overwrite else name
        self.arguments = (*OPERATIONS[name], *(["--overwrite"] if overwrite else []), "--quiet")
        self._inputs = contents(runs.folder / "in")
        assert runs(*self.arguments).status == 0
        self.new = contents(self._out)
        self.reset()
        self._old = contents(self._out)

    def reset(self) -> None:
        shutil.rmtree(self._out, ignore_errors=True)
        if self._overwrite:
            self._out.mkdir()
            for name in self.new:
                (self._out / name).write_bytes(b"old")

    def __call__(self, **fault: Any) -> Ended:
        self.reset()
        return self._runs(*self.arguments, **fault)

    def problems(self, ended: Ended) -> list[str]:
        """What is not as promised: every file is as it was or as it should be, and nothing half made is left."""
        left = contents(self._out)
        hidden = {name for name in left if name.endswith(".part")}
        shown = {name: left[name] for name in left.keys() - hidden}
        killed = ended.status == -signal.SIGKILL
        promised = {
            "no traceback": "Traceback" not in ended.err,
            "no temporary file is left": not hidden or killed or ended.fired.startswith("unlink "),
            "what was there is there": shown.keys() >= self._old.keys(),
            "every file is whole": all(bytes in (self._old.get(name), self.new[name]) for name, bytes in shown.items()),
            "all is done": ended.status != 0 or shown == self.new,
            "all or none": killed or not self._together or shown in (self._old, self.new),
            "the input is as it was": contents(self._runs.folder / "in") == self._inputs,
        }
        return [f"{ended.fired}: not so: {promise}: {ended}" for promise, kept in promised.items() if not kept]


@pytest.mark.parametrize(
    ("name", "overwrite"),
    [*((name, True) for name in OPERATIONS), *((name, False) for name in (FOLDER, THREE, SHARDS))],
)
def test_whichever_call_fails_it_is_a_sentence_and_every_file_is_whole(runs: Runs, name: str, overwrite: bool) -> None:
    operation = Operation(runs, name, overwrite=overwrite)
    problems: list[str] = []
    sentences = 0
    # Reading is the same in all of these.
    only = "" if name == FOLDER else r"\S+ out"
    for number in count(1):
        ended = operation(call=number, only=only, act=("error", ("EIO", "ENOSPC", "EDQUOT")[number % 3]))
        problems += operation.problems(ended)
        if not ended.fired:
            break
        if ended.status != 0:
            sentences += 1
            named = is_sentence(ended.err) and re.search(r"\b(in|out)\b", ended.err)
            problems += [] if ended.status in (1, 2) and named else [f"{ended.fired}: {ended}"]
    seen = f"{sentences} sentences, {number - 1 - sentences} done without it"
    record(f"each of {number - 1} calls fails", operation.name, "1, a sentence; or 0", "; ".join(problems) or seen)
    assert ended.status == 0
    assert not problems, "\n".join(problems)


STATUSES = {"SIGINT": 130, "SIGTERM": 143, "SIGHUP": 129, "SIGKILL": -9}


@pytest.mark.parametrize(
    ("kind", "name"),
    [*product(("SIGINT", "SIGKILL"), (FOLDER, ROWS, THREE, SHARDS)), *product(("SIGTERM", "SIGHUP"), (FOLDER, SHARDS))],
)
def test_a_signal_after_any_call_leaves_whole_files(runs: Runs, kind: str, name: str) -> None:
    operation = Operation(runs, name, overwrite=True)
    problems: list[str] = []
    statuses = Counter[int]()
    for number in count(1):
        ended = operation(call=number, act=("after", getattr(signal, kind)))
        problems += operation.problems(ended)
        if not ended.fired:
            break
        statuses[ended.status] += 1
        if ended.status == -signal.SIGKILL and number % 3 == 0:
            again = runs(*OPERATIONS[name], "--overwrite", "--quiet")
            left = {path: bytes for path, bytes in contents(runs.folder / "out").items() if not path.endswith(".part")}
            problems += [] if again.status == 0 and left == operation.new else [f"{ended.fired}: again: {again}"]
    # One that comes when all is done may change nothing any more.
    assert set(statuses) <= {STATUSES[kind], 0}, statuses
    seen = ", ".join(f"{number} × {status}" for status, number in statuses.items())
    fault = f"{kind} after each of {number - 1} calls"
    record(fault, operation.name, f"{STATUSES[kind]}; all whole", "; ".join(problems) or seen)
    assert statuses[STATUSES[kind]] > 10
    assert not problems, "\n".join(problems)


MOMENTS = int(os.environ.get("FAULT_MOMENTS", "4"))


@pytest.mark.parametrize("name", [FOLDER, SHARDS])
@pytest.mark.parametrize("kind", STATUSES)
def test_a_signal_at_any_time_leaves_whole_files(runs: Runs, kind: str, name: str) -> None:
    for number in range(10):
        save_file({"moments": torch.zeros(16, 8, 64, 64)}, runs.folder / "in" / f"{number}.safetensors")
    operation = Operation(runs, name, overwrite=True)
    start = time.monotonic()
    operation()
    lasts = time.monotonic() - start
    problems: list[str] = []
    statuses = Counter[int]()
    for moment in range(MOMENTS):
        ended = operation(signal=getattr(signal, kind), after=lasts * (moment + 0.5) / MOMENTS)
        problems += operation.problems(ended)
        statuses[ended.status] += 1
    seen = ", ".join(f"{number} × {status}" for status, number in statuses.items())
    fault = f"{kind} at {MOMENTS} times in {lasts * 1000:.0f} ms"
    record(fault, operation.name, f"{STATUSES[kind]}; all whole", "; ".join(problems) or seen)
    assert set(statuses) <= {STATUSES[kind], 0}, statuses
    assert not problems, "\n".join(problems)


# ---- the world around a run ----------------------------------------------------------------------------------------


def case(fault: str, command: str, status: int, says: str = "", *, makes: str = "", **how: Any) -> Any:
    """A row of the matrix; ``says`` is what standard error matches, to the end."""
    return pytest.param(fault, command, status, says, makes.split(), how, id=f"{fault}: {command}")


KL = "kl in -q"
SAMPLE = "sample in -q"
IS_INPUT = r"latentkit: \S+: is an input itself( \(\S+\))?; .*"
BUG = r"latentkit: .*bug.*--debug.*"
READ, WRITE = "latentkit.read.bytes:_read_some", "latentkit.write.csv_rows:write_all"

CASES = [
    # ---- the output ----
    case("output is the input", "sample in/a.safetensors -o in/a.safetensors --overwrite", 2, IS_INPUT),
    case("output is the input, by a link", "sample in/a.safetensors -o link.safetensors --overwrite", 2, IS_INPUT),
    case("output is the input, by a hard link", "sample in/a.safetensors -o hard.safetensors --overwrite", 2, IS_INPUT),
    case("output is the input", "convert in/a.safetensors -q -o in/a.safetensors --overwrite", 2, IS_INPUT),
    case("output is the input, by a link", "convert in/a.safetensors -q -o link.safetensors --overwrite", 2, IS_INPUT),
    case("output is one of a folder", "stats in -o s.json --state in/b.safetensors --overwrite", 2, IS_INPUT),
    case("output is one of a list", "kl @list.txt -o in/b.safetensors --format csv --overwrite", 2, IS_INPUT),
    case("output is the list", "kl @list.txt -o list.txt --format csv --overwrite", 2, IS_INPUT),
    case("two outputs in one place", "stats in -o n.json --state ./n.json", 2, r".*n\.json: is named for two.*"),
    case("output is a folder", "stats in -o empty --format json", 2, r"latentkit: empty: is a folder.*"),
    case("output exists", "kl in -o old.csv", 2, r"latentkit: old\.csv: exists already.*--overwrite.*"),
    case("output is a broken link", "kl in -o broken.csv", 2, r"latentkit: broken\.csv: exists already.*"),
    case("output below a file", "kl in -o old.csv/x.csv", 2, r"latentkit: old\.csv/x\.csv: .*not a folder.*"),
    case("output is /dev/full", f"{KL} -o /dev/full", 1, "latentkit: /dev/full: No space left on device"),
    case("output is /dev/full", "sample in/a.safetensors -q -o /dev/full", 1, "latentkit: /dev/full: No space left.*"),
    case("output is /dev/null", f"{KL} -o /dev/null", 0),
    case("output is /dev/stdout", f"{KL} -o /dev/stdout", 0),
    # ---- standard streams ----
    case("stdout closed", KL, 0, stdout=None),
    case("stdout full", KL, 1, "latentkit: .*No space left on device", stdout="/dev/full"),
    case("stderr closed", "kl in", 0, stderr=None),
    case("stderr full", "kl in", 0, stderr="/dev/full"),
    # ---- what a disk and a system refuse ----
    case(
        "file size limit", f"{KL} -o out.csv", 1, r"latentkit: out\.csv: File too large",
        limits={"RLIMIT_FSIZE": 256},
    ),
    case(
        "file size limit", f"{SAMPLE} -o out --draws 9", 1, r"latentkit: \S*out/a\.safetensors: File too large",
        limits={"RLIMIT_FSIZE": 1024},
    ),
    case(
        "file size limit", "convert in -q -o out", 1, r"latentkit: \S*out/moments-00001-of-00001\.\S+: File too large",
        limits={"RLIMIT_FSIZE": 256},
    ),
    case(
        "disk quota", f"{KL} -o out.csv", 1, r"latentkit: out\.csv: Disk quota exceeded",
        call=1, only="write", act=("error", "EDQUOT"),
    ),
    case(
        "read-only folder", f"{SAMPLE} -o readonly/out", 2,
        r"latentkit: readonly/out/a\.safetensors: the folder \S+readonly cannot be written to.*", user=NOBODY,
    ),
    case(
        "read-only folder", "convert in -q -o readonly/out", 2,
        r"latentkit: readonly/out/\S+: the folder \S+readonly cannot be written to.*", user=NOBODY,
    ),
    case("input of another", "convert secret.safetensors -o out", 1, ".*: Permission denied", user=NOBODY),
    case("input of another", "kl secret.safetensors", 1, r".* secret\.safetensors: Permission denied", user=NOBODY),
    case("64 files open at most", "sample many -q -o out", 0, makes="out/", limits={"RLIMIT_NOFILE": 64}),
    case("64 files open at most", "convert many -q -o out", 0, makes="out/", limits={"RLIMIT_NOFILE": 64}),
    case("64 files open at most", "kl many -q --workers 16", 0, limits={"RLIMIT_NOFILE": 64}),
    case("hardly any file open", KL, 1, r"latentkit: \S+: Too many open files", limits={"RLIMIT_NOFILE": 4}),
    case("no more threads", KL, 1, "latentkit: .*thread.*", limits={"RLIMIT_NPROC": 1}, user=NOBODY),
    # ---- the program itself ----
    case("worker out of memory", KL, 1, ".*memory.*", raises={READ: "MemoryError"}),
    case("worker out of memory", "convert in -o out -q", 1, ".*memory.*", raises={READ: "MemoryError"}),
    case("worker with a bug", "convert in -o out -q", 1, BUG, raises={READ: "ZeroDivisionError"}),
    case("worker with a bug", KL, 1, BUG, raises={READ: "ZeroDivisionError"}),
    case("writer with a bug", f"{KL} -o x.csv", 1, BUG, raises={WRITE: "ZeroDivisionError"}),
    case("clock going backwards", "kl in -o out.csv", 0, ".*", makes="out.csv", clock="backwards"),
    case("clock going backwards", "convert in -o out", 0, ".*", makes="out/", clock="backwards"),
    case("clock going backwards", "sample in -o out", 0, ".*", makes="out/", clock="backwards"),
]  # fmt: skip


@pytest.fixture
def surroundings(runs: Runs) -> Path:
    """The folder with much that outputs and inputs may be."""
    folder = runs.folder
    (folder / "old.csv").write_text("old")
    (folder / "empty").mkdir()
    (folder / "broken.csv").symlink_to("nowhere")
    (folder / "link.safetensors").symlink_to("in/a.safetensors")
    (folder / "hard.safetensors").hardlink_to(folder / "in/a.safetensors")
    (folder / "list.txt").write_text("in/a.safetensors\nin/b.safetensors\n")
    (folder / "readonly").mkdir(mode=0o555)
    (folder / "many").mkdir()
    for number in range(100):
        shutil.copy(folder / "in/a.safetensors", folder / "many" / f"{number}.safetensors")
    shutil.copy(folder / "in/a.safetensors", folder / "secret.safetensors")
    (folder / "secret.safetensors").chmod(0o000)
    return folder


def run_case(runs: Runs, fault: str, arguments: str, status: int, says: str, **how: Any) -> Ended:
    """Run, note the row, and see that status and message are as expected."""
    ended = runs(*arguments.split(), **how)
    record(fault, arguments, f"{status} {says}", ended)
    assert ended.status == status, ended
    assert re.fullmatch(says, ended.err.removesuffix("\n"), re.DOTALL), ended.err
    assert status == 0 or is_sentence(ended.err), ended.err
    return ended


@pytest.mark.parametrize(("fault", "command", "status", "says", "makes", "how"), CASES)
def test_a_fault_of_the_matrix(
    runs: Runs, surroundings: Path, fault: str, command: str, status: int, says: str, makes: list[str], how: Any
) -> None:
    if "/dev/full" in [command.split()[-1], *how.values()] and not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full")
    before = contents(surroundings)
    run_case(runs, fault, command, status, says, **how)
    after = contents(surroundings)
    assert {name: after[name] for name in before.keys() & after.keys()} == before
    made = after.keys() - before.keys()
    assert [name for name in made if not name.startswith(tuple(makes) or "\0")] == []
    assert [name for name in made if name.endswith(".part")] == []
    assert status != 0 or not makes or made


STOP = ("stop",)


@pytest.mark.parametrize(
    "command", ["kl in -o out.csv", "stats in -o out.json", "sample in -o out", "convert in -o out"]
)
@pytest.mark.parametrize("change", ["truncated", "grows", "replaced", "removed"])
def test_an_input_that_changes_between_two_reads_is_noticed(runs: Runs, change: str, command: str) -> None:
    path = runs.folder / "in/a.safetensors"
    before = contents(runs.folder)

    def meanwhile() -> None:
        if change == "truncated":
            os.truncate(path, 300)
        elif change == "grows":
            with path.open("ab") as file:
                file.write(b"more")
        elif change == "replaced":
            save_file({"moments": moments_of(4, seed=9)}, runs.folder / "new")
            os.replace(runs.folder / "new", path)
        else:
            path.unlink()

    says = r"latentkit: (\S*/)?in/a\.safetensors: (changed while it was being read.*|truncated.*|No such file.*)"
    # Who has it open reads the old file, whole, when the name goes to another; one that is written to is not.
    at = {"call": 2, "only": "open in/a"} if change in ("replaced", "removed") else {"call": 1, "only": "preadv"}
    run_case(
        runs, f"input {change} while read", f"{command} -q --workers 1", 1, says, act=STOP, meanwhile=meanwhile, **at
    )
    after = contents(runs.folder)
    assert {name: seen for name, seen in after.items() if "in/a" not in name} == {
        name: seen for name, seen in before.items() if "in/a" not in name
    }


@pytest.mark.parametrize(("name", "overwrite"), [*product((FOLDER, SHARDS, THREE), (False, True)), (ROWS, True)])
def test_of_two_runs_with_one_output_each_leaves_whole_files(runs: Runs, name: str, overwrite: bool) -> None:
    operation = Operation(runs, name, overwrite=overwrite)
    problems: list[str] = []
    for number in count(1, 3):
        others: list[Ended] = []
        ended = operation(call=number, act=STOP, meanwhile=lambda: others.append(runs(*operation.arguments)))  # noqa: B023
        if not ended.fired:
            break
        problems += operation.problems(ended)
        if {ended.status, others[0].status} - {0, 2} or contents(runs.folder / "out") != operation.new:
            problems.append(f"{ended.fired}: {ended}, {others[0]}")
    fault = f"another latentkit at {number // 3} calls"
    record(fault, operation.name, "0, or 2 and a sentence; all whole", "; ".join(problems) or "0 or 2")
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("room", [0, 1 << 20, 8 << 20, 24 << 20, 1 << 30])
@pytest.mark.parametrize("command", ["kl in -q", "sample in -q -o out", "stats in -q", "convert in -q -o out"])
def test_too_little_memory_is_a_sentence(runs: Runs, command: str, room: int) -> None:
    for name in "ab":
        save_file({"moments": torch.zeros(64, 8, 64, 64)}, runs.folder / "in" / f"{name}.safetensors")
    ended = runs(*command.split(), "--workers", 5, limits={"RLIMIT_AS": room})
    record(f"{room >> 20} MiB of memory left", command, "1, a sentence; or 0", ended)
    assert ended.status in (0, 1), ended
    assert ended.err == "" if ended.status == 0 else is_sentence(ended.err), ended
    assert ended.status == 0 or room < 1 << 30
    runs(*command.replace("out", "whole").split())
    assert contents(runs.folder / "out").items() <= contents(runs.folder / "whole").items()


def test_a_pipe_gets_every_row(runs: Runs) -> None:
    os.mkfifo(runs.folder / "fifo")
    with subprocess.Popen(["cat", runs.folder / "fifo"], stdout=subprocess.PIPE, text=True) as reader:
        run_case(runs, "output is a FIFO", "kl in -q -o fifo", 0, "")
        rows = reader.communicate()[0].splitlines()
    assert len(rows) == 9
    assert contents(runs.folder)["fifo"] == "special"


# ---- a small disk --------------------------------------------------------------------------------------------------


@pytest.fixture
def disk(runs: Runs) -> Iterator[Callable[[str], Path]]:
    """Mount a file system of a kind in ``disk``, where the machine allows that."""
    folder = runs.folder / "disk"
    folder.mkdir()
    mounted = []

    def mount(options: str) -> Path:
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], capture_output=True)
        if done.returncode:
            pytest.skip("cannot mount a file system here")
        mounted.append(folder)
        return folder

    yield mount
    for one in mounted:
        subprocess.run(["umount", str(one)], check=True)


def test_a_disk_without_room_is_noticed_before_any_work(runs: Runs, disk: Callable[[str], Path]) -> None:
    disk("size=16k")
    run_case(
        runs, "no space left", "sample in -q -o disk/out --draws 200", 1,
        "latentkit: disk/out: the output needs [0-9,]+ bytes and [0-9,]+ are free; nothing was written",
    )  # fmt: skip
    assert contents(runs.folder / "disk") == {}


@pytest.mark.parametrize(
    "command", ["kl in -q --per-channel -o disk/out.csv", "sample in -q -o disk/out", "convert in -q -o disk/out"]
)
def test_a_disk_that_others_fill_meanwhile_is_a_sentence(runs: Runs, disk: Callable[[str], Path], command: str) -> None:
    folder = disk("size=64k")

    def fill() -> None:
        with suppress(OSError), (folder / "others").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    says = r"latentkit: \S*disk/out\S*: No space left on device"
    run_case(runs, "no space left, meanwhile", command, 1, says, call=1, only="p?write ", act=STOP, meanwhile=fill)
    assert contents(folder).keys() == {"others"}


@pytest.mark.parametrize(
    "command", ["kl in -q -o disk/out.csv", "sample in -q -o disk/out", "convert in -q -o disk/out"]
)
def test_a_disk_without_inodes_is_a_sentence(runs: Runs, disk: Callable[[str], Path], command: str) -> None:
    folder = disk("size=1m,nr_inodes=2")
    (folder / "others").touch()
    run_case(runs, "no inodes", command, 1, r"latentkit: \S*disk/out\S*: No space left on device")
    assert contents(folder).keys() == {"others"}


@pytest.mark.parametrize(
    "command", ["kl in -q -o disk/out.csv", "sample in -q -o disk/out", "convert in -q -o disk/out"]
)
def test_a_disk_mounted_for_reading_is_a_sentence(runs: Runs, disk: Callable[[str], Path], command: str) -> None:
    folder = disk("size=1m,ro")
    run_case(runs, "read-only disk", command, 2, r"latentkit: \S*disk/out\S*: the folder \S+ cannot be written to.*")
    assert contents(folder) == {}
