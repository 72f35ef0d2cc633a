"""What the commands compute, in Python: on paths and on tensors and arrays in memory, with the same bits."""

import doctest
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from safetensors.torch import load_file
from torch import Tensor
from torch.utils.data import DataLoader

import latentkit
from latentkit import api, sources
from latentkit.posterior.distribution import DiagonalGaussianDistribution
from latentkit.read import blocks

Write = Callable[..., Path]

LAYOUTS = {"bchw": (5, 4, 3, 4), "bcthw": (5, 4, 2, 3, 2), "blc": (5, 6, 4), "chw": (4, 3, 4), "bbchw": (2, 3, 4, 2, 2)}
NUMPY = {"F64": np.float64, "F32": np.float32, "F16": np.float16}


def laid_out(layout: str, dtype: str = "F32") -> Tensor:
    torch.manual_seed(0)
    return (torch.randn(LAYOUTS[layout]) - 0.5).to(DTYPES[dtype])


def bits(values: Any) -> bytes:
    """The bytes of a tensor or an array."""
    if isinstance(values, Tensor):
        return values.contiguous().view(torch.uint8).numpy().tobytes()
    return np.ascontiguousarray(values).tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parameterization", ["logvar", "std", "var", "softplus"])
def test_tensors_in_memory_give_the_bits_of_their_file(write: Write, dtype: str, parameterization: str) -> None:
    moments = moments_of(7, 4, dtype=dtype)
    if parameterization in ("std", "var"):
        moments[:, 4:] = moments[:, 4:].float().abs().to(moments.dtype)
    path = write("a.safetensors", moments=moments)
    how: dict[str, Any] = {"parameterization": parameterization}
    assert bits(latentkit.kl(moments, **how)) == bits(latentkit.kl(path, **how))
    assert bits(latentkit.kl(moments, per_channel=True, **how)) == bits(latentkit.kl(path, per_channel=True, **how))
    drawn = latentkit.sample(moments, stream="a.safetensors", draws=2, seed=3, **how)
    there = latentkit.sample(path, draws=2, seed=3, **how)
    if drawn.dtype == torch.bfloat16:
        assert there.dtype == np.float32
        drawn, there = drawn.float(), there.astype(np.float32)
    assert bits(drawn) == bits(there)
    assert bits(latentkit.nll(moments, drawn, **how)) == bits(latentkit.nll(path, there, **how))
    ours, theirs = (latentkit.stats(each, extras=["spectrum"], **how).to_dict() for each in (moments, path))
    assert json.dumps(ours).replace("in memory", str(path)) == json.dumps(theirs)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_in_memory_reads_as_its_file(write: Write, layout: str) -> None:
    moments = laid_out(layout)
    path = write("a.safetensors", moments=moments)
    for source in (moments, moments.numpy()):
        assert bits(latentkit.kl(source, layout=layout)) == bits(latentkit.kl(path, layout=layout))
    latents = latentkit.sample(moments, layout=layout, stream="a.safetensors")
    assert latents.shape == latentkit.open(path, layout=layout)[0].shape
    assert bits(latents) == bits(latentkit.sample(path, layout=layout))


@pytest.mark.parametrize("dtype", NUMPY)
def test_arrays_and_tensors_give_the_same_each_in_its_own_kind(dtype: str) -> None:
    tensor = moments_of(5, 4, dtype=dtype)
    array = tensor.numpy()
    assert isinstance(latentkit.kl(array), np.ndarray) and isinstance(latentkit.kl(tensor), Tensor)
    assert bits(latentkit.kl(array)) == bits(latentkit.kl(tensor))
    assert bits(latentkit.sample(array)) == bits(latentkit.sample(tensor))


def test_views_other_byte_orders_and_gradients_are_read_as_the_numbers_they_are() -> None:
    moments = moments_of(6, 4)
    expected = bits(latentkit.kl(moments[::2]))
    assert bits(latentkit.kl(moments.numpy()[::2])) == expected
    assert bits(latentkit.kl(moments[::2].numpy().astype(">f4"))) == expected
    assert bits(latentkit.kl(moments[::2].clone().requires_grad_())) == expected
    assert bits(latentkit.kl(moments[::2].permute(0, 2, 3, 1), layout="bhwc")) == bits(
        latentkit.kl(moments[::2].permute(0, 2, 3, 1).contiguous(), layout="bhwc")
    )


def test_a_pair_and_a_dict_are_read_as_their_file(write: Write) -> None:
    mean, logvar = moments_of(6, 4).chunk(2, dim=1)
    path = write("a.safetensors", mean=mean.contiguous(), logvar=logvar.contiguous())
    expected = bits(latentkit.kl(path))
    assert bits(latentkit.kl((mean, logvar))) == expected
    assert bits(latentkit.kl(load_file(path))) == expected
    std = latentkit.kl((mean, (logvar.double() / 2).exp().float()), parameterization="std")
    assert std.allclose(torch.from_numpy(latentkit.kl(path)), rtol=1e-6)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_results_are_where_the_tensors_were() -> None:
    moments = moments_of(6, 4).cuda()
    assert latentkit.kl(moments).device == latentkit.sample(moments).device == moments.device
    assert bits(latentkit.kl(moments).cpu()) == bits(latentkit.kl(moments.cpu()))


def test_pieces_of_large_samples_are_put_together(monkeypatch: pytest.MonkeyPatch) -> None:
    moments = moments_of(3, 4, 8, 8)
    whole = latentkit.sample(moments, draws=2), *next(latentkit.open(moments).blocks(1))[2:]
    monkeypatch.setattr(blocks, "BLOCK_ELEMENTS", 50)
    blocks.pieces_of.cache_clear()
    pieces = latentkit.sample(moments, draws=2), *next(latentkit.open(moments).blocks(1))[2:]
    blocks.pieces_of.cache_clear()
    assert [bits(each) for each in pieces] == [bits(each) for each in whole]


def test_several_files_come_end_to_end_as_the_command_writes_and_prints_them(cli: Cli, tmp_path: Path) -> None:
    folder = SAMPLE_DATA / "shards"
    posteriors = latentkit.open(folder)
    assert latentkit.kl(posteriors).tolist() == cli("kl", folder).values("kl")
    assert cli("sample", folder, "-o", "out", "--seed", 7, "--draws", 2, "--scaling-factor", 0.5).status == 0
    written = [load_file(path)["latents"] for path in sorted((tmp_path / "out").glob("*.safetensors"))]
    latents = latentkit.sample(posteriors, seed=7, draws=2, scaling_factor=0.5)
    assert bits(latents) == bits(torch.cat(written, dim=1))
    expected = cli("nll", folder, "--latents", "out").values("nll")
    assert latentkit.nll(posteriors, tmp_path / "out").ravel().tolist() == expected
    assert latentkit.nll(posteriors, latents, scaling_factor=0.5).ravel().tolist() == expected


def test_a_comparison_is_of_as_many_samples_on_either_side_and_a_list_of_one(cli: Cli, tmp_path: Path) -> None:
    shards, other = str(SAMPLE_DATA / "shards"), str(SAMPLE_DATA / "healthy-f16.safetensors")
    assert cli("kl", shards, "--top", 7, "-o", "worst.csv").status == 0
    lists = str(tmp_path / "worst.csv")
    for choice, counts in ({"limit": 20}, (20, 20)), ({"every": 100}, (13, 6)), ({"exclude": lists}, (1278, 512)):
        ((name, value),) = choice.items()
        document = cli("stats", shards, "--against", other, f"--{name}", value).json
        assert (document["samples"], document["against"]["summary"]["samples"]) == counts
        assert latentkit.stats(shards, against=other, **choice).to_dict() == document


def test_against_takes_files_and_tensors() -> None:
    moments, others = moments_of(5, 4), moments_of(5, 4, seed=1)
    posterior, other = DiagonalGaussianDistribution(moments.double()), DiagonalGaussianDistribution(others.double())
    values = latentkit.kl(moments, against=others, symmetric=True)
    assert values.allclose(posterior.kl(other) + other.kl(posterior), rtol=1e-9)
    assert latentkit.kl(moments, against=latentkit.open(moments)).tolist() == [0.0] * 5


def test_stats_are_the_document_of_the_command(cli: Cli) -> None:
    path = SAMPLE_DATA / "collapsed.safetensors"
    against = SAMPLE_DATA / "healthy-f32.safetensors"
    options = ["--against", against, "--with", "shape", "--scaling-factor", 0.2, "--target-std", 0.5]
    outcome = cli("stats", path, *options)
    found = latentkit.stats(path, against=against, extras=["shape"], scaling_factor=0.2, target_std=0.5)
    assert found.to_dict() == outcome.json
    assert found.verdict == outcome.json["verdict"] and str(found.summary.samples) in repr(found)


def test_a_notebook_shows_harmless_html(write: Write) -> None:
    path = write("a.safetensors", **{"<script>alert(1)</script>": moments_of(5, 40)})
    html = latentkit.stats(path)._repr_html_()
    assert "<script" not in html and "&lt;script" in html
    assert sorted(re.findall(r"<(\w+)", html)) == sorted(re.findall(r"</(\w+)", html))


def test_drawn_latents_have_stats_alone() -> None:
    latents = moments_of(5, 3)
    assert latentkit.stats(latents, parameterization="none").summary.channels == 6
    for measure in (latentkit.kl, latentkit.sample):
        with pytest.raises(latentkit.RequestError, match="already drawn"):
            measure(latents, parameterization="none")
    (block,) = latentkit.open(latents, parameterization="none").blocks()
    assert block.scale.size == 0 and bits(block.mean) == bits(latents)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_blocks_and_distributions_hold_the_stored_numbers(layout: str, dtype: str) -> None:
    moments = laid_out(layout, dtype)
    posteriors = latentkit.open(moments, layout=layout)
    channel = layout.index("c")
    mean, scale = (half.to(torch.float64).numpy() for half in moments.chunk(2, dim=channel))
    found = list(posteriors.blocks(batch_size=2))
    assert sum(len(block.mean) for block in found) == posteriors.samples
    assert np.array_equal(np.concatenate([block.mean for block in found]).ravel(), mean.ravel())
    assert np.array_equal(np.concatenate([block.scale for block in found]).ravel(), scale.ravel())
    values = torch.cat([each.kl() for each in posteriors.distributions(batch_size=2)])
    assert values.double().allclose(latentkit.kl(posteriors), rtol=1e-5)


def test_a_reference_says_what_it_is_and_is_a_source_itself() -> None:
    posteriors = latentkit.open(SAMPLE_DATA / "shards", limit=400)
    assert posteriors.samples == 400 and len(posteriors) == 2
    first = posteriors[0]
    assert (first.key, first.dtype, first.shape, first.layout, first.samples) == (
        "moments", "F16", (322, 4, 4, 4), "bchw", 322,
    )  # fmt: skip
    assert Path(first.file.path).name in repr(first) and len(repr(posteriors)) < 300
    assert latentkit.kl(first).tolist() == latentkit.kl(posteriors)[:322].tolist()
    columns = posteriors.columns("labels")
    assert {len(column) for column in columns.values()} == {400}
    assert columns["index"][322:324] == [0, 1]


MOMENTS = moments_of()
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no such file": (lambda: latentkit.open("nosuch"), "no such file"),
    "no array": (lambda: latentkit.kl(3), "expected paths, an array or a tensor"),
    "a list of arrays": (lambda: latentkit.kl([MOMENTS, MOMENTS]), "expected paths, an array or a tensor"),
    "a list of tensors with gradients": (
        lambda: latentkit.kl([MOMENTS.clone().requires_grad_()]),
        "expected paths, an array or a tensor",
    ),
    "a normalization that is not there": (
        lambda: latentkit.sample(MOMENTS, normalization=Path("nosuch.json")),
        "no such normalization file",
    ),
    "whole numbers": (lambda: latentkit.kl(MOMENTS.int()), "I32"),
    "complex numbers": (lambda: latentkit.kl(MOMENTS.to(torch.complex64)), "complex64"),
    "a sparse tensor": (lambda: latentkit.kl(MOMENTS.to_sparse()), "holds no numbers"),
    "a tensor on no device": (lambda: latentkit.kl(MOMENTS.to("meta")), "holds no numbers"),
    "odd channels": (lambda: latentkit.stats(MOMENTS[:, :3]), "odd"),
    "three axes": (lambda: latentkit.kl(MOMENTS[0]), "layout"),
    "a layout that is none": (lambda: latentkit.kl(MOMENTS, layout="bhw"), "layout"),
    "a parameterization that is none": (lambda: latentkit.kl(MOMENTS, parameterization="logstd"), "logstd"),
    "half a pair": (lambda: latentkit.kl({"mean": MOMENTS}, mean_key="mean"), "pair"),
    "a pair that does not match": (lambda: latentkit.kl((MOMENTS, MOMENTS[:2])), "do not match"),
    "no samples": (lambda: latentkit.kl(MOMENTS[:0]), "no samples"),
    "a clamp that is none": (lambda: latentkit.kl(MOMENTS, clamp=(3, 1)), "clamp"),
    "a device that nobody has": (lambda: latentkit.kl(MOMENTS, device="tpu"), "tpu"),
    "a limit of 0": (lambda: latentkit.kl(MOMENTS, limit=0), "limit 0"),
    "every sample below 0": (lambda: latentkit.open(MOMENTS, every=-1), "every -1"),
    "blocks of none": (lambda: next(latentkit.open(MOMENTS).blocks(0)), "batch_size 0"),
    "batches of none": (lambda: latentkit.stats(MOMENTS, batch_size=-1), "batch_size -1"),
    "no workers": (lambda: latentkit.sample(MOMENTS, workers=0), "workers 0"),
    "symmetric with nothing": (lambda: latentkit.kl(MOMENTS, symmetric=True), "against"),
    "partners that do not match": (lambda: latentkit.kl(MOMENTS, against=MOMENTS[:2]), "shape"),
    "a negative variance": (lambda: latentkit.kl(-MOMENTS.abs(), parameterization="var"), "negative variance"),
    "latents that do not match": (lambda: latentkit.nll(MOMENTS, MOMENTS), "shape"),
    "a seed below 0": (lambda: latentkit.sample(MOMENTS, seed=-1), "seed"),
    "no draws": (lambda: latentkit.sample(MOMENTS, draws=0), "draws"),
    "a dtype that is none": (lambda: latentkit.sample(MOMENTS, dtype=torch.int8), "int8"),
    "a scale of 0": (lambda: latentkit.sample(MOMENTS, scaling_factor=0.0), "scaling-factor"),
    "figures that are none": (lambda: latentkit.stats(MOMENTS, extras=["nosuch"]), "nosuch"),
    "what is open already": (lambda: latentkit.kl(latentkit.open(MOMENTS), layout="bchw"), "open already"),
    "a stream of files": (lambda: latentkit.open(SAMPLE_DATA / "shards", stream="a"), "stream"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_wrong_is_one_sentence(case: str) -> None:
    call, words = REFUSED[case]
    with pytest.raises(latentkit.LatentkitError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_an_option_that_is_none_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="layuot"):
        latentkit.kl(MOMENTS, layuot="bchw")


@pytest.mark.parametrize(
    "wrong", [{"batch_size": 2.5}, {"workers": "two"}, {"limit": "2"}, {"draws": 2.5}, {"seed": 1.5}]
)
def test_a_count_that_is_no_whole_number_is_a_type_error(wrong: Any) -> None:
    with pytest.raises(TypeError, match="cannot be interpreted as an integer"):
        latentkit.sample(MOMENTS, **wrong)


def test_a_normalization_may_be_any_path(tmp_path: Path) -> None:
    path = tmp_path / "n.json"
    path.write_text('{"latents_mean": [1.0, 1.0], "latents_std": [2.0, 2.0]}')
    raw = latentkit.sample(MOMENTS)
    assert torch.equal(latentkit.sample(MOMENTS, normalization=path), (raw - 1) / 2)


def test_the_names_of_rooms_are_functions_whatever_was_imported() -> None:
    import latentkit.sample.drawing
    import latentkit.stats.summary

    assert latentkit.stats is api.stats and latentkit.sample is api.sample and latentkit.open is sources.open
    assert set(latentkit.__all__) <= set(dir(latentkit))


@pytest.mark.parametrize("module", [api, sources], ids=lambda module: module.__name__)
def test_the_examples_of_the_docstrings_work(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SAMPLE_DATA.parent)
    failed, tried = doctest.testmod(module)
    assert failed == 0 < tried


def test_the_guides_examples_run(write: Write, cli: Cli) -> None:
    for folder in ("moments", "epoch1", "epoch2"):
        write(f"{folder}/a.safetensors", moments=moments_of(9, 4), labels=torch.arange(9))
    assert cli("stats", "moments", "--save-normalization", "normalization.json", "-o", "stats.json").status == 0
    logged: list[dict[str, Any]] = []
    names: dict[str, Any] = {
        "moments": moments_of(),
        "pandas": pandas,
        "step": 0,
        "log": logged.append,
        "DataLoader": DataLoader,
    }
    page = (Path(latentkit.__file__).parent / "guide" / "python.md").read_text(encoding="utf-8")
    for code in re.findall("```python\n(.*?)```", page, re.DOTALL):
        exec(code.replace("num_workers=4", "num_workers=0").replace("range(100)", "range(2)"), names)
    assert logged[0]["channels"] == 2
    assert list(names["table"]) == ["file", "tensor", "index", "labels", "kl"]
    assert len(names["table"]) == 9
