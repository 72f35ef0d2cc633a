"""Bad input: one sentence that names file and tensor and the way out, the right status, and nothing lost."""

import csv
import gc
import io
import json
import os
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import pyarrow.parquet
import pytest
import torch
from conftest import SAMPLE_DATA, Cli, files_below, moments_of
from safetensors.torch import save
from torch import Tensor

Write = Callable[..., Path]

COMMANDS = [("kl",), ("stats",), ("sample", "-o", "out.safetensors"), ("nll", "--latents", "latents.safetensors")]
ids = [command[0] for command in COMMANDS]


def good() -> bytes:
    return save({"moments": moments_of()})


def header_of(length: int, rest: bytes = b"") -> bytes:
    return length.to_bytes(8, "little") + rest


# What the file's bytes are, and words of the complaint.
DAMAGED = {
    "empty": (b"", "not a safetensors file: it has 0 bytes"),
    "seven bytes": (b"1234567", "it has 7 bytes, too few for a header"),
    "text": (b"a text file that is longer than eight bytes", "not a safetensors file"),
    "pickle": (b"\x80\x04\x95" + bytes(100), "not a safetensors file"),
    "truncated data": (good()[:-3], "truncated or damaged"),
    "truncated header": (good()[:60], "truncated: its header should be"),
    "data too long": (good() + b"1234", "truncated or damaged"),
    "header of 2**62 bytes": (header_of(2**62, bytes(100)), "no sensible header"),
    "header of 17 MiB": (header_of(17 << 20, b"{}" + b" " * (17 << 20)), "latentkit reads headers of up to 16777216"),
    "header is no JSON": (header_of(8, b"abcdefgh"), "not a safetensors file, or a damaged one"),
    "header is a list": (header_of(8, b"[1, 2]  "), "not a safetensors file, or a damaged one"),
    "header nested deep": (header_of(100_000, b"[" * 100_000), "not a safetensors file, or a damaged one"),
    "offsets beyond the data": (good().replace(b"[0,960]", b"[0,990]"), "damaged"),
    "shape against offsets": (good().replace(b"[5,4,3,4]", b"[5,4,3,5]"), "damaged"),
}


@pytest.mark.parametrize("command", [*COMMANDS, ("info",)], ids=[*ids, "info"])
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_file_that_is_no_safetensors_file(cli: Cli, tmp_path: Path, command: tuple[str, ...], damage: str) -> None:
    data, words = DAMAGED[damage]
    (tmp_path / "a.safetensors").write_bytes(data)
    outcome = cli(*command, "a.safetensors")
    assert outcome.status == 1
    assert outcome.complaint.startswith("latentkit: a.safetensors: ")
    assert words in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors"]


def one(**tensors: Tensor) -> dict[str, Tensor]:
    return tensors


F32 = torch.float32

# The tensors of the file, further options, the status, and words of the complaint.
UNREADABLE: dict[str, tuple[dict[str, Tensor], tuple[str, ...], int, tuple[str, ...]]] = {
    "odd channels": (
        one(moments=torch.zeros(2, 7, 2, 2)),
        (),
        1,
        ("'moments' has 7 channels", "odd", "[2, 7, 2, 2]", "--layout"),
    ),
    "odd by the layout": (
        one(moments=torch.zeros(2, 8, 7)),
        ("--layout", "blc"),
        1,
        ("'moments' has 7 channels", "layout blc"),
    ),
    "zero channels": (one(moments=torch.zeros(2, 0, 2, 2)), (), 1, ("'moments' is empty", "[2, 0, 2, 2]")),
    "empty": (one(moments=torch.zeros(2, 4, 0, 2)), (), 1, ("'moments' is empty", "[2, 4, 0, 2]")),
    "zero samples": (one(moments=torch.zeros(0, 4, 2, 2)), (), 1, ("no samples",)),
    "integers": (
        one(moments=torch.zeros(2, 4, 2, 2, dtype=torch.int32)),
        (),
        1,
        ("'moments' is I32", "floating-point"),
    ),
    "integers named": (one(a=torch.zeros(2, 4, dtype=torch.int64)), ("--key", "a"), 1, ("'a' is I64", "[2, 4]")),
    "no float at all": (
        one(a=torch.zeros(2, 4, dtype=torch.int64)),
        (),
        2,
        ("no floating-point tensor", "'a' I64 [2, 4]"),
    ),
    "no tensors": ({}, (), 2, ("it holds no tensors",)),
    "no axes": (one(moments=torch.zeros(())), (), 1, ("'moments' has shape []",)),
    "one axis": (one(moments=torch.zeros(8)), (), 1, ("'moments' has shape [8]", "--layout")),
    "six axes": (one(moments=torch.zeros(1, 2, 1, 1, 1, 1)), (), 1, ("[1, 2, 1, 1, 1, 1]", "--layout")),
    "three axes": (
        one(moments=torch.zeros(2, 4, 4)),
        (),
        2,
        ("'moments' has three axes", "--layout bcl", "--layout blc", "--layout chw"),
    ),
    "layout of other rank": (
        one(moments=torch.zeros(2, 4, 4)),
        ("--layout", "bchw"),
        2,
        ("3 axes", "--layout bchw names 4"),
    ),
    "wrong key": (
        one(moments=torch.zeros(2, 4)),
        ("--key", "momets"),
        2,
        ("no tensor is called 'momets'", "'moments' F32 [2, 4]", "--key"),
    ),
    "glob without match": (
        one(moments=torch.zeros(2, 4)),
        ("--key", "z*"),
        2,
        ("no tensor is called 'z*'", "'moments'"),
    ),
    "two candidates": (
        one(x=torch.zeros(2, 4), y=torch.zeros(2, 4)),
        (),
        2,
        ("'x' F32 [2, 4]", "'y' F32 [2, 4]", "--key x"),
    ),
    "two known keys": (
        one(moments=torch.zeros(2, 4), parameters=torch.zeros(2, 4)),
        (),
        2,
        ("'moments' and 'parameters'", "--key moments"),
    ),
    "two pairs": (
        one(mean=torch.zeros(2, 4), logvar=torch.zeros(2, 4), std=torch.ones(2, 4)),
        (),
        2,
        ("--mean-key", "'std' F32 [2, 4]"),
    ),
    "wrong mean key": (
        one(mean=torch.zeros(2, 4), logvar=torch.zeros(2, 4)),
        ("--mean-key", "m", "--logvar-key", "logvar"),
        2,
        ("'m'", "'mean' F32", "--mean-key"),
    ),
    "pair of two shapes": (
        one(mean=torch.zeros(2, 4), logvar=torch.zeros(2, 3)),
        (),
        1,
        ("'mean' (F32 [2, 4])", "'logvar' (F32 [2, 3])", "do not match"),
    ),
    "pair of two dtypes": (
        one(mean=torch.zeros(2, 4), logvar=torch.zeros(2, 4).half()),
        (),
        1,
        ("F32 [2, 4]", "F16 [2, 4]", "do not match"),
    ),
    "pair of integers": (
        one(mean=torch.zeros(2, 4).int(), logvar=torch.zeros(2, 4).int()),
        ("--mean-key", "mean", "--logvar-key", "logvar"),
        1,
        ("'mean' is I32",),
    ),
    "latents by name": (
        one(latents=torch.zeros(2, 4, 2, 2)),
        (),
        2,
        ("'latents' holds drawn latents", "--parameterization"),
    ),
}


@pytest.mark.parametrize("command", COMMANDS, ids=ids)
@pytest.mark.parametrize("case", UNREADABLE)
def test_a_tensor_that_is_no_posterior(
    cli: Cli, write: Write, tmp_path: Path, command: tuple[str, ...], case: str
) -> None:
    tensors, options, status, words = UNREADABLE[case]
    write("a.safetensors", **tensors)
    outcome = cli(*command, "a.safetensors", *options, "--quiet")
    assert outcome.status == status, outcome.err
    assert "a.safetensors" in outcome.complaint
    for word in words:
        assert word in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors"]


@pytest.mark.parametrize("command", ["kl", "stats"])
@pytest.mark.parametrize("parameterization", ["std", "var"])
def test_a_negative_scale(cli: Cli, write: Write, command: str, parameterization: str) -> None:
    write("a.safetensors", moments=torch.full((2, 4, 2, 2), -1.0))
    outcome = cli(command, "a.safetensors", "--parameterization", parameterization, "--quiet")
    assert outcome.status == 1
    for word in ("a.safetensors", "negative", "--parameterization logvar"):
        assert word in outcome.complaint


def test_a_negative_std_under_latents(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=torch.full((2, 4, 2, 2), -1.0))
    write("b.safetensors", latents=torch.zeros(2, 2, 2, 2))
    outcome = cli("nll", "a.safetensors", "--latents", "b.safetensors", "--parameterization", "std", "--quiet")
    assert outcome.status == 1
    assert "sample 0 has a negative standard deviation" in outcome.complaint


@pytest.mark.parametrize("command", COMMANDS, ids=ids)
def test_what_latentkit_drew_is_refused(cli: Cli, write: Write, command: tuple[str, ...]) -> None:
    write("a.safetensors", {"noise_recipe": "1"}, latents=torch.zeros(2, 4, 2, 2))
    outcome = cli(*command, "a.safetensors")
    assert outcome.status == 2
    assert "a.safetensors: tensor 'latents' holds drawn latents (latentkit drew it)" in outcome.complaint


def test_drawn_latents_are_read_as_moments_when_the_parameterization_says_so(cli: Cli, write: Write) -> None:
    write("a.safetensors", {"noise_recipe": "1"}, latents=torch.zeros(2, 4, 2, 2))
    assert cli("kl", "a.safetensors", "--parameterization", "logvar").values("kl") == [0, 0]


# ---- arguments ----------------------------------------------------------------------------------------------------

# Arguments, and words of the complaint; a.safetensors and b.safetensors are good, n.json is no normalization.
WRONG_USAGE = {
    "unknown command": (("kll", "a.safetensors"), ("there is no command 'kll'", "kl")),
    "no files": (("kl",), ("kl needs FILES", "latentkit kl sample_data/")),
    "unknown option": (
        ("kl", "a.safetensors", "--symetric"),
        ("kl has no option --symetric; did you mean --symmetric?",),
    ),
    "unknown option of sample": (("sample", "a.safetensors", "-o", "out", "--sed", "7"), ("--sed", "--seed")),
    "no output": (("sample", "a.safetensors"), ("-o",)),
    "latents as another file": (
        ("sample", "a.safetensors", "-o", "out.foo"),
        ("out.foo: .foo is not written", "/ for a folder"),
    ),
    "moments as another file": (("convert", "a.safetensors", "-o", "out.npz"), (".safetensors, .npy, or /",)),
    "no latents": (("nll", "a.safetensors"), ("--latents",)),
    "no such file": (("kl", "nosuch.safetensors"), ("nosuch.safetensors: no such file or folder",)),
    "no such folder": (("kl", "nosuch/"), ("nosuch/: no such file or folder",)),
    "no match": (("kl", "z*.safetensors"), ("z*.safetensors: no .safetensors file matches",)),
    "folder without files": (("kl", "void"), ("void: no .safetensors file in this folder",)),
    "no such list": (("kl", "@nosuch.txt"), ("@nosuch.txt: no such list",)),
    "empty list": (("kl", "@empty.txt"), ("@empty.txt: the list is empty",)),
    "empty list on stdin": (("kl", "@-"), ("@-: the list is empty",)),
    "list with a missing file": (("kl", "@list.txt"), ("gone.safetensors: no such file (named by @list.txt)",)),
    "unknown format": (("kl", "a.safetensors", "--format", "xml"), ("xml", "csv")),
    "unknown suffix": (
        ("kl", "a.safetensors", "-o", "out.xlsx"),
        ("out.xlsx: end it with .csv", "--format"),
    ),
    "no suffix": (("kl", "a.safetensors", "-o", "out"), ("out: end it with .csv", "/ ends a folder")),
    "table in a file": (("kl", "a.safetensors", "-o", "out.csv", "--format", "table"), ("--format table",)),
    "stats as Parquet": (("stats", "a.safetensors", "-o", "out.parquet"), ("out.parquet", ".json")),
    "unknown device": (("kl", "a.safetensors", "--device", "gpu"), ("--device gpu", "cuda")),
    "unknown device number": (("kl", "a.safetensors", "--device", "cuda:x"), ("--device cuda:x",)),
    "clamp crossed": (
        ("kl", "a.safetensors", "--clamp-min", "3", "--clamp-max", "2"),
        ("--clamp-min 3.0 and --clamp-max 2.0",),
    ),
    "clamp infinite": (("kl", "a.safetensors", "--clamp-min=-inf"), ("--clamp-min -inf", "finite")),
    "clamp NaN": (("stats", "a.safetensors", "--clamp-max", "nan"), ("--clamp-max nan",)),
    "layout without channels": (
        ("kl", "a.safetensors", "--layout", "bhw"),
        ("--layout: 'bhw' is not a layout", "exactly one c"),
    ),
    "layout with the batch behind": (("kl", "a.safetensors", "--layout", "cbhw"), ("come first",)),
    "batch size zero": (("kl", "a.safetensors", "--batch-size", "0"), ("--batch-size", "1")),
    "top zero": (("kl", "a.safetensors", "--top", "0"), ("--top",)),
    "half a pair": (("kl", "a.safetensors", "--mean-key", "mean"), ("--logvar-key", "give both")),
    "pair and key": (
        ("kl", "a.safetensors", "--key", "a", "--mean-key", "a", "--logvar-key", "a"),
        ("--key", "one or the other"),
    ),
    "symmetric alone": (("kl", "a.safetensors", "--symmetric"), ("--symmetric needs --against",)),
    "against a missing file": (("kl", "a.safetensors", "--against", "nosuch"), ("nosuch: no such file",)),
    "column missing": (
        ("kl", "a.safetensors", "--columns", "label"),
        ("a.safetensors: no tensor is called 'label'", "'labels' I64 [5]"),
    ),
    "column taken": (("kl", "a.safetensors", "--columns", "kl"), ("--columns kl", "already")),
    "seed negative": (("sample", "a.safetensors", "-o", "out", "--seed", "-1"), ("--seed", "0")),
    "seed too large": (("sample", "a.safetensors", "-o", "out", "--seed", str(2**64)), ("--seed",)),
    "temperature negative": (("sample", "a.safetensors", "-o", "out", "--temperature", "-1"), ("--temperature -1.0",)),
    "temperature of a mode": (
        ("sample", "a.safetensors", "-o", "out", "--mode", "--temperature", "0.5"),
        ("--temperature 0.5 multiplies noise, and --mode has none",),
    ),
    "float64 noise": (
        ("sample", "a.safetensors", "-o", "out", "--dtype", "float64"),
        ("--dtype float64 goes with --mode",),
    ),
    "skip in sample": (("sample", "a.safetensors", "-o", "out", "--on-nonfinite", "skip"), ("--on-nonfinite skip",)),
    "scaling by zero": (
        ("sample", "a.safetensors", "-o", "out", "--scaling-factor", "0"),
        ("--scaling-factor", "other than 0"),
    ),
    "shift by NaN": (("sample", "a.safetensors", "-o", "out", "--shift-factor", "nan"), ("--shift-factor",)),
    "no normalization": (
        ("sample", "a.safetensors", "-o", "out", "--normalization", "n.json"),
        ("n.json: not a normalization file, as stats", "latents_std"),
    ),
    "two inputs, one file": (
        ("sample", "a.safetensors", "b.safetensors", "-o", "c.safetensors"),
        ("c.safetensors: one file, and there are 2 inputs",),
    ),
    "two draws into a pipe": (("sample", "a.safetensors", "-o", "-", "--draws", "2"), ("one draw",)),
    "stream that is no text": (("sample", "a.safetensors", "-o", "out", "--stream", "\udcff"), ("--stream",)),
    "guide without the page": (("guide", "nosuch"), ("no page 'nosuch'",)),
}


@pytest.mark.parametrize("case", WRONG_USAGE)
def test_wrong_usage(cli: Cli, write: Write, tmp_path: Path, case: str) -> None:
    arguments, words = WRONG_USAGE[case]
    write("a.safetensors", moments=moments_of(), labels=torch.arange(5))
    write("b.safetensors", moments=moments_of())
    (tmp_path / "void").mkdir()
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "list.txt").write_text("a.safetensors\ngone.safetensors\n")
    (tmp_path / "n.json").write_text('{"mean": [0]}')
    before = files_below(tmp_path)
    outcome = cli(*arguments)
    assert outcome.status == 2, outcome.err
    for word in words:
        assert word in outcome.complaint
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("device", ["cuda", "cuda:7"])
def test_a_device_that_is_not_there(cli: Cli, write: Write, device: str) -> None:
    if device == "cuda" and torch.cuda.is_available():
        pytest.skip("it is there")
    write("a.safetensors", moments=moments_of())
    outcome = cli("kl", "a.safetensors", "--device", device)
    assert outcome.status == 2
    assert f"--device {device}" in outcome.complaint
    assert "--device cpu" in outcome.complaint


DEBUGGED = [(("kl", "a.safetensors"), 1), (("kl", SAMPLE_DATA / "pair.safetensors", "--top", 1 << 20), 2)]


@pytest.mark.parametrize(("command", "status"), DEBUGGED, ids=["data", "request"])
def test_debug_shows_the_traceback_too(cli: Cli, tmp_path: Path, command: tuple[object, ...], status: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(b"")
    outcome = cli(*command, "--debug")
    assert (outcome.status, outcome.err.count("Traceback (most recent call last)")) == (status, 1)
    assert outcome.err.splitlines()[-1].startswith("latentkit: ")


# ---- partners -----------------------------------------------------------------------------------------------------


def test_a_partner_of_another_shape(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", moments=moments_of(4))
    outcome = cli("kl", "a.safetensors", "--against", "b.safetensors")
    assert outcome.status == 1
    for word in ("a.safetensors: tensor 'moments'", "[5, 2, 3, 4]", "b.safetensors", "[4, 2, 3, 4]"):
        assert word in outcome.complaint


def test_a_partner_that_is_missing(cli: Cli, write: Write) -> None:
    for name in ("d/a", "d/b", "e/a", "e/c"):
        write(f"{name}.safetensors", moments=moments_of())
    outcome = cli("kl", "d", "--against", "e")
    assert outcome.status == 2
    assert "d/b.safetensors: tensor 'moments' has no partner" in outcome.complaint


@pytest.mark.parametrize("command", [("kl", "--against", "e"), ("nll", "--latents", "e")], ids=["kl", "nll"])
def test_two_inputs_that_would_share_a_partner(cli: Cli, write: Write, command: tuple[str, ...]) -> None:
    for name in ("d/x/a", "d/y/a"):
        write(f"{name}.safetensors", moments=moments_of())
    for name in ("e/a", "e/b"):
        write(f"{name}.safetensors", moments=moments_of(), latents=torch.zeros(5, 2, 3, 4))
    outcome = cli(*command, "d/x", "d/y")
    assert outcome.status == 2
    assert "have the same name, 'a.safetensors'" in outcome.complaint


def test_a_file_that_is_given_twice_has_one_noise(cli: Cli, write: Write) -> None:
    write("d/a.safetensors", moments=moments_of())
    outcome = cli("sample", "d", "d/a.safetensors", "-o", "out")
    assert outcome.status == 2
    assert "d/a.safetensors: is given twice" in outcome.complaint


@pytest.mark.parametrize("labels", [torch.arange(4), torch.zeros(5, 2), torch.zeros(5).to(torch.float8_e5m2)])
def test_columns_that_are_not_one_value_a_sample(cli: Cli, write: Write, labels: Tensor) -> None:
    write("a.safetensors", moments=moments_of(), labels=labels)
    outcome = cli("kl", "a.safetensors", "--columns", "labels")
    assert outcome.status == 1
    assert "a.safetensors: tensor 'labels'" in outcome.complaint


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"moments": torch.zeros(2, 6, 2, 2)}, ("2 latent channels", "3")),
        ({"mean": torch.ones(2, 2, 2, 2), "std": torch.ones(2, 2, 2, 2)}, ("logvar", "std", "--parameterization")),
    ],
)
def test_stats_over_inputs_that_cannot_be_pooled(
    cli: Cli, write: Write, other: dict[str, Tensor], words: tuple[str, ...]
) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", **other)
    outcome = cli("stats", "a.safetensors", "b.safetensors")
    assert outcome.status == 2
    for word in ("a.safetensors", "b.safetensors", *words):
        assert word in outcome.complaint


def test_no_samples_in_any_shard(cli: Cli, write: Write) -> None:
    for name in "ab":
        write(f"d/{name}.safetensors", moments=torch.zeros(0, 4, 2, 2))
    outcome = cli("kl", "d")
    assert outcome.status == 1
    assert "no samples" in outcome.complaint


def test_a_folder_with_nothing_but_drawn_latents(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    cli("sample", "a.safetensors", "-o", "drawn")
    outcome = cli("kl", "drawn")
    assert outcome.status == 2
    assert "latentkit drew it" in outcome.complaint


@pytest.mark.parametrize(
    "content",
    ["[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": 3}}', '{"weight_map": {"a": [1]}}', "{", "[" * 100_000],
)
def test_an_index_that_is_none(cli: Cli, tmp_path: Path, content: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(content)
    outcome = cli("kl", "m.safetensors.index.json")
    assert outcome.status == 1
    assert "m.safetensors.index.json" in outcome.complaint


@pytest.mark.parametrize("name", ["../a.safetensors", "/tmp/a.safetensors", "x/../../a.safetensors"])
def test_an_index_that_leads_out_of_its_folder(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / "m.safetensors.index.json").write_text(json.dumps({"weight_map": {"moments": name}}))
    outcome = cli("sample", "m.safetensors.index.json", "-o", "out")
    assert outcome.status == 1
    assert name in outcome.complaint


def test_an_index_that_names_a_missing_shard(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {"moments": "gone.safetensors"}}')
    outcome = cli("kl", "m.safetensors.index.json")
    assert outcome.status == 2
    assert "gone.safetensors: no such file (named by m.safetensors.index.json)" in outcome.complaint


def test_a_pipe_is_no_input(cli: Cli, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.safetensors")
    outcome = cli("kl", "a.safetensors")
    assert outcome.status == 1
    assert "a.safetensors: not a regular file" in outcome.complaint


def test_a_link_that_leads_nowhere(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.safetensors").symlink_to("gone")
    outcome = cli("kl", "a.safetensors")
    assert outcome.status == 1
    assert "a.safetensors" in outcome.complaint


# ---- outputs ------------------------------------------------------------------------------------------------------

WRITERS = {
    "kl": (("kl", "a.safetensors"), "csv"),
    "stats": (("stats", "a.safetensors"), "json"),
    "sample": (("sample", "a.safetensors"), "safetensors"),
    "nll": (("nll", "a.safetensors", "--latents", "b.safetensors"), "csv"),
}


@pytest.fixture
def inputs(write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(5, 2, 3, 4))


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
def test_an_output_that_exists_is_kept(cli: Cli, tmp_path: Path, command: str) -> None:
    arguments, suffix = WRITERS[command]
    (tmp_path / f"out.{suffix}").write_text("precious")
    outcome = cli(*arguments, "-o", f"out.{suffix}")
    assert outcome.status == 2
    assert f"out.{suffix}: exists already; add --overwrite" in outcome.complaint
    assert (tmp_path / f"out.{suffix}").read_text() == "precious"


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
def test_an_output_that_exists_is_replaced_when_asked(cli: Cli, tmp_path: Path, command: str) -> None:
    arguments, suffix = WRITERS[command]
    path = tmp_path / f"out.{suffix}"
    path.write_text("old")
    path.chmod(0o604)
    assert cli(*arguments, "-o", path.name, "--overwrite").status == 0
    assert len(path.read_bytes()) > 20
    assert path.stat().st_mode & 0o777 == 0o604


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
def test_an_output_below_a_file(cli: Cli, tmp_path: Path, command: str) -> None:
    arguments, suffix = WRITERS[command]
    before = files_below(tmp_path)
    outcome = cli(*arguments, "-o", f"a.safetensors/x/out.{suffix}")
    assert outcome.status == 2
    assert f"a.safetensors/x/out.{suffix}" in outcome.complaint
    assert "not a folder" in outcome.complaint
    assert files_below(tmp_path) == before


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_an_output_where_nothing_can_be_made(cli: Cli, command: str) -> None:
    arguments, suffix = WRITERS[command]
    outcome = cli(*arguments, "-o", f"/proc/self/out.{suffix}", "--quiet")
    assert outcome.status in (1, 2)
    assert f"/proc/self/out.{suffix}" in outcome.complaint.replace(f"/proc/{os.getpid()}/", "/proc/self/")


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_a_full_device(cli: Cli, command: str) -> None:
    arguments, _ = WRITERS[command]
    outcome = cli(*arguments, "-o", "/dev/full", "--quiet")
    assert outcome.status == 1
    assert outcome.complaint == "latentkit: /dev/full: No space left on device"


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "a.safetensors", "-o", "a.safetensors", "--overwrite"),
        ("sample", "a.safetensors", "-o", "link.safetensors", "--overwrite"),
        ("sample", "a.safetensors", "-o", ".", "--overwrite"),
        ("kl", "a.safetensors", "-o", "a.safetensors", "--overwrite", "--format", "csv"),
        ("kl", "a.safetensors", "-o", "link.safetensors", "--overwrite", "--format", "csv"),
        ("kl", "c.safetensors", "--against", "a.safetensors", "-o", "a.safetensors", "--overwrite", "--format", "csv"),
        ("nll", "a.safetensors", "--latents", "b.safetensors", "-o", "b.safetensors", "--overwrite", "--format", "csv"),
        ("nll", "a.safetensors", "--latents", "b.safetensors", "-o", "a.safetensors", "--overwrite", "--format", "csv"),
    ],
)  # fmt: skip
def test_an_output_that_is_an_input(cli: Cli, write: Write, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", latents=torch.zeros(5, 2, 3, 4))
    write("c.safetensors", moments=moments_of())
    (tmp_path / "link.safetensors").symlink_to("a.safetensors")
    before = [(tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors")]
    outcome = cli(*arguments, "--quiet")
    assert outcome.status == 2
    assert "is an input itself" in outcome.complaint
    assert [(tmp_path / name).read_bytes() for name in ("a.safetensors", "b.safetensors")] == before


@pytest.mark.parametrize("command", WRITERS)
@pytest.mark.usefixtures("inputs")
def test_a_file_that_changes_while_it_is_read(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    import latentkit.run

    arguments, suffix = WRITERS[command]
    run = latentkit.run.run

    def change_and_run(*args: object, **options: object) -> object:
        (tmp_path / "a.safetensors").write_bytes(b"something else")
        return run(*args, **options)  # type: ignore[arg-type]

    for module in ("measures.kl", "measures.nll", "stats.counting", "sample.files"):
        monkeypatch.setattr(import_module(f"latentkit.{module}"), "run", change_and_run)
    outcome = cli(*arguments, "-o", f"out.{suffix}", "--quiet")
    assert outcome.status == 1
    assert "a.safetensors: changed while it was being read; run again" in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors", "b.safetensors"]


@pytest.mark.usefixtures("inputs")
def test_a_folder_without_room(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Status:
        f_bavail = f_bfree = 1
        f_blocks, f_frsize = 100, 512

    monkeypatch.setattr(os, "statvfs", lambda _: Status)
    outcome = cli("sample", "a.safetensors", "-o", "out/b.safetensors", "--quiet")
    assert outcome.status == 1
    assert "512 are free; nothing was written" in outcome.complaint
    assert not (tmp_path / "out").exists()


# ---- names that try to trick a terminal ---------------------------------------------------------------------------

EVIL = "a\x1b[31m[red]\r\n\x07b"


def test_names_in_errors_hold_no_control_characters(cli: Cli, write: Write) -> None:
    write(f"{EVIL}.safetensors", **{EVIL: torch.zeros(2, 3, 2, 2)})
    complaint = cli("kl", f"{EVIL}.safetensors", "--key", EVIL).complaint
    assert complaint.isprintable()
    assert complaint.count("[red]") == 2


@pytest.mark.parametrize("command", ["kl", "stats", "info"])
def test_names_in_tables_hold_no_control_characters(cli: Cli, write: Write, command: str) -> None:
    write(f"{EVIL}.safetensors", {EVIL: EVIL}, **{EVIL: torch.zeros(2, 4, 2, 2)})
    out = cli(command, f"{EVIL}.safetensors", "--format", "table").out
    assert all(line.isprintable() for line in out.splitlines())
    assert "[red]" in out


@pytest.mark.parametrize("form", ["csv", "jsonl", "json", "parquet"])
def test_names_in_data_are_what_they_are(cli: Cli, write: Write, tmp_path: Path, form: str) -> None:
    write(f"{EVIL}.safetensors", **{EVIL: torch.zeros(1, 4, 2, 2)})
    assert cli("kl", f"{EVIL}.safetensors", "-o", f"out.{form}", "--quiet").status == 0
    path = tmp_path / f"out.{form}"
    read: dict[str, Callable[[], list[dict[str, object]]]] = {
        "csv": lambda: list(csv.DictReader(io.StringIO(path.read_bytes().decode(), newline=""))),
        "jsonl": lambda: [json.loads(path.read_text())],
        "json": lambda: json.loads(path.read_text())["rows"],
        "parquet": lambda: pyarrow.parquet.read_table(path).to_pylist(),
    }
    row = read[form]()[0]
    assert (row["file"], row["tensor"]) == (f"{EVIL}.safetensors", EVIL)


@pytest.mark.skipif(os.uname().sysname != "Linux", reason="other systems refuse such names")
@pytest.mark.parametrize(
    "arguments",
    [
        ("info",),
        ("stats",),
        ("kl",),
        ("kl", "--format", "table"),
        ("kl", "--format", "json"),
        ("kl", "-o", "out.parquet"),
        ("kl", "-o", "out.jsonl"),
        ("sample", "-o", "out"),
        ("sample", "-o", "out.safetensors"),
    ],
)
def test_a_name_that_is_not_utf8_is_read_and_written(cli: Cli, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    name = os.fsdecode(b"d/\xff\xfe.safetensors")
    (tmp_path / "d").mkdir()
    with open(tmp_path / name, "wb") as file:
        file.write(good())
    outcome = cli(*arguments, name)
    assert outcome.status == 0, outcome.err
    assert all(line.isprintable() for line in outcome.err.splitlines())


# ---- surprises ----------------------------------------------------------------------------------------------------

# What is raised somewhere within, and the sentence that it becomes.
SURPRISES = {
    "no file": (OSError(), "OSError"),
    "no number": (OSError("no space for a cache"), "no space for a cache"),
    "a file": (PermissionError(13, "Permission denied", "x"), "x: Permission denied"),
    "memory": (MemoryError("std::bad_alloc"), "out of memory; try a smaller --batch-size or fewer --workers"),
    "threads": (RuntimeError("can't start new thread"), "the system allows no more threads; try fewer --workers"),
    "library": (ImportError("libx: cannot map"), "a library that latentkit needs cannot be loaded: libx: cannot map"),
    "bug": (KeyError("moments"), "a bug: KeyError: 'moments'; please report it with what --debug shows"),
    "recursion": (RecursionError(), "a bug: RecursionError; please report it with what --debug shows"),
}  # fmt: skip


@pytest.mark.parametrize("case", SURPRISES)
def test_any_surprise_is_a_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    error, words = SURPRISES[case]

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("latentkit.cli.info.find_inputs", fail)
    outcome = cli("info", "a.safetensors")
    assert (outcome.status, outcome.complaint) == (1, f"latentkit: {words}")
    outcome = cli("info", "a.safetensors", "--debug")
    assert (outcome.status, type(error).__name__ in outcome.err.splitlines()[-2]) == (1, True)


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
@pytest.mark.parametrize(
    ("dtypes", "values"),
    [
        ((torch.uint64, torch.uint64), [2**64 - 1, 3]),
        ((torch.int64, torch.int8), [2**62 + 1, -3]),
        ((torch.bool, torch.bool), [True, False]),
        ((torch.float32, torch.float64), [0.5, 2.0]),
    ],
)
def test_columns_keep_their_values(
    cli: Cli, write: Write, tmp_path: Path, form: str, dtypes: tuple[torch.dtype, torch.dtype], values: list[object]
) -> None:
    for name, dtype, value in zip("ab", dtypes, values, strict=True):
        write(f"{name}.safetensors", moments=moments_of(1), id=torch.tensor([value], dtype=dtype))
    outcome = cli("kl", "a.safetensors", "b.safetensors", "--columns", "id", "-o", f"out.{form}", "--quiet")
    assert outcome.status == 0, outcome.err
    path = tmp_path / f"out.{form}"
    read: dict[str, Callable[[], list[object]]] = {
        "csv": lambda: [row["id"] for row in csv.DictReader(path.read_text().splitlines())],
        "jsonl": lambda: [json.loads(line)["id"] for line in path.read_text().splitlines()],
        "json": lambda: [row["id"] for row in json.loads(path.read_text())["rows"]],
        "parquet": lambda: [row["id"] for row in pyarrow.parquet.read_table(path).to_pylist()],
    }
    found = read[form]()
    assert found == (list(map(json.dumps, values)) if form == "csv" else values)
    assert form == "csv" or [type(value) for value in found] == [type(value) for value in values]


@pytest.mark.parametrize(
    "dtypes",
    [(torch.uint64, torch.int64), (torch.int64, torch.float32), (torch.bool, torch.int64), (torch.uint8, torch.uint64)],
)
def test_columns_of_types_without_a_common_one_are_refused_before_any_work(
    cli: Cli, write: Write, tmp_path: Path, dtypes: tuple[torch.dtype, torch.dtype]
) -> None:
    for name, dtype in zip("ab", dtypes, strict=True):
        write(f"{name}.safetensors", moments=moments_of(1), id=torch.ones(1, dtype=dtype))
    outcome = cli("kl", "a.safetensors", "b.safetensors", "--columns", "id", "-o", "out.csv")
    assert outcome.status == 2
    for word in ("--columns id", "a.safetensors", "b.safetensors", "no common type"):
        assert word in outcome.complaint
    assert files_below(tmp_path) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
def test_nothing_more_is_said_or_written_after_a_failure(
    cli: Cli, write: Write, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", said.append)
    write("a.safetensors", moments=moments_of())
    write("b.safetensors", moments=torch.full((1, 4, 3, 4), torch.nan))
    outcome = cli("kl", "a.safetensors", "b.safetensors", "-o", f"out.{form}", "--on-nonfinite", "error")
    gc.collect()
    assert outcome.status == 1
    assert said == []
    assert files_below(tmp_path) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize("command", [("stats",), ("stats", "--format", "table"), ("kl",), ("report", "-o", "a.html")])
@pytest.mark.parametrize("mean", [1e200, -1e300, 1e154])
@pytest.mark.parametrize("logvar", [0.0, 1e200, -1e200])
def test_numbers_as_large_as_there_are(
    cli: Cli, write: Write, command: tuple[str, ...], mean: float, logvar: float
) -> None:
    moments = torch.randn(6, 4, 2, 2, dtype=torch.float64)
    moments[1:, :2], moments[1:, 2:] = mean, logvar
    write("a.safetensors", moments=moments)
    outcome = cli(*command, "a.safetensors", "--clamp-min=-1e300", "--clamp-max=1e300", "--quiet")
    assert (outcome.status, outcome.err) == (0, "")


# What is given of a kind that another option takes, and words of the answer.
OTHER_KINDS = {
    "kl x.json": "stats and report --against take the JSON of stats",
    "kl a.safetensors --against x.json": "no file of moments or latents, as are read here; stats and report --against",
    "kl a.safetensors --against x.state": "a state that stats wrote, and no tensors to choose from; stats --merge",
    "kl x.csv": "--indices and --exclude take a table of samples",
    "sample x.jsonl -o out": "--indices and --exclude take a table of samples",
    "report x.parquet -o page.html": "as .csv or .jsonl",
    "stats x.html": "give the files that the page was made of",
    "stats a.safetensors --against x.csv": "--indices and --exclude take a table of samples",
    "nll a.safetensors --latents x.state": "a state that stats wrote",
    "nll a.safetensors --latents x.json": "no file of moments or latents",
    "stats x.json --merge": "not a state of stats; write one with stats FILES --state FILE",
    "stats a.safetensors --merge": "not a state of stats; write one with stats FILES --state FILE",
    "kl a.safetensors --indices x.json": "which kl -o FILE.csv writes",
}


@pytest.mark.parametrize("command", OTHER_KINDS)
def test_a_file_that_another_option_takes_is_answered_with_that(cli: Cli, tmp_path: Path, command: str) -> None:
    (tmp_path / "a.safetensors").write_bytes(good())
    assert cli("stats", "a.safetensors", "-o", "x.json", "--state", "x.state").status == 0
    assert cli("kl", "a.safetensors", "-o", "x.csv").status == 0
    for name in ("x.jsonl", "x.parquet", "x.html"):
        (tmp_path / name).write_bytes(b"<!DOCTYPE html> and more")
    outcome = cli(*command.split())
    assert outcome.status in (1, 2)
    assert OTHER_KINDS[command] in outcome.complaint
    assert "not a safetensors file" not in outcome.complaint
