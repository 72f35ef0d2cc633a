"""Commands and the class on a CUDA device; values are compared in test_cuda.py. Skipped where there is none."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import Cli, moments_of

from latentkit import DiagonalGaussianDistribution

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]

Write = Callable[..., Path]


def test_sample_writes_the_same_bytes(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(40, 4, 8, 8))
    for device in ("cpu", "cuda"):
        assert cli("sample", "a.safetensors", "-o", f"{device}.safetensors", "--device", device).status == 0
    assert (tmp_path / "cpu.safetensors").read_bytes() == (tmp_path / "cuda.safetensors").read_bytes()


def test_the_class_computes_where_its_parameters_are() -> None:
    parameters = moments_of(5, 4, 8, 8, dtype="F16")
    host, device = DiagonalGaussianDistribution(parameters), DiagonalGaussianDistribution(parameters.cuda())
    assert device.kl().device.type == "cuda"
    assert torch.allclose(device.kl().cpu(), host.kl(), rtol=1e-6)
    assert device.sample(torch.Generator().manual_seed(0)).device.type == "cuda"


def test_results_come_in_order_and_memory_stays_bounded(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(3000, 4, 32, 32, dtype="F16"))
    write("b.safetensors", moments=moments_of(2, 4, 700, 700, dtype="F16"))
    host = cli("kl", "a.safetensors", "b.safetensors", "--quiet").rows
    torch.cuda.reset_peak_memory_stats()
    device = cli("kl", "a.safetensors", "b.safetensors", "--quiet", "--device", "cuda", "--workers", "2").rows
    assert [(row["file"], row["index"]) for row in device] == [(row["file"], row["index"]) for row in host]
    # A block of 2^20 elements takes 8 MiB for each of its float64 tensors, and a worker holds some ten of them.
    assert torch.cuda.max_memory_allocated() < 512 << 20
