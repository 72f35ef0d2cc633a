"""Where there is no TorchScript (from Python 3.14 on), the results are the same, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SAMPLE_DATA

from latentkit import scripted
from latentkit.distributions import exp_remainder
from latentkit.kernels import exact_kl, exact_remainder
from latentkit.parameterization import DEFAULT_CLAMP

COMMANDS = """
import os, sys, torch
from typer.testing import CliRunner
from latentkit import kernels
from latentkit.cli.main import app

data, out = sys.argv[1:]
assert isinstance(kernels.kl_tabulated, torch.jit.ScriptFunction) == (os.environ["PYTORCH_JIT"] == "1")
for name in ("healthy-f16", "healthy-f32", "video"):
    path = f"{data}/{name}.safetensors"
    for command in (
        ["kl", path, "-o", f"{out}/{name}.kl.csv"],
        ["kl", path, "--per-channel", "-o", f"{out}/{name}.channels.csv"],
        ["sample", path, "-o", f"{out}/{name}.safetensors", "--temperature", "0.7", "--scaling-factor", "0.2"],
        ["nll", path, "--latents", f"{out}/{name}.safetensors", "-o", f"{out}/{name}.nll.csv"],
        ["stats", path, "-o", f"{out}/{name}.json"],
    ):
        result = CliRunner().invoke(app, [*command, "--quiet"], catch_exceptions=False)
        assert result.exit_code == 0, result.output
"""


def test_functions_as_they_stand_give_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for jit in ("1", "0"):
        folder = tmp_path / jit
        folder.mkdir()
        command = [sys.executable, "-c", COMMANDS, str(SAMPLE_DATA), str(folder)]
        subprocess.run(command, env=os.environ | {"PYTORCH_JIT": jit}, check=True)
        found.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert len(found[0]) == 15
    assert found[0] == found[1]


def test_python_3_14_and_missing_sources_leave_a_function_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(x: int) -> int:
        return 2 * x

    assert scripted.scripted(double) is not double
    without_source = eval("lambda x: x")
    assert scripted.scripted(without_source) is without_source
    monkeypatch.setattr(scripted.sys, "version_info", (3, 14, 0))
    assert scripted.scripted(double) is double


def test_what_is_scripted_in_float64_has_the_bits_of_the_formula() -> None:
    near = torch.logspace(-300, 3, 5_000, dtype=torch.float64)
    odd = torch.tensor([0.0, -0.0, -1.0, 2.0, torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
    x = torch.cat([near, -near, torch.nextafter(odd, odd + 1), odd])
    got, expected = exact_remainder(x, x.exp()), exp_remainder(x, x.exp())
    assert got.view(torch.int64).equal(expected.view(torch.int64))
    logvar = x.clamp(*DEFAULT_CLAMP)
    mean = x.flip(0)
    terms = 0.5 * mean * mean + 0.5 * exp_remainder(logvar, logvar.exp())
    assert torch.equal(exact_kl(mean, x, DEFAULT_CLAMP).nan_to_num(-1.0), terms.nan_to_num(-1.0))
