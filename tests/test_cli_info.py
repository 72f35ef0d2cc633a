"""``latentkit info``: what is in files, what would be chosen and why."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of

Write = Callable[..., Path]


def test_a_file_is_described_whole(cli: Cli, write: Write) -> None:
    path = write("d/a.safetensors", {"model": "sd"}, moments=moments_of(dtype="F16"), labels=torch.arange(5))
    (file,) = cli("info", "d").json["files"]
    assert file["file"] == "d/a.safetensors"
    assert file["name"] == "a.safetensors"
    assert file["bytes"] == path.stat().st_size
    assert file["metadata"] == {"model": "sd"}
    assert sorted(file["tensors"], key=lambda tensor: tensor["key"]) == [
        {"key": "labels", "dtype": "I64", "shape": [5], "bytes": 40},
        {"key": "moments", "dtype": "F16", "shape": [5, 4, 3, 4], "bytes": 480},
    ]
    assert file["posteriors"] == [
        {
            "key": "moments",
            "scale_key": None,
            "layout": "bchw",
            "parameterization": "logvar",
            "samples": 5,
            "channels": 2,
            "read": "moments: 4 channels = 2 mean + 2 logvar, bchw",
            "reason": "its key names moments",
        }
    ]
    assert file["problem"] is None


def test_metadata_comes_in_one_order(cli: Cli, write: Write) -> None:
    names = list("dbfgaehc")
    write("a.safetensors", dict.fromkeys(names, "x"), moments=moments_of())
    assert list(cli("info", "a.safetensors").json["files"][0]["metadata"]) == sorted(names)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_goes_by_its_name(cli: Cli, write: Write, dtype: str) -> None:
    write("a.safetensors", moments=moments_of(dtype=dtype))
    assert cli("info", "a.safetensors").json["files"][0]["tensors"][0]["dtype"] == dtype


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({"moments": torch.zeros(2, 4)}, "its key names moments"),
        ({"x": torch.zeros(2, 4), "labels": torch.arange(2)}, "the only floating-point tensor"),
        ({"mean": torch.zeros(2, 4), "logvar": torch.zeros(2, 4)}, "a pair by its keys"),
    ],
)
def test_the_reason_of_the_choice_is_said(
    cli: Cli, write: Write, tensors: dict[str, torch.Tensor], reason: str
) -> None:
    write("a.safetensors", **tensors)
    assert cli("info", "a.safetensors").json["files"][0]["posteriors"][0]["reason"] == reason
    assert reason in " ".join(cli("info", "a.safetensors", "--format", "table").out.split())


def test_reading_options_change_the_choice(cli: Cli, write: Write) -> None:
    write("a.safetensors", x=torch.zeros(2, 3, 4), y=torch.zeros(2, 4))
    options = ("--key", "x", "--layout", "blc", "--parameterization", "std")
    (posterior,) = cli("info", "a.safetensors", *options).json["files"][0]["posteriors"]
    assert (posterior["key"], posterior["layout"], posterior["parameterization"]) == ("x", "blc", "std")


@pytest.mark.parametrize(
    ("tensors", "metadata", "problem"),
    [
        ({"x": torch.zeros(2, 4), "y": torch.zeros(2, 4)}, None, "--key x"),
        ({"latents": torch.zeros(2, 4, 2, 2)}, None, "drawn latents"),
        ({"latents": torch.zeros(2, 4)}, {"noise_recipe": "1"}, "latentkit drew it"),
        ({"moments": torch.zeros(2, 3)}, None, "odd"),
        ({}, None, "holds no tensors"),
    ],
)
def test_what_cannot_be_read_as_moments_is_shown_with_the_reason(
    cli: Cli, write: Write, tensors: dict[str, torch.Tensor], metadata: dict[str, str] | None, problem: str
) -> None:
    write("a.safetensors", metadata, **tensors)
    outcome = cli("info", "a.safetensors")
    assert outcome.status == 0
    (file,) = outcome.json["files"]
    assert file["posteriors"] == []
    assert problem in file["problem"]
    assert problem in " ".join(cli("info", "a.safetensors", "--format", "table").out.split())


def test_drawn_latents_in_a_folder_are_shown_too(cli: Cli, write: Write) -> None:
    write("d/a.safetensors", moments=moments_of())
    cli("sample", "d", "-o", "d/drawn")
    assert [file["name"] for file in cli("info", "d").json["files"]] == ["a.safetensors", "drawn/a.safetensors"]


def test_a_bad_file_among_others_ends_the_document_properly(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("d/a.safetensors", moments=moments_of())
    (tmp_path / "d/b.safetensors").write_bytes(b"nothing")
    outcome = cli("info", "d")
    assert outcome.status == 1
    assert [file["name"] for file in json.loads(outcome.out)["files"]] == ["a.safetensors"]
    assert "d/b.safetensors" in outcome.err


def test_the_table_marks_the_moments(cli: Cli, write: Write) -> None:
    write("a.safetensors", {"origin": "here"}, moments=moments_of(), labels=torch.arange(5))
    out = cli("info", "a.safetensors", "--format", "table").out
    (row,) = (line for line in out.splitlines() if "moments" in line and "F32" in line)
    assert row.count("moments") == 2
    assert "origin: here" in out


def test_the_sample_data_is_described(cli: Cli) -> None:
    files = cli("info", SAMPLE_DATA).json["files"]
    assert len(files) > 20
    assert all(file["metadata"] for file in files)
