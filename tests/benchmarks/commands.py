"""kl and stats beside their peers, in one run: ``python tests/benchmarks/commands.py [FOLDER] [--rounds N] …``.

A command's work is the time of its whole process on a file less that on a file of one sample, so that start and work
are judged apart; in process, a file of one sample comes first; a peer's is what it takes after its imports. Figures are
medians of several rounds in which each takes its turn. The floor is the sum of reading a file's bytes, casting every
element to float32 and ``exp`` over half of them, each alone on all cores. FOLDER (default: a temporary one) gets up to
6 GiB of inputs, which are removed; a memory file system keeps the disk out of it. ``--beside FOLDER`` measures the
latentkit of another checkout in the same run. Prints Markdown; what is under way goes to stderr.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from machine import machine, on_threads
from safetensors.torch import save_file

GIB = 1 << 30
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SAMPLE = (8, 32, 32)
CHUNK = 1 << 18
SLOW = 10.0  # seconds from which once is enough

# Peers: what is imported first, then the work, whose time is printed.
USUAL_KL = """
import sys, torch
from safetensors.torch import load_file
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
---
moments = load_file(sys.argv[1])["moments"]
print(DiagonalGaussianDistribution(moments).kl().float().mean())
"""

CAREFUL_KL = """
import sys, torch
from safetensors import safe_open
---
total = []
with safe_open(sys.argv[1], "pt") as file:
    moments = file.get_slice("moments")
    for start in range(0, moments.get_shape()[0], 512):
        mean, logvar = moments[start : start + 512].float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        total.append(0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)))
print(torch.cat(total).mean())
"""

TORCH_KL = """
import sys, torch
from torch.distributions import Normal, kl_divergence
from safetensors.torch import load_file
---
mean, logvar = load_file(sys.argv[1])["moments"].float().chunk(2, dim=1)
posterior = Normal(mean, torch.exp(0.5 * logvar.clamp(-30, 20)))
prior = Normal(torch.zeros(()), torch.ones(()))
print(kl_divergence(posterior, prior).sum(dim=(1, 2, 3)).mean())
"""

TORCH_STATS = """
import sys, torch
from safetensors.torch import load_file
---
mean, logvar = load_file(sys.argv[1])["moments"].float().chunk(2, dim=1)
for part in (mean, logvar):
    rows = part.transpose(0, 1).flatten(1)
    rows.mean(1), rows.std(1), rows.amin(1), rows.amax(1), rows.isnan().sum(1)
    [torch.sort(row)[0][[int(q * (len(row) - 1)) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)]] for row in rows]
(logvar < -30).sum(), (logvar > 20).sum(), (logvar == -30).sum(), (logvar == 20).sum()
clamped = logvar.clamp(-30, 20)
print((0.5 * (mean * mean + clamped.exp() - 1 - clamped)).mean(dim=(0, 2, 3)))
"""

LIBRARY_KL = """
import sys
from latentkit.measures.kl import kl_values
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors

def work(path):
    for _ in kl_values(find_posteriors([path], Selection()).spans, workers=WORKERS):
        pass

work(sys.argv[2])
---
work(sys.argv[1])
"""

LIBRARY_STATS = """
import sys
from latentkit.stats.accumulate import Statistics
from latentkit.stats.counting import count
from latentkit.stats.sample_values import SampleValues
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors

def work(path):
    spans = find_posteriors([path], Selection()).spans
    statistics = Statistics(spans[0].posterior.axes.channels, "logvar", (-30.0, 20.0))
    for _ in count(spans, statistics, per_sample=SampleValues(), workers=WORKERS):
        pass
    statistics.summary()

work(sys.argv[2])
---
work(sys.argv[1])
"""

COMMAND = """
import sys
---
from latentkit.cli.main import main
try:
    main()
except SystemExit as exit:
    assert not exit.code
"""

LOOP = """
import pathlib, sys
from safetensors import safe_open
---
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    with safe_open(path, "np"):
        pass
    path.read_bytes()
"""


class Took(NamedTuple):
    """Seconds of the whole process and of the work alone, and the peak of resident memory in MiB."""

    whole: float
    work: float
    peak: float


def process(script: str, *arguments: str, package: Path | None = None) -> Took:
    imports, _, work = script.partition("---\n")
    code = (
        f"import re, time\n{imports}\n_begun = time.perf_counter()\n{work}\n_took = time.perf_counter() - _begun\n"
        # Not ru_maxrss, which would begin with the parent's.
        'print(_took, re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])'
    )
    environment = os.environ | ({"PYTHONPATH": str(package)} if package else {})
    start = time.perf_counter()
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        env=environment,
    )
    whole = time.perf_counter() - start
    seconds, kib = run.stdout.split()[-2:]
    return Took(whole, float(seconds), float(kib) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--parts", nargs="*", default=["files", "scaling", "small", "start"])
    parser.add_argument("--beside", type=Path, metavar="FOLDER")
    parser.add_argument("--no-peers", action="store_true", help="latentkit and the floor alone")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        print(f"{machine()}\n")
        if "files" in given.parts:
            for name in given.dtypes:
                compare(name, folder, given.rounds, given.beside, peers=not given.no_peers)
        if "scaling" in given.parts:
            scaling(folder, given.rounds)
        if "small" in given.parts:
            small_files(folder, given.rounds, given.beside)
        if "start" in given.parts:
            start_up(given.rounds)


def make_input(folder: Path, name: str, size: int, files: int = 1) -> Path:
    """Moments of ``size`` bytes in all: mean ~ N(0, 1), log-variance ~ N(-6, 1.5²); a folder of several ``files``."""
    dtype = DTYPES[name]
    samples = max(1, size // (8192 * dtype.itemsize) // files)
    target = folder / f"{name}-{size >> 20}-{files}"
    target.mkdir()
    for number in range(files):
        moments = torch.empty(samples, *SAMPLE, dtype=dtype)
        for part in moments.split(4096):
            noise = torch.randn(part.shape)
            noise[:, 4:] = noise[:, 4:] * 1.5 - 6
            part.copy_(noise)
        save_file({"moments": moments}, target / f"{number:05}.safetensors")
    return target if files > 1 else target / "00000.safetensors"


def command(name: str, path: Path, output: Path, *more: str, package: Path | None = None) -> Took:
    return process(COMMAND, name, str(path), "-q", "--overwrite", "-o", str(output), *more, package=package)


def work_of(name: str, path: Path, one: Path, output: Path, package: Path | None = None) -> Took:
    """A command on a file, its work less that on a file of one sample."""
    took, start = (command(name, each, output, package=package) for each in (path, one))
    return took._replace(work=took.whole - start.whole)


def compare(name: str, folder: Path, rounds: int, beside: Path | None, *, peers: bool) -> None:
    """``kl`` and ``stats`` of 1 GiB beside every peer, and the floor."""
    path, one = make_input(folder, name, GIB), make_input(folder, name, 1)
    kl, stats = folder / "kl.csv", folder / "stats.json"
    ways: dict[str, Callable[[], Took]] = {
        "kl": lambda: work_of("kl", path, one, kl),
        "kl, in process": lambda: process(LIBRARY_KL.replace("WORKERS", "None"), str(path), str(one)),
        "kl, in process, one worker": lambda: process(LIBRARY_KL.replace("WORKERS", "1"), str(path), str(one)),
        "stats": lambda: work_of("stats", path, one, stats),
        "stats, in process": lambda: process(LIBRARY_STATS.replace("WORKERS", "None"), str(path), str(one)),
        "stats, in process, one worker": lambda: process(LIBRARY_STATS.replace("WORKERS", "1"), str(path), str(one)),
    }
    if beside:
        ways |= {
            "kl, beside": lambda: work_of("kl", path, one, kl, beside),
            "stats, beside": lambda: work_of("stats", path, one, stats, beside),
        }
    if peers:
        ways |= {
            "kl, usual script": lambda: process(USUAL_KL, str(path)),
            "kl, careful script": lambda: process(CAREFUL_KL, str(path)),
            "kl, torch.distributions": lambda: process(TORCH_KL, str(path)),
            "stats, torch in one go": lambda: process(TORCH_STATS, str(path)),
        }
    for way in ("kl", "stats"):
        ways[way]()  # what is compiled at first is left out
    floors: dict[int, list[float]] = {1: [], os.cpu_count() or 1: []}
    took: dict[str, list[Took]] = {way: [] for way in ways}
    for _ in range(rounds):
        for threads, values in floors.items():
            values.append(floor(path, DTYPES[name], threads))
        for way, run in ways.items():
            if not took[way] or took[way][0].work < SLOW:
                took[way].append(run())
                print(f"{way}: {took[way][-1].work:.2f} s", file=sys.stderr)
    show(name, took, floors)
    shutil.rmtree(path.parent)
    shutil.rmtree(one.parent)


def show(name: str, took: dict[str, list[Took]], floors: dict[int, list[float]]) -> None:
    """A row per way, and what a second worker is worth, as a part of what it is worth to the floor."""
    single, least = (statistics.median(values) for values in floors.values())
    middle = {way: statistics.median(each.work for each in values) for way, values in took.items()}
    print(f"**{name}**, 1 GiB: floor {least:.3f} s ({single:.3f} s on one core)\n")
    print("| what | s | spread | floors | of the command's | peak, MiB |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for way, values in took.items():
        seconds, ours = [each.work for each in values], middle[way.partition(",")[0]]
        print(
            f"| {way} | {middle[way]:.2f} | {min(seconds):.2f} to {max(seconds):.2f} | {middle[way] / least:.2f} "
            f"| {middle[way] / ours:.1f} | {max(each.peak for each in values):.0f} |"
        )
    worth = (f"{way} {middle[f'{way}, in process, one worker'] / middle[f'{way}, in process']:.2f}" for way in TIMED)
    print(f"\nA second worker: {', '.join(worth)}, floor {single / least:.2f}.\n", flush=True)


TIMED = ("kl", "stats")


def scaling(folder: Path, rounds: int) -> None:
    """4 GiB against 1 GiB."""
    small, large, one = (make_input(folder, "float16", size) for size in (GIB, 4 * GIB, 1))
    for name, suffix in (("kl", "csv"), ("stats", "json")):
        output = folder / f"out.{suffix}"
        took = {path: [work_of(name, path, one, output) for _ in range(rounds)] for path in (small, large)}
        less, more = (statistics.median(each.work for each in values) for values in took.values())
        peaks = [max(each.peak for each in values) for values in took.values()]
        print(
            f"{name} of 4 GiB takes {more / less:.2f} times as long as of 1 GiB ({more:.2f} and {less:.2f} s); peaks "
            f"{peaks[1]:.0f} and {peaks[0]:.0f} MiB.\n",
            flush=True,
        )
    for path in (small, large, one):
        shutil.rmtree(path.parent)


def small_files(folder: Path, rounds: int, beside: Path | None) -> None:
    """Files of one sample each, and of 64, against a loop that opens and reads them."""
    packages = {"": None} | ({", beside": beside} if beside else {})
    headings = [f"{name}{which}" for which in packages for name in TIMED]
    print(f"| files | loop, s | {' | '.join(headings)} |\n| --- | ---: |{' ---: |' * len(headings)}")
    for count, samples in ((10_000, 1), (1_000, 64)):
        small, one = folder / f"small-{count}", folder / f"one-{count}"
        small.mkdir()
        one.mkdir()
        shape = SAMPLE if samples == 1 else (samples, *SAMPLE)
        for number in range(count):
            save_file({"moments": torch.randn(shape).half()}, small / f"{number:05}.safetensors")
        shutil.copy(small / "00000.safetensors", one)
        layout = ("--layout", "chw") if samples == 1 else ()
        loops: list[float] = []
        ratios: dict[str, list[float]] = {heading: [] for heading in headings}
        for _ in range(rounds):
            loops.append(process(LOOP, str(small)).work)
            for which, package in packages.items():
                for name, output in (("kl", "kl.csv"), ("stats", "stats.json")):
                    whole, start = (
                        command(name, path, folder / output, *layout, package=package).whole for path in (small, one)
                    )
                    ratios[f"{name}{which}"].append((whole - start) / loops[-1])
        figures = [f"{statistics.median(values):.2f} times" for values in ratios.values()]
        print(f"| {count:,} of {samples} | {statistics.median(loops):.2f} | {' | '.join(figures)} |", flush=True)
        shutil.rmtree(small)
    print()


def start_up(rounds: int) -> None:
    """What a command costs before it does anything."""
    empty = (
        "import typer\napp = typer.Typer(rich_markup_mode='rich')\n"
        + "\n".join(f"@app.command()\ndef c{number}() -> None: 'Help.'" for number in range(7))
        + "\napp()"
    )
    tiny = "sample_data/healthy-f16.safetensors"
    ours = [sys.executable, "-m", "latentkit"]
    commands = {
        "an empty Typer app's --help": [sys.executable, "-c", empty, "--help"],
        "the same, numpy and safe_open": [
            sys.executable,
            "-c",
            f"import numpy; from safetensors import safe_open\nwith safe_open('{tiny}', 'np'): pass\n{empty}",
            "--help",
        ],
        "--help": [*ours, "--help"],
        "--version": [*ours, "--version"],
        "info": [*ours, "info", tiny],
        "importing numpy, numba, typer, rich, safetensors": [
            sys.executable,
            "-c",
            "import numpy, numba, typer, rich.console, rich.table, safetensors",
        ],
        "kl of one tiny file": [*ours, "kl", tiny],
        "nll of one tiny file": [
            *ours,
            "nll",
            "sample_data/healthy-f32.safetensors",
            "--latents",
            "sample_data/latents.safetensors",
        ],
        "stats of one tiny file": [*ours, "stats", tiny],
        "sample of one tiny file": [*ours, "sample", tiny, "-o", os.devnull],
        "import torch": [sys.executable, "-c", "import torch"],
    }
    seconds: dict[str, list[float]] = {key: [] for key in commands}
    for _ in range(2 * rounds):
        for key, arguments in commands.items():
            start = time.perf_counter()
            subprocess.run(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
            seconds[key].append(time.perf_counter() - start)
    print("| start | s |\n| --- | ---: |")
    for key, values in seconds.items():
        print(f"| {key} | {statistics.median(values):.2f} |")


def floor(path: Path, dtype: torch.dtype, threads: int) -> float:
    """Seconds to read, cast and exponentiate a file's elements, each alone, on so many threads."""
    elements = path.stat().st_size // dtype.itemsize
    casts = 0 if dtype == torch.float32 else elements // CHUNK // threads
    exps = elements // 2 // CHUNK // threads
    stored, wide = torch.ones(CHUNK, dtype=dtype), torch.randn(CHUNK)
    return (
        on_threads(threads, lambda part: _read(path, part, threads))
        + on_threads(threads, lambda _: _repeat(lambda own: own.copy_(stored), casts))
        + on_threads(threads, lambda _: _repeat(lambda own: torch.exp(wide, out=own), exps))
    )


def _read(path: Path, part: int, parts: int) -> None:
    buffer = bytearray(1 << 20)
    with path.open("rb", buffering=0) as file:
        for offset in range(part << 20, path.stat().st_size, parts << 20):
            os.preadv(file.fileno(), [buffer], offset)


def _repeat(work: Callable[[torch.Tensor], object], times: int) -> None:
    own = torch.zeros(CHUNK)
    for _ in range(times):
        work(own)


if __name__ == "__main__":
    main()
