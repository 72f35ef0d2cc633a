"""Speed and memory of ``latentkit sample`` against the usual script and against the sum of its parts.

python tests/benchmarks/sample.py FOLDER [--gib 1] [--dtypes F16 BF16 F32] [--rounds 5]

Makes its inputs in FOLDER (and deletes them), page cache warm. In each round, for each dtype, one after the other:

- usual: a script of load_file, diffusers' DiagonalGaussianDistribution, sample, save_file; less its imports;
- parts: reading the input by preadv into 1 MiB, torch.randn alone for as many elements, writing and syncing as many
  bytes, each on its own;
- latentkit: its work is the whole process less the same command on a file of one sample, which is its start.

Ratios are taken within a round; medians are printed, and the largest peak of resident memory. The aim is work within
1.0 of the parts (goal 0.7).
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from machine import machine

from latentkit.compiled import noise
from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.read.blocks import plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.sample.drawing import decode, draw_block
from latentkit.sample.lookup import normal_table
from latentkit.sample.recipe import Recipe

DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
MIB = 1 << 20

# At the end of a process, the peak of its resident memory in KiB. (ru_maxrss would begin with its parent's.)
PEAK = """
import re
print(re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])
"""

USUAL = """
import sys, time
import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from safetensors.torch import load_file, save_file
start = time.perf_counter()
moments = load_file(sys.argv[1])["moments"]
generator = torch.Generator().manual_seed(0)
save_file({"latents": DiagonalGaussianDistribution(moments).sample(generator)}, sys.argv[2])
print(time.perf_counter() - start)
"""

OURS = """
from latentkit.cli.main import main
try:
    main()
except SystemExit as exit:
    assert exit.code == 0
"""


def make_input(path: Path, dtype: str, gib: int) -> None:
    """Mean ~ N(0, 1), log-variance ~ N(-6, 1.5²); 64 MiB of it over and over. One sample for 0 GiB."""
    samples = 64 * MIB // (8 * 1024 * DTYPES[dtype].itemsize) if gib else 1
    moments = torch.randn(samples, 8, 32, 32)
    moments[:, 4:].mul_(1.5).sub_(6)
    data = moments.to(DTYPES[dtype]).view(torch.uint8).numpy().tobytes()
    times = 16 * gib or 1
    shape = [times * samples, 8, 32, 32]
    offsets = [0, times * len(data)]
    header = json.dumps({"moments": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for _ in range(times):
            file.write(data)
        os.fsync(file.fileno())


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def read(path: Path) -> None:
    buffer, offset = bytearray(MIB), 0
    with path.open("rb", buffering=0) as file:
        while count := os.preadv(file.fileno(), [buffer], offset):
            offset += count


def randn(elements: int) -> None:
    out = torch.empty(1 << 18)
    for _ in range(0, elements, len(out)):
        torch.randn(len(out), out=out)


def write(path: Path, nbytes: int) -> None:
    buffer = os.urandom(MIB)
    with path.open("wb", buffering=0) as file:
        for offset in range(0, nbytes, MIB):
            os.pwrite(file.fileno(), buffer, offset)
        os.fsync(file.fileno())


def process(code: str, *arguments: str) -> tuple[float, list[float]]:
    """Seconds that a process took, and the numbers it printed: the last one is its peak in KiB."""
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code + PEAK, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    return time.perf_counter() - start, [float(number) for number in run.stdout.split()]


@contextmanager
def removed(path: Path) -> Iterator[str]:
    path.unlink(missing_ok=True)
    try:
        yield str(path)
    finally:
        path.unlink(missing_ok=True)


def ours(path: Path) -> tuple[float, float]:
    """Seconds and KiB of the command."""
    with removed(path.with_name("ours.safetensors")) as out:
        took, (peak,) = process(OURS, "sample", str(path), "-o", out, "--quiet")
    return took, peak


def round_of(path: Path, small: Path, nbytes: int, elements: int) -> dict[str, float]:
    """One measurement of everything, in seconds and KiB."""
    took = {}
    with removed(path.with_name("usual.safetensors")) as out:
        _, (took["usual"], took["usual KiB"]) = process(USUAL, str(path), out)
    took["read"] = seconds(lambda: read(path))
    took["randn"] = seconds(lambda: randn(elements))
    with removed(path.with_name("parts")) as out:
        took["write"] = seconds(lambda: write(Path(out), nbytes))
    took["start"], _ = ours(small)
    whole, took["ours KiB"] = ours(path)
    took["parts"] = took["read"] + took["randn"] + took["write"]
    took["work"] = whole - took["start"]
    return took


def steps(path: Path, blocks: int = 500) -> dict[str, float]:
    """CPU ns that one thread takes for each step of a latent."""
    plan = list(plan_blocks(find_posteriors([str(path)], Selection()).spans))[:blocks]
    buffers, recipe = Buffers(), Recipe()
    halves = read_block(plan[0], buffers)
    size = halves.dims[0] * 4096
    out, key = np.empty(size, np.float32), np.array([1, 2], np.uint64)
    work: dict[str, Callable[[], object]] = {
        "read": lambda: read_block(plan[0], buffers),
        "mean and σ": lambda: decode(halves, "logvar", DEFAULT_CLAMP, buffers),
        "noise": lambda: noise.fill_normals(key, 0, 0, normal_table(), out),
        "all but the write": lambda: draw_block(plan[0], recipe, lambda *_: None, buffers),
    }
    took = {}
    for name, step in work.items():
        step()  # compiles
        start = time.thread_time()
        for _ in range(100):
            step()
        took[name] = (time.thread_time() - start) / 100 / size * 1e9
    return took


def middle(values: Iterable[float]) -> float:
    return float(np.median(list(values)))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--gib", type=int, nargs="+", default=[1])
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=DTYPES)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    print(f"{machine()}; {options.rounds} rounds, medians (range)\n")
    print(
        "| moments | usual | read + randn + write = parts | start | work | usual / work | work / parts | peak |\n"
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    profile = {}
    for gib in options.gib:
        for dtype in options.dtypes:
            with (
                removed(options.folder / "moments.safetensors") as path,
                removed(options.folder / "one.safetensors") as small,
            ):
                make_input(Path(path), dtype, gib)
                make_input(Path(small), dtype, 0)
                profile[dtype] = steps(Path(path))
                elements = (gib << 30) // (2 * DTYPES[dtype].itemsize)
                ours(Path(small))
                rounds = [round_of(Path(path), Path(small), gib << 29, elements) for _ in range(options.rounds)]
            of = {name: middle(took[name] for took in rounds) for name in rounds[0]}
            faster = middle(took["usual"] / took["work"] for took in rounds)
            over = sorted(took["work"] / took["parts"] for took in rounds)
            peak = max(took["ours KiB"] for took in rounds) / 1024
            print(
                f"| {gib} GiB {dtype} | {of['usual']:.2f} s | {of['read']:.2f} + {of['randn']:.2f} + "
                f"{of['write']:.2f} = {of['parts']:.2f} s | {of['start']:.2f} s | {of['work']:.2f} s | {faster:.1f} | "
                f"{middle(over):.2f} ({over[0]:.2f}-{over[-1]:.2f}) | {peak:.0f} MiB "
                f"(usual: {of['usual KiB'] / 1024:.0f}) |",
                flush=True,
            )
    print("\nCPU ns of one thread for a latent:\n")
    names = list(next(iter(profile.values())))
    print(f"| | {' | '.join(names)} |\n| --- |{' ---: |' * len(names)}")
    for dtype, took in profile.items():
        print(f"| {dtype} | {' | '.join(f'{took[name]:.2f}' for name in names)} |")


if __name__ == "__main__":
    main()
