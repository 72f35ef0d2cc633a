"""How many cores there are for this process, and how many threads are worth while."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

_CGROUP = Path("/proc/self/cgroup")
_MOUNT = Path("/sys/fs/cgroup")


#: More threads would have smaller blocks, for all must fit in memory, and wait for the interpreter.
MOST_THREADS = 16


def threads_for(asked: int | None) -> int:
    """How many threads work: as many as ``asked``, or one a core, but no more than ``MOST_THREADS``."""
    return min(asked or available_cores(), MOST_THREADS)


def available_cores() -> int:
    """The cores that affinity and the quotas of control groups (containers, batch systems) allow; at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cores, *(math.ceil(quota) for quota in _quotas(_CGROUP, _MOUNT))]))


def _quotas(cgroup: Path, mount: Path) -> Iterator[float]:
    """In cores, of the groups that this process is in, and of those around them.

    Version 2 of control groups has ``cpu.max`` (quota and period, ``max`` for none), version 1 has two files (−1).
    """
    try:
        # A group's name may be any bytes.
        lines = os.fsdecode(cgroup.read_bytes()).split("\n")
    except OSError:
        return  # no Linux
    for line in filter(None, lines):
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        root = mount / "cpu" if controllers else mount
        files = ("cpu.cfs_quota_us", "cpu.cfs_period_us") if controllers else ("cpu.max",)
        # Within a container the path may be the host's, and the group's files at the root.
        inner = root / path.lstrip("/")
        for folder in (inner, *inner.parents):
            try:
                quota, period = " ".join((folder / name).read_text() for name in files).split()
            except (OSError, ValueError):
                quota = period = "max"
            if quota.isdecimal() and int(period):
                yield int(quota) / int(period)
            if folder == root:
                break
