"""Sampling that can be repeated anywhere: golden checksums, equal bytes whatever the way, and latents verified anew.

The oracle is noise_reference.py, which imports nothing from latentkit.
"""

import csv
import errno
import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import make_golden_samples
import noise_reference as reference
import numpy as np
import pytest
import torch
from conftest import DTYPES, REPOSITORY, SAMPLE_DATA, Cli, another_run_in, files_below, moments_of
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.read import blocks
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.sample import drawing
from latentkit.sample import recipe as recipe_module
from latentkit.sample.drawing import Drawn, draw_block
from latentkit.sample.files import OutputFiles, draw_files, draw_stream
from latentkit.sample.outputs import mirrored
from latentkit.sample.recipe import Recipe

Write = Callable[..., Path]
Bytes = dict[str, dict[str, bytes]]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Infinities and NaNs are among the inputs, and NumPy would warn of each."""
    with np.errstate(all="ignore"):
        yield


def tensor_bytes(path: Path) -> dict[str, bytes]:
    """The bytes of each tensor of a file, read by hand."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    return {
        key: data[start + entry["data_offsets"][0] : start + entry["data_offsets"][1]] for key, entry in header.items()
    }


def all_bytes(folder: Path) -> Bytes:
    return {path.relative_to(folder).as_posix(): tensor_bytes(path) for path in sorted(folder.rglob("*.safetensors"))}


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, "np") as file:
        return dict(file.metadata())


def stored(tensor: Tensor) -> NDArray[np.generic]:
    """As the reference takes it: bfloat16 as bits."""
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def drawn_by_reference(moments: Tensor, dtype: str, name: str, **options: Any) -> bytes:
    mean, logvar = np.split(stored(moments), 2, axis=options.pop("axis", 1))
    key = reference.key_of(options.pop("seed", 0), name, "moments")
    return reference.sample(
        np.ascontiguousarray(mean), np.ascontiguousarray(logvar), dtype, key=key, **options
    ).tobytes()


# ---- golden checksums ---------------------------------------------------------------------------------------------


GOLDEN = json.loads(make_golden_samples.GOLDEN.read_text())


def flags(options: dict[str, Any], tmp_path: Path) -> list[str]:
    arguments = []
    for name, value in options.items():
        if name == "normalization":
            (tmp_path / "normalization.json").write_text(json.dumps(value))
            value = "normalization.json"
        arguments += [f"--{name}"] if value is True else [f"--{name}", str(value)]
    return arguments


@pytest.mark.parametrize("case", GOLDEN, ids=[f"{i}-{case['input']}" for i, case in enumerate(GOLDEN)])
def test_sample_writes_what_the_second_implementation_made(cli: Cli, tmp_path: Path, case: dict[str, Any]) -> None:
    outcome = cli("sample", SAMPLE_DATA / case["input"], "-o", "out", *flags(case["options"], tmp_path))
    assert outcome.status == 0, outcome.err
    written = {name: hashlib.sha256(data["latents"]).hexdigest() for name, data in all_bytes(tmp_path / "out").items()}
    assert written == case["sha256"]


def test_the_golden_checksums_are_those_of_the_second_implementation() -> None:
    assert json.loads(json.dumps(make_golden_samples.golden())) == GOLDEN


# ---- equal bytes, whatever the way --------------------------------------------------------------------------------


WAYS = [
    *(("--batch-size", str(samples)) for samples in (1, 7, 64, 4096)),
    *(("--workers", str(workers)) for workers in (1, 2, 8)),
    ("--batch-size", "7", "--workers", "8"),
]


@pytest.mark.parametrize("dtype", ["F16", "BF16", "F32"])
def test_batches_and_workers_change_no_byte(cli: Cli, write: Write, tmp_path: Path, dtype: str) -> None:
    moments = moments_of(150, 4, 20, 20, dtype=dtype)  # 1,600 elements per sample: 81 samples in a block
    write("in.safetensors", moments=moments)
    draws = [drawn_by_reference(moments, dtype, "in.safetensors", draw=draw, temperature=0.5) for draw in range(2)]
    for way in WAYS:
        command = "sample", "in.safetensors", "-o", "out.safetensors", "--draws", 2, "--temperature", 0.5, "--overwrite"
        assert cli(*command, *way).status == 0
        assert tensor_bytes(tmp_path / "out.safetensors") == {"latents": b"".join(draws)}, way


@pytest.mark.parametrize(
    ("layout", "shape"),
    [
        ("bchw", (2, 4, 300, 310)),  # runs of whole channels
        ("bchw", (2, 2, 400, 401)),  # a channel in pieces
        ("blc", (2, 5003, 64)),  # runs of tokens
        ("btchw", (2, 3, 4, 300, 300)),  # runs of channels in each frame
        ("bchw", (1, 20, 330, 340)),  # from here on in several blocks: runs of channels
        ("bchw", (1, 4, 800, 810)),  # a channel in pieces
        ("blc", (1, 40_003, 64)),  # runs of tokens
        ("btchw", (1, 3, 10, 300, 310)),  # runs of channels in each frame
    ],
)
@pytest.mark.parametrize("dtype", ["F16", "F32"])
def test_samples_cut_in_pieces_are_drawn_as_whole_ones(
    cli: Cli, write: Write, tmp_path: Path, layout: str, shape: tuple[int, ...], dtype: str
) -> None:
    axis = layout.index("c")
    moments = moments_of(shape[0], shape[axis] // 2, *shape[1:axis], *shape[axis + 1 :], dtype=dtype)
    moments = moments.movedim(1, axis).contiguous()
    assert moments.shape == shape
    assert moments.numel() // shape[0] // 2 > 1 << 17
    write("in.safetensors", moments=moments)
    scale = [0.25 + channel for channel in range(shape[axis] // 2)]
    (tmp_path / "norm.json").write_text(
        json.dumps({"latents_mean": scale, "latents_std": [1 / value for value in scale]})
    )
    broadcast = [-1 if letter == "c" else 1 for letter in layout]
    expected = drawn_by_reference(
        moments,
        dtype,
        "in.safetensors",
        axis=axis,
        shift=np.reshape(scale, broadcast),
        scale=np.reshape([1 / (1 / value) for value in scale], broadcast),
    )
    for way in [("--workers", "1"), ("--workers", "8"), ("--batch-size", "1")]:
        command = "sample", "in.safetensors", "-o", "out.safetensors", "--overwrite", "--normalization", "norm.json"
        outcome = cli(*command, "--layout", layout, *way)
        assert outcome.status == 0, outcome.err
        assert tensor_bytes(tmp_path / "out.safetensors") == {"latents": expected}


def test_many_small_files_in_one_block_are_drawn_as_each_alone(cli: Cli, write: Write, tmp_path: Path) -> None:
    expected = {}
    for number in range(150):
        name = f"{number % 7}/{number:03}.safetensors"
        moments = moments_of(1 + number % 3, 2, 3, 5, dtype="F16", seed=number)
        write(f"in/{name}", moments=moments)
        expected[name] = {"latents": drawn_by_reference(moments, "F16", name, seed=9)}
    for way in [(), ("--workers", "8"), ("--batch-size", "2")]:
        assert cli("sample", "in", "-o", "out", "--seed", 9, "--overwrite", *way).status == 0
        assert all_bytes(tmp_path / "out") == expected


SHARD = "moments-00002-of-00004.safetensors"


@pytest.mark.parametrize(
    "alone",
    [
        [SAMPLE_DATA / "shards" / SHARD],
        [SAMPLE_DATA / "shards/*2-of-00004.safetensors"],
        [SAMPLE_DATA / "shards" / SHARD, "--relative-to", SAMPLE_DATA / "shards"],
        [SAMPLE_DATA / "shards/moments.safetensors.index.json"],
    ],
    ids=["file", "glob", "relative", "index"],
)
def test_a_shard_is_drawn_the_same_alone_and_with_its_folder(cli: Cli, tmp_path: Path, alone: list[object]) -> None:
    assert cli("sample", SAMPLE_DATA / "shards", "-o", "whole", "--seed", 3).status == 0
    assert cli("sample", *alone, "-o", "alone", "--seed", 3).status == 0
    assert tensor_bytes(tmp_path / "alone" / SHARD) == tensor_bytes(tmp_path / "whole" / SHARD)


def test_a_shard_below_the_root_has_its_folders_in_its_name(cli: Cli, tmp_path: Path) -> None:
    for name, argument in [("whole", SAMPLE_DATA / "per-image"), ("part", SAMPLE_DATA / "per-image/coffee")]:
        root = SAMPLE_DATA / "per-image"
        assert cli("sample", argument, "-o", name, "--layout", "chw", "--relative-to", root).status == 0
    whole = all_bytes(tmp_path / "whole")
    assert all_bytes(tmp_path / "part") == {name: whole[name] for name in whole if name.startswith("coffee/")}


@pytest.fixture
def shards(write: Write) -> list[tuple[str, Tensor]]:
    """Three shards of 50, 30 and 45 samples, each with the rows' numbers as labels."""
    names = []
    for number, count in enumerate((50, 30, 45)):
        moments = moments_of(count, 2, 5, 5, dtype="F16", seed=number)
        labels = torch.arange(100 * number, 100 * number + count)
        write(f"in/{number}.safetensors", moments=moments, labels=labels)
        names.append((f"{number}.safetensors", labels))
    return names


def rows_by_label(folder: Path, draws: int | None = None) -> dict[int, bytes]:
    """Each sample's latents (all draws), by its label."""
    rows = {}
    for path in sorted(folder.rglob("*.safetensors")):
        tensors = load_file(path)
        latents = tensors["latents"] if draws else tensors["latents"][None]
        for row, label in enumerate(tensors["labels"].tolist()):
            rows[label] = latents[:, row].contiguous().view(torch.uint8).numpy().tobytes()
    return rows


CHOICES = {
    "limit": (["--limit", 60], [*range(50), *range(100, 110)]),
    "every": (["--every", 7], [*range(0, 50, 7), *range(106, 130, 7), *range(204, 245, 7)]),
    "both": (["--every", 9, "--limit", 4], [0, 9, 18, 27]),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("draws", [None, 2])
@pytest.mark.usefixtures("shards")
def test_chosen_samples_are_drawn_as_with_all_others(cli: Cli, tmp_path: Path, choice: str, draws: int | None) -> None:
    options, labels = CHOICES[choice]
    common = ["--carry", "*", *(["--draws", draws] if draws else [])]
    assert cli("sample", "in", "-o", "whole", *common).status == 0
    assert cli("sample", "in", "-o", "part", *common, *options).status == 0
    whole, part = rows_by_label(tmp_path / "whole", draws), rows_by_label(tmp_path / "part", draws)
    assert list(part) == labels
    assert part == {label: whole[label] for label in labels}
    assert cli("sample", "in", "--verify", "part", *options).status == 0


def write_indices(path: Path, rows: list[tuple[int, int]]) -> None:
    with path.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["file", "tensor", "index"])
        table.writerows([f"in/{shard}.safetensors", "moments", index] for shard, index in rows)


@pytest.mark.parametrize(
    "rows",
    [
        [(1, 7), (0, 49), (1, 3), (1, 4), (0, 0)],
        [(0, index) for index in reversed(range(50))],  # every sample, backwards
        [(2, index) for index in (3, 1, 4, 1, 5, 9, 2, 6)],  # one twice
    ],
    ids=["mixed", "backwards", "twice"],
)
@pytest.mark.usefixtures("shards")
def test_listed_samples_keep_their_order_and_their_labels(
    cli: Cli, tmp_path: Path, rows: list[tuple[int, int]]
) -> None:
    write_indices(tmp_path / "list.csv", rows)
    common = "--carry", "labels", "--seed", 8
    assert cli("sample", "in", "-o", "whole", *common).status == 0
    assert cli("sample", "in", "-o", "part", *common, "--indices", "list.csv").status == 0
    whole = rows_by_label(tmp_path / "whole")
    for number in {shard for shard, _ in rows}:
        tensors = load_file(tmp_path / f"part/{number}.safetensors")
        labels = [100 * shard + index for shard, index in rows if shard == number]
        assert tensors["labels"].tolist() == labels
        latents = tensors["latents"].view(torch.uint8).numpy()
        assert [row.tobytes() for row in latents] == [whole[label] for label in labels]
    assert cli("sample", "in", "--verify", "part", "--indices", "list.csv").status == 0


def test_draws_stay_when_there_are_more_of_them(cli: Cli, shards: list[tuple[str, Tensor]], tmp_path: Path) -> None:
    for draws in (1, 2, 4):
        assert cli("sample", "in", "-o", f"{draws}", "--draws", draws).status == 0
    assert cli("sample", "in", "-o", "plain").status == 0
    for name, _ in shards:
        plain, one, two, four = (load_file(tmp_path / f"{d}/{name}")["latents"] for d in ("plain", 1, 2, 4))
        assert (one.shape, two.shape) == ((1, *plain.shape), (2, *plain.shape))
        assert one[0].equal(plain)
        assert two[0].equal(plain)
        assert four[:2].equal(two)
        assert len({draw.numpy().tobytes() for draw in four}) == 4


@pytest.mark.parametrize("samples", [1, 40, 50, 64, 125, 1000])
@pytest.mark.parametrize("draws", [None, 3])
@pytest.mark.usefixtures("shards")
def test_shards_split_or_joined_hold_the_same_latents_in_the_same_order(
    cli: Cli, tmp_path: Path, samples: int, draws: int | None
) -> None:
    common = ["--carry", "labels", *(["--draws", draws] if draws else [])]
    assert cli("sample", "in", "-o", "mirrored", *common).status == 0
    assert cli("sample", "in", "-o", "sharded", *common, "--samples-per-shard", samples).status == 0
    mirrored_rows, sharded_rows = (rows_by_label(tmp_path / name, draws) for name in ("mirrored", "sharded"))
    assert list(sharded_rows.items()) == list(mirrored_rows.items())
    index = json.loads((tmp_path / "sharded/latents.safetensors.index.json").read_text())
    written = [name for name in files_below(tmp_path / "sharded") if name.endswith(".safetensors")]
    assert sorted(set(index["weight_map"].values())) == written
    assert len(written) == -(-125 // samples)
    assert cli("sample", "in", "--verify", "sharded").status == 0
    assert cli("sample", "in", "--verify", "sharded/latents.safetensors.index.json").status == 0


@pytest.mark.usefixtures("shards")
def test_a_choice_of_samples_can_be_sharded(cli: Cli, tmp_path: Path) -> None:
    common = "--every", 4, "--carry", "labels"
    assert cli("sample", "in", "-o", "mirrored", *common).status == 0
    assert cli("sample", "in", "-o", "sharded", *common, "--samples-per-shard", 9).status == 0
    assert rows_by_label(tmp_path / "sharded") == rows_by_label(tmp_path / "mirrored")
    assert cli("sample", "in", "--verify", "sharded", "--every", 4).status == 0


def test_a_pipe_gets_the_bytes_of_the_file(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("in.safetensors", moments=moments_of(150, 4, 20, 20, dtype="BF16"), labels=torch.arange(150))
    os.mkfifo(tmp_path / "pipe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    assert cli("sample", "in.safetensors", "-o", "pipe", "--carry", "*", "--workers", 8).status == 0
    reader.join()
    assert cli("sample", "in.safetensors", "-o", "file.safetensors", "--carry", "*").status == 0
    assert got == [(tmp_path / "file.safetensors").read_bytes()]


def test_latents_do_not_pile_up_before_a_slow_reader(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 64)
    path = write("a.safetensors", moments=moments_of(200, 4, 4, 4))
    found = find_posteriors([str(path)], Selection())
    drawn = written = most = 0

    def count(*arguments: Any) -> Drawn:
        nonlocal drawn
        drawn += 1
        return draw_block(*arguments)

    monkeypatch.setattr(drawing, "draw_block", count)
    (output,) = mirrored(found.spans, str(tmp_path / "out.safetensors"), [], as_file=True)

    def write_slowly(_: memoryview) -> None:
        nonlocal written, most
        time.sleep(0.002)
        written += 1
        most = max(most, drawn - written)

    for _ in draw_stream(output, Recipe(), write_slowly, workers=2):
        pass
    assert drawn == 200
    assert most <= 3 * 2


# ---- any processor ------------------------------------------------------------------------------------------------


PROMISED = [
    *((dtype, kind) for dtype in DTYPES if dtype != "F64" for kind in ("logvar", "std", "var", "softplus")),
    ("F64", "logvar"),
]


def hash_everything(folder: Path, shape: tuple[int, ...]) -> dict[str, str]:
    """Draw from each dtype and parameterization, in this process, and hash what was written."""
    from latentkit.cli.main import app

    for dtype, kind in PROMISED:
        name = f"{dtype}-{kind}"
        # torch.randn depends on the instruction set.
        normals = reference.normals(reference.key_of(0, name, "input"), 0, 0, math.prod(shape))
        moments = torch.from_numpy(normals.reshape(shape) * np.float32(3))
        moments.view(-1)[::101] = torch.inf
        moments.view(-1)[::151] = torch.nan
        mean, scale = moments.chunk(2, dim=1)
        moments = torch.cat([mean, scale if kind in ("logvar", "softplus") else scale.abs()], dim=1)
        save_file({"moments": moments.to(DTYPES[dtype])}, folder / f"{name}.safetensors")
        arguments = [
            "sample",
            f"{folder / name}.safetensors",
            "-o",
            f"{folder}/out",
            "--parameterization",
            kind,
            "--quiet",
        ]
        affine = ["--temperature", "0.9", "--scaling-factor", "0.18215", "--shift-factor", "-0.3"]
        app([*arguments, *affine, "--draws", "2"], standalone_mode=False)
    return {name: hashlib.sha256(data["latents"]).hexdigest() for name, data in all_bytes(folder / "out").items()}


@pytest.mark.parametrize(
    ("environment", "shape"),
    [({"NUMBA_CPU_NAME": "generic"}, (64, 4, 9, 9)), ({"NUMBA_DISABLE_JIT": "1"}, (5, 4, 5, 5))],
    ids=["a generic processor", "interpreted"],
)
def test_no_processor_changes_a_byte(tmp_path: Path, environment: dict[str, str], shape: tuple[int, ...]) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    command = [sys.executable, "-W", "ignore", __file__, tmp_path / "there", *map(str, shape)]
    run = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == hash_everything(tmp_path / "here", shape)


# ---- what cannot be drawn or stored -------------------------------------------------------------------------------


def said(outcome_err: str, words: str) -> int:
    """The number with which a note on stderr begins, where it has these words; 0 without such a note."""
    for line in outcome_err.splitlines():
        if words in line:
            return int(line.removeprefix("latentkit: ").split()[0].replace(",", ""))
    return 0


def log_variance(raw: NDArray[np.float64], kind: str) -> NDArray[np.float64]:
    if kind == "std":
        return np.where(raw < 0, np.nan, 2 * np.log(np.abs(raw)))
    if kind == "var":
        return np.where(raw < 0, np.nan, np.log(np.abs(raw)))
    if kind == "softplus":
        return 2 * np.log(np.logaddexp(0, raw) + 1e-4)
    return raw


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["logvar", "std", "var", "softplus"])
@pytest.mark.parametrize("clamp", [DEFAULT_CLAMP, (-5.5, -1.25), (-300.0, 300.0)])
def test_clamped_log_variances_are_counted(
    cli: Cli, write: Write, dtype: str, kind: str, clamp: tuple[float, float]
) -> None:
    scale = torch.randn(300, 2, 4, 4, generator=torch.Generator().manual_seed(1)) * (12 if kind == "logvar" else 2)
    special = [
        clamp[0],
        clamp[1],
        clamp[0] - 0.5,
        clamp[1] + 0.5,
        -torch.inf,
        torch.inf,
        torch.nan,
        0.0,
        -0.0,
        1e-30,
        1e30,
    ]
    scale.view(-1)[: len(special)] = torch.tensor(special)
    moments = torch.cat([torch.zeros_like(scale), scale], dim=1).to(DTYPES[dtype])
    write("in.safetensors", moments=moments)
    bounds = "--clamp-min", clamp[0], "--clamp-max", clamp[1], "--parameterization", kind
    outcome = cli("sample", "in.safetensors", "-o", "out.safetensors", *bounds)
    assert outcome.status == 0, outcome.err
    logvar = log_variance(moments[:, 2:].double().numpy(), kind)
    assert said(outcome.err, "log-variance") == np.sum((logvar < clamp[0]) | (logvar > clamp[1]))


@pytest.mark.parametrize("bound", [0, 1])
@pytest.mark.parametrize("clamp", [DEFAULT_CLAMP, *((-low / 7, low / 9) for low in range(3, 60, 8))])
def test_log_variances_that_are_all_clamped_are_counted(
    cli: Cli, write: Write, clamp: tuple[float, float], bound: int
) -> None:
    moments = torch.zeros(3, 4, 4, 4)
    moments[:, 2:] = clamp[bound] + (2 * bound - 1)
    write("in.safetensors", moments=moments)
    bounds = "--clamp-min", clamp[0], "--clamp-max", clamp[1]
    assert said(cli("sample", "in.safetensors", "-o", "out.safetensors", *bounds).err, "clamped") == 96


@pytest.mark.parametrize(("dtype", "name"), [("F16", "float16"), ("BF16", "bfloat16"), ("F32", "float32")])
def test_latents_beyond_the_dtype_are_counted_and_infinite(
    cli: Cli, write: Write, tmp_path: Path, dtype: str, name: str
) -> None:
    largest, beyond = {"F16": (65519.0, 65520.0), "BF16": (3.3961e38, 3.3962e38), "F32": (3e38, 3.4e38)}[dtype]
    moments = torch.zeros(5, 4, 4, 4)
    moments[1, 0, 0, 0], moments[2, 1, 3] = largest, beyond
    moments[3, 0] = -beyond
    write("in.safetensors", moments=moments)
    outcome = cli("sample", "in.safetensors", "-o", "out.safetensors", "--dtype", name, "--mode", "--draws", 2)
    latents = load_file(tmp_path / "out.safetensors")["latents"]
    infinite = 0 if dtype == "F32" else 2 * 20
    assert int(latents.isinf().sum()) == infinite
    assert said(outcome.err, "became infinite") == infinite
    assert "NaN" not in outcome.err


@pytest.mark.parametrize("workers", [1, 8])
@pytest.mark.parametrize("shape", [(6, 4, 4, 4), (6, 4, 300, 310)], ids=["whole", "pieces"])
def test_samples_that_are_not_finite_are_counted_once(
    cli: Cli, write: Write, shape: tuple[int, ...], workers: int
) -> None:
    moments = torch.zeros(shape)
    moments[1, 0, 0, 0] = moments[1, 1, 1, 1] = torch.nan
    moments[4] = torch.inf
    write("in.safetensors", moments=moments)
    outcome = cli("sample", "in.safetensors", "-o", "out.safetensors", "--draws", 2, "--workers", workers)
    assert said(outcome.err, "NaN or infinite latents") == 2
    outcome = cli("sample", "in.safetensors", "-o", "no.safetensors", "--on-nonfinite", "error", "--quiet")
    assert outcome.status == 1
    assert "sample 1" in outcome.complaint


def test_a_sample_infinite_in_a_later_draw_alone_is_counted(cli: Cli, write: Write, tmp_path: Path) -> None:
    moments = torch.zeros(400, 2)
    moments[:, 0], moments[:, 1] = 3.4e38, 170
    write("in.safetensors", moments=moments)
    outcome = cli("sample", "in.safetensors", "-o", "out.safetensors", "--clamp-max", 180, "--draws", 2)
    infinite = load_file(tmp_path / "out.safetensors")["latents"].isinf()
    assert said(outcome.err, "NaN or infinite latents") == int(infinite.any(dim=0).sum()) > int(infinite[0].sum())


CANONICAL = {"float16": 0x7E00, "bfloat16": 0x7FC0, "float32": 0x7FC00000, "float64": 0x7FF8000000000000}


@pytest.mark.parametrize("dtype", CANONICAL)
@pytest.mark.parametrize("options", [("--mode",), (), ("--mode", "--scaling-factor", "-2")])
@pytest.mark.parametrize("source", ["F32", "F64"])
def test_every_nan_has_the_same_bits(
    cli: Cli, write: Write, tmp_path: Path, dtype: str, options: tuple[str, ...], source: str
) -> None:
    if dtype == "float64" and not options:
        pytest.skip("--dtype float64 goes with --mode")
    integer = {"F32": torch.int32, "F64": torch.int64}[source]
    moments = torch.zeros(4, 2, dtype=DTYPES[source])
    sign, quiet_bit = (31, 22) if source == "F32" else (63, 51)
    payloads = [(1 << quiet_bit) | 5, (1 << quiet_bit) - 7, 1]
    infinity = int(torch.tensor(torch.inf, dtype=DTYPES[source]).view(integer))
    for row, payload in enumerate(payloads):
        moments.view(integer)[row, 0] = (infinity | payload) - ((1 << sign) if row else 0)
    write("in.safetensors", moments=moments)
    assert cli("sample", "in.safetensors", "-o", "out.safetensors", "--dtype", dtype, *options).status == 0
    latents = load_file(tmp_path / "out.safetensors")["latents"]
    bits = latents.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[latents.element_size()])
    assert latents.isnan().flatten().tolist() == [True, True, True, False]
    assert bits[:3].flatten().tolist() == [CANONICAL[dtype]] * 3


# ---- verification -------------------------------------------------------------------------------------------------


VERIFIED: dict[str, tuple[str, list[object], list[object]]] = {  # input, options of the draw, and of verifying
    "file": ("healthy-f16.safetensors", [], []),
    "folder": ("shards", ["--seed", 5], []),
    "shards": ("shards", ["--samples-per-shard", 300, "--temperature", 0.5], []),
    "joined": ("shards", ["--samples-per-shard", 5000, "--dtype", "float32"], []),
    "stream": ("healthy-bf16.safetensors", ["--stream", "other/é"], []),
    "mode": ("healthy-f32.safetensors", ["--mode", "--scaling-factor", 0.3], []),
    "mode in float64": ("healthy-f32.safetensors", ["--mode", "--dtype", "float64", "--shift-factor", 0.3], []),
    "draws": ("video.safetensors", ["--draws", 3, "--dtype", "float16"], []),
    "one draw": ("video.safetensors", ["--draws", 1], []),
    "clamp": ("synthetic-clamp.safetensors", ["--clamp-min", -7, "--clamp-max", -2.5], []),
    "std": ("mean-std.safetensors", ["--parameterization", "std"], ["--parameterization", "std"]),
    "tokens": ("tokens.safetensors", ["--layout", "blc"], ["--layout", "blc"]),
    "pair": ("pair.safetensors", [], []),
    "per image": ("per-image", ["--layout", "chw"], ["--layout", "chw"]),
    "limit": ("shards", ["--limit", 400, "--carry", "*"], ["--limit", 400]),
    "every": ("shards", ["--every", 3, "--draws", 2], ["--every", 3]),
}


@pytest.mark.parametrize("case", VERIFIED)
def test_what_was_just_drawn_holds(cli: Cli, case: str) -> None:
    name, options, again = VERIFIED[case]
    assert cli("sample", SAMPLE_DATA / name, "-o", "out", *options).status == 0
    outcome = cli("sample", SAMPLE_DATA / name, "--verify", "out", *again)
    assert (outcome.status, outcome.out.endswith(": just what was drawn\n")) == (0, True), outcome.err


@pytest.mark.parametrize("case", ["file", "shards", "draws", "mode", "every", "tokens", "pair"])
@pytest.mark.parametrize("where", ["first", "middle", "last"])
def test_one_bit_that_differs_is_found(cli: Cli, tmp_path: Path, case: str, where: str) -> None:
    name, options, again = VERIFIED[case]
    assert cli("sample", SAMPLE_DATA / name, "-o", "out", *options).status == 0
    written = [name for name in files_below(tmp_path / "out") if name.endswith(".safetensors")]
    path = tmp_path / "out" / written[-1]
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[{"first": start, "middle": (start + len(data)) // 2, "last": len(data) - 1}[where]] ^= 1
    path.write_bytes(data)
    outcome = cli("sample", SAMPLE_DATA / name, "--verify", "out", *again, "--quiet")
    assert outcome.status == 1
    assert f"out/{written[-1]}: tensor 'latents' is not what its metadata says" in outcome.complaint


@pytest.mark.usefixtures("shards")
def test_the_place_that_differs_is_named(cli: Cli, tmp_path: Path) -> None:
    assert cli("sample", "in", "-o", "out", "--samples-per-shard", 1000, "--draws", 2).status == 0
    (path,) = (tmp_path / "out").glob("*.safetensors")
    data = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + 2 * 50 * (125 + 50 + 9)] ^= 1  # draw 1, the tenth sample of the second shard
    path.write_bytes(data)
    complaint = cli("sample", "in", "--verify", "out", "--quiet").complaint
    assert complaint.endswith("first at sample 9 of 1.safetensors, tensor 'moments'")


def altered(path: Path, **entries: str | None) -> None:
    """Change metadata entries of a file, or drop those that are None."""
    metadata: dict[str, str | None] = {**metadata_of(path), **entries}
    save_file(load_file(path), path, {key: value for key, value in metadata.items() if value is not None})


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("seed", "1"),
        ("temperature", "1.5"),
        ("clamp", "[-30.0, -5.0]"),
        ("affine", '{"shift": [0.0], "scale": [2.0]}'),
        ("mode", "true"),
    ],
)
def test_metadata_that_were_changed_do_not_hold(cli: Cli, tmp_path: Path, entry: str, value: str) -> None:
    source = SAMPLE_DATA / "healthy-f16.safetensors"
    assert cli("sample", source, "-o", "out.safetensors").status == 0
    altered(tmp_path / "out.safetensors", **{entry: value})
    outcome = cli("sample", source, "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "differs from a new draw" in outcome.complaint) == (1, True)


def test_an_input_that_was_renamed_or_touched_holds(cli: Cli, write: Write, tmp_path: Path) -> None:
    path = write("a.safetensors", moments=moments_of())
    assert cli("sample", path, "-o", "out.safetensors").status == 0
    path.rename(tmp_path / "b.safetensors")
    os.utime(tmp_path / "b.safetensors", (0, 0))
    assert cli("sample", "b.safetensors", "--verify", "out.safetensors").status == 0


def test_a_copy_of_another_age_gives_the_same_bytes(cli: Cli, write: Write, tmp_path: Path) -> None:
    path = write("a.safetensors", moments=moments_of())
    assert cli("sample", path, "-o", "before.safetensors").status == 0
    os.utime(path, (0, 0))
    assert cli("sample", path, "-o", "after.safetensors").status == 0
    assert (tmp_path / "before.safetensors").read_bytes() == (tmp_path / "after.safetensors").read_bytes()


def test_an_input_with_another_header_is_said(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of())
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    write("a.safetensors", {"made": "again"}, moments=moments_of())
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors")
    assert (outcome.status, "its size or header" in outcome.err) == (0, True)


def test_an_input_that_was_changed_does_not_hold(cli: Cli, write: Write) -> None:
    moments = moments_of()
    write("a.safetensors", moments=moments)
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    moments[3, 0, 0, 0] += 1
    write("a.safetensors", moments=moments)
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "first at sample 3 of a.safetensors" in outcome.complaint) == (1, True)


def test_an_input_that_lost_samples_does_not_hold(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(5))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    write("a.safetensors", moments=moments_of(4))
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "more samples than" in outcome.complaint) == (1, True)


def test_rows_that_are_missing_are_found(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=moments_of(5))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    path = tmp_path / "out.safetensors"
    save_file({"latents": load_file(path)["latents"][:4]}, path, metadata_of(path))
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "[5, 2, 3, 4]" in outcome.complaint) == (1, True)


@pytest.mark.parametrize("options", [(), ("--samples-per-shard", "40")])
@pytest.mark.usefixtures("shards")
def test_a_folder_that_lacks_a_file_does_not_hold(cli: Cli, tmp_path: Path, options: tuple[str, ...]) -> None:
    assert cli("sample", "in", "-o", "out", *options).status == 0
    sorted((tmp_path / "out").glob("*.safetensors"))[-1].unlink()
    outcome = cli("sample", "in", "--verify", "out", "--quiet")
    assert (outcome.status, "of the 45 samples" in outcome.complaint) == (1, True)


@pytest.mark.usefixtures("shards")
def test_one_file_of_many_can_be_verified(cli: Cli) -> None:
    assert cli("sample", "in", "-o", "out").status == 0
    assert cli("sample", "in", "--verify", "out/1.safetensors").status == 0
    assert cli("sample", "in/1.safetensors", "--verify", "out/1.safetensors").status == 0
    outcome = cli("sample", "in/2.safetensors", "--verify", "out", "--quiet")
    assert (outcome.status, "not among the inputs" in outcome.complaint) == (2, True)


def test_another_reading_of_the_input_is_named(cli: Cli) -> None:
    source = SAMPLE_DATA / "mean-std.safetensors"
    assert cli("sample", source, "-o", "out.safetensors", "--parameterization", "var").status == 0
    outcome = cli("sample", source, "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "--parameterization var" in outcome.complaint) == (2, True)


def test_latents_of_two_runs_are_no_set(cli: Cli, write: Write) -> None:
    for name in ("a", "b"):
        write(f"in/{name}.safetensors", moments=moments_of(2, 2))
    assert cli("sample", "in", "-o", "out").status == 0
    assert cli("sample", "in/b.safetensors", "-o", "out", "--seed", "2", "--overwrite").status == 0
    outcome = cli("sample", "in", "--verify", "out", "-q")
    assert (outcome.status, "was not drawn as out/a.safetensors was, by its seed" in outcome.complaint) == (1, True)
    assert cli("sample", "in", "--verify", "out/b.safetensors").status == 0


def test_two_runs_that_overwrite_one_folder_are_told(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("in/a.safetensors", moments=moments_of(2, 2))
    assert "another run" not in cli("sample", "in", "-o", "out").err
    with another_run_in(tmp_path / "out"):
        assert "another run is writing in out: " in cli("sample", "in", "-o", "out", "--overwrite").err


def test_latents_that_latentkit_did_not_draw_cannot_be_verified(cli: Cli, write: Write) -> None:
    write("a.safetensors", moments=moments_of(5))
    write("latents.safetensors", latents=moments_of(5))
    outcome = cli("sample", "a.safetensors", "--verify", "latents.safetensors", "--quiet")
    assert (outcome.status, "latentkit did not draw it" in outcome.complaint) == (1, True)


SOURCE = {
    "name": "a.safetensors",
    "key": "moments",
    "scale_key": None,
    "layout": "bchw",
    "parameterization": "logvar",
    "stream": "a.safetensors",
    "bytes": 0,
    "header_sha256": "",
    "samples": [[0, 5, 1]],
}


def sources(**entries: object) -> str:
    return json.dumps({"latents": [{**SOURCE, **entries}]})


HOSTILE = {
    "noise_recipe": ["2", "", "x" * 10_000],
    "seed": ["-1", str(2**64), "", "1.5", "nan", "9" * 5000, "{}", None],
    "draws": ["0", "-3", "2", str(10**12), "1e3", "[]", "9" * 5000],
    "mode": ["1", "null", '"false"', "[" * 100_000, None],
    "temperature": ["-1", "NaN", "Infinity", "true", '"1"', "1" + "0" * 400, "[1.0]", "", None],
    "clamp": ["[1]", "[5, 5]", "[NaN, 1]", "[-Infinity, 1]", '["a", 1]', "3", "[1" + "0" * 400 + ", 2]", None],
    "affine": ['{"shift": [0], "scale": [0]}', '{"shift": [1, 2, 3], "scale": [1]}', "{}", "[" * 100_000, "1", None],
    "sources": [
        "[]",
        "{}",
        "3",
        "[" * 100_000,
        json.dumps({"latents": []}),
        json.dumps({"latents": [3]}),
        json.dumps({"latents": {"a": 1}}),
        json.dumps({"other": [SOURCE]}),
        json.dumps({"latents": [SOURCE], "other": [SOURCE]}),
        json.dumps({"latents": [SOURCE, SOURCE]}),
        sources(samples=[]),
        sources(samples=[[-1, 5, 1]]),
        sources(samples=[[0, 6, 1]]),
        sources(samples=[[0, 5, 2]]),
        sources(samples=[[1, 5, 1]]),
        sources(samples=[[0, 4, 1]]),
        sources(samples=[[0, 0, 1]]),
        sources(samples=[[0, 5, 0]]),
        sources(samples=[[0, 10**18, 10**18]]),
        sources(samples=[[0, 10**18, 1]]),
        sources(samples=[[0, 10**30, 1]]),
        sources(samples=[[0.0, 5, 1]]),
        sources(samples=[[True, 5, 1]]),
        sources(samples=[[float("nan"), 5, 1]]),
        sources(samples=[["0", 5, 1]]),
        sources(samples=[[0, 5]]),
        sources(samples=5),
        sources(stream=3),
        sources(stream=None),
        sources(stream="\ud800"),
        sources(name=None),
        sources(name=["a"], key={}),
        sources(name="\x1b[31mb", key="x"),
        None,
    ],
}


@pytest.mark.parametrize(
    ("entry", "value"), [(entry, value) for entry, values in HOSTILE.items() for value in values],
    ids=[f"{entry}-{number}" for entry, values in HOSTILE.items() for number, _ in enumerate(values)],
)  # fmt: skip
def test_hostile_metadata_gives_one_sentence(
    cli: Cli, write: Write, tmp_path: Path, entry: str, value: str | None
) -> None:
    write("a.safetensors", moments=moments_of(5))
    write("also.safetensors", moments=moments_of(5))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    altered(tmp_path / "out.safetensors", **{entry: value})
    outcome = cli("sample", "a.safetensors", "also.safetensors", "--verify", "out.safetensors", "--quiet")
    assert outcome.status in (1, 2)
    assert outcome.complaint.startswith("latentkit: out.safetensors: ")
    assert len(outcome.complaint) < 300


@pytest.mark.parametrize("dtype", [torch.int16, torch.float8_e4m3fn, torch.float64, torch.bool])
def test_latents_of_a_dtype_that_is_never_drawn_do_not_hold(
    cli: Cli, write: Write, tmp_path: Path, dtype: torch.dtype
) -> None:
    write("a.safetensors", moments=moments_of(5))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    path = tmp_path / "out.safetensors"
    save_file({"latents": load_file(path)["latents"].to(dtype)}, path, metadata_of(path))
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", "--quiet")
    assert (outcome.status, "no latents of that dtype" in outcome.complaint) == (1, True)


# ---- metadata of many samples -------------------------------------------------------------------------------------


def test_every_nth_sample_is_one_run_in_the_metadata(cli: Cli, write: Write, tmp_path: Path) -> None:
    write("a.safetensors", moments=torch.zeros(30_000, 2))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors", "--every", 3).status == 0
    assert json.loads(metadata_of(tmp_path / "out.safetensors")["sources"])["latents"][0]["samples"] == [[0, 10_000, 3]]
    assert cli("sample", "a.safetensors", "--verify", "out.safetensors").status == 0


@pytest.mark.usefixtures("shards")
def test_metadata_too_long_for_a_header_are_refused_before_any_work(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe_module, "MAX_HEADER_BYTES", 800)
    write_indices(tmp_path / "list.csv", [(0, index * index * index % 47) for index in range(47)])
    outcome = cli("sample", "in", "-o", "out", "--indices", "list.csv", "--quiet")
    assert (outcome.status, "header" in outcome.complaint) == (2, True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", "columns"),
        (b"", "columns"),
        (b"file,tensor,index\nin/0.safetensors,moments,50\n", "no sample 50"),
        (b"file,tensor,index\nin/0.safetensors,moments,-1\n", "no sample -1"),
        (b"file,tensor,index\nin/0.safetensors,moments," + b"9" * 6000, "no sample 999"),
        (b"file,tensor,index\nin/0.safetensors\n", "no sample"),
        (b"file,tensor,index\nin/9.safetensors,moments,1\n", "among the inputs"),
        (b"file,tensor,index\nin/0.safetensors,\xff,1\n", "among the inputs"),
        (b"file,tensor,index\nin/0.safetensors," + b"x" * 200_000 + b",1\n", "not a list of samples"),
    ],
)
@pytest.mark.usefixtures("shards")
def test_a_list_of_samples_that_is_none_is_refused(cli: Cli, tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "list.csv").write_bytes(content)
    outcome = cli("sample", "in", "-o", "out", "--indices", "list.csv")
    assert (outcome.status, words in outcome.complaint) == (2, True)


def test_two_tensors_of_a_file_carry_the_rows_of_both_or_none(cli: Cli, write: Write, tmp_path: Path) -> None:
    tensors = {"moments": moments_of(6), "moments_flip": moments_of(6, seed=1), "labels": torch.arange(6)}
    write("a.safetensors", **tensors)
    both = "--key", "moments", "--key", "moments_flip", "--carry", "*"
    assert cli("sample", "a.safetensors", "-o", "out.safetensors", *both, "--every", 2).status == 0
    out = load_file(tmp_path / "out.safetensors")
    assert set(out) == {"latents", "latents_flip", "labels"}
    assert out["labels"].tolist() == [0, 2, 4]
    outcome = cli("sample", "a.safetensors", "-o", "no.safetensors", *both, "--limit", 8)
    assert (outcome.status, "cannot be carried" in outcome.complaint) == (2, True)


# ---- nothing is lost ----------------------------------------------------------------------------------------------


def small_files(folder: Path, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        save_file({"moments": torch.full((1, 4, 2, 2), float(number % 5))}, folder / f"{number:03}.safetensors")


def planned(argument: Path, output: Path, **recipe: Any) -> tuple[list[Any], Recipe]:
    found = find_posteriors([str(argument)], Selection())
    return mirrored(found.spans, str(output), [], as_file=False), Recipe(**recipe)


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_runs_on_one_output_do_not_mix(tmp_path: Path, overwrite: bool) -> None:
    small_files(tmp_path / "in", 40)
    runs = [
        draw_files(
            OutputFiles(*planned(tmp_path / "in", tmp_path / "out", seed=seed), overwrite=overwrite), batch_size=1
        )
        for seed in (1, 2)
    ]
    for _ in range(20):  # in turn
        assert all(next(run) for run in runs)
    left = []
    for run in runs:
        try:
            list(run)
        except Exception as error:
            left.append(str(error))
    assert not left or (not overwrite and "appeared while" in left[0])
    seeds = Counter(metadata_of(path)["seed"] for path in (tmp_path / "out").glob("*.safetensors"))
    assert seeds.total() == 40
    assert len(seeds) == 1
    assert len(files_below(tmp_path / "out")) == 40


KILLED = """
import os, signal, sys
from latentkit.cli.main import main
replace, placed = os.replace, 0
def last(*names):
    global placed
    if placed == 300:
        os.kill(os.getpid(), signal.SIGKILL)
    placed += str(names[1]).endswith(".safetensors")  # compiled code is placed so, too
    replace(*names)
os.replace = last
main()
"""


def test_a_killed_run_leaves_every_file_old_or_new(cli: Cli, tmp_path: Path) -> None:
    small_files(tmp_path / "in", 600)
    assert cli("sample", "in", "-o", "out", "--seed", 1).status == 0
    old = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert cli("sample", "in", "-o", "expected", "--seed", 2).status == 0
    new = {path.name: path.read_bytes() for path in (tmp_path / "expected").iterdir()}
    arguments = "sample", "in", "-o", "out", "--seed", "2", "--overwrite"
    run = subprocess.run([sys.executable, "-c", KILLED, *arguments], cwd=tmp_path, check=False)
    assert run.returncode == -9
    there = {path.name: path.read_bytes() for path in (tmp_path / "out").glob("[!.]*")}
    assert there.keys() == old.keys()
    assert [there[name] == new[name] for name in sorted(there)] == [True] * 300 + [False] * 300
    assert all(there[name] in (old[name], new[name]) for name in there)
    assert cli(*arguments).status == 0
    assert cli("sample", "in", "--verify", "out").status == 0


@pytest.mark.parametrize("call", ["pwrite", "fsync", "replace"])
@pytest.mark.usefixtures("shards")
def test_a_disk_that_fails_at_any_step_loses_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    assert cli("sample", "in", "-o", "out", "--carry", "labels").status == 0
    old = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    real, lock = getattr(os, call), threading.Lock()
    for failing in range(100):
        calls = iter(range(1000))

        def fail(*arguments: Any, real: Any = real, failing: int = failing, calls: Iterator[int] = calls) -> Any:
            with lock:
                number = next(calls)
            if number >= failing:  # a full disk stays full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*arguments)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, fail)
            outcome = cli("sample", "in", "-o", "out", "--carry", "labels", "--seed", 1, "--overwrite", "--quiet")
        there = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert there.keys() == old.keys()
        if outcome.status == 0:
            break
        assert outcome.status == 1
        assert "No space left on device" in outcome.complaint
        changed = [name for name in there if there[name] != old[name]]
        assert changed == [] or (call == "replace" and len(changed) == failing)
        shutil.rmtree(tmp_path / "out")
        (tmp_path / "out").mkdir()
        for name, data in old.items():
            (tmp_path / "out" / name).write_bytes(data)
    assert failing >= len(old)
    assert cli("sample", "in", "--verify", "out").status == 0


FEW_OPEN = """
import resource, sys
from latentkit.cli.main import main
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
main()
"""


def test_many_outputs_do_not_need_as_many_open_files(tmp_path: Path) -> None:
    small_files(tmp_path / "in", 500)
    arguments = "sample", "in", "-o", "out", "--workers", "8"
    subprocess.run([sys.executable, "-c", FEW_OPEN, *arguments], cwd=tmp_path, check=True)
    assert len(files_below(tmp_path / "out")) == 500


ASKED = [
    ("--seed", 8), ("--seed", 0), ("--draws", 2), ("--mode",), ("--temperature", 0.5), ("--dtype", "bfloat16"),
    ("--scaling-factor", 2), ("--shift-factor", 0.1), ("--clamp-min", -3), ("--clamp-max", 3), ("--stream", "b"),
]  # fmt: skip


@pytest.mark.parametrize("option", ASKED)
def test_another_recipe_than_the_one_asked_for_is_named(cli: Cli, write: Write, option: tuple[object, ...]) -> None:
    write("a.safetensors", moments=moments_of(3))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors", "--seed", 7).status == 0
    again = "--seed", 7, "--dtype", "float32", "--scaling-factor", 1, "--stream", "a.safetensors", "--clamp-max", 20
    assert cli("sample", "a.safetensors", "--verify", "out.safetensors", *again).status == 0
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", "--quiet", *option)
    assert (outcome.status, "as its metadata says" in outcome.complaint) == (2, True)


@pytest.mark.parametrize("option", [("-o", "b"), ("--overwrite",), ("--resume",), ("--carry", "*"), ("--dry-run",)])
def test_what_says_how_to_write_says_nothing_of_verifying(cli: Cli, write: Write, option: tuple[str, ...]) -> None:
    write("a.safetensors", moments=moments_of(3))
    assert cli("sample", "a.safetensors", "-o", "out.safetensors").status == 0
    outcome = cli("sample", "a.safetensors", "--verify", "out.safetensors", *option)
    assert (outcome.status, "--verify writes nothing: leave out" in outcome.complaint) == (2, True)


if __name__ == "__main__":
    sys.path.insert(0, str(REPOSITORY))
    with np.errstate(all="ignore"):
        print(json.dumps(hash_everything(Path(sys.argv[1]), tuple(map(int, sys.argv[2:])))))
