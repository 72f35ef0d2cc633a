"""What answers without arithmetic loads no torch, and so answers at once; errors seen early come early."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import moments_of

Write = Callable[..., Path]

# Runs the command line, then tells on standard error which heavy modules were loaded.
SCRIPT = """
import sys
def tell():
    print("loaded:", *sorted({"torch", "pyarrow", "scipy", "numpy", "rich.progress"} & set(sys.modules)), file=sys.stderr)
sys.argv = ["latentkit", *sys.argv[1:]]
try:
    from latentkit.cli.main import main
    main()
finally:
    tell()
"""


def loaded(*arguments: str, folder: Path, **environment: str) -> tuple[int, list[str]]:
    """The exit status, and the heavy modules that were loaded."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return process.returncode, process.stderr.splitlines()[-1].removeprefix("loaded:").split()


@pytest.mark.parametrize(
    "arguments", [("--version",), ("--help",), ("kl", "--help"), ("stats", "--help"), ("guide",), ("--show-completion", "bash")],
)  # fmt: skip
def test_help_and_version_load_neither_torch_nor_numpy(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    status, modules = loaded(*arguments, folder=tmp_path)
    assert status == 0
    assert not {"torch", "numpy", "pyarrow"} & set(modules)


def test_completion_loads_neither_torch_nor_numpy(tmp_path: Path) -> None:
    environment = {"_LATENTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "latentkit st", "COMP_CWORD": "1"}
    status, modules = loaded(folder=tmp_path, **environment)
    assert status == 0
    assert not {"torch", "numpy", "pyarrow"} & set(modules)


def test_importing_the_package_loads_no_torch(tmp_path: Path) -> None:
    code = "import latentkit, sys; dir(latentkit); latentkit.__version__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=60)


@pytest.mark.parametrize("form", ["json", "table"])
def test_info_loads_no_torch(write: Write, tmp_path: Path, form: str) -> None:
    write("d/a.safetensors", moments=moments_of(), labels=torch.arange(5))
    status, modules = loaded("info", "d", "--format", form, folder=tmp_path)
    assert status == 0
    assert "torch" not in modules


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (("kl", "nosuch"), 2),
        (("kl", "a.safetensors", "--key", "nosuch"), 2),
        (("kl", "a.safetensors", "--layout", "bhw"), 2),
        (("kl", "a.safetensors", "--clamp-min", "30"), 2),
        (("kl", "a.safetensors", "--device", "tpu"), 2),
        (("kl", "a.safetensors", "--colums", "labels"), 2),
        (("kl", "a.safetensors", "--columns", "label"), 2),
        (("kl", "a.safetensors", "-o", "a.safetensors"), 2),
        (("kl", "a.safetensors", "-o", "old.csv"), 2),
        (("kl", "a.safetensors", "--against", "odd.safetensors"), 1),
        (("stats", "odd.safetensors"), 1),
        (("stats", "a.safetensors", "wide.safetensors"), 2),
        (("stats", "a.safetensors", "-o", "old.csv"), 2),
        (("nll", "a.safetensors", "--latents", "odd.safetensors"), 2),
        (("sample", "a.safetensors", "-o", "a.safetensors", "--overwrite"), 2),
        (("sample", "a.safetensors", "-o", "old.csv/out"), 2),
        (("sample", "a.safetensors", "wide.safetensors", "-o", "out.safetensors"), 2),
        (("sample", "a.safetensors", "-o", "-", "--draws", "2"), 2),
        (("sample", "damaged.safetensors", "-o", "out"), 1),
        (("sample", "a.safetensors", "-o", "out", "--scaling-factor", "0"), 2),
    ],
)
def test_errors_seen_in_arguments_and_headers_come_before_torch(
    write: Write, tmp_path: Path, arguments: tuple[str, ...], status: int
) -> None:
    write("a.safetensors", moments=moments_of())
    write("odd.safetensors", moments=torch.zeros(2, 3))
    write("wide.safetensors", moments=moments_of(2, 3))
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    (tmp_path / "old.csv").touch()
    outcome, modules = loaded(*arguments, folder=tmp_path)
    assert outcome == status
    assert "torch" not in modules
