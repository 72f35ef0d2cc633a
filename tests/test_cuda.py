"""The way of a GPU, taken on torch's CPU under another name, and on a GPU where there is one: value by value what the
host gives, and errors said.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DTYPES, SAMPLE_DATA, Cli, moments_of
from safetensors.torch import save_file

from latentkit import cuda
from latentkit.errors import LatentkitError
from latentkit.measures.kl import kl_values
from latentkit.measures.nll import nll_values
from latentkit.posterior.affine import IDENTITY, Affine
from latentkit.posterior.parameterization import PARAMETERIZATIONS
from latentkit.read.choice import Selection
from latentkit.read.pairing import pair_latents, pair_posteriors
from latentkit.read.plan import find_posteriors
from latentkit.run import Progressing, Values
from latentkit.sample.files import OutputFiles, draw_files
from latentkit.sample.outputs import mirrored
from latentkit.sample.recipe import Recipe

on_a_gpu = pytest.param(
    "cuda:0", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
)


@pytest.fixture(params=["cpu:0", on_a_gpu])
def places(request: pytest.FixtureRequest) -> tuple[str, str]:
    return "cpu", str(request.param)


def together(results: Progressing) -> Values:
    return np.concatenate([values for (_, values), _ in results])


def assert_alike(device: Values, host: Values, dtype: str) -> None:
    assert device.shape == host.shape
    # The host takes a shorter polynomial for float32.
    tolerance = {"F64": 1e-12, "F32": 2e-7}.get(dtype, 1e-10)
    np.testing.assert_allclose(device, host, rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize("name", ["healthy-f16", "healthy-f32", "video", "pair", "shards"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_kl_of_files_is_that_of_the_host(places: tuple[str, str], name: str, *, per_channel: bool) -> None:
    path = SAMPLE_DATA / (name if name == "shards" else f"{name}.safetensors")
    spans = find_posteriors([str(path)], Selection()).spans
    host, device = (together(kl_values(spans, per_channel=per_channel, device=place)) for place in places)
    np.testing.assert_allclose(device, host, rtol=5e-7, atol=0)


@pytest.mark.parametrize("layout", ["bchw", "blc"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_and_parameterization_is_that_of_the_host(
    places: tuple[str, str], tmp_path: Path, dtype: str, parameterization: str, layout: str
) -> None:
    moments = moments_of(7, 4, 6, 6)
    moments = moments if layout == "bchw" else moments.flatten(2).mT
    if parameterization in ("std", "var"):
        moments = moments.abs() + 0.1
    save_file({"moments": moments.contiguous().to(DTYPES[dtype])}, tmp_path / "a.safetensors")
    save_file({"moments": moments.flip(0).contiguous().to(DTYPES[dtype])}, tmp_path / "b.safetensors")
    latents = moments.narrow(layout.index("c"), 0, 4).contiguous().to(DTYPES[dtype])
    save_file({"latents": latents}, tmp_path / "latents.safetensors")
    selection = Selection(layout=layout, parameterization=parameterization)
    found, others = (find_posteriors([str(tmp_path / name)], selection) for name in ("a.safetensors", "b.safetensors"))
    partners = pair_posteriors(found.posteriors, others.posteriors)
    for per_channel in (False, True):
        options = {"partners": partners, "symmetric": True, "per_channel": per_channel}
        host, device = (together(kl_values(found.spans, device=place, **options)) for place in places)
        assert_alike(device, host, dtype)
        host, device = (together(kl_values(found.spans, per_channel=per_channel, device=place)) for place in places)
        assert_alike(device, host, dtype)
    pairs = pair_latents(found.posteriors, str(tmp_path / "latents.safetensors"), None)
    for affine in (IDENTITY, Affine((0.1,), (0.5,)), Affine((0.1, 0.2, 0.3, 0.0), (0.5,))):
        affines = dict.fromkeys(found.posteriors, affine)
        host, device = (together(nll_values(found.spans, pairs, affines, device=place)) for place in places)
        assert_alike(device, host, dtype)


@pytest.mark.parametrize("out", [None, "F16", "BF16", "F32"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_latents_have_the_bytes_of_the_host(
    places: tuple[str, str], tmp_path: Path, dtype: str, parameterization: str, out: str | None
) -> None:
    moments = moments_of(9, 4, 6, 7) * 3
    if parameterization in ("std", "var"):
        moments = moments.abs()
    moments.view(-1)[::97], moments.view(-1)[5::131] = torch.nan, torch.inf
    save_file({"moments": moments.to(DTYPES[dtype])}, tmp_path / "a.safetensors")
    save_file({"moments": moments_of(2, 2, 300, 301).to(DTYPES[dtype])}, tmp_path / "b.safetensors")
    found = find_posteriors([str(tmp_path)], Selection(parameterization=parameterization))
    drawn = {}
    for recipe in (Recipe(seed=3, dtype=out), Recipe(2, 3, False, 0.7, out, Affine((0.1, -2.0, 0.0, 3.0), (0.2,)))):
        spans = found.spans if recipe.affine.is_identity else found.spans[:1]
        for place in places:
            outputs = mirrored(spans, str(tmp_path / place.replace(":", "")), [], as_file=False)
            came_to = list(draw_files(OutputFiles(outputs, recipe, overwrite=True), device=place))
            files = [Path(output.path).read_bytes() for output in outputs]
            drawn[place] = files, [(one.nonfinite, one.overflowed, one.clamped) for one, _ in came_to]
        assert drawn["cpu"] == drawn[places[1]]


def test_large_samples_in_pieces_are_those_of_the_host(places: tuple[str, str], tmp_path: Path) -> None:
    save_file({"moments": moments_of(2, 3, 400, 401, dtype="F16")}, tmp_path / "a.safetensors")
    spans = find_posteriors([str(tmp_path / "a.safetensors")], Selection()).spans
    for per_channel in (False, True):
        host, device = (together(kl_values(spans, per_channel=per_channel, device=place)) for place in places)
        np.testing.assert_allclose(device, host, rtol=1e-9)


def test_one_partner_for_all_is_that_of_the_host(places: tuple[str, str], tmp_path: Path) -> None:
    save_file({"moments": moments_of(5, 4, 3, 3)}, tmp_path / "a.safetensors")
    save_file({"moments": moments_of(1, 4, 3, 3, seed=1)}, tmp_path / "b.safetensors")
    found, other = (find_posteriors([str(tmp_path / name)], Selection()) for name in ("a.safetensors", "b.safetensors"))
    partners = pair_posteriors(found.posteriors, other.posteriors)
    host, device = (
        together(kl_values(found.spans, partners=partners, symmetric=True, device=place)) for place in places
    )
    np.testing.assert_allclose(device, host, rtol=1e-12)


def test_what_a_device_complains_of_is_one_sentence() -> None:
    def run_out() -> None:
        with cuda.on("cpu:0"):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nSee the documentation of …")

    with pytest.raises(LatentkitError, match=r"^cpu:0: CUDA out of memory\. Tried to allocate 20 GiB\.; try a smaller"):
        run_out()


@pytest.mark.parametrize("name", ["cuda:01", "cuda:-1", "cuda:", "cuda:1x", "mps", "cuda:²"])
def test_a_device_that_nobody_has_is_refused_before_anything_is_read(cli: Cli, name: str) -> None:
    outcome = cli("kl", "nosuch.safetensors", "--device", name)
    assert outcome.status == 2
    assert f"--device {name}: not a device" in outcome.complaint


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_driver_that_is_too_old_is_named_in_the_sentence(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    def is_available() -> bool:
        warnings.warn("CUDA initialization: The driver is too old (found version 9). Please update it.", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", is_available)
    outcome = cli("kl", SAMPLE_DATA / "healthy-f16.safetensors", "--device", "cuda")
    assert outcome.status == 2
    assert "sees no CUDA device (CUDA initialization: The driver is too old (found version 9))" in outcome.complaint
