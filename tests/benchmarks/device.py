"""KL on a device beside KL on the host, in one run: ``python tests/benchmarks/device.py FILE [--device cuda]``.

The rate at which page-locked memory is copied to the device bounds what can be won there.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch

from latentkit.measures.formulas import Arithmetic
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.run import kl_values

COPIED = 256 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    size = os.path.getsize(given.file)

    def kl(device: str) -> None:
        spans = find_posteriors([given.file], Selection()).spans
        for _ in kl_values(spans, Arithmetic(device=device), workers=given.workers):
            pass

    on_cuda = given.device.startswith("cuda")
    staged = torch.empty(COPIED, dtype=torch.uint8, pin_memory=on_cuda)
    there = torch.empty(COPIED, dtype=torch.uint8, device=given.device)

    def copy() -> None:
        there.copy_(staged, non_blocking=True)
        if on_cuda:
            torch.cuda.synchronize()

    ways: dict[str, tuple[Callable[[], None], int]] = {
        "host": (lambda: kl("cpu"), size),
        given.device: (lambda: kl(given.device), size),
        "copying alone": (copy, COPIED),
    }
    for work, _ in ways.values():
        work()  # what is loaded and compiled at first is left out
    rates = {name: [nbytes / seconds(work) / 1e9 for _ in range(given.rounds)] for name, (work, nbytes) in ways.items()}
    print("| way | GB/s | spread |\n| --- | ---: | --- |")
    for name, values in rates.items():
        print(f"| {name} | {statistics.median(values):.2f} | {min(values):.2f} to {max(values):.2f} |")


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
