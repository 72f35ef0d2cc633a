"""Speed of the noise against torch.randn: both into buffers that stay in cache, several rounds in one run.

python tests/benchmarks/noise.py [MILLIONS OF NORMALS A ROUND]
"""

import sys
from collections.abc import Callable

import numpy as np
import torch
from machine import on_threads

from latentkit.sample import noise

BLOCK = 1 << 20
ROUNDS = 7
KEY = noise.stream_key(0, "benchmark\0moments")


def ours(count: int) -> None:
    out, scratch = torch.empty(BLOCK), noise.Scratch()
    for position in range(0, count, BLOCK):
        noise.fill_normal(out, KEY, 0, position, scratch)


def randn(count: int) -> None:
    out = torch.empty(BLOCK)
    for _ in range(0, count, BLOCK):
        torch.randn(BLOCK, out=out)


def bits(count: int) -> None:
    philox = np.random.Philox(key=np.array(KEY, np.uint64))
    for _ in range(0, count, BLOCK):
        philox.random_raw(BLOCK // 2)


def table(count: int) -> None:
    words, out = noise.random_words(BLOCK, KEY, 0, 0), torch.empty(BLOCK)
    bits, buffers = out.view(torch.int32), noise.Scratch().buffers
    for _ in range(0, count, BLOCK):
        noise.normals(words, *noise.normal_tables(), out, bits, buffers)


def std(count: int) -> None:
    raw, scratch = torch.randn(BLOCK).mul_(1.5).sub_(6), noise.Scratch()
    out = torch.empty_like(raw)
    for _ in range(0, count, BLOCK):
        noise.std_float32(raw, out, scratch=scratch)


def rate(work: Callable[[int], None], count: int, threads: int) -> float:
    """G elements/s of ``threads`` threads that share the count."""
    return count / on_threads(threads, lambda _: work(count // threads)) / 1e9


def main(count: int) -> None:
    cases: list[tuple[str, Callable[[int], None], int]] = [
        ("torch.randn (one thread, whatever is set)", randn, 1),
        ("noise, one thread", ours, 1),
        ("noise, two threads", ours, 2),
        ("  bits alone, one thread", bits, 1),
        ("  bits alone, two threads", bits, 2),
        ("  table step alone, one thread", table, 1),
        ("  table step alone, two threads", table, 2),
        ("σ of float32 log-variance, two threads", std, 2),
    ]
    rates = [[rate(work, count, threads) for _, work, threads in cases] for _ in range(ROUNDS)]
    print(f"{count / 1e6:.0f} M elements a round, {ROUNDS} rounds, median (range); ratios within each round\n")
    print(f"| {'':42} | G/s | range | against randn |\n| --- | ---: | ---: | ---: |")
    for column, (name, _, _) in enumerate(cases):
        mine = [row[column] for row in rates]
        ratio = np.median([row[column] / row[0] for row in rates])
        print(f"| {name:42} | {np.median(mine):.3f} | {min(mine):.3f}-{max(mine):.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main(int(float(sys.argv[1]) * 1e6) if len(sys.argv) > 1 else 1 << 26)
