"""Kills runs with ``--resume`` at random moments, again and again, and compares with one left alone. By hand:

    python tests/soak.py [MINUTES] [SEED]

Each round draws 200 shards, or measures them into a folder of parts: SIGINT, SIGTERM, SIGHUP and SIGKILL come at random
moments until a run ends by itself. Then every file must have the SHA-256 of the undisturbed run, and no other file may
be there.
"""

import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import torch
from safetensors.torch import save_file

SHARDS = 200
COMMAND = [sys.executable, "-X", "faulthandler", "-m", "latentkit"]
SAMPLE = ["sample", "in", "-o", "out/", "--seed", "7", "--carry", "labels"]
FORMS = {
    "mirrored": [*SAMPLE, "--draws", "16"],
    "sharded": [*SAMPLE, "--draws", "16", "--samples-per-shard", "16"],
    "kl": ["kl", "in", "-o", "out/", "--per-channel"],
    "kl against": ["kl", "in", "-o", "out/", "--against", "in", "--symmetric", "--format", "json"],
    "nll": ["nll", "in", "-o", "out/", "--latents", "drawn", "--format", "jsonl"],
}
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL)
#: What a run may come to: done, or ended by a signal (in its last moments by the system's own handler).
ALLOWED = {0, 130, 143, 129, *(-number for number in SIGNALS)}


def digests(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def parts(folder: Path) -> int:
    return len(list(folder.glob(".*.part")))


def round_of(more: list[str], folder: Path, longest: float, seen: Counter[str]) -> None:
    """One output, from nothing to the end, through as many signals as it takes."""
    while True:
        left = parts(folder / "out")
        run = subprocess.Popen([*COMMAND, *more, "--resume"], cwd=folder, stderr=subprocess.PIPE, text=True)
        number = random.choice(SIGNALS)
        # Most work lies after the start: half of the moments are early ones.
        wait = random.uniform(0, longest if random.random() < 0.5 else longest / 3)
        try:
            run.wait(wait)
        except subprocess.TimeoutExpired:
            run.send_signal(number)
        try:
            _, words = run.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGABRT)  # every thread says where it hangs
            raise AssertionError(f"no end after signal {number} at {wait:.3f} s: {run.communicate()[1]}") from None
        seen["runs"] += 1
        seen[f"status {run.returncode}"] += 1
        seen["runs that said what they kept"] += "latentkit: interrupted: " in words
        if "Traceback" in words:
            # Before the run takes signals, Python itself says what stopped it.
            assert "KeyboardInterrupt" in words, words
            assert "cli/main.py" not in words, words
            seen["stopped before the run took signals"] += 1
        else:
            assert run.returncode in ALLOWED, (run.returncode, words)
        if run.returncode != -signal.SIGKILL:
            assert parts(folder / "out") <= left, words
        if run.returncode == 0:
            return


def main(minutes: float, seed: int) -> None:
    random.seed(seed)
    os.nice(19)
    folder = Path(tempfile.mkdtemp(prefix="latentkit-soak-"))
    seen: Counter[str] = Counter()
    try:
        (folder / "in").mkdir()
        for number in range(SHARDS):
            generator = torch.Generator().manual_seed(number)
            moments = torch.randn(20, 8, 32, 32, generator=generator).half()
            save_file({"moments": moments, "labels": torch.arange(20)}, folder / f"in/{number:03}.safetensors")
        subprocess.run([*COMMAND, "sample", "in", "-o", "drawn", "--draws", "8", "--quiet"], cwd=folder, check=True)
        expected, longest = {}, {}
        for form, more in FORMS.items():
            for _ in range(2):  # the first may compile
                shutil.rmtree(folder / "out", ignore_errors=True)
                begun = time.monotonic()
                subprocess.run([*COMMAND, *more, "--quiet"], cwd=folder, check=True)
                longest[form] = time.monotonic() - begun
            expected[form] = digests(folder / "out")
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            form = random.choice(list(FORMS))
            shutil.rmtree(folder / "out")
            round_of(FORMS[form], folder, longest[form], seen)
            assert digests(folder / "out") == expected[form], form
            seen[f"rounds, {form}: the same {len(expected[form])} files"] += 1
    finally:
        shutil.rmtree(folder)
        for name, count in sorted(seen.items()):
            print(f"{count:6,}  {name}")


if __name__ == "__main__":
    main(float((sys.argv[1:2] or ["10"])[0]), int((sys.argv[2:3] or ["0"])[0]))
