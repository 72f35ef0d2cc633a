"""Against the code people already have: torch, SciPy, diffusers, CompVis, EDM2. Where it is wrong, the test says why.

The formulas of projects that are no dependency are written out here from their sources, named beside each.
"""

import math
import warnings
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from torch import Tensor

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what other packages warn of while they load is not ours
    from diffusers import AutoencoderKL
    from diffusers.models.autoencoders import autoencoder_kl
    from diffusers.models.autoencoders.autoencoder_oobleck import OobleckDiagonalGaussianDistribution
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution as Original

from latentkit import DiagonalGaussianDistribution, normal_kl

Posterior = DiagonalGaussianDistribution


def moments(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return (2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))).to(dtype)


# torch and SciPy.


def test_torch_gives_the_same_kl() -> None:
    mean, logvar = moments(3, 8, 5, dtype=torch.float64).chunk(2, dim=1)
    other_mean, other_logvar = moments(3, 8, 5, dtype=torch.float64, seed=1).chunk(2, dim=1)
    posterior = Posterior(torch.cat([mean, logvar], dim=1))
    other = Posterior(torch.cat([other_mean, other_logvar], dim=1))
    normal, other_normal, prior = (
        torch.distributions.Normal(center, torch.exp(0.5 * spread))
        for center, spread in ((mean, logvar), (other_mean, other_logvar), (0 * mean, 0 * mean))
    )
    kl = torch.distributions.kl_divergence
    torch.testing.assert_close(posterior.kl(), kl(normal, prior).sum((1, 2)))
    torch.testing.assert_close(posterior.kl(other), kl(normal, other_normal).sum((1, 2)))
    torch.testing.assert_close(normal_kl(mean, logvar, other_mean, other_logvar), kl(normal, other_normal))


def test_scipy_gives_the_same_nll() -> None:
    parameters, latents = moments(3, 8, 5, dtype=torch.float64), moments(3, 4, 5, dtype=torch.float64, seed=1)
    mean, logvar = parameters.chunk(2, dim=1)
    log_density = scipy.stats.norm.logpdf(latents.numpy(), mean.numpy(), np.exp(0.5 * logvar.numpy()))
    expected = torch.from_numpy(-log_density.sum((1, 2)))
    torch.testing.assert_close(Posterior(parameters).nll(latents), expected)


# diffusers' DiagonalGaussianDistribution, on what it was made for: a batch of images in float32.


def images(seed: int = 0) -> Tensor:
    """Moments with some log-variances beyond both bounds of the clamp."""
    parameters = moments(3, 8, 6, 5, seed=seed)
    parameters[0, 4:, 0, 0], parameters[0, 4:, 0, 1] = -40.0, 30.0
    return parameters


@pytest.mark.parametrize("deterministic", [False, True])
def test_diffusers_attributes_and_samples_are_equal(deterministic: bool) -> None:
    ours, theirs = Posterior(images(), deterministic), Original(images(), deterministic)
    for name in ("parameters", "mean", "logvar", "std", "var"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name
    assert ours.deterministic == theirs.deterministic
    assert torch.equal(ours.mode(), theirs.mode())
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    assert torch.equal(ours.sample(next(generators)), theirs.sample(next(generators)))


def test_diffusers_samples_from_the_global_generator_are_equal() -> None:
    ours, theirs = Posterior(images()), Original(images())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        expected = theirs.sample()
        torch.manual_seed(5)
        assert torch.equal(ours.sample(), expected)


def test_diffusers_numbers_agree() -> None:
    ours, theirs = Posterior(images()), Original(images())
    latents = theirs.mode() + theirs.std
    torch.testing.assert_close(ours.kl(), theirs.kl())
    torch.testing.assert_close(ours.nll(latents), theirs.nll(latents))
    for dims in ([1], [2, 3], [1, 2, 3], [0, 1, 2, 3]):
        torch.testing.assert_close(ours.nll(latents, dims), theirs.nll(latents, dims))


def test_diffusers_kl_to_another_agrees() -> None:
    parameters, other = moments(3, 8, 6, 5), moments(3, 8, 6, 5, seed=1)
    torch.testing.assert_close(Posterior(parameters).kl(Posterior(other)), Original(parameters).kl(Original(other)))


def test_diffusers_leaves_an_axis_of_a_video_unsummed() -> None:
    # It sums axes 1, 2 and 3 whatever the rank; of (B, C, T, H, W) that leaves the width.
    parameters = moments(2, 8, 3, 4, 5)
    theirs = Original(parameters)
    assert theirs.kl().shape == (2, 5)
    torch.testing.assert_close(Posterior(parameters).kl(), theirs.kl().sum(1))
    torch.testing.assert_close(Posterior(parameters).nll(theirs.mean), theirs.nll(theirs.mean).sum(1))


def test_diffusers_fails_on_tokens() -> None:
    # There is no axis 3 to sum, and no way to say that the channels come last.
    parameters = moments(2, 7, 8)
    with pytest.raises(IndexError):
        Original(parameters.movedim(2, 1)).kl()
    expected = Original(parameters.movedim(2, 1)[..., None]).kl()
    torch.testing.assert_close(Posterior(parameters, layout="blc").kl(), expected)


def test_diffusers_loses_the_batch_of_a_deterministic_posterior() -> None:
    # It gives torch.Tensor([0.0]): one number, float32, on the CPU, whatever the batch, the dtype and the device.
    parameters = moments(3, 8, 2, 2, dtype=torch.float64)
    theirs = Original(parameters, deterministic=True)
    ours = Posterior(parameters, deterministic=True)
    for got, expected in ((theirs.kl(), ours.kl()), (theirs.nll(theirs.mean), ours.nll(ours.mean))):
        assert (got.shape, got.dtype) == ((1,), torch.float32)
        assert torch.equal(expected, torch.zeros(3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("logvar", "variance"),
    [
        (11.5, math.inf),  # e^l overflows float16 above 11.09
        (-17.5, 0.0),  # and vanishes below -17.3
    ],
)
def test_diffusers_variance_leaves_the_range_of_float16(logvar: float, variance: float) -> None:
    parameters = torch.zeros(1, 2, 2, 2, dtype=torch.float16)
    parameters[:, 1] = logvar
    theirs, ours = Original(parameters), Posterior(parameters)
    assert (theirs.var == variance).all()
    assert not (theirs.kl().isfinite() & theirs.nll(theirs.mean + 1).isfinite()).any()
    expected = Original(parameters.double())
    torch.testing.assert_close(ours.kl().double(), expected.kl(), rtol=5e-7, atol=0.0)
    torch.testing.assert_close(ours.nll(ours.mean + 1).double(), expected.nll(expected.mean + 1), rtol=5e-7, atol=0.0)


def test_diffusers_kl_in_bfloat16_is_off_by_a_thousandth() -> None:
    # Each term is rounded to 8 bits.
    parameters = moments(16, 8, 16, 16, dtype=torch.bfloat16)
    expected = Original(parameters.double()).kl()
    assert ((Original(parameters).kl() / expected - 1).abs().max()) > 5e-4
    assert ((Posterior(parameters).kl() / expected - 1).abs().max()) < 5e-7


def test_diffusers_kl_near_the_prior_has_no_right_digit() -> None:
    # e^l - 1 - l cancels in float32, where collapsed channels lie; it is even negative.
    parameters = 1e-4 * moments(16, 8, 1, 1)
    parameters[:, :4] = 0.0
    expected = Original(parameters.double()).kl()
    theirs, ours = Original(parameters).kl(), Posterior(parameters).kl()
    assert ((theirs / expected - 1).abs()).max() > 1
    assert (theirs < 0).any()
    torch.testing.assert_close(ours.double(), expected, rtol=1e-6, atol=0.0)


def test_diffusers_splits_odd_channels_in_silence() -> None:
    # torch.chunk gives halves of 4 and 3 channels, which then broadcast or fail far from the cause.
    theirs = Original(moments(2, 7, 3, 3))
    assert (theirs.mean.shape[1], theirs.logvar.shape[1]) == (4, 3)
    with pytest.raises(ValueError, match="even number of channels, got 7"):
        Posterior(moments(2, 7, 3, 3))


# diffusers' Oobleck (Stable Audio).


def test_oobleck_attributes_and_samples_agree() -> None:
    parameters = moments(3, 8, 50)
    ours, theirs = Posterior(parameters, parameterization="softplus"), OobleckDiagonalGaussianDistribution(parameters)
    assert torch.equal(ours.mean, theirs.mean)
    for name in ("std", "var", "logvar"):
        torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=1e-6, atol=1e-6)
    generators = (torch.Generator().manual_seed(3) for _ in range(2))
    torch.testing.assert_close(ours.sample(next(generators)), theirs.sample(next(generators)), rtol=1e-6, atol=1e-6)


def test_oobleck_kl_to_the_prior_is_twice_a_mean() -> None:
    # It lacks the ½, sums channels only, and averages over batch and time to one number for all samples.
    parameters = moments(3, 8, 50)
    ours = Posterior(parameters, parameterization="softplus").kl()
    theirs = OobleckDiagonalGaussianDistribution(parameters).kl()
    assert theirs.shape == ()
    torch.testing.assert_close(theirs, 2 * ours.sum() / (3 * 50))


def test_oobleck_kl_to_another_has_the_sign_of_the_log_ratio_reversed() -> None:
    # ... + logvar - other.logvar, where the divergence has the minus: the KL of N(0, 1) to N(0, 4) comes out negative.
    ours, other = moments(3, 8, 50), moments(3, 8, 50, seed=1)
    posterior, other_posterior = (Posterior(half, parameterization="softplus") for half in (ours, other))
    theirs = OobleckDiagonalGaussianDistribution(ours).kl(OobleckDiagonalGaussianDistribution(other))
    log_ratio = (posterior.logvar - other_posterior.logvar).sum((1, 2))
    twice = (2 * posterior.kl(other_posterior) + 2 * log_ratio).sum() / (3 * 50)
    torch.testing.assert_close(theirs, twice)


# Formulas of projects that are no dependency.


def test_compvis_normal_kl_agrees() -> None:
    # CompVis/latent-diffusion, ldm/modules/distributions/distributions.py: normal_kl.
    mean1, logvar1, mean2, logvar2 = moments(4, 3, 5, dtype=torch.float64)
    expected = 0.5 * (
        -1.0 + logvar2 - logvar1 + torch.exp(logvar1 - logvar2) + ((mean1 - mean2) ** 2) * torch.exp(-logvar2)
    )
    torch.testing.assert_close(normal_kl(mean1, logvar1, mean2, logvar2), expected)
    scalar = 0.5 * (-1.0 - logvar1 + torch.exp(logvar1) + mean1**2)
    torch.testing.assert_close(normal_kl(mean1, logvar1, 0.0, 0.0), scalar)


def test_edm2_mean_and_std_are_read_as_it_samples_them() -> None:
    # NVlabs/edm2, training/encoders.py: mean, std = x.chunk(2, dim=1); x = randn_like(mean) * std + mean.
    mean, std = moments(3, 4, 6, 5), moments(3, 4, 6, 5, seed=1).abs()
    posterior = Posterior(torch.cat([mean, std], dim=1), parameterization="std")
    assert torch.equal(posterior.mean, mean)
    assert torch.equal(posterior.std, std)
    noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(3))
    assert torch.equal(posterior.sample(torch.Generator().manual_seed(3)), noise * std + mean)
    expected = Posterior(torch.cat([mean, 2 * std.log()], dim=1))
    torch.testing.assert_close(posterior.kl(), expected.kl())


# In the place of diffusers' own, inside its autoencoder.


@pytest.fixture
def autoencoder(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(autoencoder_kl, "DiagonalGaussianDistribution", Posterior)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoencoderKL(
            in_channels=3, out_channels=3, block_out_channels=(8,), norm_num_groups=4, latent_channels=2, sample_size=16
        )


def test_an_autoencoder_encodes_and_decodes_with_our_posterior(autoencoder: Any) -> None:
    pictures = moments(2, 3, 16, 16)
    posterior = autoencoder.encode(pictures).latent_dist
    assert isinstance(posterior, Posterior)
    generators = (torch.Generator().manual_seed(1) for _ in range(2))
    latents = posterior.sample(next(generators))
    assert torch.equal(latents, Original(posterior.parameters).sample(next(generators)))
    assert autoencoder.decode(latents).sample.shape == pictures.shape
    assert autoencoder(pictures, sample_posterior=True).sample.shape == pictures.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_an_autoencoder_in_any_precision_decodes_what_our_posterior_draws(autoencoder: Any, dtype: torch.dtype) -> None:
    autoencoder.to(dtype)
    pictures = moments(2, 3, 16, 16, dtype=dtype)
    posterior = autoencoder.encode(pictures).latent_dist
    for latents in (posterior.sample(), posterior.mode()):
        assert autoencoder.decode(latents).sample.dtype == dtype


def test_an_autoencoder_trains_with_our_kl(autoencoder: Any) -> None:
    pictures = moments(2, 3, 16, 16)
    optimizer = torch.optim.SGD(autoencoder.parameters(), lr=1e-5)
    generator = torch.Generator()

    def loss() -> Tensor:
        posterior = autoencoder.encode(pictures).latent_dist
        reconstruction = autoencoder.decode(posterior.sample(generator.manual_seed(0))).sample
        return ((reconstruction - pictures) ** 2).mean() + 1e-3 * posterior.kl().mean()

    before = loss()
    before.backward()
    gradients = [parameter.grad for parameter in autoencoder.encoder.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)
    optimizer.step()
    after = loss()
    assert after.isfinite()
    assert after < before
