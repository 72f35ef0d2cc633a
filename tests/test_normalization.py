"""Normalization: what is saved is what ``sample`` reads, and what is shown can be pasted."""

import ast
import inspect
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from diffusers import AutoencoderKL, AutoencoderKLCogVideoX, AutoencoderKLMochi, AutoencoderKLWan

from latentkit.errors import DataError, RequestError
from latentkit.health.normalization import Factors, check_target_std, document, factors_of, for_all, for_each
from latentkit.posterior.affine import from_normalization
from latentkit.stats.summary import Summary
from tests.adapter_stats import Origin, Statistics
from tests.conftest import SAMPLE_DATA, Cli, moments_of


def summary_of(moments: torch.Tensor) -> Summary:
    mean, logvar = moments.flatten(2)[:, None].chunk(2, dim=2)
    statistics = Statistics(mean.shape[2])
    statistics.update(mean, logvar, Origin("a", "moments"))
    return statistics.summary()


def moments_for_scale() -> torch.Tensor:
    """Channels of unlike mean and scale."""
    moments = moments_of(300, 3, 4, 4)
    moments[:, :3] *= torch.tensor([0.5, 2.0, 4.0])[:, None, None]
    moments[:, :3] += torch.tensor([1.0, -2.0, 0.0])[:, None, None]
    return moments


@pytest.mark.parametrize("target", [1.0, 0.5])
def test_factors_are_those_of_the_law_of_total_variance(target: float) -> None:
    moments = moments_for_scale()
    mean, variance = moments[:, :3].double(), moments[:, 3:].double().exp()
    factors = factors_of(summary_of(moments), target)
    sds = [math.sqrt(float(variance[:, c].mean() + mean[:, c].var(correction=0))) for c in range(3)]
    whole = math.sqrt(float(variance.mean() + mean.var(correction=0)))
    assert factors.latents_std == pytest.approx([sd / target for sd in sds], rel=1e-12)
    assert factors.latents_mean == pytest.approx([float(mean[:, c].mean()) for c in range(3)], rel=1e-12)
    assert factors.scaling_factor == pytest.approx(target / whole, rel=1e-12)
    assert factors.shift_factor == pytest.approx(float(mean.mean()), rel=1e-12)


def test_the_definition_of_the_published_constants() -> None:
    """CompVis: ``1 / z.flatten().std()`` of drawn latents; Wan: each channel's mean and std of the latents."""
    generator = torch.Generator().manual_seed(3)
    moments = moments_for_scale().repeat(20, 1, 1, 1).double()
    mean, logvar = moments.chunk(2, dim=1)
    z = mean + (logvar / 2).exp() * torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    factors = factors_of(summary_of(moments.float()))
    assert factors.scaling_factor == pytest.approx(1 / float(z.flatten().std()), rel=5e-3)
    assert factors.latents_std == pytest.approx(z.std(dim=(0, 2, 3)).tolist(), rel=1e-2)
    assert factors.latents_mean == pytest.approx(z.mean(dim=(0, 2, 3)).tolist(), abs=2e-2)


def defaults_of(autoencoder: type, *names: str) -> list[Any]:
    """What diffusers publishes as the constants of an autoencoder."""
    parameters = inspect.signature(autoencoder).parameters
    return [parameters[name].default for name in names]


def standard(channels: int) -> torch.Tensor:
    """Noise whose mean is 0 and whose standard deviation is 1, in every channel to the last digits."""
    noise = torch.randn(64, 1, channels, 9, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    noise -= noise.mean(dim=(0, 3), keepdim=True)
    return noise / noise.std(dim=(0, 3), keepdim=True, correction=0)


def factors_of_latents(latents: torch.Tensor) -> Factors:
    statistics = Statistics(latents.shape[2], "none")
    statistics.update(latents, None, Origin("a", "latents"))
    return factors_of(statistics.summary())


@pytest.mark.parametrize(
    ("scaling_factor", "shift_factor"),
    [
        *(
            (defaults_of(autoencoder, "scaling_factor")[0], 0.0)
            for autoencoder in (AutoencoderKL, AutoencoderKLCogVideoX)
        ),
        # Of Stable Diffusion 3: its config has them, no code.
        (1.5305, 0.0609),
    ],
)
def test_published_factors_come_back_from_latents_that_they_make_standard(
    scaling_factor: float, shift_factor: float
) -> None:
    factors = factors_of_latents(standard(16) / scaling_factor + shift_factor)
    shown = json.loads(for_all(factors, digits=9))
    assert shown == pytest.approx({"scaling_factor": scaling_factor, "shift_factor": shift_factor}, rel=1e-8, abs=1e-12)


@pytest.mark.parametrize("autoencoder", [AutoencoderKLWan, AutoencoderKLMochi])
def test_published_lists_come_back_from_latents_that_they_make_standard(autoencoder: type) -> None:
    mean, std = defaults_of(autoencoder, "latents_mean", "latents_std")
    latents = standard(len(mean)) * torch.tensor(std)[:, None] + torch.tensor(mean)[:, None]
    shown = json.loads(for_each(factors_of_latents(latents), digits=7))
    assert shown["latents_mean"] == pytest.approx(list(mean), rel=1e-6)
    assert shown["latents_std"] == pytest.approx(list(std), rel=1e-6)


def test_what_is_shown_is_a_config_of_diffusers() -> None:
    factors = factors_of(summary_of(moments_for_scale()))
    shown = json.loads(for_all(factors)) | json.loads(for_each(factors))
    config = AutoencoderKL(block_out_channels=(32,), latent_channels=3, **shown).config
    assert {name: config[name] for name in shown} == shown


@pytest.mark.parametrize("channels", [4, 16, 128])
def test_what_is_shown_is_json_and_python_and_fits_80_columns(channels: int) -> None:
    factors = factors_of(summary_of(moments_of(20, channels)))
    for block in (for_all(factors), for_each(factors)):
        assert json.loads(block) == ast.literal_eval(block)
        assert max(map(len, block.splitlines())) < 80
    shown = json.loads(for_each(factors))
    assert list(shown) == ["latents_mean", "latents_std"]
    assert shown["latents_std"] == pytest.approx(factors.latents_std, rel=1e-5)
    assert json.loads(for_all(factors)) == pytest.approx(
        {"scaling_factor": factors.scaling_factor, "shift_factor": factors.shift_factor}, rel=1e-5
    )


def test_a_file_reads_back_as_the_map_it_stands_for(tmp_path: Path) -> None:
    summary = summary_of(moments_for_scale())
    factors = factors_of(summary, 0.5)
    (tmp_path / "n.json").write_text(document(summary, factors))
    affine = from_normalization(str(tmp_path / "n.json"))
    assert affine.shift == factors.latents_mean
    (tmp_path / "stats.json").write_text(
        json.dumps({"schema": "x", "normalization": json.loads(document(summary, factors))})
    )
    assert from_normalization(str(tmp_path / "stats.json")) == affine
    assert affine.scale == pytest.approx([0.5 / group.drawn.sd for group in summary.per_channel], rel=1e-15)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((slice(0, 1), slice(None), None), "two samples"),
        ((slice(None), slice(None), 1), "0 or not finite in channel 1"),
    ],
)
def test_where_there_is_no_map_none_is_saved(change: tuple[slice, slice, int | None], why: str) -> None:
    moments = moments_of(20, 3)[change[0]]
    statistics = Statistics(3, "none")
    mean = moments[:, :3].flatten(2)[:, None].clone()
    if change[2] is not None:
        mean[:, :, change[2]] = 2
    statistics.update(mean, None, Origin("a", "latents"))
    summary = statistics.summary()
    with pytest.raises(DataError, match=why):
        document(summary, factors_of(summary))


@pytest.mark.parametrize("target", [0.0, -1.0, math.nan, math.inf])
def test_a_target_that_is_none_is_refused(target: float) -> None:
    with pytest.raises(RequestError, match="--target-std"):
        check_target_std(target)


@pytest.mark.parametrize("target", [1.0, 0.5])
def test_latents_drawn_with_the_file_have_mean_0_and_the_target(cli: Cli, tmp_path: Path, target: float) -> None:
    path = SAMPLE_DATA / "healthy-f32.safetensors"
    assert cli("stats", path, "--save-normalization", "n.json", "--target-std", target).status == 0
    drawn = cli("sample", path, "-o", "z.safetensors", "--normalization", "n.json", "--draws", 4)
    assert drawn.status == 0, drawn.err
    latents = load_file(tmp_path / "z.safetensors")["latents"].double().numpy()
    by_channel = np.moveaxis(latents, 2, 0).reshape(4, -1)
    assert by_channel.shape[1] == 4 * 512 * 16
    # Only the noise differs from draw to draw: σ is 0.2 of the spread.
    assert np.abs(by_channel.mean(axis=1)).max() < 0.01 * target
    assert by_channel.std(axis=1) == pytest.approx(np.full(4, target), rel=0.01)


def test_an_existing_file_is_refused_before_any_work(cli: Cli, tmp_path: Path) -> None:
    path = SAMPLE_DATA / "healthy-f32.safetensors"
    (tmp_path / "n.json").write_text("mine")
    outcome = cli("stats", path, "--save-normalization", "n.json")
    assert (outcome.status, outcome.out) == (2, "") and "n.json: exists already" in outcome.complaint
    assert (tmp_path / "n.json").read_text() == "mine"
    outcome = cli("stats", path, "--save-normalization", "n.json", "--overwrite")
    assert (outcome.status, "wrote n.json: scale and shift" in outcome.err) == (0, True)
    entries = json.loads((tmp_path / "n.json").read_text())
    assert entries["samples"] == 512 and entries["target_std"] == 1 and len(entries["latents_std"]) == 4
    assert list(tmp_path.iterdir()) == [tmp_path / "n.json"]
