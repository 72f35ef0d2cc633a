"""What every benchmark needs: the machine in words, and work shared among threads."""

import os
import platform
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch


def machine() -> str:
    """The machine and the libraries, for the head of a report."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if os.path.exists("/proc/cpuinfo") else []
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, "
        f"{torch.backends.cpu.get_cpu_capability()}, torch {torch.__version__}, numpy {np.__version__}, Python "
        f"{platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )


def on_threads(count: int, work: Callable[[int], object]) -> float:
    """Seconds for ``work(number)`` on so many threads, each with one torch thread."""
    torch.set_num_threads(1)
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - start
