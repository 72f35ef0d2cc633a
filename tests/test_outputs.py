"""Outputs of every command: never an input, placed together or not at all, and no input to what runs next."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import Cli, files_below, moments_of

from latentkit.errors import RequestError
from latentkit.write import safetensors
from latentkit.write.places import check_outputs

Write = Callable[..., Path]
Contents = dict[str, bytes]


@pytest.fixture
def tree(tmp_path: Path, write: Write) -> Path:
    """Inputs of every kind, each reached in several ways."""
    write("d/a.safetensors", moments=moments_of(seed=1))
    write("d/b.safetensors", moments=moments_of(seed=2))
    write("e/a.safetensors", moments=moments_of(seed=3))
    write("e/b.safetensors", moments=moments_of(seed=4))
    write("l/a.safetensors", latents=torch.zeros(5, 2, 3, 4))
    write("l/b.safetensors", latents=torch.zeros(5, 2, 3, 4))
    (tmp_path / "again").symlink_to("d")
    os.link(tmp_path / "d/b.safetensors", tmp_path / "hard.json")
    (tmp_path / "link.json").symlink_to("d/b.safetensors")
    (tmp_path / "list.txt").write_text("d/a.safetensors\nd/b.safetensors\n")
    (tmp_path / "lists.txt").write_text("d/x.safetensors.index.json\n")
    weight_map = {"1": "a.safetensors", "2": "b.safetensors"}
    (tmp_path / "d/x.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (tmp_path / "rows.csv").write_text("file,tensor,index\nd/a.safetensors,moments,0\n")
    (tmp_path / "n.json").write_text(json.dumps({"latents_mean": [0, 0], "latents_std": [1, 1]}))
    return tmp_path


def contents(folder: Path) -> Contents:
    return {name: (folder / name).read_bytes() for name in files_below(folder)}


B = "d/b.safetensors"
AN_INPUT = [
    *[
        ("stats", source, "--state", B)
        for source in ("d", "again", "d/*.safetensors", "@list.txt", "d/x.safetensors.index.json", "@lists.txt")
    ],
    *[
        ("stats", "d", "--state", path)
        for path in ("again/b.safetensors", "link.json", "hard.json", "./d/../d/b.safetensors")
    ],
    ("stats", "d", "-o", B, "--format", "json"),
    ("stats", "d", "--save-normalization", B),
    ("stats", "d", "--limit", 1, "--state", B),
    ("stats", "d", "--against", "e", "--state", "e/b.safetensors"),
    ("stats", "@list.txt", "--state", "list.txt"),
    ("stats", "d/x.safetensors.index.json", "--state", "d/x.safetensors.index.json"),
    ("stats", "@lists.txt", "--state", "d/x.safetensors.index.json"),
    ("stats", "d", "--indices", "rows.csv", "--state", "rows.csv"),
    ("stats", "d", "--keep-going", "--errors", B),
    ("kl", "d", "--against", "e", "--keep-going", "--errors", "e/b.safetensors"),
    ("nll", "d", "--latents", "l", "--keep-going", "--errors", "l/b.safetensors"),
    ("report", "d", "-o", "report.html", "--save-normalization", B),
    ("kl", "d", "-o", B, "--format", "csv"),
    ("kl", "d", "-o", "hard.json"),
    ("kl", "d", "--limit", 1, "-o", "hard.json"),
    ("kl", "d", "--against", "e", "-o", "e/b.safetensors", "--format", "csv"),
    ("kl", "d", "--indices", "rows.csv", "-o", "rows.csv"),
    ("nll", "d", "--latents", "l", "-o", "l/b.safetensors", "--format", "csv"),
    ("nll", "d", "--latents", "l", "-o", "again/a.safetensors", "--format", "csv"),
    ("sample", "d", "-o", "d"),
    ("sample", "d", "-o", "again"),
    ("sample", "d/a.safetensors", "-o", "again/a.safetensors"),
    ("sample", "d", "--limit", 1, "-o", B),
    ("sample", "d/a.safetensors", "--normalization", "n.json", "-o", "n.safetensors"),
    ("sample", "d/x.safetensors.index.json", "-o", "again"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", AN_INPUT, ids=lambda arguments: " ".join(map(str, arguments)))
def test_no_output_takes_the_place_of_what_is_read(cli: Cli, tree: Path, arguments: tuple[object, ...]) -> None:
    (tree / "n.safetensors").symlink_to("n.json")
    before = contents(tree)
    outcome = cli(*arguments, "--overwrite", "--quiet")
    assert "is an input itself" in outcome.complaint
    assert outcome.status == 2
    assert contents(tree) == before


@pytest.mark.parametrize("output", ["--state", "-o", "--save-normalization"])
def test_no_output_takes_the_place_of_a_state_to_be_merged(cli: Cli, tree: Path, output: str) -> None:
    for name in "ab":
        assert cli("stats", f"d/{name}.safetensors", "--state", f"s/{name}.safetensors").status == 0
    before = contents(tree)
    format = ("--format", "json") if output == "-o" else ()
    outcome = cli("stats", "--merge", "s", output, "./s/b.safetensors", "--overwrite", *format, "--quiet")
    assert "is an input itself" in outcome.complaint
    assert contents(tree) == before


def test_standard_output_that_goes_on_an_input(tree: Path) -> None:
    """As ``cat`` does, for ``>>``: what an input is would grow as it is read."""
    before = contents(tree)
    with (tree / B).open("ab") as stdout:
        run = subprocess.run(
            [sys.executable, "-m", "latentkit", "kl", "d", "-q"], cwd=tree, stdout=stdout, stderr=subprocess.PIPE
        )
    assert (run.returncode, b"standard output: is an input itself" in run.stderr) == (2, True)
    assert contents(tree) == before


@pytest.mark.parametrize(
    "outputs",
    [
        ("-o", "a.json", "--state", "a.json"),
        ("-o", "a.json", "--state", "./a.json"),
        ("-o", "d/a.json", "--state", "again/a.json"),
        ("-o", "new/../a.json", "--save-normalization", "a.json"),
        ("--state", "new/a", "--save-normalization", "new//a"),
        ("-o", "a.json", "--keep-going", "--errors", "./a.json"),
        ("-o", "-", "--state", "/dev/stdout"),
        ("--state", "-"),
        ("-o", "one.json", "--state", "other.json", "--overwrite"),
    ],
)
def test_two_outputs_are_not_one_file(cli: Cli, tree: Path, outputs: tuple[str, ...]) -> None:
    (tree / "one.json").write_text("{}")
    (tree / "other.json").symlink_to("one.json")
    before = contents(tree)
    outcome = cli("stats", "d", *outputs, "--quiet")
    assert "is named for two outputs" in outcome.complaint
    assert outcome.status == 2
    assert contents(tree) == before


def test_the_null_device_takes_any_number_of_outputs(cli: Cli, tree: Path) -> None:
    del tree
    assert cli("stats", "d", "-o", "/dev/null", "--state", "/dev/null", "--quiet").status == 0


def test_ten_thousand_outputs_and_inputs_are_looked_at_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = [str(tmp_path / f"in/{number}") for number in range(10_000)]
    outputs = [str(tmp_path / f"out/{number}") for number in range(10_000)]
    calls = 0

    def counted(call: Callable[..., object]) -> Callable[..., object]:
        def count(*arguments: object, **options: object) -> object:
            nonlocal calls
            calls += 1
            return call(*arguments, **options)

        return count

    for name in ("stat", "lstat"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    check_outputs(outputs, overwrite=True, read=inputs)
    assert calls < 100_000
    (tmp_path / "out").mkdir()
    (tmp_path / "in").mkdir()
    Path(inputs[-1]).touch()
    os.link(inputs[-1], outputs[-1])
    with pytest.raises(RequestError, match=r"out/9999: is an input itself \(.*in/9999\)"):
        check_outputs(outputs, overwrite=True, read=inputs)


# ---- placed together ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["a.json", "s.safetensors", "n.json"])
@pytest.mark.parametrize("existed", [False, True])
def test_outputs_of_one_run_are_placed_together_or_none(
    cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch, failing: str, existed: bool
) -> None:
    outputs = "a.json", "s.safetensors", "n.json"
    if existed:
        for name in outputs:
            (tree / "out" / name).parent.mkdir(exist_ok=True)
            (tree / "out" / name).write_text("old")
    before = contents(tree)
    real = os.replace

    def fail(source: str, target: str) -> None:
        if target.endswith(failing):
            raise OSError(5, "Input/output error")
        real(source, target)

    monkeypatch.setattr(os, "replace", fail)
    options = ("-o", "out/a.json", "--state", "out/s.safetensors", "--save-normalization", "out/n.json")
    outcome = cli("stats", "d", *options, "--overwrite", "--quiet")
    assert outcome.status == 1
    assert failing in outcome.complaint
    assert contents(tree) == before
    assert (tree / "out").exists() == existed


def test_a_report_is_not_placed_without_its_normalization(
    cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    before = contents(tree)
    real = os.link

    def fail(source: str, target: str, **options: bool) -> None:
        if target.endswith("n2.json"):
            raise FileExistsError
        real(source, target, **options)

    monkeypatch.setattr(os, "link", fail)
    outcome = cli("report", "d/a.safetensors", "-o", "r.html", "--save-normalization", "n2.json", "--quiet")
    assert outcome.status == 2
    assert "n2.json: appeared while" in outcome.complaint
    assert contents(tree) == before


def test_a_reader_that_goes_away_does_not_lose_the_state(tree: Path) -> None:
    read, into = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "latentkit", "stats", "d", "--state", "s", "-q"]
    run = subprocess.run(command, cwd=tree, stdout=into, stderr=subprocess.PIPE)
    os.close(into)
    assert (run.returncode, run.stderr) == (0, b"")
    assert (tree / "s").exists()


def test_where_no_normalization_can_be_saved_the_rest_is(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(1))
    outcome = cli("stats", "a.safetensors", "-o", "a.json", "--save-normalization", "n.json", "--quiet")
    assert outcome.status == 1
    assert "no normalization was saved" in outcome.complaint
    assert files_below(tmp_path) == ["a.json", "a.safetensors"]


# ---- what latentkit wrote is no input -----------------------------------------------------------------------------


def test_a_state_beside_the_data_is_passed_over(cli: Cli, tree: Path) -> None:
    first = cli("stats", "d", "--state", "d/s.safetensors")
    assert first.status == 0
    for command in ("stats", "kl"):
        outcome = cli(command, "d")
        assert outcome.status == 0
        assert "passed over 1 state that stats wrote" in outcome.err
    assert cli("stats", "d").out == first.out
    assert cli("kl", "d/*.safetensors").status == 0
    assert cli("kl", "d", "--against", "d").status == 0
    assert cli("info", "d").status == 0
    outcome = cli("sample", "d", "-o", "out")
    assert (outcome.status, files_below(tree / "out")) == (0, ["a.safetensors", "b.safetensors"])
    assert cli("stats", "out", "--parameterization", "none", "--state", "out/s.safetensors").status == 0
    assert cli("stats", "out", "--parameterization", "none").status == 0
    assert cli("sample", "d", "--verify", "out").status == 0
    assert cli("nll", "d", "--latents", "out").status == 0
    # The command can be given again.
    assert cli("stats", "d", "--state", "d/s.safetensors", "--overwrite").out == first.out
    assert cli("stats", "--merge", "d/s.safetensors").status == 0


def test_a_state_that_is_named_is_refused_with_the_way_out(cli: Cli, tree: Path) -> None:
    del tree
    assert cli("stats", "d", "--state", "s.safetensors").status == 0
    for command in (("stats",), ("kl",), ("sample", "-o", "out"), ("kl", "--key", "names")):
        outcome = cli(*command, "s.safetensors")
        assert outcome.status == 2
        assert "s.safetensors: a state that stats wrote" in outcome.complaint
        assert "--merge" in outcome.complaint


def test_a_folder_of_states_alone_is_refused_with_the_way_out(cli: Cli, tree: Path) -> None:
    del tree
    assert cli("stats", "d", "--state", "s/s.safetensors").status == 0
    outcome = cli("kl", "s")
    assert (outcome.status, "stats --merge" in outcome.complaint) == (1, True)


# ---- places that will not do --------------------------------------------------------------------------------------

COMMANDS = {
    "stats": ("stats", "d", "--format", "json", "-o"),
    "state": ("stats", "d", "--state"),
    "report": ("report", "d/a.safetensors", "-o"),
    "kl": ("kl", "d", "--format", "csv", "-o"),
    "nll": ("nll", "d", "--latents", "l", "--format", "csv", "-o"),
    "sample": ("sample", "d/a.safetensors", "-o"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("", "names no file"),
        ("folder", "is a folder"),
        ("tofolder", "is a folder"),
        ("n.json/x{}", "n.json is not a folder"),
        ("there{}", "exists already; add --overwrite"),
        ("broken{}", "exists already; add --overwrite"),
        ("new/" + "x" * 300 + "{}", "choose a shorter one"),
        ("x" * 300 + "/x{}", "choose a shorter one"),
        ("/dev/fd/99", "is not open"),
    ],
)
def test_a_place_that_will_not_do(cli: Cli, tree: Path, command: str, place: str, words: str) -> None:
    suffix = {"report": ".html", "sample": ".safetensors"}.get(command, "")
    takes_folders = command in ("sample", "report", "kl", "nll")
    if (takes_folders and "folder" in place) or (command in ("sample", "report") and not place):
        pytest.skip("another sentence, or no error")
    (tree / "folder").mkdir()
    (tree / "tofolder").symlink_to("folder")
    (tree / f"there{suffix}").touch()
    (tree / f"broken{suffix}").symlink_to("gone")
    before = contents_of_links(tree)
    outcome = cli(*COMMANDS[command], place.format(suffix), "--quiet")
    assert words in outcome.complaint
    assert outcome.status == 2
    assert contents_of_links(tree) == before


def contents_of_links(folder: Path) -> dict[str, object]:
    return {
        name: os.readlink(folder / name) if (folder / name).is_symlink() else (folder / name).read_bytes()
        for name in files_below(folder)
    }


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "report"])
@pytest.mark.parametrize("place", ["/dev/full", "full"])
def test_a_device_without_room(cli: Cli, tree: Path, command: str, place: str) -> None:
    (tree / "full").symlink_to("/dev/full")
    before = files_below(tree)
    outcome = cli(*COMMANDS[command], place, "--quiet")
    assert outcome.status == 1
    assert outcome.err == f"latentkit: {place}: No space left on device\n"
    assert files_below(tree) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_link_is_replaced_and_its_target_stays(cli: Cli, tree: Path, command: str) -> None:
    suffix = {"report": ".html", "sample": ".safetensors"}.get(command, ".out")
    (tree / "target").write_text("kept")
    (tree / f"link{suffix}").symlink_to("target")
    assert cli(*COMMANDS[command], f"link{suffix}", "--overwrite", "--quiet").status == 0
    assert (tree / "target").read_text() == "kept"
    assert not (tree / f"link{suffix}").is_symlink()


# ---- no room, in the midst of writing -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("existed", [False, True])
def test_a_limit_on_the_size_of_files(cli: Cli, tree: Path, command: str, existed: bool) -> None:
    """RLIMIT_FSIZE: SIGXFSZ kills who does not ignore it."""
    if command == "report":
        pytest.importorskip("matplotlib")
    suffix = {"report": ".html", "sample": ".safetensors"}.get(command, ".out")
    # All that is compiled lies in the cache before.
    assert cli(*COMMANDS[command], f"before{suffix}", "--quiet").status == 0
    if existed:
        (tree / f"out{suffix}").write_text("old")
    before = contents(tree)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        run = subprocess.run(
            [sys.executable, "-m", "latentkit", *COMMANDS[command], f"out{suffix}", "--overwrite", "-q"],
            cwd=tree,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert run.stderr.decode().endswith(f"out{suffix}: File too large\n")
    assert run.stderr.count(b"\n") == 1
    assert run.returncode == 1
    assert contents(tree) == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("only root mounts a small disk")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("known", [False, True])
def test_a_disk_that_is_full(
    cli: Cli, write: Write, small_disk: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """Whether it says so before, or only when it is written to."""
    write("a.safetensors", moments=moments_of(100, 2, 16, 16))
    if not known:
        monkeypatch.setattr(safetensors, "free_space", lambda _: None)
    outcome = cli("sample", "a.safetensors", "-o", small_disk / "new/out.safetensors", "--quiet")
    assert outcome.status == 1
    assert ("nothing was written" if known else "out.safetensors: No space left on device") in outcome.complaint
    assert list(small_disk.iterdir()) == []


def test_a_share_that_says_nothing_of_its_room(cli: Cli, tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "statvfs", fail)
    assert cli("sample", "d", "-o", "out", "--dry-run").json["bytes_free"] is None
    assert cli("sample", "d", "-o", "out", "--quiet").status == 0
    assert files_below(tree / "out") == ["a.safetensors", "b.safetensors"]
