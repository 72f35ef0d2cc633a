"""``sample --resume``: an interrupted run, gone on with, leaves byte for byte what one run would have."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from conftest import Cli, another_run_in, files_below, moments_of

Write = Callable[..., Path]


@pytest.fixture
def inputs(write: Write) -> list[str]:
    names = [f"{number}.safetensors" for number in range(10)]
    for number, name in enumerate(names):
        write(f"in/{name}", moments=moments_of(seed=number), labels=torch.arange(5))
    return names


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


SHARDED = ["--samples-per-shard", "7"]


@pytest.mark.parametrize("more", [[], ["--carry", "labels", "--draws", "2"], SHARDED], ids=["plain", "carry", "shards"])
@pytest.mark.parametrize("gone", [slice(0, None), slice(3, None), slice(1, None, 2), slice(0, 0)])
@pytest.mark.usefixtures("inputs")
def test_what_is_missing_is_made(cli: Cli, tmp_path: Path, more: list[str], gone: slice) -> None:
    assert cli("sample", "in", "-o", "out", *more).status == 0
    expected = contents(tmp_path / "out")
    before = {}
    files = [name for name in expected if name.endswith(".safetensors")]
    for name in expected:
        if name in files[gone] or (files[gone] and name not in files):
            (tmp_path / "out" / name).unlink()
        else:
            before[name] = os.stat(tmp_path / "out" / name).st_ino
    outcome = cli("sample", "in", "-o", "out", *more, "--resume")
    assert outcome.status == 0
    complete = len(files) - len(files[gone])
    assert f"latentkit: resume: {complete} of {len(files)} files were complete" in outcome.err.splitlines()
    assert contents(tmp_path / "out") == expected
    assert all(os.stat(tmp_path / "out" / name).st_ino == inode for name, inode in before.items())


DIFFERENT = {
    "seed": (["--seed", "1"], "metadata differs in seed"),
    "mode": (["--mode"], "metadata differs in mode"),
    "draws": (["--draws", "2"], "metadata differs in draws"),
    "temperature": (["--temperature", "0.5"], "metadata differs in temperature"),
    "affine": (["--scaling-factor", "2"], "metadata differs in affine"),
    "clamp": (["--clamp-min", "-20"], "metadata differs in clamp"),
    "stream": (["--limit", "3"], "metadata differs in sources"),
    "dtype": (["--dtype", "float16"], "holds other tensors"),
    "carry": (["--carry", "labels"], "holds other tensors"),
}


@pytest.mark.parametrize("difference", DIFFERENT)
@pytest.mark.usefixtures("inputs")
def test_what_another_recipe_made_is_refused(cli: Cli, tmp_path: Path, difference: str) -> None:
    more, words = DIFFERENT[difference]
    assert cli("sample", "in/0.safetensors", "-o", "out").status == 0
    old = contents(tmp_path / "out")
    outcome = cli("sample", "in/0.safetensors", "-o", "out", "--resume", "--quiet", *more)
    assert outcome.status == 2
    assert words in outcome.complaint
    assert contents(tmp_path / "out") == old
    assert cli("sample", "in/0.safetensors", "-o", "out", "--resume", "--overwrite", *more).status == 0
    assert cli("sample", "in/0.safetensors", "-o", "expected", *more).status == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("kind", ["cut short", "longer", "no safetensors", "older than its input"])
@pytest.mark.usefixtures("inputs")
def test_what_is_no_output_of_this_run_is_refused(cli: Cli, tmp_path: Path, kind: str) -> None:
    assert cli("sample", "in", "-o", "out").status == 0
    path = tmp_path / "out/4.safetensors"
    data = path.read_bytes()
    if kind == "older than its input":
        os.utime(path, (1, 1))
    else:
        path.write_bytes({"cut short": data[:-1], "longer": data + b"0", "no safetensors": b"x" * len(data)}[kind])
    outcome = cli("sample", "in", "-o", "out", "--resume", "--quiet")
    assert outcome.status == 2
    assert outcome.complaint.startswith("latentkit: out/4.safetensors: exists, and ")
    assert cli("sample", "in", "-o", "out", "--resume", "--overwrite").status == 0
    assert path.read_bytes() == data


@pytest.mark.usefixtures("inputs")
def test_an_index_of_another_run_is_refused(cli: Cli, tmp_path: Path) -> None:
    assert cli("sample", "in", "-o", "out", *SHARDED).status == 0
    (index,) = (tmp_path / "out").glob("*.json")
    index.write_text("{}")
    assert "index.json: exists" in cli("sample", "in", "-o", "out", *SHARDED, "--resume", "--quiet").complaint
    assert index.read_text() == "{}"


@pytest.mark.usefixtures("inputs")
def test_a_pipe_cannot_be_resumed(cli: Cli) -> None:
    assert "--resume" in cli("sample", "in/0.safetensors", "-o", "-", "--resume").complaint


PARTS = [".3.safetensors.0123456789abcdef.part", ".x.safetensors.0123456789abcdef.part", ".3.safetensors.part"]


@pytest.mark.parametrize("others", [False, True])
@pytest.mark.usefixtures("inputs")
def test_what_a_killed_run_left_is_removed_unless_another_is_at_work(cli: Cli, tmp_path: Path, others: bool) -> None:
    (tmp_path / "out").mkdir()
    for name in PARTS:
        (tmp_path / "out" / name).touch()
    with another_run_in(tmp_path / "out") if others else nullcontext():
        assert cli("sample", "in", "-o", "out", "--resume").status == 0
    left = [name for name in PARTS if (tmp_path / "out" / name).exists()]
    assert left == (PARTS if others else PARTS[1:])


@pytest.mark.usefixtures("inputs")
def test_two_at_once_on_one_output_leave_it_whole(cli: Cli, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "latentkit", "sample", "in", "-o", "out", "--resume"]
    runs = [
        subprocess.Popen([*command, "--seed", str(seed)], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
        for seed in (1, 1, 2)
    ]
    errors = [run.communicate(timeout=60)[1] for run in runs]
    assert 0 in [run.returncode for run in runs]
    for run, error in zip(runs, errors, strict=True):
        assert run.returncode in (0, 2)
        assert run.returncode == 0 or "out/0.safetensors: " in error.splitlines()[-1]
    wins = 1 if runs[2].returncode else 2
    assert cli("sample", "in", "-o", "expected", "--seed", wins).status == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
