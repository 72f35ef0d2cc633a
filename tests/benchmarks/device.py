"""KL on a device beside KL on the host and the floor of a device, in one run.

Run: python tests/benchmarks/device.py FILE [--device cuda]

The floor is reading the file's bytes into page-locked memory, block by block, and copying each to the device: nothing
that computes there can take less.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import torch
from machine import machine

from latentkit.measures.kl import kl_values
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors

BLOCK = 8 << 20  # bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int)
    given = parser.parse_args()
    on_cuda = given.device.startswith("cuda")
    print(f"{machine()}; {torch.cuda.get_device_name(given.device) if on_cuda else given.device}\n")
    staged = torch.empty(BLOCK, dtype=torch.uint8, pin_memory=on_cuda)
    there = torch.empty(BLOCK, dtype=torch.uint8, device=given.device)

    def kl(device: str) -> None:
        spans = find_posteriors([given.file], Selection()).spans
        for _ in kl_values(spans, workers=given.workers, device=device):
            pass

    def floor() -> None:
        with open(given.file, "rb", buffering=0) as file:
            while file.readinto(staged.numpy()):
                there.copy_(staged)

    ways: dict[str, Callable[[], None]] = {
        "host": lambda: kl("cpu"),
        given.device: lambda: kl(given.device),
        "read, copy to the device": floor,
    }
    for work in ways.values():
        work()  # what is loaded and compiled at first is left out
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(given.rounds):
        for name, work in ways.items():
            times[name].append(seconds(work))
    size, least = os.path.getsize(given.file), statistics.median(times["read, copy to the device"])
    print("| way | GB/s | spread | floors |\n| --- | ---: | --- | ---: |")
    for name, values in times.items():
        middle, low, high = statistics.median(values), min(values), max(values)
        rates = f"{size / middle / 1e9:.2f} | {size / high / 1e9:.2f} to {size / low / 1e9:.2f}"
        print(f"| {name} | {rates} | {middle / least:.2f} |")


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
