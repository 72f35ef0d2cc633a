"""The default of --workers: affinity, and the quota of a container."""

import os
from pathlib import Path

import pytest

from latentkit import cores


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cores, "_CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "_MOUNT", tmp_path / "mount")
    monkeypatch.setattr(cores.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    return tmp_path


def put(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"cpu.{name}").write_text(text)


def test_threads_are_as_many_as_asked_for_or_one_a_core_up_to_a_bound(groups: Path) -> None:
    (groups / "cgroup").write_text("0::/a\n")
    assert [cores.threads_for(asked) for asked in (None, 3, 10_000)] == [8, 3, cores.MOST_THREADS]


def test_without_groups_there_is_affinity(groups: Path) -> None:
    assert cores.available_cores() == 8
    (groups / "cgroup").write_text("0::/a\n")
    assert cores.available_cores() == 8


@pytest.mark.parametrize(
    ("quota", "expected"), [("max 100000", 8), ("300000 100000", 3), ("250000 100000", 3), ("1000 100000", 1), ("", 8)]
)
def test_version_2(groups: Path, quota: str, expected: int) -> None:
    (groups / "cgroup").write_text("0::/job/step\n")
    put(groups / "mount/job/step", max=quota)
    assert cores.available_cores() == expected


def test_the_least_of_the_groups_around_it_holds(groups: Path) -> None:
    (groups / "cgroup").write_text("0::/job/step\n")
    put(groups / "mount/job/step", max="400000 100000")
    put(groups / "mount/job", max="200000 100000")
    assert cores.available_cores() == 2
    put(groups / "mount", max="100000 100000")
    assert cores.available_cores() == 1


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("150000", 2)])
def test_version_1(groups: Path, quota: str, expected: int) -> None:
    (groups / "cgroup").write_text("5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n")
    put(groups / "mount/cpu/job", cfs_quota_us=quota, cfs_period_us="100000")
    assert cores.available_cores() == expected


def test_a_containers_own_root_counts_where_the_path_is_the_hosts(groups: Path) -> None:
    (groups / "cgroup").write_text("0::/host/container/7\n")
    put(groups / "mount", max="200000 100000")
    assert cores.available_cores() == 2


@pytest.mark.parametrize("name", [b"caf\xe9", "\u2028a\x0bb:c".encode()])
def test_a_group_may_have_any_name(groups: Path, name: bytes) -> None:
    (groups / "cgroup").write_bytes(b"0::/" + name + b"\n")
    put(groups / "mount" / os.fsdecode(name), max="200000 100000")
    assert cores.available_cores() == 2
