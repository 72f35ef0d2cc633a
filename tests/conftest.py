"""Fixtures of all tests: the command line run in this process, and small safetensors files."""

import csv
import fcntl
import io
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faults
import pytest
import torch
from hypothesis import settings
from regimes import Worst
from safetensors.torch import save_file
from torch import Tensor

from latentkit.cli.main import main

# A busy machine is no fault of the code.
settings.register_profile("latentkit", deadline=None)
settings.load_profile("latentkit")

REPOSITORY = Path(__file__).parent.parent
SAMPLE_DATA = REPOSITORY / "sample_data"


@contextmanager
def another_run_in(folder: Path) -> Iterator[None]:
    """As if another run were writing there."""
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_SH)
        yield
    finally:
        os.close(held)


DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class Outcome:
    """What a run of the command line came to."""

    status: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, str]]:
        """Standard output read as CSV."""
        return list(csv.DictReader(io.StringIO(self.out)))

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def values(self, column: str) -> list[float]:
        return [float(row[column]) for row in self.rows]

    @property
    def complaint(self) -> str:
        """The one sentence that an error is: nothing on standard output, one line on standard error."""
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("latentkit: ")
        return lines[0]


Cli = Callable[..., Outcome]


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Cli]:
    """Run ``latentkit`` in this process, as its console script does, in the folder ``tmp_path``."""
    monkeypatch.chdir(tmp_path)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object, stdin: bytes = b"") -> Outcome:
        monkeypatch.setattr(sys, "argv", ["latentkit", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capfd.readouterr()
        with pytest.raises(SystemExit) as exit:
            main()
        sys.stdout.flush()
        captured = capfd.readouterr()
        status = exit.value.code
        assert isinstance(status, int)
        return Outcome(status, captured.out, captured.err)

    yield run
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write a safetensors file below ``tmp_path``: ``write("a.safetensors", moments=tensor)``; names go to tensors."""

    def run(name: str, metadata: dict[str, str] | None = None, **tensors: Tensor) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, path, metadata)
        return path

    return run


@pytest.fixture(scope="module")
def worst() -> Iterator[Worst]:
    """Collects the errors of a module's tests, and prints the worst of each cell."""
    collected = Worst()
    yield collected
    print(collected.table())


def moments_of(samples: int = 5, channels: int = 2, *free: int, dtype: str = "F32", seed: int = 0) -> Tensor:
    """Plausible moments, channels second: means about 1, log-variances about -2."""
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, channels, *(free or (3, 4)))
    mean = torch.randn(shape, generator=generator)
    logvar = torch.randn(shape, generator=generator) - 2
    return torch.cat([mean, logvar], dim=1).to(DTYPES[dtype])


def files_below(folder: Path) -> list[str]:
    """Every file, hidden ones too, as relative names."""
    return sorted(
        os.path.relpath(os.path.join(base, name), folder) for base, _, names in os.walk(folder) for name in names
    )


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """With ``-v``: the matrix of faults, where its tests ran."""
    if terminalreporter.verbosity > 0 and faults.ROWS:
        terminalreporter.section("faults")
        terminalreporter.write_line(faults.table())
