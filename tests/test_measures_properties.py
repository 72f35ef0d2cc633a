"""What holds for KL and NLL whatever the numbers; and the rulings and the originals, as a command meets them."""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import adapter
import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regimes import DTYPES, one_torch_thread
from safetensors.torch import save_file
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages warn of while they load is not ours
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original

from latentkit.errors import DataError
from latentkit.measures.kl import kl_values
from latentkit.measures.nll import nll_values
from latentkit.posterior.affine import IDENTITY, Affine
from latentkit.read.choice import Selection
from latentkit.read.pairing import pair_latents
from latentkit.read.plan import find_posteriors
from latentkit.run import Values

quickly = settings(max_examples=80, deadline=None)

SHAPE = (3, 2, 4, 2)  # (samples, outer, channels, inner)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


@st.composite
def halves(draw: st.DrawFn, count: int = 2) -> list[Tensor]:
    """Tensors of one dtype and of SHAPE: means first, then log-variances, within and beyond the clamp."""
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(SHAPE)
    numbers = st.lists(st.floats(-40, 40) | st.floats(-1e-3, 1e-3), min_size=size, max_size=size)
    return [torch.tensor(draw(numbers), dtype=torch.float64).to(dtype).view(SHAPE) for _ in range(count)]


def kl(mean: Tensor, raw: Tensor, *, per_channel: bool = False) -> Values:
    return adapter.kl(mean, raw, per_channel=per_channel)


def kl_between(one: list[Tensor], other: list[Tensor], *, symmetric: bool = False) -> Values:
    return adapter.kl_to_other((*one, "logvar"), (*other, "logvar"), symmetric=symmetric)


def nll_of(mean: Tensor, raw: Tensor, latents: Tensor) -> Values:
    return adapter.nll(mean, raw, latents)


@quickly
@given(halves())
def test_kl_is_zero_at_the_prior_alone_and_never_below(posterior: list[Tensor]) -> None:
    apart = sum(half.double().abs().flatten(1).amax(1) for half in posterior).numpy()
    values = kl(*posterior)[:, 0]
    assert (values >= 0).all()
    # Squares of what is below 1e-150 are nothing in float64 either.
    assert ((values > 0) == (apart > 0))[(apart == 0) | (apart > 1e-150)].all()


@quickly
@given(halves(4), st.booleans())
def test_kl_to_another_is_zero_at_equality_alone_and_never_below(four: list[Tensor], near: bool) -> None:
    one, other = four[:2], four[2:]
    if near:
        other = [half.clone() for half in one]
        other[0].view(-1)[5] = four[2].view(-1)[5]
    values = kl_between(one, other)[:, 0]
    assert (values >= 0).all()
    clamped = [[mean.double(), raw.double().clamp(-30, 20)] for mean, raw in (one, other)]
    apart = sum((a - b).abs().flatten(1).amax(1) for a, b in zip(*clamped, strict=True)).numpy()
    assert ((values > 0) == (apart > 0))[(apart == 0) | (apart > 1e-150)].all()


@quickly
@given(halves(4))
def test_the_symmetric_kl_is_the_sum_of_both_directions(four: list[Tensor]) -> None:
    one, other = four[:2], four[2:]
    both = kl_between(one, other, symmetric=True)
    assert both.tobytes() == kl_between(other, one, symmetric=True).tobytes()
    np.testing.assert_allclose(both, kl_between(one, other) + kl_between(other, one), rtol=1e-13)


@quickly
@given(halves())
def test_kl_is_the_sum_of_its_channels(posterior: list[Tensor]) -> None:
    np.testing.assert_allclose(kl(*posterior, per_channel=True).sum(1), kl(*posterior)[:, 0], rtol=1e-6)


@quickly
@given(halves(), st.permutations(range(SHAPE[0])))
def test_permuted_samples_have_permuted_values(posterior: list[Tensor], order: list[int]) -> None:
    permuted = [half.double()[order].to(half.dtype) for half in posterior]
    assert kl(*permuted).tobytes() == kl(*posterior)[order].tobytes()


@quickly
@given(halves(3))
def test_nll_is_least_at_the_mean(three: list[Tensor]) -> None:
    mean, raw, latents = three
    assert (nll_of(mean, raw, mean) <= nll_of(mean, raw, latents)).all()


@quickly
@given(halves(3), st.sampled_from([0.25, 1.0, -8.0]), st.sampled_from([0.0, 0.5, -3.0]))
def test_nll_of_moved_and_stretched_gaussians_follows_the_scaling_law(
    three: list[Tensor], scale: float, shift: float
) -> None:
    """With a power of two nothing is rounded: −log p((z − shift) scale) = −log p(z) + n log |scale|."""
    mean, raw, latents = (half.double() for half in three)
    raw = raw.clamp(-20, 10)
    moved = nll_of((mean - shift) * scale, raw + 2 * math.log(abs(scale)), (latents - shift) * scale)
    expected = nll_of(mean, raw, latents) + math.prod(SHAPE[1:]) * math.log(abs(scale))
    size = abs(nll_of(mean, raw, latents)) + raw.abs().sum((1, 2, 3)).numpy()[:, None] + 100
    # What is left is the rounding of the means.
    distance = (latents - mean).abs().amax((1, 2, 3)).numpy()[:, None]
    assert (abs(moved - expected) <= 1e-12 * size * (1 + 1e3 * (distance > 0))).all()


# ---- in files -----------------------------------------------------------------------------------------------------


def written(folder: Path, parameterization: str = "logvar", **tensors: Tensor) -> list:
    save_file(tensors, folder / "a.safetensors")
    return find_posteriors([str(folder / "a.safetensors")], Selection(parameterization=parameterization)).spans


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def kl_in(spans: list) -> Values:
    return np.concatenate([values for (_, values), _ in kl_values(spans)])[:, 0]


def nll_in(folder: Path, affine: Affine, latents: Tensor) -> Values:
    spans = find_posteriors([str(folder / "a.safetensors")], Selection()).spans
    save_file({"latents": latents}, folder / "latents.safetensors")
    posteriors = [span.posterior if hasattr(span, "posterior") else span for span in spans]
    pairs = pair_latents(posteriors, str(folder / "latents.safetensors"), None)
    results = nll_values(posteriors, pairs, dict.fromkeys(posteriors, affine))
    return np.concatenate([values for (_, values), _ in results])[:, 0]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize(
    "affine",
    [Affine((0.0609,), (0.3611,)), Affine((0.5, -1.0, 0.0, 3.0), (0.18215, 2.0, -0.7, 1.0))],
    ids=["one", "each"],
)
def test_nll_undoes_the_affine_to_float64(tmp_path: Path, dtype: torch.dtype, affine: Affine) -> None:
    moments = torch.cat([random(3, 4, 5, 5), random(3, 4, 5, 5, seed=1) - 6], dim=1).to(dtype)
    written(tmp_path, moments=moments)
    mean, raw = moments.double().chunk(2, dim=1)
    shift, scale = (
        torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1) for values in (affine.shift, affine.scale)
    )
    drawn = mean + torch.exp(0.5 * raw) * random(3, 4, 5, 5, seed=2)
    stored = ((drawn - shift) * scale).float()
    undone = stored.double() / scale + shift
    values = nll_in(tmp_path, affine, stored)
    for index in range(3):
        expected, size = reference.nll(mean[index], raw[index], undone[index])
        assert reference.relative_error(float(values[index]), expected, size) <= 1e-8


def test_an_image_in_float32_has_the_numbers_of_diffusers(tmp_path: Path) -> None:
    moments = torch.cat([random(5, 4, 8, 8), random(5, 4, 8, 8, seed=1) - 2], dim=1)
    theirs = Original(moments)
    latents = theirs.mean + theirs.std * random(5, 4, 8, 8, seed=2)
    np.testing.assert_allclose(kl_in(written(tmp_path, moments=moments)), theirs.kl().numpy(), rtol=1e-6)
    np.testing.assert_allclose(nll_in(tmp_path, IDENTITY, latents), theirs.nll(latents).numpy(), rtol=1e-6)


def test_torch_distributions_in_float64_has_the_same_numbers(tmp_path: Path) -> None:
    moments = torch.cat([random(5, 4, 8, 8), random(5, 4, 8, 8, seed=1) - 2], dim=1).double()
    mean, raw = moments.chunk(2, dim=1)
    normal = Independent(Normal(mean, torch.exp(0.5 * raw)), 3)
    prior = Independent(Normal(torch.zeros_like(mean), torch.ones_like(mean)), 3)
    latents = mean + 0.1
    np.testing.assert_allclose(
        kl_in(written(tmp_path, moments=moments)), kl_divergence(normal, prior).numpy(), rtol=1e-12
    )
    np.testing.assert_allclose(nll_in(tmp_path, IDENTITY, latents), -normal.log_prob(latents).numpy(), rtol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(("parameterization", "what"), [("std", "standard deviation"), ("var", "variance")])
def test_a_negative_scale_is_refused_with_its_index(
    tmp_path: Path, parameterization: str, what: str, dtype: torch.dtype
) -> None:
    moments = random(600, 8, 3, 3).abs()
    moments[431, 6, 1, 1] = -0.5
    moments[433, 6, 1, 1] = math.nan
    with pytest.raises(DataError, match=f"sample 431 has a negative {what}"):
        kl_in(written(tmp_path, parameterization, moments=moments.to(dtype)))


@pytest.mark.parametrize(("parameterization", "power"), [("std", 2), ("var", 1)])
@pytest.mark.parametrize("smallest", [0.0, -0.0, 1e-45, 1e-40, 1e-20])
def test_a_scale_of_zero_or_next_to_it_is_clamped(
    tmp_path: Path, parameterization: str, power: int, smallest: float
) -> None:
    moments = torch.zeros(1, 8, 1, 1)
    moments[:, 4:] = smallest
    expected = 4 * 0.5 * (math.exp(-30) - 1 + 30)
    np.testing.assert_allclose(kl_in(written(tmp_path, parameterization, moments=moments)), expected, rtol=5e-7)
    assert power * math.log(smallest or 1e-300) < -30
