"""kl and stats beside their peers, in one run: ``python tests/benchmarks/commands.py [FOLDER] [--rounds N] …``.

Every figure is a whole process less its imports, or what it takes after them ("in process"): the median of several
rounds in which each takes its turn. The floor is the sum of reading a file's bytes, casting every element and ``exp``
over half of them, each alone on all cores. FOLDER (default: a temporary one) gets up to 6 GiB of inputs, which are
removed; a memory file system keeps the disk out of it. Prints Markdown; what is under way goes to stderr.
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
from latentkit.measures.formulas import Arithmetic
from latentkit.run import kl_values
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
---
for _ in kl_values(find_posteriors([sys.argv[1]], Selection()).spans, Arithmetic(), workers=WORKERS):
    pass
"""

LIBRARY_STATS = """
import sys
from latentkit.stats.counting import statistics_of
from latentkit.health.outliers import SampleValues
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
---
spans = find_posteriors([sys.argv[1]], Selection()).spans
statistics_of(spans, (-30.0, 20.0), per_sample=SampleValues(), workers=WORKERS).summary()
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


def process(script: str, *arguments: str) -> Took:
    imports, _, work = script.partition("---\n")
    code = (
        f"import re, time\n{imports}\n_begun = time.perf_counter()\n{work}\n_took = time.perf_counter() - _begun\n"
        # Not ru_maxrss, which would begin with the parent's.
        'print(_took, re.search(r"VmHWM:\\s*(\\d+)", open("/proc/self/status").read())[1])'
    )
    start = time.perf_counter()
    run = subprocess.run([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    whole = time.perf_counter() - start
    seconds, kib = run.stdout.split()[-2:]
    return Took(whole, float(seconds), float(kib) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    parser.add_argument("--parts", nargs="*", default=["files", "scaling", "small", "start"])
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        folder = Path(temporary)
        print(f"{machine()}\n")
        if "files" in given.parts:
            for name in given.dtypes:
                compare(name, folder, given.rounds)
        if "scaling" in given.parts:
            scaling(folder, given.rounds)
        if "small" in given.parts:
            small_files(folder, given.rounds)
        if "start" in given.parts:
            start_up(given.rounds)


def make_input(folder: Path, name: str, size: int, files: int = 1) -> Path:
    """Moments of ``size`` bytes in all: mean ~ N(0, 1), log-variance ~ N(-6, 1.5²); a folder of several ``files``."""
    dtype = DTYPES[name]
    samples = size // (8192 * dtype.itemsize) // files
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


def command(name: str, path: Path, output: Path, *more: str) -> Took:
    return process(COMMAND, name, str(path), "-q", "--overwrite", "-o", str(output), *more)


def compare(name: str, folder: Path, rounds: int) -> None:
    """``kl`` and ``stats`` of 1 GiB beside every peer, and the floor."""
    path, shards = make_input(folder, name, GIB), make_input(folder, name, GIB, files=64)
    kl, stats = folder / "kl.csv", folder / "stats.json"
    ways: dict[str, Callable[[], Took]] = {
        "kl": lambda: command("kl", path, kl),
        "kl, 64 shards": lambda: command("kl", shards, kl),
        "kl, usual script": lambda: process(USUAL_KL, str(path)),
        "kl, careful script": lambda: process(CAREFUL_KL, str(path)),
        "kl, torch.distributions": lambda: process(TORCH_KL, str(path)),
        "kl, library": lambda: process(LIBRARY_KL.replace("WORKERS", "None"), str(path)),
        "kl, library, one worker": lambda: process(LIBRARY_KL.replace("WORKERS", "1"), str(path)),
        "stats": lambda: command("stats", path, stats),
        "stats, torch in one go": lambda: process(TORCH_STATS, str(path)),
        "stats, library": lambda: process(LIBRARY_STATS.replace("WORKERS", "None"), str(path)),
        "stats, library, one worker": lambda: process(LIBRARY_STATS.replace("WORKERS", "1"), str(path)),
    }
    floors, bases = [], []
    took: dict[str, list[Took]] = {way: [] for way in ways}
    for _ in range(rounds):
        floors.append(floor(path, DTYPES[name]))
        bases.append(process("import torch\n---\n"))
        for way, run in ways.items():
            if not took[way] or took[way][0].work < SLOW:
                took[way].append(run())
                print(f"{way}: {took[way][-1].work:.2f} s", file=sys.stderr)
    show(name, took, floors, bases)
    shutil.rmtree(path.parent)
    shutil.rmtree(shards)


def show(name: str, took: dict[str, list[Took]], floors: list[float], bases: list[Took]) -> None:
    """A row a way: the commands as whole processes less ``import torch``, the others after their imports."""
    base, least = statistics.median(each.whole for each in bases), statistics.median(floors)
    resident = statistics.median(each.peak for each in bases)
    seconds = {
        way: [each.whole - base if way in _WHOLE else each.work for each in values] for way, values in took.items()
    }
    middle = {way: statistics.median(values) for way, values in seconds.items()}
    print(f"**{name}**, 1 GiB: floor {least:.3f} s, `import torch` {base:.2f} s, {resident:.0f} MiB\n")
    print("| what | s | spread | of the floor | of the command's | peak over `import torch`, MiB |")
    print("| --- | ---: | --- | ---: | ---: | ---: |")
    for way, values in seconds.items():
        ours = middle[way.partition(",")[0]]
        more = max(each.peak for each in took[way]) - resident
        print(
            f"| {way} | {middle[way]:.2f} | {min(values):.2f} to {max(values):.2f} | {middle[way] / least:.1f} "
            f"| {middle[way] / ours:.1f} | {more:.0f} |"
        )
    print(flush=True)


_WHOLE = ("kl", "kl, 64 shards", "stats")


def scaling(folder: Path, rounds: int) -> None:
    """4 GiB against 1 GiB."""
    small, large = (make_input(folder, "float16", size) for size in (GIB, 4 * GIB))
    for name, script, suffix in (("kl", LIBRARY_KL, "csv"), ("stats", LIBRARY_STATS, "json")):
        library = script.replace("WORKERS", "None")
        work: dict[Path, list[float]] = {small: [], large: []}
        for _ in range(rounds):
            for path, values in work.items():
                values.append(process(library, str(path)).work)
        base = process("import torch\n---\n")
        one, four = (statistics.median(values) for values in work.values())
        peaks = [command(name, path, folder / f"out.{suffix}").peak - base.peak for path in (small, large)]
        print(
            f"{name} of 4 GiB takes {four / one:.2f} times as long as of 1 GiB ({four:.2f} and {one:.2f} s after "
            f"imports); the commands peak {peaks[1]:.0f} and {peaks[0]:.0f} MiB over `import torch`.\n",
            flush=True,
        )
    shutil.rmtree(large.parent)
    shutil.rmtree(small.parent)


def small_files(folder: Path, rounds: int) -> None:
    """Files of one sample each, and of 64, against a loop that opens and reads them."""
    print("| files | loop, s | kl | stats |\n| --- | ---: | ---: | ---: |")
    for count, samples in ((10_000, 1), (1_000, 64)):
        small = folder / f"small-{count}"
        small.mkdir()
        for number in range(count):
            save_file({"moments": torch.randn(samples, *SAMPLE).half()}, small / f"{number:05}.safetensors")
        if samples == 1:
            for path in small.iterdir():
                save_file({"moments": torch.randn(SAMPLE).half()}, path)
        layout = ("--layout", "chw") if samples == 1 else ()
        loops: list[float] = []
        ratios: dict[str, list[float]] = {"kl": [], "stats": []}
        for _ in range(rounds):
            base, loop = process("import torch\n---\n"), process(LOOP, str(small))
            loops.append(loop.work)
            for name, output in (("kl", "kl.csv"), ("stats", "stats.json")):
                one = command(name, small, folder / output, *layout)
                ratios[name].append((one.whole - base.whole) / loop.work)
        figures = [f"{statistics.median(values):.2f} times" for values in ratios.values()]
        print(f"| {count:,} of {samples} | {statistics.median(loops):.2f} | {figures[0]} | {figures[1]} |", flush=True)
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
        "import torch": [sys.executable, "-c", "import torch"],
        "kl of one tiny file": [*ours, "kl", tiny],
        "stats of one tiny file": [*ours, "stats", tiny],
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


def floor(path: Path, dtype: torch.dtype) -> float:
    """Seconds to read, cast and exponentiate a file's elements, each alone, on all cores."""
    elements = path.stat().st_size // dtype.itemsize
    casts = 0 if dtype == torch.float32 else elements // CHUNK
    stored, wide = torch.ones(CHUNK, dtype=dtype), torch.randn(CHUNK)
    return (
        _on_all_cores(lambda part, parts: _read(path, part, parts))
        + _on_all_cores(lambda _, parts: _repeat(lambda own: own.copy_(stored), casts // parts))
        + _on_all_cores(lambda _, parts: _repeat(lambda own: torch.exp(wide, out=own), elements // 2 // CHUNK // parts))
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


def _on_all_cores(work: Callable[[int, int], None]) -> float:
    parts = os.cpu_count() or 1
    return on_threads(parts, lambda part: work(part, parts))


if __name__ == "__main__":
    main()
