"""Items per second of LatentDataset beside the usual dataset: safe_open, get_slice, diffusers' posterior for each item.

python tests/benchmarks/dataset.py [SAMPLES PER SHARD] [DTYPE]
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from machine import machine
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from latentkit import LatentDataset

SHARDS, BATCH, ROUNDS, FACTOR = 4, 64, 3, 0.18215


class Usual(Dataset[Any]):
    """What people write: files kept open, one slice and one posterior an item, in float32."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths, self._files = paths, {}
        with safe_open(paths[0], "pt") as file:
            self._each = file.get_slice("moments").get_shape()[0]

    def __len__(self) -> int:
        return len(self._paths) * self._each

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        number, row = divmod(index, self._each)
        if number not in self._files:
            self._files[number] = safe_open(self._paths[number], "pt")
        file = self._files[number]
        moments = file.get_slice("moments")[row : row + 1].float()
        return DiagonalGaussianDistribution(moments).sample()[0] * FACTOR, file.get_slice("labels")[row]


def items_a_second(make: Callable[[], DataLoader[Any]], count: int) -> float:
    """The best of some epochs, the start of workers left out."""
    best = 0.0
    loader = make()
    for _ in range(ROUNDS + 1):
        batches = iter(loader)
        next(batches)
        start = time.perf_counter()
        for _ in batches:
            pass
        best = max(best, (count - BATCH) / (time.perf_counter() - start))
    return best


def main() -> None:
    each = int(sys.argv[1]) if len(sys.argv) > 1 else 2048
    dtype = getattr(torch, sys.argv[2] if len(sys.argv) > 2 else "float32")
    torch.set_num_threads(1)
    print(machine())
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.safetensors") for number in range(SHARDS)]
        for path in paths:
            save_file({"moments": torch.randn(each, 8, 32, 32).to(dtype), "labels": torch.arange(each)}, path)
        ours = LatentDataset(folder, columns=["labels"], dtype="float32", scaling_factor=FACTOR)
        count = len(ours)
        for workers in (0, 2):
            how: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "num_workers": workers}
            how |= {"persistent_workers": workers > 0}
            usual = items_a_second(lambda how=how: DataLoader(Usual(paths), **how), count)  # type: ignore[misc]
            mine = items_a_second(lambda how=how: DataLoader(ours, **how), count)  # type: ignore[misc]
            whole = items_a_second(
                lambda how=how: DataLoader(range(count), collate_fn=ours.batch, **how),  # type: ignore[misc, arg-type]
                count,
            )
            print(
                f"{workers} workers: usual {usual:,.0f} items/s, LatentDataset {mine:,.0f} ({mine / usual:.1f}x), "
                f"by batch {whole:,.0f} ({whole / usual:.1f}x)"
            )


if __name__ == "__main__":
    main()
