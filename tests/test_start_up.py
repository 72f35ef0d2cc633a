"""What answers without arithmetic loads no torch, and so answers at once; errors seen early come early."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import moments_of
from safetensors.torch import save_file

# Each command line in turn, in one process: what it came to, and whether torch was loaded by then.
SCRIPT = """
import contextlib, io, json, os, sys
from latentkit.cli.main import main
results = []
for arguments in json.load(sys.stdin):
    sys.argv = ["latentkit", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as exit:
            results.append([exit.code, sorted({"torch", "pyarrow", "numpy", "matplotlib"} & set(sys.modules))])
print(json.dumps(results))
"""

LIGHT = [
    ("--version",), ("--help",), ("kl", "--help"), ("stats", "--help"), ("report", "--help"), ("sample", "--help"),
    ("guide",), ("--show-completion", "bash"),
]  # fmt: skip

HEADERS_ONLY = [
    (("info", "a.safetensors"), 0),
    (("info", "a.safetensors", "--format", "table"), 0),
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
    (("report", "a.safetensors", "-o", "old.csv"), 2),
    (("report", "odd.safetensors", "-o", "page.html"), 1),
    (("nll", "a.safetensors", "--latents", "odd.safetensors"), 2),
    (("sample", "a.safetensors", "-o", "a.safetensors", "--overwrite"), 2),
    (("sample", "a.safetensors", "-o", "old.csv/out"), 2),
    (("sample", "a.safetensors", "wide.safetensors", "-o", "out.safetensors"), 2),
    (("sample", "a.safetensors", "-o", "-", "--draws", "2"), 2),
    (("sample", "damaged.safetensors", "-o", "out"), 1),
    (("sample", "a.safetensors", "-o", "out", "--scaling-factor", "0"), 2),
]


Outcomes = dict[tuple[str, ...], tuple[int, list[str]]]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> Outcomes:
    """For each command line, its exit status and the heavy modules that were loaded after it."""
    folder = tmp_path_factory.mktemp("start_up")
    save_file({"moments": moments_of(), "labels": torch.arange(5)}, folder / "a.safetensors")
    save_file({"moments": torch.zeros(2, 3)}, folder / "odd.safetensors")
    save_file({"moments": moments_of(2, 3)}, folder / "wide.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"nothing")
    (folder / "old.csv").touch()
    commands = [*LIGHT, *(arguments for arguments, _ in HEADERS_ONLY)]
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        input=json.dumps(commands).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    results = json.loads(process.stdout)
    return {arguments: (status, modules) for arguments, (status, modules) in zip(commands, results, strict=True)}


@pytest.mark.parametrize("arguments", LIGHT)
def test_help_and_version_load_neither_torch_nor_numpy(outcomes: Outcomes, arguments: tuple[str, ...]) -> None:
    assert outcomes[arguments] == (0, [])


@pytest.mark.parametrize(("arguments", "status"), HEADERS_ONLY)
def test_info_and_errors_seen_in_arguments_and_headers_load_no_torch(
    outcomes: Outcomes, arguments: tuple[str, ...], status: int
) -> None:
    assert outcomes[arguments][0] == status
    assert "torch" not in outcomes[arguments][1]


def run(code: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return process.stdout


def test_completion_loads_neither_torch_nor_numpy() -> None:
    code = """
import sys
sys.argv = ["latentkit"]
from latentkit.cli.main import main
try:
    main()
finally:
    assert not {"torch", "numpy"} & set(sys.modules)
"""
    environment = {"_LATENTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "latentkit st", "COMP_CWORD": "1"}
    assert run(code, **environment).split() == ["stats"]


def test_importing_the_package_loads_no_torch() -> None:
    run("import latentkit, sys; dir(latentkit); latentkit.__version__; assert 'torch' not in sys.modules")
