"""Memory is bounded whatever the shape: peaks of processes, beside that of the same command on next to nothing."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Cli
from safetensors.numpy import save_file

from latentkit.health import kept
from latentkit.stats import state
from latentkit.stats.extras import NAMES

_MEASURE = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL)
print(done.returncode, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""
# macOS counts in bytes.
_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_of(*arguments: str | Path | int, enough: float = 0, status: int = 0) -> float:
    """Peak resident MiB of a run; of a second, where the first compiles, unless that is not more than ``enough``."""
    command = [sys.executable, "-c", _MEASURE, sys.executable, "-m", "latentkit", *map(str, arguments)]
    peaks = []
    for _ in range(2):
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        ended, peak = map(int, done.stdout.split())
        assert ended == status, done.stderr
        peaks.append(peak * _UNIT / 2**20)
        if peaks[-1] < enough:
            break
    return min(peaks)


def drawn(path: Path, shape: tuple[int, ...], key: str = "moments", dtype: type = np.float16) -> Path:
    moments = np.random.default_rng(0).standard_normal(shape, dtype=np.float32).astype(dtype)
    save_file({key: moments}, path)
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return drawn(tmp_path_factory.mktemp("small") / "small.safetensors", (2, 4, 2, 2))


@pytest.fixture(scope="module")
def bases(small: Path) -> dict[str, float]:
    return {command: peak_of(command, small, "--workers", 2) for command in ("kl", "stats")}


@pytest.fixture(scope="module")
def ceiling(bases: dict[str, float]) -> float:
    """200 MiB, and what libraries take beyond the usual 150: of one just installed, Linux 6.18 maps larger pieces."""
    return 200 + max(0, bases["kl"] - 150)


@pytest.mark.parametrize(
    ("command", "shape", "key", "options", "more"),
    [
        pytest.param("stats", (2, 1 << 20, 2), "moments", ("--layout", "blc"), 24, id="one channel"),
        pytest.param("stats", (16, 64, 16, 16), "moments", (), 32, id="32 channels, by pattern"),
        pytest.param("stats", (16, 8192, 2, 2), "moments", (), 32, id="4,096 channels"),
        pytest.param("stats", (4, 32768), "moments", (), 56, id="16,384 channels"),
        pytest.param("stats", (1, 8, 512, 512), "moments", ("--with", "spectrum"), 96, id="a large sample whole"),
        pytest.param("stats", (16, 2048, 8, 8), "moments", ("--with", "spectrum"), 48, id="spectra of 1,024 channels"),
        pytest.param("stats", (16, 8192, 4, 4), "moments", ("--with", "shape"), 48, id="shapes of 4,096 channels"),
        pytest.param("kl", (500, 4, 2, 2), "n" * (1 << 20), ("--format", "jsonl"), 48, id="a name of 1 MiB"),
        pytest.param("kl", (400_000, 2), "moments", ("--top", "100000"), 48, id="many ranks"),
        pytest.param("kl", (64, 8192, 2, 2), "moments", ("--per-channel",), 32, id="values of 4,096 channels"),
    ],
)
def test_memory_of_any_shape_is_bounded(
    tmp_path: Path,
    bases: dict[str, float],
    ceiling: float,
    command: str,
    shape: tuple[int, ...],
    key: str,
    options: tuple[str, ...],
    more: float,
) -> None:
    path = drawn(tmp_path / "a.safetensors", shape, key)
    bound = min(bases[command] + more, ceiling)
    assert peak_of(command, path, "--workers", 2, *options, enough=bound) < bound


@pytest.mark.parametrize("command", ["stats", "report"])
def test_figures_of_a_large_video_are_within_the_bound(tmp_path: Path, ceiling: float, command: str) -> None:
    """4.8 million elements of a mean, in float32: 720p."""
    path = drawn(tmp_path / "a.safetensors", (1, 32, 21, 90, 160), dtype=np.float32)
    extras = () if command == "report" else [part for name in NAMES for part in ("--with", name)]
    output = "-o", tmp_path / "a.html" if command == "report" else tmp_path / "a.json", "--overwrite", "--workers", 2
    assert peak_of(command, path, *extras, *output, enough=ceiling) < ceiling


@pytest.mark.parametrize(("command", "labels", "channels"), [("kl", 1 << 15, 1), ("stats", 1 << 11, 16)])
def test_as_many_labels_as_may_be_are_within_the_bound(
    tmp_path: Path, ceiling: float, command: str, labels: int, channels: int
) -> None:
    numbers = np.random.default_rng(0).standard_normal((600_000 // channels, 2 * channels), dtype=np.float32)
    save_file({"moments": numbers, "labels": np.arange(len(numbers)) % labels}, tmp_path / "a.safetensors")
    output = "-o", tmp_path / "a.json", "--overwrite", "--layout", "bc", "--workers", 2
    assert peak_of(command, tmp_path / "a.safetensors", "--by", "labels", *output, enough=ceiling) < ceiling


def test_memory_does_not_grow_with_the_file(tmp_path: Path, ceiling: float) -> None:
    """256 MiB of moments, all zero and so a file of holes, become 128 MiB of latents."""
    header = json.dumps({"moments": {"dtype": "F16", "shape": [1 << 14, 8, 32, 32], "data_offsets": [0, 1 << 28]}})
    with (tmp_path / "in.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header.encode())
        file.truncate(8 + len(header) + (1 << 28))
    output = "-o", tmp_path / "out.safetensors", "--overwrite", "--workers", 2
    assert peak_of("sample", tmp_path / "in.safetensors", *output, enough=ceiling) < ceiling


def test_a_conversion_streams(tmp_path: Path, ceiling: float) -> None:
    whole = np.lib.format.open_memmap(tmp_path / "moments.npy", "w+", np.float32, (8192, 8, 32, 32))  # 256 MiB of holes
    del whole
    assert peak_of("convert", tmp_path / "moments.npy", "-o", tmp_path / "out", "--overwrite", enough=ceiling) < ceiling


def test_a_report_and_its_pictures_are_within_the_bound(tmp_path: Path, ceiling: float) -> None:
    path = drawn(tmp_path / "a.safetensors", (64, 8, 32, 32))
    page = tmp_path / "a.html"
    assert peak_of("report", path, "-o", page, "--overwrite", "--workers", 2, enough=ceiling) < ceiling


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without end")
def test_a_list_without_end_takes_no_memory() -> None:
    assert peak_of("kl", "@/dev/zero", enough=100, status=2) < 100


def test_a_table_of_100_000_tensors_shows_the_first_of_them(cli: Cli, tmp_path: Path) -> None:
    save_file({f"t{number}": np.zeros((1, 2), np.float16) for number in range(100_000)}, tmp_path / "a.safetensors")
    out = cli("info", "a.safetensors", "--format", "table").out
    assert "200 of 100,000 tensors" in out and len(out.splitlines()) < 250


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("kl", "a.safetensors", "--top", "1000000"), "at most 100,000 rows are ranked"),
        (("stats", "a.safetensors", "--channels", "0-99999999999"), "there are 2 channels"),
        (("stats", "b.safetensors", "--with", "correlation"), "there are 600 channels"),
        (
            ("stats", "e.safetensors", "--with", "correlation", "--against", "e.safetensors"),
            "most 256 is held in",
        ),
        (("stats", "c.safetensors"), "has 20,000 latent channels, and at most 16,384"),
        (("stats", "d.safetensors", "--against", "d.safetensors"), "9,000 channels and 9,000 of --against"),
        (("report", "d.safetensors", "-o", "d.html"), "9,000 channels, and figures of at most 4,096 are held"),
    ],
)
def test_what_memory_does_not_hold_is_refused(cli: Cli, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    for name, channels in (("a", 2), ("b", 600), ("c", 20_000), ("d", 9_000), ("e", 300)):
        drawn(tmp_path / f"{name}.safetensors", (2, 2 * channels))
    outcome = cli(*arguments)
    assert outcome.status == 2 and words in outcome.complaint


@pytest.mark.parametrize(
    ("channels", "arguments"),
    [
        (16_384, ("stats", "-o", "o.csv", "--state", "o.state", "--layout", "bc")),
        (4096, ("report", "-o", "o.html")),
        (2048, ("report", "-o", "o.html", "--against", "a.json")),
    ],
    ids=lambda value: value if isinstance(value, int) else " ".join(value[:1] + value[3:]),
)
def test_figures_of_thousands_of_channels_are_within_the_bound(
    cli: Cli, tmp_path: Path, ceiling: float, channels: int, arguments: tuple[str, ...]
) -> None:
    drawn(tmp_path / "a.safetensors", (4, 2 * channels) if channels > 8192 else (4, 2 * channels, 2, 2))
    if "a.json" in arguments:
        assert cli("stats", "a.safetensors", "-o", "a.json").status == 0
    command, *options = (tmp_path / word if "." in word else word for word in arguments)
    assert (
        peak_of(command, tmp_path / "a.safetensors", *options, "--overwrite", "--workers", 2, enough=ceiling) < ceiling
    )


@pytest.mark.parametrize("most", [100, 10**6])
def test_a_baseline_that_is_too_large_is_refused(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(kept, "_MOST_BYTES", most)
    drawn(tmp_path / "a.safetensors", (2, 4))
    assert cli("stats", "a.safetensors", "-o", "a.json").status == 0
    outcome = cli("stats", "a.safetensors", "--against", "a.json", "-o", "-")
    assert outcome.status == (most == 100) and ("compare with a state" in outcome.err) is (most == 100)


def test_a_report_of_many_channels_has_no_endless_tables(cli: Cli, tmp_path: Path) -> None:
    drawn(tmp_path / "a.safetensors", (4, 2 * 1500))
    outcome = cli("report", "a.safetensors", "-o", "a.html")
    page = (tmp_path / "a.html").read_text()
    assert outcome.status == 0 and "the first 1,024 of 1,500" in page
    assert 'id="channel-1023"' in page and 'id="channel-1024"' not in page and 'id="channel-all"' in page


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs a device without end")
@pytest.mark.parametrize(
    "arguments",
    [
        ("kl", "@/dev/zero"),
        ("kl", "zero.safetensors.index.json"),
        ("kl", "a.safetensors", "--indices", "/dev/zero"),
        ("kl", "a.safetensors", "--exclude", "/dev/zero"),
        ("sample", "a.safetensors", "-o", "b.safetensors", "--normalization", "/dev/zero"),
    ],
    ids=["list", "index", "indices", "exclude", "normalization"],
)
def test_a_device_without_end_is_refused(cli: Cli, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    drawn(tmp_path / "a.safetensors", (2, 4))
    (tmp_path / "zero.safetensors.index.json").symlink_to("/dev/zero")
    outcome = cli(*arguments)
    assert outcome.status in (1, 2) and len(outcome.complaint) < 300
    assert any(name in outcome.complaint for name in ("/dev/zero", "zero.safetensors.index.json"))


def test_a_state_that_could_not_be_read_again_is_not_written(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, "_MOST_BYTES", 100)
    drawn(tmp_path / "a.safetensors", (2, 4))
    outcome = cli("stats", "a.safetensors", "--with", "duplicates", "--state", "a.state")
    assert outcome.status == 1 and "states of up to 100 are read: count fewer files" in outcome.complaint
    assert not (tmp_path / "a.state").exists()
