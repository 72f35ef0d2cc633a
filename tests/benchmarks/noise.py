"""Speed of the noise against torch.randn: both into buffers that stay in cache, several rounds in one run.

python tests/benchmarks/noise.py [MILLIONS OF NORMALS A ROUND]
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from machine import on_threads

from latentkit.compiled import noise
from latentkit.compiled.latents import decode_floats
from latentkit.compiled.scale import LOGVAR
from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.sample.lookup import beyond, exp_table, limits_of, normal_table
from latentkit.sample.streams import stream_key

BLOCK = 1 << 18
ROUNDS = 7
KEY = np.array(stream_key(0, "benchmark\0moments"), np.uint64)


def ours(count: int) -> None:
    out = np.empty(BLOCK, np.float32)
    for position in range(0, count, BLOCK):
        noise.fill_normals(KEY, 0, position, normal_table(), out)


def randn(count: int) -> None:
    out = torch.empty(BLOCK)
    for _ in range(0, count, BLOCK):
        torch.randn(BLOCK, out=out)


def numpys_bits(count: int) -> None:
    philox = np.random.Philox(key=KEY)
    for _ in range(0, count, BLOCK):
        philox.random_raw(BLOCK // 2)


def table(count: int) -> None:
    words = np.random.Philox(key=KEY).random_raw(BLOCK // 2).view(np.uint32)
    out = np.empty(BLOCK, np.float32)
    for _ in range(0, count, BLOCK):
        noise.normals_of(words, normal_table(), out)


def std(count: int) -> None:
    raw = (np.random.default_rng(0).standard_normal(BLOCK) * 1.5 - 6).astype(np.float32)
    means, stds = np.empty((2, BLOCK), np.float32)
    limits = limits_of("logvar", DEFAULT_CLAMP), beyond("logvar", DEFAULT_CLAMP)
    for _ in range(0, count, BLOCK):
        decode_floats(raw, raw, (BLOCK, BLOCK, BLOCK), LOGVAR, *limits, exp_table(), means, stds)


def rate(work: Callable[[int], None], count: int, threads: int) -> float:
    """G elements/s of ``threads`` threads that share the count."""
    return count / on_threads(threads, lambda _: work(count // threads)) / 1e9


def main(count: int) -> None:
    cases: list[tuple[str, Callable[[int], None], int]] = [
        ("torch.randn (one thread, whatever is set)", randn, 1),
        ("noise, one thread", ours, 1),
        ("noise, two threads", ours, 2),
        ("  table step alone, one thread", table, 1),
        ("NumPy's bits alone, one thread", numpys_bits, 1),
        ("σ of float32 log-variance, one thread", std, 1),
    ]
    for _, work, _ in cases:
        work(BLOCK)  # compiles
    rates = [[rate(work, count, threads) for _, work, threads in cases] for _ in range(ROUNDS)]
    print(f"{count / 1e6:.0f} M elements a round, {ROUNDS} rounds, median (range); ratios within each round\n")
    print(f"| {'':42} | G/s | range | against randn |\n| --- | ---: | ---: | ---: |")
    for column, (name, _, _) in enumerate(cases):
        mine = [row[column] for row in rates]
        ratio = np.median([row[column] / row[0] for row in rates])
        print(f"| {name:42} | {np.median(mine):.3f} | {min(mine):.3f}-{max(mine):.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1 << 26)
