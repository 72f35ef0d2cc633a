"""The class against 50-digit arithmetic on the same stored values. `pytest -s` prints the worst error of each cell."""

import math
from itertools import product

import pytest
import reference
import regimes
import torch
from regimes import DTYPES, Worst, far_means, generator_for, spread_of, stored, tolerance

from latentkit import DiagonalGaussianDistribution, normal_kl
from latentkit.posterior.distribution import exp_remainder, scale_of
from latentkit.posterior.parameterization import PARAMETERIZATIONS

SHAPES = [(20, 1), (2, 16), (1, 120)]  # (samples, dimensions)

# The farthest means of which float32 can hold ½ Σ m² over 1,000 dimensions; float64 goes as far as its own.
FAR = {torch.float64: 1e150, torch.float32: 5e17, torch.bfloat16: 5e17}
REGIMES = regimes.REGIMES | {"far means": far_means(FAR)}
every_cell = regimes.every_cell_of(REGIMES)


@every_cell
def test_kl_to_the_prior_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for(regime, parameterization, dtype)
    for shape in SHAPES:
        mean, raw = stored(*REGIMES[regime](shape, dtype, generator), dtype, parameterization)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, raw], dim=1), parameterization=parameterization)
        for index, got in enumerate(posterior.kl().tolist()):
            expected, size = reference.kl(mean[index], raw[index], parameterization)
            if dtype == torch.float64 and parameterization == "softplus":
                error, allowed = reference.relative_error(got, expected, size), 1e-15
            else:
                error, allowed = reference.relative_error(got, expected), tolerance(dtype)
            worst.note("kl", dtype, parameterization, regime, error)
            assert error <= allowed, (shape, index)


@every_cell
def test_kl_to_another_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for("other", regime, parameterization, dtype)
    for shape in SHAPES:
        mean, logvar = REGIMES[regime](shape, dtype, generator)
        nearness = 10.0 ** torch.randint(-6, 1, (shape[0], 1), generator=generator)
        shift, stretch = nearness * torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        others = mean + shift * torch.exp(0.5 * logvar.clamp(-30, 20)), logvar + stretch
        mean, raw = stored(mean, logvar, dtype, parameterization)
        other_mean, other_raw = stored(*others, dtype, parameterization)
        posterior, other = (
            DiagonalGaussianDistribution(torch.cat(halves, dim=1), parameterization=parameterization)
            for halves in ((mean, raw), (other_mean, other_raw))
        )
        for index, got in enumerate(posterior.kl(other).tolist()):
            stored_values = mean[index], raw[index], other_mean[index], other_raw[index]
            expected, size = reference.kl_other(*stored_values, parameterization)
            error = reference.relative_error(got, expected)
            allowed = tolerance(dtype)
            clamped = regime in ("lower bound", "upper bound", "wide") and parameterization != "logvar"
            if dtype == torch.float64 and (clamped or parameterization == "softplus") and expected:
                # Two that are nearly equal, where one of the σ was rounded: by softplus, or to a bound of the clamp.
                allowed += float(1e-15 * size / expected)
            worst.note("kl other", dtype, parameterization, regime, error)
            assert error <= allowed, (shape, index)


@every_cell
def test_nll_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for("nll", regime, parameterization, dtype)
    for shape in SHAPES:
        mean, raw = stored(*REGIMES[regime](shape, dtype, generator), dtype, parameterization)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, raw], dim=1), parameterization=parameterization)
        # Some as the posterior draws them, some a hundred σ away.
        distance = 100.0 ** torch.randint(2, (shape[0], 1), generator=generator)
        latents = (mean.double() + distance * (posterior.sample(generator) - posterior.mean).double()).to(dtype)
        for index, got in enumerate(posterior.nll(latents).tolist()):
            expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization)
            error = reference.relative_error(got, expected, size)
            worst.note("nll", dtype, parameterization, regime, error)
            assert error <= tolerance(dtype), (shape, index)


LARGE = {  # regime, distinct elements, dimensions
    "a thousand typical": ("typical", 1_000, 1_000),
    "a thousand near the prior": ("near the prior 3e-3", 1_000, 1_000),
    "one hot among 16,384 quiet": ("one hot dimension", 1_000, 16_384),
}
MILLION = {
    "a million typical": ("typical", 1_000, 1_000_000),
    "a million near the prior": ("near the prior 1e-5", 1_000, 1_000_000),
}


@pytest.mark.parametrize(
    ("size", "parameterization", "dtype"),
    [
        *product(LARGE, PARAMETERIZATIONS, DTYPES),
        *product(MILLION, PARAMETERIZATIONS, [torch.float32]),
        *product(MILLION, ["logvar"], [torch.float64, torch.bfloat16]),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_large_samples_are_right(size: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    regime, distinct, dimensions = (LARGE | MILLION)[size]
    generator = generator_for(size, parameterization, dtype)
    # Few distinct elements, each many times in random places, so that 50 digits stay quick; the first is kept single.
    chosen = torch.randint(1, distinct, (dimensions,), generator=generator)
    chosen[7] = 0
    halves = stored(*REGIMES[regime]((1, distinct), dtype, generator), dtype, parameterization)
    # By way of float64, as older versions of torch do not index 8-bit floats.
    mean, raw = (half.double()[:, chosen].to(dtype) for half in halves)
    posterior = DiagonalGaussianDistribution(torch.cat([mean, raw], dim=1), parameterization=parameterization)
    expected, parts = reference.kl(mean, raw, parameterization)
    error = reference.relative_error(posterior.kl().item(), expected)
    worst.note("kl large", dtype, parameterization, size, error)
    rounded_before = dtype == torch.float64 and parameterization == "softplus"
    assert error <= tolerance(dtype) + (float(1e-15 * parts / expected) if rounded_before else 0.0)

    drawn = (halves[0].double() + torch.randn(1, distinct, generator=generator).double()).to(dtype)
    latents = drawn.double()[:, chosen].to(dtype)
    expected, parts = reference.nll(mean, raw, latents, parameterization)
    error = reference.relative_error(posterior.nll(latents).item(), expected, parts)
    worst.note("nll large", dtype, parameterization, size, error)
    assert error <= tolerance(dtype)


@pytest.mark.parametrize("clamp", [(-1.0, 1.0), (-80.0, 80.0), (-1e9, 1e9)], ids=str)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_a_clamp_of_ones_own_is_right(dtype: torch.dtype, parameterization: str, clamp: tuple[float, float]) -> None:
    generator = generator_for(clamp, parameterization)
    mean, raw = stored(*spread_of(1.0, 20.0)((40, 1), dtype, generator), dtype, parameterization)
    parameters = torch.cat([mean, raw], dim=1)
    posterior = DiagonalGaussianDistribution(parameters, parameterization=parameterization, clamp=clamp)
    latents = posterior.sample(generator)
    for index in range(len(mean)):
        expected, size = reference.kl(mean[index], raw[index], parameterization, clamp)
        assert reference.relative_error(posterior.kl()[index].item(), expected, size) <= tolerance(dtype)
        expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization, clamp)
        assert reference.relative_error(posterior.nll(latents)[index].item(), expected, size) <= tolerance(dtype)


@pytest.mark.parametrize("one", PARAMETERIZATIONS)
@pytest.mark.parametrize("another", PARAMETERIZATIONS)
def test_kl_between_parameterizations_is_right(one: str, another: str) -> None:
    generator = generator_for(one, another)
    mean, logvar = spread_of(1.0, 5.0)((50, 3), torch.float32, generator)
    halves = stored(mean, logvar, torch.float32, one)
    other_halves = stored(mean + 1e-3, logvar + 1e-3, torch.float32, another)
    posterior = DiagonalGaussianDistribution(torch.cat(halves, dim=1), parameterization=one)
    other = DiagonalGaussianDistribution(torch.cat(other_halves, dim=1), parameterization=another)
    for index, got in enumerate(posterior.kl(other).tolist()):
        stored_values = (half[index] for half in (*halves, *other_halves))
        expected, _ = reference.kl_other(*stored_values, one, another)
        assert reference.relative_error(got, expected) <= 5e-7


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_exp_remainder_is_right_for_every_argument(dtype: torch.dtype) -> None:
    sizes = torch.logspace(-12, math.log10(80), 700, dtype=dtype)
    x = torch.cat([sizes, -sizes, torch.tensor([-1.0, 2.0], dtype=dtype)])
    x = torch.cat([x, x.nextafter(torch.full_like(x, 100.0)), x.nextafter(torch.full_like(x, -100.0))])
    for value, got in zip(x.tolist(), exp_remainder(x, x.exp()).tolist(), strict=True):
        assert reference.relative_error(got, reference.spread(reference.mp.mpf(value))[1]) < tolerance(dtype), value


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_normal_kl_is_right_elementwise(dtype: torch.dtype) -> None:
    generator = generator_for(dtype)
    mean, logvar = spread_of(1.0, 4.0)((2, 60), dtype, generator)
    nearness = 10.0 ** -(torch.arange(60) % 6)
    m1, l1, m2, l2 = (
        half.to(dtype) for half in (mean[0], logvar[0], mean[0] + nearness * mean[1], logvar[0] + nearness * logvar[1])
    )
    columns = (column.double().tolist() for column in (m1, l1, m2, l2))
    for got, mean1, logvar1, mean2, logvar2 in zip(normal_kl(m1, l1, m2, l2).tolist(), *columns, strict=True):
        expected = reference.kl_other_term(mean1, reference.mp.mpf(logvar1), mean2, reference.mp.mpf(logvar2))
        assert reference.relative_error(got, expected) <= tolerance(dtype)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_the_three_views_of_the_spread_are_each_right(dtype: torch.dtype, parameterization: str) -> None:
    _, raw = stored(*spread_of(0.0, 15.0)((1, 400), dtype, generator_for(parameterization)), dtype, parameterization)
    scale = scale_of(raw, parameterization)
    views = (view.ravel().tolist() for view in (raw, scale.logvar, scale.std, scale.var))
    for value, logvar, std, var in zip(*views, strict=True):
        expected = reference.logvar_of(value, parameterization)
        allowed = tolerance(dtype) / 2
        assert reference.relative_error(logvar, expected) <= allowed
        assert reference.relative_error(std, reference.mp.exp(expected / 2)) <= allowed
        assert reference.relative_error(var, reference.mp.exp(expected)) <= allowed


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("mean", [0.0, math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("raw", [0.0, -0.0, -1.0, math.inf, -math.inf, math.nan])
def test_values_that_are_not_finite_are_taken_as_ruled(mean: float, raw: float, parameterization: str) -> None:
    halves = torch.tensor([mean]), torch.tensor([raw])
    posterior = DiagonalGaussianDistribution(torch.stack(halves, dim=1), parameterization=parameterization)
    expected, _ = reference.kl(*halves, parameterization)
    assert reference.relative_error(posterior.kl().item(), expected) <= 5e-7
    expected, _ = reference.nll(*halves, torch.tensor([1.0]), parameterization)
    assert reference.relative_error(posterior.nll(torch.ones(1, 1)).item(), expected) <= 5e-7
