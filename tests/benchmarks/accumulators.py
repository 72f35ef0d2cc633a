"""``Statistics`` next to the floor of DESIGN §7 (read + cast + exp), in seconds per GiB, by dtype and threads.

Run: python tests/benchmarks/accumulators.py [--mib 256] [--channels 4] [--inner 1024] [--tokens]
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from machine import on_threads
from torch import Tensor

from latentkit.stats.accumulate import Statistics
from latentkit.stats.extrema import Origin

DTYPES = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "float64": torch.float64,
    "float8_e4m3fn": torch.float8_e4m3fn,
}
BLOCK = 1 << 18  # elements, mean and scale together


def make_file(path: Path, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
    """Moments as in figures.md: mean ~ N(0, 1), logvar ~ N(-6, 1.5²); shape (samples, outer, channels, inner)."""
    channels = shape[2] // 2
    with path.open("wb") as file:
        for start in range(0, shape[0], 64):
            block = torch.randn(min(64, shape[0] - start), *shape[1:])
            block[:, :, channels:].mul_(1.5).sub_(6)
            file.write(block.to(dtype).view(torch.uint8).numpy().tobytes())


def blocks(path: Path, size: int, total: int, number: int, count: int, use: Callable[[int, Tensor], None]) -> None:
    """Read every ``count``-th block of ``size`` bytes into a buffer used again."""
    buffer = torch.empty(size, dtype=torch.uint8)
    view = buffer.numpy().data
    descriptor = os.open(path, os.O_RDONLY)
    for offset in range(number * size, total, count * size):
        got = os.preadv(descriptor, [view[: min(size, total - offset)]], offset)
        use(offset, buffer[:got])
    os.close(descriptor)


def statistics_time(path: Path, shape: tuple[int, int, int, int], dtype: torch.dtype, threads: int) -> float:
    _, outer, channels, inner = shape
    sample = outer * channels * inner * dtype.itemsize
    size = max(1, BLOCK * dtype.itemsize // sample) * sample
    parts = [Statistics(channels // 2) for _ in range(threads)]

    def work(number: int) -> None:
        def use(offset: int, data: Tensor) -> None:
            block = data.view(dtype).view(-1, outer, channels, inner)
            mean, raw = block[:, :, : channels // 2], block[:, :, channels // 2 :]
            parts[number].update(mean, raw, Origin("file", "moments", offset // sample))

        blocks(path, size, shape[0] * sample, number, threads, use)

    start = time.perf_counter()
    on_threads(threads, work)
    for part in parts[1:]:
        parts[0].merge(part)
    assert parts[0].summary().samples == shape[0]
    return time.perf_counter() - start


def floor_time(path: Path, total: int, dtype: torch.dtype, threads: int) -> float:
    """Reading, casting every element to float32, and exp of half of them, each measured alone."""
    elements = 1 << 18
    stored = [torch.zeros(elements, dtype=torch.uint8).repeat(dtype.itemsize).view(dtype) for _ in range(threads)]
    single = [torch.zeros(elements) for _ in range(threads)]
    results = [torch.zeros(elements) for _ in range(threads)]
    repeats = total // dtype.itemsize // elements // threads

    def cast(number: int) -> None:
        for _ in range(repeats):
            single[number].copy_(stored[number])

    def exp(number: int) -> None:
        for _ in range(repeats // 2):
            torch.exp(single[number], out=results[number])

    read = on_threads(threads, lambda number: blocks(path, 1 << 20, total, number, threads, lambda _, __: None))
    cast_time = on_threads(threads, cast) if dtype.itemsize < 4 else 0.0
    return read + cast_time + on_threads(threads, exp)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=256)
    parser.add_argument("--channels", type=int, default=4)
    parser.add_argument("--inner", type=int, default=1024)
    parser.add_argument("--tokens", action="store_true", help="channels last, as (samples, 1024, channels, 1)")
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    arguments = parser.parse_args()
    print("seconds per GiB: dtype, threads, statistics, floor, ratio")
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.dtypes:
            dtype, path = DTYPES[name], Path(folder) / name
            outer, inner = (arguments.inner, 1) if arguments.tokens else (1, arguments.inner)
            sample = outer * 2 * arguments.channels * inner * dtype.itemsize
            shape = ((arguments.mib << 20) // sample, outer, 2 * arguments.channels, inner)
            make_file(path, shape, dtype)
            total, per_gib = shape[0] * sample, 2**30 / (shape[0] * sample)
            for threads in (1, 2):
                runs = [
                    (statistics_time(path, shape, dtype, threads), floor_time(path, total, dtype, threads))
                    for _ in range(4)
                ]
                ours, floor = (min(times) * per_gib for times in zip(*runs, strict=True))
                print(f"{name:14} {threads} {ours:6.2f} {floor:6.3f} {ours / floor:5.1f}x")
            path.unlink()


if __name__ == "__main__":
    main()
