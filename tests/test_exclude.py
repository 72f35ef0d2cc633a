"""``--exclude``: all samples but those of a list, in every command."""

import csv
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Cli, moments_of
from hypothesis import given
from hypothesis import strategies as st

import latentkit
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.read.samples import SampleChoice

Write = Callable[..., Path]


def write_rows(path: Path, rows: list[tuple[str, str, int]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "tensor", "index"])
        writer.writerows(rows)
    return path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("two")
    paths = [folder / "a.safetensors", folder / "b.safetensors"]
    for seed, path in enumerate(paths):
        save_file({"moments": moments_of(7, 4, seed=seed)}, path)
    return paths


@given(left_out=st.sets(st.tuples(st.integers(0, 1), st.integers(0, 6)), max_size=13), every=st.integers(1, 3))
def test_what_is_left_are_the_others_in_order(two: list[Path], left_out: set[tuple[int, int]], every: int) -> None:
    rows = [(str(two[file]), "moments", index) for file, index in sorted(left_out, reverse=True)]
    path = write_rows(two[0].parent / "rows", rows)
    found = find_posteriors(map(str, two), Selection(), SampleChoice(every=every, exclude=str(path)))
    there = [
        (two.index(Path(span.posterior.file.path)), index)
        for span in found.spans
        for index in range(span.first, span.first + span.count)
    ]
    assert there == [(file, index) for file in (0, 1) for index in range(7) if (file, index) not in left_out][::every]


def test_the_furthest_out_are_left_out(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(9, 4))
    rows = cli("kl", "a.safetensors", "-q").rows
    assert cli("kl", "a.safetensors", "--top", "3", "-o", "worst.csv").status == 0
    worst = sorted(rows, key=lambda row: -float(row["kl"]))[:3]
    left = [row for row in rows if row not in worst]
    assert cli("kl", "a.safetensors", "--exclude", "worst.csv", "-q").rows == left
    assert latentkit.kl("a.safetensors", exclude="worst.csv").tolist() == [float(row["kl"]) for row in left]
    assert cli("kl", "a.safetensors", "--exclude", "worst.csv", "--indices", "worst.csv", "-q").complaint == (
        "latentkit: a.safetensors: no sample is left by --indices and --exclude"
    )


@pytest.mark.parametrize("command", ["kl", "convert"])
def test_a_list_may_name_files_by_another_path(cli: Cli, write: Write, tmp_path: Path, command: str) -> None:
    place = write("d/a.safetensors", moments=moments_of(4, 2))
    for name in (str(place), "./d/a.safetensors", "d/../d/a.safetensors"):
        write_rows(tmp_path / "rows", [(name, "moments", 2)])
        outcome = cli(command, "d", "--indices", "rows", "-o", "out.csv" if command == "kl" else "out/", "--overwrite")
        assert (outcome.status, "1 row" in outcome.err or "1 sample" in outcome.err) == (0, True), outcome.err


@pytest.mark.parametrize(
    ("list", "sentence"),
    [
        ("nosuch", "nosuch: no such list of samples"),
        ("-", "standard input: a list of samples has the columns file, tensor, index, as CSV or JSON lines"),
        ("a.safetensors", "a.safetensors: a list of samples has the columns file, tensor, index, as CSV or JSON lines"),
        ("other", "other, line 2: no sample 9 of 'moments' in 'a.safetensors' among the inputs"),
    ],
)
def test_a_list_that_is_none_is_one_sentence(cli: Cli, write: Write, tmp_path: Path, list: str, sentence: str) -> None:
    write("a.safetensors", moments=moments_of(9, 4))
    write_rows(tmp_path / "other", [("a.safetensors", "moments", 9)])
    outcome = cli("kl", "a.safetensors", "--exclude", list)
    assert (outcome.status, outcome.complaint) == (2, f"latentkit: {sentence}")


def test_standard_input_is_one_list(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(9, 4))
    outcome = cli("kl", "a.safetensors", "--exclude", "-", "--indices", "-")
    assert (outcome.status, "standard input is one list" in outcome.complaint) == (2, True)
    rows = b"file,tensor,index\na.safetensors,moments,0\n"
    assert len(cli("kl", "a.safetensors", "--exclude", "-", "-q", stdin=rows).rows) == 8
