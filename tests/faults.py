"""Runs of ``latentkit`` under faults, what they leave in their folder, and the table of them all."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, TypeAlias

ROOT = Path(__file__).parent.parent

#: The matrix: what went wrong, in which run, what should come of it, and what came.
ROWS: list[tuple[str, str, str, str]] = []

#: Relative names of all that is in a folder, each with its bytes' SHA-256, or where a link leads, or what else it is.
Contents: TypeAlias = dict[str, str]


@dataclass(frozen=True)
class Ended:
    """What a run came to; ``fired`` is the call at which the fault came, or empty where it came to none."""

    status: int
    out: str
    err: str
    fired: str

    def __str__(self) -> str:
        return f"{self.status} {self.err or self.out}".strip().replace("\n", " / ")


class Runs:
    """Starts runs in ``folder``, children of one warm process (see ``fault_process.py``)."""

    def __init__(self, process: "subprocess.Popen[str]", folder: Path) -> None:
        self._process = process
        self.folder = folder

    def __call__(
        self,
        *arguments: object,
        stdout: str | None = "",
        stderr: str | None = "",
        meanwhile: Callable[[], object] | None = None,
        **fault: Any,
    ) -> Ended:
        """Run to the end; where the fault stops the process (SIGSTOP), do ``meanwhile``, then let it go on.

        ``stdout`` and ``stderr`` name where they go, None closes them, empty they are returned.
        """
        with tempfile.TemporaryDirectory() as scratch:
            files = [Path(scratch, name) for name in ("out", "err", "fired")]
            for file in files:
                file.touch()
            streams = [os.devnull]
            streams += [str(files[at]) if name == "" else name for at, name in enumerate((stdout, stderr))]  # type: ignore[misc]
            status = self._ask(
                arguments=[str(argument) for argument in arguments],
                folder=str(self.folder),
                streams=streams,
                fired=str(files[2]),
                meanwhile=meanwhile,
                **fault,
            )
            return Ended(status, *(file.read_text(errors="surrogateescape") for file in files))

    def _ask(self, *, meanwhile: Callable[[], object] | None, **request: Any) -> int:
        pid, status = self._exchange(request)
        while status is None:
            assert meanwhile is not None
            meanwhile()
            pid, status = self._exchange({"continue": pid})
        return status

    def _exchange(self, request: dict[str, Any]) -> tuple[int, int | None]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        pid, status = json.loads(self._process.stdout.readline())
        return pid, status


@contextlib.contextmanager
def fault_process() -> Iterator["subprocess.Popen[str]"]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "tests" / "fault_process.py")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def contents(folder: Path) -> Contents:
    """All that is below ``folder``, hidden or not."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            what = f"link to {os.readlink(path)}"
        elif path.is_file():
            what = sha256(path.read_bytes()).hexdigest() if os.access(path, os.R_OK) else "unreadable"
        else:
            what = "folder" if path.is_dir() else "special"
        if what != "folder":
            found[str(path.relative_to(folder))] = what
    return found


def record(fault: str, run: str, expected: str, seen: object) -> None:
    """A row of the matrix; what is expected may be a regular expression."""
    words = re.sub(r"\\S\*|\.\*", "…", expected).replace("\\", "")
    ROWS.append((fault, run, words, re.sub(r"\s+", " ", str(seen))))


def table() -> str:
    """The matrix, a row per fault."""
    limits = (48, 72, 60, 100)
    rows = [[cell.replace("latentkit: ", "") for cell in row] for row in [("fault", "run", "expected", "seen"), *ROWS]]
    rows = [
        [cell if len(cell) <= limit else cell[: limit - 1] + "…" for cell, limit in zip(row, limits, strict=True)]
        for row in rows
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
