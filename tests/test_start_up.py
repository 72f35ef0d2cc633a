"""What answers without arithmetic loads neither torch nor Numba, and so answers at once; errors seen early come early.

And what computes on the CPU loads no torch.
"""

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import moments_of
from safetensors.torch import save_file

# Each command line in turn, in one process: what it came to, and which heavy modules were loaded by then.
SCRIPT = """
import contextlib, io, json, os, sys
from latentkit.cli.main import main
HEAVY = {"torch", "numba", "numpy", "pyarrow", "matplotlib"}
results = []
for arguments in json.load(sys.stdin):
    sys.argv = ["latentkit", *arguments]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            main()
        except SystemExit as exit:
            results.append([exit.code, sorted(HEAVY & set(sys.modules))])
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

#: What computes on the CPU, each with the heavy modules that it takes.
COMPUTING = [
    (("kl", "a.safetensors", "-o", "kl.csv"), ["numba", "numpy"]),
    (("kl", "single.safetensors", "-o", "single.csv"), ["numba", "numpy"]),
    (("kl", "a.safetensors", "--against", "single.safetensors", "-o", "against.csv"), ["numba", "numpy"]),
    (("kl", "a.safetensors", "-o", "kl.parquet"), ["numba", "numpy", "pyarrow"]),
    (("nll", "a.safetensors", "--latents", "latents.safetensors", "-o", "nll.csv"), ["numba", "numpy"]),
    (("stats", "a.safetensors", "-o", "stats.json"), ["numba", "numpy"]),
    (("stats", "single.safetensors", "--with", "shape", "-o", "shape.json"), ["numba", "numpy"]),
    (("report", "a.safetensors", "-o", "page.html"), ["matplotlib", "numba", "numpy"]),
    (("sample", "a.safetensors", "-o", "drawn"), ["numba", "numpy"]),
    (("sample", "single.safetensors", "--mode", "-o", "modes"), ["numba", "numpy"]),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("start_up")
    moments = moments_of()
    save_file({"moments": moments.half(), "labels": torch.arange(5)}, folder / "a.safetensors")
    save_file({"moments": moments}, folder / "single.safetensors")
    save_file({"latents": moments.chunk(2, dim=1)[0].contiguous()}, folder / "latents.safetensors")
    save_file({"moments": torch.zeros(2, 3)}, folder / "odd.safetensors")
    save_file({"moments": moments_of(2, 3)}, folder / "wide.safetensors")
    (folder / "damaged.safetensors").write_bytes(b"nothing")
    (folder / "old.csv").touch()
    return folder


def outcomes_of(commands: list[tuple[str, ...]], folder: Path) -> Outcomes:
    """For each command line, its exit status and the heavy modules that were loaded after it."""
    process = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        cwd=folder,
        input=json.dumps(commands).encode(),
        stdout=subprocess.PIPE,
        check=True,
    )
    results = json.loads(process.stdout)
    return {arguments: (status, modules) for arguments, (status, modules) in zip(commands, results, strict=True)}


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> Outcomes:
    return outcomes_of([*LIGHT, *(arguments for arguments, _ in HEADERS_ONLY)], folder)


@pytest.mark.parametrize("arguments", LIGHT)
def test_help_and_version_load_nothing_heavy(outcomes: Outcomes, arguments: tuple[str, ...]) -> None:
    assert outcomes[arguments] == (0, [])


@pytest.mark.parametrize(("arguments", "status"), HEADERS_ONLY)
def test_info_and_errors_seen_in_arguments_and_headers_load_neither_torch_nor_numba(
    outcomes: Outcomes, arguments: tuple[str, ...], status: int
) -> None:
    assert outcomes[arguments][0] == status
    assert not {"torch", "numba"} & set(outcomes[arguments][1])


@pytest.mark.parametrize(("arguments", "modules"), COMPUTING)
def test_what_computes_on_the_cpu_loads_no_torch(folder: Path, arguments: tuple[str, ...], modules: list[str]) -> None:
    assert outcomes_of([arguments], folder) == {arguments: (0, modules)}


def run(code: str, **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | environment, capture_output=True, text=True, check=True
    )
    return process.stdout


def test_completion_loads_nothing_heavy() -> None:
    code = """
import sys
sys.argv = ["latentkit"]
from latentkit.cli.main import main
try:
    main()
finally:
    assert not {"torch", "numba", "numpy"} & set(sys.modules)
"""
    environment = {"_LATENTKIT_COMPLETE": "complete_bash", "COMP_WORDS": "latentkit st", "COMP_CWORD": "1"}
    assert run(code, **environment).split() == ["stats"]


def test_importing_the_package_loads_neither_torch_nor_numba() -> None:
    code = "import latentkit, sys; dir(latentkit); latentkit.__version__; print({'torch', 'numba'} & set(sys.modules))"
    assert run(code) == "set()\n"


def test_rooms_import_only_those_above_them() -> None:
    package = Path(__file__).parents[1] / "latentkit"
    rows = re.findall(r"(?m)^\| (`.*?`) \|", (package / "guide" / "architecture.md").read_text())
    rooms = [name.removesuffix(".py").rstrip("/") for row in rows for name in re.findall("`(.*?)`", row)]
    for path in package.rglob("*.py"):
        room = path.relative_to(package).parts[0].removesuffix(".py")
        above = rooms[: rooms.index(room) + 1] if room in rooms else []
        for node in ast.walk(ast.parse(path.read_text())):
            if room not in ("__init__", "__main__") and isinstance(node, ast.ImportFrom):
                module = (node.module or "").split(".")
                target = module[1] if module[0] == "latentkit" and len(module) > 1 else None
                assert target is None or target in above or target not in rooms, f"{path}: {node.module}"
