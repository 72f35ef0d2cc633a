"""The cache of compiled code never hurts: whatever becomes of it, results are right and nobody is told of it."""

import ast
import os
import pickle
import pty
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import REPOSITORY, SAMPLE_DATA, files_below

from latentkit.compiled import jit

KL = ("-m", "latentkit", "kl", str(SAMPLE_DATA / "healthy-f32.safetensors"), "--top", "3")
# A single loop, which calls one formula of another file.
LOOP = (
    "-c",
    "import numpy as np\n"
    "from latentkit.compiled.centred import sums\n"
    "found = np.empty((1, 2))\n"
    "sums(np.array([[[1.0, 2.0], [3.0, 4.0]]]), found)\n"
    "print(*found[0])",
)
# Much of what ``kl`` compiles, without its start.
TABLE = (
    "-c",
    "import hashlib\n"
    "from latentkit.compiled.tables import half_remainders\n"
    "print(hashlib.sha256(half_remainders('BF16', 'softplus', (-30.0, 20.0)).tobytes()).hexdigest())",
)
FIRST_RUN = "first run on this machine: compiling for its processor, some seconds"
SUMS = [3.0, 7.0]


@pytest.fixture(autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a copy of the package, which processes take: nobody works on it while tests run."""
    folder = tmp_path_factory.mktemp("installed")
    shutil.copytree(REPOSITORY / "latentkit", folder / "latentkit", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return folder


def environment(home: Path, **more: str) -> dict[str, str]:
    """That of a process whose cache is below ``home``."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    return kept | {"XDG_CACHE_HOME": str(home)} | more


def run(*arguments: str, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run Python, which must end well."""
    return subprocess.run(
        [sys.executable, "-P", *arguments], env=env, capture_output=True, text=True, check=True, timeout=200
    )


def sums(env: dict[str, str], setting_up: str = "") -> list[float]:
    """What the loop gives, in a process that does ``setting_up`` first; nothing may stand on standard error."""
    process = run("-c", f"{setting_up}\n{LOOP[1]}", env=env)
    assert process.stderr == ""
    return [float(word) for word in process.stdout.split()]


def entries(home: Path) -> dict[str, int]:
    """The entries below a cache folder, each with the number of its file, which is another once it is written anew."""
    return {f"{entry.parent.name}/{entry.name}": entry.stat().st_ino for entry in home.glob("latentkit/loops-*/*")}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def entry(home: Path) -> Path:
    """The entry of the loop, as a first run leaves it."""
    assert sums(environment(home)) == SUMS
    (name,) = entries(home)
    return home / "latentkit" / name


# ---- first runs ---------------------------------------------------------------------------------------------------


def test_a_second_run_compiles_nothing(home: Path) -> None:
    first = run(*KL, env=environment(home))
    assert FIRST_RUN not in first.stderr  # it is a pipe
    kept = entries(home)
    assert len(kept) >= 2
    second = run(*KL, env=environment(home))
    assert second.stdout == first.stdout
    assert entries(home) == kept
    assert files_below(home) == sorted(f"latentkit/{name}" for name in kept)


def test_ten_first_runs_at_once_agree_and_leave_whole_entries(home: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-P", *KL, "--quiet"],
            env=environment(home),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for _ in range(10)
    ]
    outputs = {process.communicate(timeout=200) for process in processes}
    assert [process.returncode for process in processes] == [0] * 10
    assert {err for _, err in outputs} == {b""}
    assert len(outputs) == 1
    kept = entries(home)
    assert files_below(home) == sorted(f"latentkit/{name}" for name in kept)
    run(*KL, env=environment(home))
    assert entries(home) == kept


def on_terminal(*arguments: str, env: dict[str, str]) -> str:
    """What a run shows on a terminal that is its standard error."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-P", *arguments], env=env, stdout=subprocess.DEVNULL, stderr=slave
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while data := os.read(master, 1 << 16):
                shown += data
        except OSError:
            pass  # on Linux, when the last that wrote to it has ended
    os.close(master)
    assert process.returncode == 0
    return shown.decode()


def test_a_first_run_says_why_it_takes_longer_on_a_terminal_alone_and_once(home: Path, tmp_path: Path) -> None:
    assert FIRST_RUN not in on_terminal(*KL, "--quiet", env=environment(tmp_path / "quiet"))
    assert on_terminal(*KL, env=environment(home)).count(FIRST_RUN) == 1
    assert FIRST_RUN not in on_terminal(*KL, env=environment(home))


def test_every_processor_has_entries_of_its_own(home: Path) -> None:
    generic = environment(home, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    native = run(*TABLE, env=environment(home))
    before = entries(home)
    assert run(*TABLE, env=generic).stdout == native.stdout
    both = entries(home)
    assert len(both) == 2 * len(before)
    assert before.items() <= both.items()
    for env in (environment(home), generic):
        run(*TABLE, env=env)
        assert entries(home) == both


# ---- no place to keep anything ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variable", ["XDG_CACHE_HOME", "HOME", "NUMBA_CACHE_DIR"])
def test_a_home_that_cannot_be_written_costs_time_alone(tmp_path: Path, variable: str) -> None:
    (tmp_path / "file").touch()
    env = environment(tmp_path)
    del env["XDG_CACHE_HOME"]
    assert sums(env | {variable: str(tmp_path / "file" / "home")}) == SUMS
    assert files_below(tmp_path) == ["file"]


NO_HOME = """
import pwd
def getpwuid(uid):
    raise KeyError(uid)
pwd.getpwuid = getpwuid
"""


def test_no_home_at_all_costs_time_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    env = environment(tmp_path)
    del env["XDG_CACHE_HOME"], env["HOME"]
    assert sums(env, setting_up=NO_HOME) == SUMS
    assert files_below(tmp_path) == []


def test_a_relative_cache_folder_is_passed_over_as_its_specification_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert sums(environment(tmp_path, XDG_CACHE_HOME="cache", HOME=str(tmp_path / "home"))) == SUMS
    assert len(entries(tmp_path / "home" / ".cache")) == 1
    assert not (tmp_path / "cache").exists()


FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, resource.RLIM_INFINITY))
"""


def test_a_full_disk_leaves_no_half_entry(home: Path) -> None:
    for _ in range(2):
        assert sums(environment(home), setting_up=FULL_DISK) == SUMS
        assert files_below(home) == []


def test_nothing_is_written_below_a_read_only_installation(installed: Path, home: Path) -> None:
    for path in (installed, *installed.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    before = files_below(installed)
    assert sums(environment(home)) == SUMS
    assert [name for name in files_below(installed) if "__pycache__" not in name] == before
    assert len(entries(home)) == 1
    for path in (installed, *installed.rglob("*")):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)


# ---- nothing is stale ---------------------------------------------------------------------------------------------


def test_any_change_of_any_file_is_seen(installed: Path, home: Path) -> None:
    env, rows = environment(home), installed / "latentkit" / "compiled" / "rows.py"
    assert sums(env) == SUMS
    before = rows.read_text()
    # The loop's own file stays as it is.
    rows.write_text(f"{before}\n\n@formula\ndef total(terms, count):\n    return terms[0] + 3.0\n")
    assert sums(env) == [4.0, 6.0]
    both = entries(home)
    assert len(both) == 2
    rows.write_text(before)
    assert sums(env) == SUMS
    assert entries(home) == both


def test_loops_take_nothing_from_files_that_the_cache_does_not_look_at() -> None:
    for source in Path(jit.__file__).parent.rglob("*"):
        assert source.parent.name in ("compiled", "__pycache__"), "the cache looks at no folder below"
        if source.suffix == ".py":
            for node in ast.walk(ast.parse(source.read_text())):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                ours = [name for name in names if name.startswith("latentkit")]
                assert all(name.startswith("latentkit.compiled") for name in ours), source.name


def test_a_setting_of_numba_compiles_anew(entry: Path, home: Path) -> None:
    assert sums(environment(home, NUMBA_OPT="1")) == SUMS
    assert len(entries(home)) == 2
    assert entry.exists()


def garbled(data: bytes) -> bytes:
    return data[:5000] + bytes([data[5000] ^ 1]) + data[5001:]


@pytest.mark.parametrize("left", [0, 20, 32, -1, None], ids=["empty", "20 bytes", "checksum", "all but one", "garbled"])
def test_a_damaged_entry_is_replaced(entry: Path, home: Path, left: int | None) -> None:
    whole = entry.read_bytes()
    entry.write_bytes(garbled(whole) if left is None else whole[:left])
    assert sums(environment(home)) == SUMS
    assert entry.stat().st_size > 1000
    replaced = entries(home)
    assert sums(environment(home)) == SUMS
    assert entries(home) == replaced


def test_entries_of_older_versions_go_once_nobody_has_used_them_for_months(entry: Path, home: Path) -> None:
    old, recent = home / "latentkit" / "loops-old", home / "latentkit" / "loops-recent"
    for folder in (old, recent):
        folder.mkdir()
        (folder / "loop").touch()
    os.utime(old / "loop", (0, 0))
    entry.unlink()
    sums(environment(home))
    assert not old.exists()
    assert (recent / "loop").exists()


# ---- nothing of others is trusted ---------------------------------------------------------------------------------


class Spy:
    """Says so when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("unpickled",)


@pytest.fixture
def spy(entry: Path) -> Path:
    """An entry of the loop that says so when it is unpickled."""
    data = pickle.dumps(Spy())
    entry.write_bytes(jit._checksum(entry, data) + data)
    return entry


def unpickled(home: Path) -> bool:
    first, *rest = run(*LOOP, env=environment(home)).stdout.split()
    assert [float(word) for word in (rest if first == "unpickled" else (first, *rest))] == SUMS
    return first == "unpickled"


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


OTHERS: dict[str, Callable[[Path], None]] = {
    "writable by its group": lambda path: path.chmod(path.stat().st_mode | 0o020),
    "writable by all": lambda path: path.chmod(path.stat().st_mode | 0o002),
    "a link": link,
    "another's": lambda path: os.chown(path, 12345, 12345),
}


def test_an_entry_of_ones_own_is_loaded(spy: Path, home: Path) -> None:
    assert unpickled(home)
    assert spy.stat().st_size > 1000, "it was no code, and so should have been replaced"
    assert not unpickled(home)


@pytest.mark.parametrize("others", OTHERS)
def test_an_entry_that_others_could_have_written_is_not_loaded(spy: Path, home: Path, others: str) -> None:
    if others == "another's" and os.getuid():
        pytest.skip("only root gives files away")
    OTHERS[others](spy)
    assert not unpickled(home)


@pytest.mark.parametrize("others", OTHERS)
def test_a_folder_that_others_could_have_written_to_is_neither_read_nor_written(
    spy: Path, home: Path, others: str
) -> None:
    if others == "another's" and os.getuid():
        pytest.skip("only root gives files away")
    OTHERS[others](spy.parent)
    before = spy.read_bytes()
    assert not unpickled(home)
    assert spy.read_bytes() == before


def test_an_entry_under_another_name_is_none(spy: Path, home: Path) -> None:
    data = spy.read_bytes()
    spy.write_bytes(jit._checksum(spy.with_name("other"), data[32:]) + data[32:])
    assert not unpickled(home)


RESIDENT = """
import re
maps = re.split(r"^(?=[0-9a-f]+-)", open("/proc/self/smaps").read(), flags=re.M)
print(sum(int(re.search(r"Rss: +(\\d+)", one)[1]) for one in maps if " r-xp " in one and "libllvmlite" in one))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere it stays")
def test_the_code_of_the_compiler_is_given_back(home: Path) -> None:
    compiling, loading = (int(run("-c", LOOP[1] + RESIDENT, env=environment(home)).stdout.split()[-1]) for _ in "ab")
    assert loading < 4096 < compiling
