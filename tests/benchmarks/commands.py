"""Whole commands beside their peers, in one run: ``python tests/benchmarks/commands.py [FOLDER] [--rounds N]``.

Every figure is a whole process less its imports, the median of several rounds in which each peer runs in turn. The
floor is the sum of reading a file's bytes, casting every element and ``exp`` over half of them, each alone on all
cores. FOLDER (default: a temporary one) gets about 4 GiB of inputs; a memory file system keeps the disk out of it.
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import save_file

GIB = 1 << 30
DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}
SAMPLE = (8, 32, 32)
CHUNK = 1 << 18

USUAL_KL = """
import sys, torch
from safetensors.torch import load_file
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
moments = load_file(sys.argv[1])["moments"]
print(DiagonalGaussianDistribution(moments).kl().float().mean())
"""

CAREFUL_KL = """
import sys, torch
from safetensors import safe_open
total = []
with safe_open(sys.argv[1], "pt") as file:
    moments = file.get_slice("moments")
    for start in range(0, moments.get_shape()[0], 512):
        mean, logvar = moments[start : start + 512].float().chunk(2, dim=1)
        logvar = logvar.clamp(-30, 20)
        total.append(0.5 * (mean.square_() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)))
print(torch.cat(total).mean())
"""

TORCH_KL = """
import sys, torch
from torch.distributions import Normal, kl_divergence
from safetensors.torch import load_file
mean, logvar = load_file(sys.argv[1])["moments"].float().chunk(2, dim=1)
posterior = Normal(mean, torch.exp(0.5 * logvar.clamp(-30, 20)))
prior = Normal(torch.zeros(()), torch.ones(()))
print(kl_divergence(posterior, prior).sum(dim=(1, 2, 3)).mean())
"""

USUAL_STATS = """
import sys, torch
from safetensors.torch import load_file
mean, logvar = load_file(sys.argv[1])["moments"].float().chunk(2, dim=1)
for part in (mean, logvar):
    rows = part.transpose(0, 1).flatten(1)
    rows.mean(1), rows.std(1), rows.amin(1), rows.amax(1), rows.isnan().sum(1)
    [torch.sort(row)[0][[int(q * (len(row) - 1)) for q in (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)]] for row in rows]
(logvar < -30).sum(), (logvar > 20).sum(), (logvar == -30).sum(), (logvar == 20).sum()
clamped = logvar.clamp(-30, 20)
print((0.5 * (mean * mean + clamped.exp() - 1 - clamped)).mean(dim=(0, 2, 3)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtypes", nargs="*", default=list(DTYPES))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        print(f"{processor()}, {os.cpu_count()} cores, torch {torch.__version__}, Python {platform.python_version()}\n")
        for name in arguments.dtypes:
            compare(name, make_input(folder, name, GIB), folder, arguments.rounds)
        scaling(folder, arguments.rounds)
        many_files(folder, arguments.rounds)
        start_up(arguments.rounds)


def make_input(folder: Path, name: str, size: int) -> Path:
    """Moments of ``size`` bytes: mean ~ N(0, 1), log-variance ~ N(-6, 1.5²)."""
    path = folder / f"{name}-{size >> 20}.safetensors"
    if not path.exists():
        dtype = DTYPES[name]
        moments = torch.empty(size // (8192 * dtype.itemsize), *SAMPLE, dtype=dtype)
        for part in moments.split(4096):
            noise = torch.randn(part.shape)
            noise[:, 4:] = noise[:, 4:] * 1.5 - 6
            part.copy_(noise)
        save_file({"moments": moments}, path)
    return path


def compare(name: str, path: Path, folder: Path, rounds: int) -> None:
    """``kl`` and ``stats`` of one file beside every peer, and the floor."""
    python, latentkit = [sys.executable, "-c"], [sys.executable, "-m", "latentkit"]
    kl, stats = str(folder / "kl.csv"), str(folder / "stats.json")
    imports = {
        "torch": [*python, "import torch"],
        "diffusers": [*python, "import torch; from diffusers.models.autoencoders import vae"],
    }
    commands = {
        "kl": [*latentkit, "kl", str(path), "-q", "--overwrite", "-o", kl],
        "kl, one worker": [*latentkit, "kl", str(path), "-q", "--overwrite", "-o", kl, "--workers", "1"],
        "kl, usual script": [*python, USUAL_KL, str(path)],
        "kl, careful script": [*python, CAREFUL_KL, str(path)],
        "kl, torch.distributions": [*python, TORCH_KL, str(path)],
        "stats": [*latentkit, "stats", str(path), "-q", "--overwrite", "-o", stats],
        "stats, by torch in one go": [*python, USUAL_STATS, str(path)],
    }
    seconds: dict[str, list[float]] = {key: [] for key in ("floor", *imports, *commands)}
    peak: dict[str, int] = {}
    for _ in range(rounds):
        seconds["floor"].append(floor(path, DTYPES[name]))
        for key, command in (imports | commands).items():
            wall, peak[key] = run(command)
            seconds[key].append(wall)
            print(f"{key}: {wall:.2f} s", file=sys.stderr)
    base = {key: statistics.median(values) for key, values in seconds.items()}
    print(f"**{name}**, 1 GiB: floor {base['floor']:.3f} s, `import torch` {base['torch']:.2f} s\n")
    print("| what | s, less imports | spread | of the floor | of latentkit's | peak MiB, over `import torch` |")
    print("| --- | --- | --- | --- | --- | --- |")
    for key in commands:
        imported = base["diffusers" if key == "kl, usual script" else "torch"]
        took = [value - imported for value in seconds[key]]
        ours = base[key.partition(",")[0]] - base["torch"]
        median = statistics.median(took)
        spread = f"{min(took):.2f} to {max(took):.2f}"
        more = (peak[key] - peak["torch"]) / 1024
        print(f"| {key} | {median:.2f} | {spread} | {median / base['floor']:.1f} | {median / ours:.1f} | {more:.0f} |")
    print()


def scaling(folder: Path, rounds: int) -> None:
    """4 GiB against 1 GiB."""
    small, large = (make_input(folder, "float16", size) for size in (GIB, 4 * GIB))
    took = {}
    for path in (small, large):
        command = [
            sys.executable,
            "-m",
            "latentkit",
            "kl",
            str(path),
            "-q",
            "--overwrite",
            "-o",
            str(folder / "kl.csv"),
        ]
        took[path] = statistics.median(
            run(command)[0] - run([sys.executable, "-c", "import torch"])[0] for _ in range(rounds)
        )
    large.unlink()
    print(f"4 GiB against 1 GiB, kl: {took[large] / took[small]:.2f} times as long\n")


def many_files(folder: Path, rounds: int) -> None:
    """10,000 files of one sample each, against a loop that opens and reads them."""
    small = folder / "small"
    small.mkdir(exist_ok=True)
    for number in range(10_000):
        if not (path := small / f"{number:05}.safetensors").exists():
            save_file({"moments": torch.randn(SAMPLE).half()}, path)
    loop = (
        "import sys, pathlib; from safetensors import safe_open\n"
        "for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):\n"
        "    with safe_open(path, 'np'): pass\n"
        "    path.read_bytes()"
    )
    bare, nothing, torch_alone = [], [], []
    ours: dict[str, list[float]] = {"kl": [], "stats": []}
    for _ in range(rounds):
        bare.append(run([sys.executable, "-c", loop, str(small)])[0])
        nothing.append(run([sys.executable, "-c", "import pathlib; from safetensors import safe_open"])[0])
        torch_alone.append(run([sys.executable, "-c", "import torch"])[0])
        for command, output in (("kl", "kl.csv"), ("stats", "stats.json")):
            arguments = [command, str(small), "--layout", "chw", "-q", "--overwrite", "-o", str(folder / output)]
            ours[command].append(run([sys.executable, "-m", "latentkit", *arguments])[0])
    base = statistics.median(bare) - statistics.median(nothing)
    for command, values in ours.items():
        took = statistics.median(values) - statistics.median(torch_alone)
        print(f"10,000 small files, {command}: {took:.2f} s, {took / base:.2f} of a bare loop's {base:.2f} s")
    print()


def start_up(rounds: int) -> None:
    """What a command costs before it does anything."""
    empty = (
        "import typer\napp = typer.Typer()\n"
        + "\n".join(f"@app.command()\ndef c{number}() -> None: 'Help.'" for number in range(6))
        + "\napp()"
    )
    commands = {
        "an empty Typer app's --help": [sys.executable, "-c", empty, "--help"],
        "the same, numpy and safe_open": [
            sys.executable,
            "-c",
            "import numpy; from safetensors import safe_open\n" + empty,
            "--help",
        ],
        "--help": [sys.executable, "-m", "latentkit", "--help"],
        "--version": [sys.executable, "-m", "latentkit", "--version"],
        "info": [sys.executable, "-m", "latentkit", "info", "sample_data/healthy-f16.safetensors"],
        "import torch": [sys.executable, "-c", "import torch"],
        "kl of one tiny file": [sys.executable, "-m", "latentkit", "kl", "sample_data/healthy-f16.safetensors"],
        "stats of one tiny file": [sys.executable, "-m", "latentkit", "stats", "sample_data/healthy-f16.safetensors"],
    }
    seconds: dict[str, list[float]] = {key: [] for key in commands}
    for _ in range(2 * rounds):
        for key, command in commands.items():
            seconds[key].append(run(command)[0])
    print("| start | s |\n| --- | --- |")
    for key, values in seconds.items():
        print(f"| {key} | {statistics.median(values):.2f} |")


def run(command: list[str]) -> tuple[float, int]:
    """Wall time in seconds and peak resident memory in KiB of one process."""
    start = time.perf_counter()
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=[
        (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0), (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
    ])  # fmt: skip
    _, status, usage = os.wait4(pid, 0)
    if status:
        raise SystemExit(f"failed with {os.waitstatus_to_exitcode(status)}: {command}")
    return time.perf_counter() - start, usage.ru_maxrss


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
    torch.set_num_threads(1)
    parts = os.cpu_count() or 1
    threads = [threading.Thread(target=work, args=(part, parts)) for part in range(parts)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


if __name__ == "__main__":
    main()
