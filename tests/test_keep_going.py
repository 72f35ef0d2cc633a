"""``--keep-going``: bad files are passed over and listed, and all else is as if they had not been there."""

import errno
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Cli, Outcome, files_below, moments_of
from safetensors.torch import save

import latentkit.convert.files
import latentkit.measures.whole_files
import latentkit.read.bytes
from latentkit.read.header import Header

NAMES = ("a", "b", "c", "d", "e")
BAD = ("b", "e")

#: Small files come whole, large ones in blocks, and a huge sample in pieces of ``BLOCK_ELEMENTS``.
SHAPES = {"one block": (3, 2, 4, 4), "several blocks": (40, 4, 64, 64), "pieces": (2, 4, 320, 320)}


def good(name: str, shape: tuple[int, ...] = SHAPES["one block"]) -> bytes:
    moments = moments_of(*shape, seed=ord(name), dtype="F16")
    return save({"moments": moments, "labels": torch.arange(shape[0])})


def other(name: str) -> bytes:
    return save({"moments": moments_of(*SHAPES["one block"], seed=ord(name) + 100)})


def drawn(_: str) -> bytes:
    return save({"latents": torch.zeros(SHAPES["one block"])})


#: What a file holds instead (None: it is a pipe), the kind, and words of the message.
DAMAGES: dict[str, tuple[bytes | None, str, str]] = {
    "pipe": (None, "unreadable", "not a regular file"),
    "no safetensors": (b"text and more text", "damaged", "not a safetensors file"),
    "truncated": (good("b")[:-1], "damaged", "truncated"),
    "wrong key": (save({"x": torch.zeros(2, 4), "y": torch.zeros(2, 4)}), "wrong", "which tensor holds the moments"),
    "odd channels": (save({"moments": torch.zeros(2, 7, 2, 2)}), "wrong", "7 channels"),
}
ONLY_STATS = {"other channels": (save({"moments": moments_of(3, 3)}), "wrong", "2 latent channels")}

COMMANDS = {
    "kl": ("kl", "in", "--columns", "labels"),
    "kl json": ("kl", "in", "--format", "json", "--on-nonfinite", "skip"),
    "kl --top": ("kl", "in", "--top", "4"),
    "kl --against": ("kl", "in", "--against", "other", "--per-channel"),
    "nll": ("nll", "in", "--latents", "latents"),
    "stats": ("stats", "in", "--with", "shape", "--with", "correlation"),
    "sample": ("sample", "in", "-o", "drawn", "--carry", "labels"),
    "info": ("info", "in"),
}


def make(folder: Path, content: Callable[[str], bytes]) -> None:
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.safetensors").write_bytes(content(name))


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for folder, content in (("in", good), ("other", other), ("latents", drawn)):
        make(tmp_path / folder, content)
    return tmp_path


def damage(folder: Path, data: bytes | None) -> None:
    for name in BAD:
        path = folder / f"{name}.safetensors"
        path.unlink()
        if data is None:
            os.mkfifo(path)
        else:
            path.write_bytes(data)


def without_bad(folder: Path) -> None:
    for name in BAD:
        (folder / f"{name}.safetensors").unlink()


def listed(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def check(outcome: Outcome, errors: Path, kind: str, words: str, names: tuple[str, ...] = BAD) -> None:
    """Status 1, a line for each bad file, and the same in the file of ``--errors``."""
    assert outcome.status == 1, outcome.err
    entries = listed(errors)
    assert sorted(entry["file"] for entry in entries) == [f"in/{name}.safetensors" for name in names]
    for entry in entries:
        assert list(entry) == ["file", "tensor", "index", "kind", "message"]
        assert entry["kind"] == kind
        assert words in entry["message"]
        assert entry["file"] in entry["message"]
        assert f"latentkit: {entry['message']}\n" in outcome.err


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("what", [*DAMAGES, *ONLY_STATS])
def test_the_result_is_that_of_the_good_files_alone(cli: Cli, folders: Path, command: str, what: str) -> None:
    if what in ONLY_STATS and command != "stats":
        pytest.skip("no fault here")
    if command == "info" and what in ("wrong key", "odd channels"):
        pytest.skip("info shows the problem")
    data, kind, words = (DAMAGES | ONLY_STATS)[what]
    damage(folders / "in", data)
    strict = cli(*COMMANDS[command])
    assert strict.status in (1, 2)
    assert strict.err.count("\n") <= 2
    options = () if command == "info" else ("--errors", "errors.jsonl")
    kept = cli(*COMMANDS[command], "--keep-going", *options)
    if options:
        check(kept, folders / "errors.jsonl", kind, words)
    assert kept.status == 1
    without_bad(folders / "in")
    given = everything(folders, kept)
    alone = cli(*COMMANDS[command])
    assert alone.status == 0
    assert everything(folders, alone) == given


PARTNERS = {"kl --against": "other", "nll": "latents"}


@pytest.mark.parametrize("command", PARTNERS)
@pytest.mark.parametrize("what", ["missing", "truncated", "other shape"])
def test_a_bad_partner_is_an_error_of_its_file(cli: Cli, folders: Path, command: str, what: str) -> None:
    partners = folders / PARTNERS[command]
    if what == "missing":
        without_bad(partners)
    elif what == "truncated":
        damage(partners, other("b")[:-1])
    else:
        damage(partners, save({"latents": torch.zeros(3, 4, 9, 9)}))
    kept = cli(*COMMANDS[command], "--keep-going", "--errors", "errors.jsonl")
    assert kept.status == 1
    entries = listed(folders / "errors.jsonl")
    assert [entry["file"] for entry in entries if entry["file"].startswith("in")] == [
        f"in/{name}.safetensors" for name in BAD
    ]
    without_bad(folders / "in")
    if what != "missing":
        without_bad(partners)
    alone = cli(*COMMANDS[command])
    assert (alone.status, alone.out) == (0, kept.out)


#: What happens to a bad file once its header was read: what is done to it, and the kind that comes of it.
MISHAPS: dict[str, tuple[Callable[[str], None], str]] = {
    "vanishes": (os.unlink, "missing"),
    "is cut short": (lambda path: os.truncate(path, os.path.getsize(path) - 2), "changed"),
    "is written to": (lambda path: os.utime(path, (1, 1)), "changed"),
    "cannot be read": (lambda _: _fail(errno.EIO), "unreadable"),
}

RUNS = {
    "kl": ("kl", "in", "--columns", "labels"),
    "kl -o": ("kl", "in", "--per-channel", "-o", "out.csv"),
    "kl --indices": ("kl", "in", "--indices", "list.csv"),
    "nll": ("nll", "in", "--latents", "latents", "--format", "json"),
    "stats": ("stats", "in", "--with", "shape", "-o", "out.json", "--state", "state.safetensors"),
    "report": ("report", "in", "-o", "out.html"),
    "sample": ("sample", "in", "-o", "drawn", "--carry", "labels", "--draws", "2"),
}


def _fail(number: int) -> None:
    raise OSError(number, os.strerror(number))


@contextmanager
def mishap(name: str, number: int) -> Iterator[None]:
    """From the read of this number on, a bad file suffers the mishap; values wait on disk, as if there were many."""
    counts = Counter[str]()
    descriptor_of, (act, _) = latentkit.read.bytes._descriptor, MISHAPS[name]

    def descriptor(header: Header) -> int:
        if header.path in [f"in/{bad}.safetensors" for bad in BAD]:
            counts[header.path] += 1
            if counts[header.path] == number or (counts[header.path] > number and name == "cannot be read"):
                act(header.path)
        return descriptor_of(header)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latentkit.read.bytes, "_descriptor", descriptor)
        patch.setattr(latentkit.measures.whole_files, "_IN_MEMORY", 16)
        yield


def everything(folder: Path, outcome: Outcome) -> dict[str, bytes]:
    """All that a run gave: what it printed, and every file it wrote; then it is gone."""
    given = {"stdout": outcome.out.encode()}
    for path in [*folder.glob("out*"), *folder.glob("state*"), *folder.glob("drawn/**/*")]:
        if path.is_file():
            given[str(path)] = path.read_bytes()
            path.unlink()
    return given


@pytest.mark.parametrize("command", RUNS)
@pytest.mark.parametrize(
    ("shape", "name", "number"),
    [
        ("several blocks", "vanishes", 1),  # later, what is open stays readable
        ("several blocks", "is written to", 1),
        ("several blocks", "is cut short", 3),
        ("several blocks", "cannot be read", 3),
        ("pieces", "is cut short", 2),
        ("pieces", "cannot be read", 2),
    ],
)
def test_a_file_that_fails_midway_leaves_no_trace(
    cli: Cli, tmp_path: Path, name: str, command: str, shape: str, number: int
) -> None:
    make(tmp_path / "in", lambda letter: good(letter, SHAPES[shape]))
    make(tmp_path / "latents", lambda _: save({"latents": torch.zeros(SHAPES[shape], dtype=torch.float16)}))
    every = [(file, index) for index in range(SHAPES[shape][0]) for file in NAMES]
    rows = [f"in/{file}.safetensors,moments,{index}" for file, index in every]
    good_rows = [row for (file, _), row in zip(every, rows, strict=True) if file not in BAD]
    (tmp_path / "list.csv").write_text("\n".join(["file,tensor,index", *rows]))
    with mishap(name, number):
        kept = cli(*RUNS[command], "--keep-going", "--errors", "errors.jsonl", "--workers", "2")
    check(kept, tmp_path / "errors.jsonl", MISHAPS[name][1], "")
    for bad in BAD:
        (tmp_path / f"in/{bad}.safetensors").unlink(missing_ok=True)
    (tmp_path / "list.csv").write_text("\n".join(["file,tensor,index", *good_rows]))
    given = everything(tmp_path, kept)
    alone = cli(*RUNS[command])
    assert alone.status == 0, alone.err
    theirs = everything(tmp_path, alone)
    if command == "report":
        assert given.keys() == theirs.keys()  # it shows its command line
    else:
        assert given == theirs
    assert [path for path in files_below(tmp_path) if path.endswith(".part")] == []


@pytest.mark.parametrize("command", ["kl", "nll", "stats", "report", "sample"])
@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_no_output_is_written_when_every_file_is_bad(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, when: str
) -> None:
    make(tmp_path / "in", good)
    make(tmp_path / "latents", drawn)
    if when == "before":
        for name in NAMES:
            os.truncate(tmp_path / f"in/{name}.safetensors", 100)
    else:
        monkeypatch.setattr(latentkit.read.bytes, "_read_some", lambda *_: _fail(errno.EIO))
    options = {"nll": ("--latents", "latents", "-o", "out.csv"), "kl": ("-o", "out.csv"), "stats": ("-o", "out.json")}
    options["sample"] = ("-o", "out")
    outcome = cli(command, "in", *options.get(command, ("-o", "out.html")), "--keep-going", "--errors", "errors.jsonl")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err.splitlines()[-1] == "latentkit: nothing is left to do: 5 files could not be processed"
    assert len(listed(tmp_path / "errors.jsonl")) == 5
    assert [name for name in files_below(tmp_path) if "out" in name] == []


def test_the_list_is_empty_when_nothing_failed_and_is_no_part_of_a_dry_run(cli: Cli, folders: Path) -> None:
    assert cli("kl", "in", "--keep-going", "--errors", "none.jsonl", "--dry-run").status == 0
    assert not (folders / "none.jsonl").exists()
    assert cli("kl", "in", "--keep-going", "--errors", "none.jsonl").status == 0
    assert (folders / "none.jsonl").read_bytes() == b""
    again = cli("kl", "in", "--keep-going", "--errors", "none.jsonl")
    assert again.status == 2
    assert "none.jsonl: exists already" in again.complaint
    assert cli("kl", "in", "--keep-going", "--errors", "none.jsonl", "--overwrite").status == 0


def test_the_list_is_no_input(cli: Cli, folders: Path) -> None:
    os.truncate(folders / "in/b.safetensors", 100)
    before = {path.name: path.read_bytes() for path in (folders / "in").iterdir()}
    for command, given, name in (("kl", "in", "a"), ("sample", "in", "a"), ("stats", "in", "b"), ("kl", "in/b*", "b")):
        options = ("--errors", f"in/{name}.safetensors", "--overwrite", *(("-o", "d") if command == "sample" else ()))
        outcome = cli(command, given, "--keep-going", *options)
        assert outcome.status == 2
        assert "is an input itself" in outcome.err
    assert {path.name: path.read_bytes() for path in (folders / "in").iterdir()} == before


def test_a_list_without_keep_going_is_refused(cli: Cli, folders: Path) -> None:
    assert cli("kl", "in", "--errors", "errors.jsonl").status == 2
    assert cli("stats", "state.safetensors", "--merge", "--keep-going").status == 2
    assert not (folders / "errors.jsonl").exists()


def test_many_bad_files_are_listed_in_part(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for number in range(30):
        (tmp_path / f"in/{number:02}.safetensors").write_bytes(good("a") if number == 7 else b"bad")
    outcome = cli("kl", "in", "--keep-going", "--errors", "errors.jsonl", "--quiet")
    assert (outcome.status, len(outcome.rows)) == (1, 3)
    assert len(outcome.err.splitlines()) == 21
    assert outcome.err.splitlines()[-1] == "latentkit: and 9 more files; errors.jsonl lists all"
    assert len(listed(tmp_path / "errors.jsonl")) == 29


@pytest.mark.parametrize("option", [(), ("--per-channel",), ("--top", "3")])
def test_a_file_that_is_not_finite_is_passed_over_where_that_is_an_error(
    cli: Cli, folders: Path, option: tuple[str, ...]
) -> None:
    for name in BAD:
        moments = moments_of(*SHAPES["one block"], dtype="F16")
        moments[1, 0, 2, 2] = torch.nan
        (folders / f"in/{name}.safetensors").write_bytes(save({"moments": moments}))
    rule = ("--on-nonfinite", "error", "--batch-size", "1", *option)
    kept = cli("kl", "in", *rule, "--keep-going", "--errors", "errors.jsonl")
    check(kept, folders / "errors.jsonl", "nonfinite", "sample 1 holds NaN")
    assert [(entry["tensor"], entry["index"]) for entry in listed(folders / "errors.jsonl")] == [("moments", 1)] * 2
    without_bad(folders / "in")
    assert cli("kl", "in", *rule).out == kept.out


@pytest.mark.parametrize("command", ["kl", "stats"])
def test_a_negative_deviation_is_an_error_of_its_file(cli: Cli, folders: Path, command: str) -> None:
    for name in NAMES:
        moments = moments_of(*SHAPES["one block"], dtype="F16")
        moments[:, 2:] = moments[:, 2:].abs()
        moments[2, 3, 1, 1] *= -1 if name in BAD else 1
        (folders / f"in/{name}.safetensors").write_bytes(save({"moments": moments}))
    reading = ("--parameterization", "std")
    kept = cli(command, "in", *reading, "--keep-going", "--errors", "errors.jsonl")
    check(kept, folders / "errors.jsonl", "wrong", "sample 2 has a negative standard deviation")
    without_bad(folders / "in")
    assert cli(command, "in", *reading).out == kept.out


def test_a_condition_that_holds_comes_after_a_bad_file(cli: Cli, folders: Path) -> None:
    condition = ("stats", "in", "--fail-if", "samples > 0", "--keep-going")
    assert cli(*condition).status == 3
    os.truncate(folders / "in/b.safetensors", 100)
    outcome = cli(*condition)
    assert outcome.status == 1
    assert "--fail-if 'samples > 0' holds" in outcome.err


def test_a_survivor_is_not_paired_with_what_is_not_its_own(cli: Cli, tmp_path: Path) -> None:
    """One file goes with one whatever their names, but not one that is left of several."""
    for folder, names in (("in", "ab"), ("latents", "a"), ("other", "a")):
        (tmp_path / folder).mkdir()
        for name in names:
            data = drawn(name) if folder == "latents" else good(name)
            (tmp_path / folder / f"{name}.safetensors").write_bytes(data)
    os.truncate(tmp_path / "in/a.safetensors", 100)
    for options in (("nll", "in", "--latents", "latents"), ("kl", "in", "--against", "other")):
        outcome = cli(*options, "--keep-going")
        assert (outcome.status, outcome.out) == (1, "")


def test_a_full_disk_is_no_fault_of_a_file(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.truncate(folders / "in/b.safetensors", 100)
    monkeypatch.setattr("latentkit.write.csv_rows.write_all", lambda *_: _fail(errno.ENOSPC))
    outcome = cli("kl", "in", "-o", "out.csv", "--keep-going")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "latentkit: out.csv: No space left on device"
    assert not (folders / "out.csv").exists()


def test_as_a_process(folders: Path) -> None:
    """A pipe and an empty file beside good ones."""
    (folders / "in/b.safetensors").unlink()
    os.mkfifo(folders / "in/b.safetensors")
    (folders / "in/e.safetensors").write_bytes(b"")
    command = [sys.executable, "-m", "latentkit", "kl", "in", "-o", "kl.csv", "--keep-going", "--errors", "e.jsonl"]
    done = subprocess.run(command, cwd=folders, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert [(entry["file"][3], entry["kind"]) for entry in listed(folders / "e.jsonl")] == [
        ("b", "unreadable"), ("e", "damaged"),
    ]  # fmt: skip
    assert len((folders / "kl.csv").read_text().splitlines()) == 10


SAMPLING: dict[str, tuple[tuple[str, ...], bytes, str, str]] = {
    "a tensor to carry is not there": (("--carry", "labels"), save({"moments": moments_of()}), "wrong", "'labels'"),
    "other channels than the normalization": (
        ("--normalization", "normalization.json"), save({"moments": moments_of(3, 3)}), "wrong", "2 channels",
    ),
    "not finite": (
        ("--on-nonfinite", "error"), save({"moments": torch.full((3, 4, 4, 4), torch.nan)}), "nonfinite", "sample 0",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", SAMPLING)
def test_only_good_files_are_drawn(cli: Cli, folders: Path, what: str) -> None:
    options, data, kind, words = SAMPLING[what]
    (folders / "normalization.json").write_text(json.dumps({"latents_mean": [0.5, 1], "latents_std": [1, 2]}))
    damage(folders / "in", data)
    kept = cli("sample", "in", "-o", "drawn", *options, "--keep-going", "--errors", "errors.jsonl")
    check(kept, folders / "errors.jsonl", kind, words)
    given = everything(folders, kept)
    without_bad(folders / "in")
    assert everything(folders, cli("sample", "in", "-o", "drawn", *options)) == given


def test_what_takes_inputs_together_passes_over_none(cli: Cli, folders: Path) -> None:
    assert (
        "leave out --keep-going" in cli("sample", "in", "-o", "d", "--keep-going", "--samples-per-shard", "2").complaint
    )
    assert "leave out --keep-going" in cli("sample", "in", "--verify", "d", "--keep-going").complaint
    os.truncate(folders / "in/b.safetensors", 100)
    two = ("in/a.safetensors", "in/b.safetensors", "--keep-going", "-o", "drawn.safetensors")
    assert cli("sample", *two).status == 2
    assert cli("sample", *two, "--stream", "one").status == 2
    assert not (folders / "drawn.safetensors").exists()


def test_a_full_disk_ends_sampling(cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("latentkit.write.placing.write_at", lambda *_: _fail(errno.ENOSPC))
    outcome = cli("sample", "in", "-o", "drawn", "--keep-going", "--carry", "labels")
    assert outcome.status == 1
    assert "No space left on device" in outcome.err.splitlines()[-1]
    assert [name for name in files_below(folders) if "drawn" in name] == []


@pytest.mark.parametrize(("rows", "format"), [("2", "safetensors"), ("30", "npy"), ("400", "safetensors")])
@pytest.mark.parametrize(("name", "number"), [("is cut short", 1), ("cannot be read", 1), ("is written to", 3)])
def test_convert_leaves_out_the_rows_of_bad_files(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, number: int, rows: str, format: str
) -> None:
    make(tmp_path / "in", lambda letter: good(letter, SHAPES["several blocks"]))
    monkeypatch.setattr(latentkit.convert.files, "_PIECE_BYTES", 100_000)
    options = ("-q", "--samples-per-shard", rows, "--format", format, "--overwrite", "--workers", "1")
    with mishap(name, number):
        kept = cli("convert", "in", "-o", "out", *options, "--keep-going", "--errors", "errors.jsonl")
    check(kept, tmp_path / "errors.jsonl", MISHAPS[name][1], "")
    without_bad(tmp_path / "in")
    assert cli("convert", "in", "-o", "alone", *options).status == 0
    given, theirs = (
        {name: (tmp_path / folder / name).read_bytes() for name in files_below(tmp_path / folder)}
        for folder in ("out", "alone")
    )
    assert given == theirs


def test_convert_of_nothing_but_bad_files_leaves_nothing(
    cli: Cli, folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latentkit.read.bytes, "_read_some", lambda *_: _fail(errno.EIO))
    outcome = cli("convert", "in", "-o", "out", "--keep-going")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "latentkit: nothing is left to do: 5 files could not be processed"
    assert not (folders / "out").exists()
