"""convert: the bytes of any cache, in order, with labels, names and meaning."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from caches import edm2, floats, mar
from conftest import DTYPES, Cli, files_below, moments_of
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file
from test_exclude import write_rows

from latentkit.convert.labels import KINDS
from latentkit.read.presets import PRESETS
from latentkit.write.placing import Placement

Write = Callable[..., Path]


def metadata(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return file.metadata() or {}


def test_every_way_of_keeping_labels_is_a_presets() -> None:
    named = {preset.labels for preset in PRESETS} - {"none", "the tensor labels"}
    assert named == set(KINDS)


@settings(max_examples=25)
@given(
    counts=st.lists(st.integers(1, 7), min_size=1, max_size=4),
    dtype=st.sampled_from(sorted(DTYPES)),
    per_shard=st.integers(1, 9),
)
def test_any_shards_hold_the_rows_in_order(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], dtype: str, per_shard: int
) -> None:
    from typer.testing import CliRunner

    from latentkit.cli.main import app

    folder = tmp_path_factory.mktemp("any")
    parts = [moments_of(count, 2, dtype=dtype, seed=seed) for seed, count in enumerate(counts)]
    for number, part in enumerate(parts):
        save_file({"moments": part}, folder / f"{number}.safetensors")
    arguments = ["convert", str(folder), "-o", str(folder / "out"), "--samples-per-shard", str(per_shard)]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    shards = [load_torch(path)["moments"] for path in sorted((folder / "out").glob("*.safetensors"))]
    assert [len(shard) for shard in shards[:-1]] == [per_shard] * (len(shards) - 1)
    assert torch.equal(torch.cat(shards).view(torch.uint8), torch.cat(parts).view(torch.uint8))
    index = json.loads((folder / "out" / "moments.safetensors.index.json").read_text())
    assert len(index["weight_map"]) == len(shards)


def test_what_is_cleaned_keeps_its_names_and_labels(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("in/a.safetensors", moments=moments_of(6, 2), labels=torch.arange(6))
    write("in/b.safetensors", moments=moments_of(3, 2), labels=torch.arange(3))
    assert cli("convert", "in", "-o", "all.safetensors").status == 0
    assert json.loads(metadata(tmp_path / "all.safetensors")["names"]) == [
        ["a.safetensors", 0, 6],
        ["b.safetensors", 0, 3],
    ]
    write_rows(tmp_path / "worst", [("all.safetensors", "moments", index) for index in (7, 2)])
    assert cli("convert", "all.safetensors", "-o", "clean.safetensors", "--exclude", "worst").status == 0
    clean = tmp_path / "clean.safetensors"
    assert load_file(clean)["labels"].tolist() == [0, 1, 3, 4, 5, 0, 2]
    names = [["a.safetensors", 0, 2], ["a.safetensors", 3, 3], ["b.safetensors", 0, 1], ["b.safetensors", 2, 1]]
    assert json.loads(metadata(clean)["names"]) == names


def test_an_image_goes_with_its_mirror(cli: Cli, tmp_path: Path) -> None:
    mar(tmp_path / "in")
    write_rows(tmp_path / "list", [("in/n1/z.JPEG.npz", key, 0) for key in ("moments_flip", "moments")])
    assert cli("convert", "in", "-o", "one.safetensors", "--indices", "list").status == 0
    assert cli("convert", "in", "-o", "rest.safetensors", "--exclude", "list").status == 0
    assert json.loads(metadata(tmp_path / "one.safetensors")["names"]) == ["n1/z.JPEG.npz"]
    assert load_file(tmp_path / "rest.safetensors")["moments"].shape == (2, 2, 8, 4, 4)
    assert load_file(tmp_path / "rest.safetensors")["labels"].tolist() == [0, 1]


def test_npy_is_one_array_a_file(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = moments_of(3, 2)
    write("a.safetensors", moments=moments, labels=torch.arange(3))
    assert "an .npy holds one array" in cli("convert", "a.safetensors", "-o", "a.npy", "-q").complaint
    assert cli("convert", "a.safetensors", "-o", "a.npy", "--no-labels").status == 0
    assert np.array_equal(np.load(tmp_path / "a.npy"), moments.numpy())
    assert cli("convert", "a.safetensors", "-o", "one", "--format", "npy", "--samples-per-shard", "1").status == 0
    assert np.load(tmp_path / "one" / "moments-00002-of-00003.npy").shape == (4, 3, 4)
    assert np.load(tmp_path / "one" / "labels-00002-of-00003.npy") == 1
    write("b.safetensors", moments=moments.bfloat16())
    outcome = cli("convert", "b.safetensors", "-o", "b.npy", "-q")
    assert (outcome.status, "BF16, which .npy cannot hold" in outcome.complaint) == (2, True)


@pytest.mark.parametrize(
    ("each", "options", "dtype"),
    [
        ("1", ("--preset", "array-logvar"), torch.int64),
        ("1", ("--layout", "chw", "--parameterization", "logvar"), torch.int64),
        ("5", (), torch.int64),
        ("12", (), torch.uint8),
    ],
)
def test_arrays_and_back_keep_values_labels_and_order(
    cli: Cli, write: Write, tmp_path: Path, each: str, options: tuple[str, ...], dtype: torch.dtype
) -> None:
    moments = moments_of(12, 2)
    write("a.safetensors", moments=moments, labels=torch.arange(12).flip(0).to(dtype))
    assert cli("convert", "a.safetensors", "-o", "some", "--format", "npy", "--samples-per-shard", each).status == 0
    assert cli("convert", "some", "-o", "b.safetensors", *options).status == 0
    back = load_torch(tmp_path / "b.safetensors")
    assert torch.equal(back["moments"], moments)
    assert back["labels"].tolist() == list(range(12))[::-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), None),
        (("--parameterization", "std"), "--parameterization std"),
        (("--parameterization", "softplus", "--layout", "bhcw"), "--parameterization softplus --layout bhcw"),
        (("--samples-per-shard", "1"), "--layout chw"),
    ],
)
def test_what_an_array_does_not_say_of_itself_is_said(
    cli: Cli, write: Write, options: tuple[str, ...], said: str | None
) -> None:
    write("a.safetensors", moments=moments_of(4, 4, 4, 4).abs())
    write("pair.safetensors", mean=torch.zeros(4, 2, 4, 4), std=torch.ones(4, 2, 4, 4))
    assert "an .npy does not say" not in cli("convert", "pair.safetensors", "-o", "pair", "--format", "npy").err
    err = cli("convert", "a.safetensors", "-o", "out", "--format", "npy", *options).err
    assert ("an .npy does not say" in err) == (said is not None)
    assert said is None or f"how it is read: {said}\n" in err


@pytest.mark.parametrize("labels", [np.arange(5), np.zeros(6), np.arange(6, dtype=np.uint64)], ids=str)
def test_labels_beside_that_are_none_are_refused(cli: Cli, tmp_path: Path, labels: Any) -> None:
    np.save(tmp_path / "moments-1.npy", floats(6, 8, 4, 4))
    np.save(tmp_path / "labels-1.npy", labels)
    outcome = cli("convert", "moments-1.npy", "-o", "out", "-q")
    assert (outcome.status, "labels-1.npy: labels of 6 samples are so many whole numbers" in outcome.complaint) == (
        1,
        True,
    )
    assert cli("convert", "moments-1.npy", "-o", "out", "--no-labels").status == 0


def test_what_is_complete_is_not_made_again(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(6, 2))
    command = ("convert", "a.safetensors", "-o", "out", "--samples-per-shard", "2")
    assert cli(*command).status == 0
    assert "exists already" in cli(*command, "-q").complaint
    kept = tmp_path / "out" / "moments-00001-of-00003.safetensors"
    stamp = kept.stat().st_mtime_ns
    (tmp_path / "out" / "moments-00002-of-00003.safetensors").unlink()
    assert "resume: 2 of 3 files were complete" in cli(*command, "--resume").err
    assert kept.stat().st_mtime_ns == stamp
    assert len(files_below(tmp_path / "out")) == 4


@pytest.mark.parametrize("missing", ["no file", "00003-of-00003.safetensors"])
@pytest.mark.parametrize("each", [2, 6])
def test_an_input_that_cannot_be_read_any_more_leaves_what_is_complete(
    cli: Cli, write: Write, tmp_path: Path, missing: str, each: int
) -> None:
    for name in ("a", "b", "c"):
        write(f"in/{name}.safetensors", moments=moments_of(2, 2))
    command = ("convert", "in", "-o", "out", "--samples-per-shard", str(each))
    assert cli(*command).status == 0
    for path in (tmp_path / "out").glob(f"*{missing}"):
        path.unlink()
        (tmp_path / "out" / "moments.safetensors.index.json").unlink()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    (tmp_path / "in" / "b.safetensors").write_bytes(b"damaged")
    outcome = cli(*command, "--resume", "--keep-going")
    assert outcome.status == 1 and "in/b.safetensors: " in outcome.err and "mend the others" in outcome.err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.parametrize("choice", [(), ("--overwrite",), ("--resume", "--overwrite")])
@pytest.mark.parametrize("command", ["convert", "sample"])
def test_no_second_set_of_shards_repeats_the_rows_of_the_first(
    cli: Cli, write: Write, tmp_path: Path, command: str, choice: tuple[str, ...]
) -> None:
    write("a.safetensors", moments=moments_of(6, 2))
    shards = (command, "a.safetensors", "-o", "out", "--samples-per-shard")
    assert cli(*shards, "2").status == 0
    before = files_below(tmp_path / "out")
    outcome = cli(*shards, "3", *choice, "-q")
    assert (outcome.status, "rows would be there twice" in outcome.complaint) == (2, True)
    assert files_below(tmp_path / "out") == before


def test_what_is_not_there_as_it_was_written_is_not_placed(
    cli: Cli, write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("a.safetensors", moments=moments_of(6, 2))
    real = Placement.write

    def damaged(self: Placement, offset: int, data: memoryview) -> None:
        real(self, offset, data)
        real(self, offset, memoryview(b"x"))

    monkeypatch.setattr(Placement, "write", damaged)
    outcome = cli("convert", "a.safetensors", "-o", "out/b.safetensors", "-q")
    assert (outcome.status, "does not hold what was written to it" in outcome.complaint) == (1, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (
            ("two.safetensors", "-o", "x.safetensors", "--key", "m*"),
            2,
            "convert takes one tensor of many samples per file",
        ),
        (("a.safetensors",), 2, "missing -o OUT"),
        (("a.safetensors", "-o", "x.npy", "--samples-per-shard", "2"), 2, "give a folder"),
        (("a.safetensors", "-o", "x.npy", "--format", "safetensors"), 2, "its suffix says another format"),
        (("a.safetensors", "-o", "a.safetensors", "--overwrite"), 2, "is an input itself"),
        (("a.safetensors", "-o", "x", "--carry", "nosuch"), 2, "no tensor is called 'nosuch' to carry"),
        (("a.safetensors", "-o", "x", "--carry", "odd"), 1, "it needs a row for each sample"),
        (("a.safetensors", "b.safetensors", "-o", "x.safetensors"), 2, "not of one shape"),
        (("drawn.safetensors", "-o", "x", "--parameterization", "none"), 2, "latentkit drew it"),
        (("mar", "-o", "x"), 1, "has no label, unlike others; --no-labels"),
        (("named", "-o", "x"), 1, "tensor 'moments': has no label, unlike others"),
        (("edm2", "-o", "x"), 1, "which is no whole number"),
        (("text.npz", "-o", "x"), 2, "its labels are str96, which no output holds as they are; --no-labels"),
    ],
)
def test_what_cannot_be_converted_is_one_sentence(
    cli: Cli, write: Write, tmp_path: Path, arguments: tuple[str, ...], status: int, sentence: str
) -> None:
    write("a.safetensors", moments=moments_of(6, 2), odd=torch.zeros(5))
    write("b.safetensors", moments=moments_of(6, 4))
    write("two.safetensors", m1=moments_of(6, 2), m2=moments_of(6, 2))
    assert cli("sample", "a.safetensors", "-o", "drawn.safetensors").status == 0
    write("named/a.safetensors", moments=moments_of(2), labels=torch.arange(2))
    write("named/b.safetensors", moments=moments_of(2))
    mar(tmp_path / "mar")
    np.savez(tmp_path / "mar" / "x.npz", moments=floats(8, 4, 4), moments_flip=floats(8, 4, 4))
    np.savez(tmp_path / "text.npz", moments=floats(2, 8, 4, 4), labels=np.array(["cat", "dog"]))
    edm2(tmp_path / "edm2")
    (tmp_path / "edm2" / "dataset.json").write_text('{"labels": [["x", 1.5]]}')
    before = files_below(tmp_path)
    outcome = cli("convert", *arguments, "-q")
    assert outcome.status == status
    assert sentence in outcome.complaint
    assert files_below(tmp_path) == before


@pytest.mark.parametrize(("output", "said"), [("in", True), ("in/out", True), ("out", False), ("in/a.npy", False)])
def test_shards_beside_what_they_repeat_are_said(
    cli: Cli, write: Write, tmp_path: Path, output: str, said: bool
) -> None:
    write("in/a.safetensors", moments=moments_of(2))
    run = cli("convert", str(tmp_path / "in"), "-o", str(tmp_path / output))
    assert run.status == 0
    assert ("finds every sample twice" in run.err) == said
