"""What the posterior promises: shapes, dtypes, devices, errors, and laws that hold for every input."""

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from latentkit import DiagonalGaussianDistribution, DiracDistribution, normal_kl
from latentkit.posterior.distribution import scale_of
from latentkit.posterior.parameterization import PARAMETERIZATIONS, check_clamp

Posterior = DiagonalGaussianDistribution


def reordered(parameters: Tensor, order: Tensor) -> Tensor:
    """Samples in another order; by way of float64, as older versions of torch do not index 8-bit floats."""
    return parameters.double()[order].to(parameters.dtype)


DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]

dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
parameterizations = pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)


def moments(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Moments that are valid in every parameterization: the second half lies in (0.25, 2.25)."""
    values = torch.randn(shape, generator=torch.Generator().manual_seed(seed))
    mean, raw = values.chunk(2, dim=1)
    return torch.cat([mean, 0.25 + 2 * torch.sigmoid(raw)], dim=1).to(dtype)


# Shapes and dtypes.


@dtypes
@parameterizations
def test_latents_keep_the_dtype_and_arithmetic_is_at_least_float32(dtype: torch.dtype, parameterization: str) -> None:
    posterior = Posterior(moments(2, 4, 3, 3, dtype=dtype), parameterization=parameterization)
    arithmetic = torch.float64 if dtype == torch.float64 else torch.float32
    kept = torch.float32 if dtype.itemsize == 1 else dtype
    for latents in (posterior.mean, posterior.mode(), posterior.sample()):
        assert (latents.dtype, latents.shape) == (kept, (2, 2, 3, 3))
    for spread in (posterior.logvar, posterior.std, posterior.var):
        assert (spread.dtype, spread.shape) == (arithmetic, (2, 2, 3, 3))
    for number in (posterior.kl(), posterior.kl(posterior), posterior.nll(posterior.mean.to(dtype))):
        assert (number.dtype, number.shape) == (arithmetic, (2,))


@dtypes
@pytest.mark.parametrize("x_shift", [0.0, 1.0])
def test_a_deterministic_posterior_is_a_point_at_the_mean(dtype: torch.dtype, x_shift: float) -> None:
    posterior = Posterior(moments(2, 4, 3, dtype=dtype), deterministic=True)
    other = Posterior(moments(2, 4, 3, dtype=dtype, seed=1))
    assert not posterior.std.any()
    assert not posterior.var.any()
    assert posterior.std.shape == posterior.var.shape == posterior.mean.shape
    assert torch.equal(posterior.sample(), posterior.mean)
    latents = (posterior.mean.float() + x_shift).to(dtype)
    for zeros in (posterior.kl(), posterior.kl(other), posterior.nll(latents)):
        assert torch.equal(zeros, torch.zeros(2, dtype=posterior.logvar.dtype))
    assert torch.equal(posterior.nll(latents, dims=[2]), torch.zeros(2, 2, dtype=posterior.logvar.dtype))


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (2, 4, 0, 3), (2, 4, 3, 0)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_an_empty_batch_has_no_numbers_and_an_empty_sample_has_zero(
    shape: tuple[int, ...], deterministic: bool
) -> None:
    posterior = Posterior(torch.empty(shape), deterministic)
    zeros = torch.zeros(shape[0])
    assert torch.equal(posterior.kl(), zeros)
    assert torch.equal(posterior.kl(posterior), zeros)
    assert torch.equal(posterior.nll(posterior.sample()), zeros)


def test_nll_sums_the_axes_it_is_given() -> None:
    posterior = Posterior(moments(2, 4, 3, 5))
    latents = posterior.mean + 1
    elements = posterior.nll(latents, dims=())
    assert elements.shape == (2, 2, 3, 5)
    for dims in ([1], [2, 3], (-1, -2), [1, 2, 3], [0, 1, 2, 3]):
        torch.testing.assert_close(posterior.nll(latents, dims=dims), elements.sum(tuple(dims)))
    assert torch.equal(posterior.nll(latents), posterior.nll(latents, [1, 2, 3]))


def test_a_leading_axis_of_draws_gives_a_number_for_each() -> None:
    posterior = Posterior(moments(2, 4, 3, 5))
    draws = torch.stack([posterior.sample() for _ in range(3)])
    assert torch.equal(posterior.nll(draws), torch.stack([posterior.nll(draw) for draw in draws]))


def test_a_batch_of_one_broadcasts_as_the_other() -> None:
    posterior, other = Posterior(moments(3, 4, 5)), Posterior(moments(1, 4, 5, seed=1))
    repeated = Posterior(other.parameters.expand(3, 4, 5))
    assert torch.equal(posterior.kl(other), posterior.kl(repeated))
    assert Posterior(other.parameters, deterministic=True).kl(posterior).shape == (3,)


def test_numbers_of_two_precisions_have_the_wider_one() -> None:
    half, double = Posterior(moments(2, 4, dtype=torch.float16)), Posterior(moments(2, 4, dtype=torch.float64))
    assert half.kl(double).dtype == double.kl(half).dtype == torch.float64
    assert half.nll(double.mean).dtype == double.nll(half.mean).dtype == torch.float64


def test_strided_and_contiguous_parameters_give_the_same_numbers() -> None:
    contiguous = moments(3, 4, 6, 5)
    strided = torch.empty(3, 8, 6, 10)[:, ::2, :, ::2].copy_(contiguous)
    posterior, expected = Posterior(strided), Posterior(contiguous)
    torch.testing.assert_close(posterior.kl(), expected.kl())
    torch.testing.assert_close(posterior.nll(posterior.mean + 1), expected.nll(expected.mean + 1))


def test_sampling_is_repeatable_through_the_generator() -> None:
    posterior = Posterior(moments(3, 4, 5))
    first, second = (posterior.sample(torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, posterior.sample(torch.Generator().manual_seed(8)))


@parameterizations
def test_samples_have_the_mean_and_spread_they_should(parameterization: str) -> None:
    parameters = moments(1, 4, 1).expand(20_000, 4, 1)
    posterior = Posterior(parameters, parameterization=parameterization)
    draws = posterior.sample(torch.Generator().manual_seed(0))
    error = posterior.std[0] / math.sqrt(len(draws))
    assert ((draws.mean(0) - posterior.mean[0]).abs() < 5 * error).all()
    assert ((draws.std(0) - posterior.std[0]).abs() < 5 * error).all()


# The spread, the clamp, and values outside.


@parameterizations
@dtypes
def test_the_log_variance_stays_within_the_clamp(dtype: torch.dtype, parameterization: str) -> None:
    raw = torch.tensor([[0.0, 0.0, 0.0, torch.finfo(dtype).max, 0.0, 1.0]], dtype=torch.float64).to(dtype)
    bounds = torch.linspace(-30.0, -1.0, 20).tolist()
    for clamp in zip(bounds, (bound + 0.9 for bound in bounds), strict=True):
        logvar = Posterior(raw, parameterization=parameterization, clamp=clamp).logvar
        low, high = torch.tensor(clamp, dtype=logvar.dtype)
        assert ((logvar >= low) & (logvar <= high)).all()


@pytest.mark.parametrize("parameterization", ["std", "var"])
def test_a_negative_spread_gives_nan_and_zero_the_lower_bound(parameterization: str) -> None:
    posterior = Posterior(torch.tensor([[0.0, -0.5], [0.0, 0.0], [0.0, -0.0]]), parameterization=parameterization)
    assert posterior.logvar[0].isnan().all()
    assert posterior.std[0].isnan().all()
    assert posterior.kl()[0].isnan()
    assert torch.equal(posterior.logvar[1:], torch.full((2, 1), -30.0))


def test_softplus_is_read_as_oobleck_writes_it() -> None:
    scale = scale_of(torch.tensor([0.0, 100.0, -100.0]), "softplus")
    torch.testing.assert_close(scale.std, torch.tensor([math.log(2) + 1e-4, 100.0001, 1e-4]))
    torch.testing.assert_close(scale.logvar, 2 * scale.std.log())
    torch.testing.assert_close(scale.var, scale.std**2)


def test_half_precision_neither_overflows_nor_vanishes() -> None:
    posterior = Posterior(torch.tensor([[0.0, 19.0], [0.0, -29.0]], dtype=torch.float16))
    assert posterior.kl().isfinite().all()
    assert posterior.nll(posterior.mean + 1).isfinite().all()
    assert (posterior.var > 0).all()


# Moving and converting.


def test_to_moves_the_parameters_and_keeps_the_rest() -> None:
    posterior = Posterior(moments(2, 3, 4), True, channel_dim=-1, parameterization="std", clamp=(-2.0, 2.0))
    moved = posterior.to("meta", torch.float64)
    assert (moved.parameters.device.type, moved.parameters.dtype) == ("meta", torch.float64)
    for name in ("deterministic", "layout", "parameterization", "clamp"):
        assert getattr(moved, name) == getattr(posterior, name)
    assert torch.equal(posterior.to(dtype=torch.float64).parameters, posterior.parameters.double())
    assert torch.equal(posterior.to().parameters, posterior.parameters)
    assert posterior.to(torch.float64).parameters.dtype == torch.float64


@parameterizations
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_to_torch_gives_the_same_distribution(dtype: torch.dtype, parameterization: str) -> None:
    posterior = Posterior(moments(2, 4, 3, dtype=dtype), parameterization=parameterization)
    other = Posterior(moments(2, 4, 3, dtype=dtype, seed=1), parameterization=parameterization)
    independent = posterior.to_torch()
    assert (independent.batch_shape, independent.event_shape) == ((2,), (2, 3))
    assert torch.equal(independent.mean, posterior.mean.to(independent.mean.dtype))
    assert torch.equal(independent.stddev, posterior.std)
    latents = posterior.sample()
    wide = latents.to(posterior.std.dtype)
    torch.testing.assert_close(independent.log_prob(wide), -posterior.nll(latents), rtol=1e-5, atol=1e-5)
    expected = torch.distributions.kl_divergence(independent, other.to_torch())
    torch.testing.assert_close(posterior.kl(other), expected, rtol=1e-5, atol=1e-5)


def test_a_posterior_survives_pickle_and_deepcopy() -> None:
    posterior = Posterior(moments(2, 4, 3))
    for again in (pickle.loads(pickle.dumps(posterior)), copy.deepcopy(posterior)):
        assert torch.equal(again.kl(), posterior.kl())


def test_a_dirac_distribution_is_its_value() -> None:
    value = torch.randn(2, 3)
    dirac = DiracDistribution(value)
    assert dirac.sample() is dirac.mode() is dirac.value is value


# normal_kl.


def test_normal_kl_broadcasts_and_takes_numbers() -> None:
    mean, logvar = torch.randn(3, 1), torch.randn(4)
    got = normal_kl(mean, logvar, 0.0, 0)
    assert got.shape == (3, 4)
    assert torch.equal(got, normal_kl(mean, logvar, torch.zeros(3, 4), torch.zeros(())))
    assert normal_kl(0.5, -1.0, mean, 1.0).shape == (3, 1)


@pytest.mark.parametrize(
    ("one", "another", "result"),
    [
        (torch.float16, torch.float16, torch.float32),
        (torch.float8_e5m2, torch.bfloat16, torch.float32),
        (torch.float16, torch.float64, torch.float64),
    ],
)
def test_normal_kl_is_at_least_float32(one: torch.dtype, another: torch.dtype, result: torch.dtype) -> None:
    zeros = torch.zeros(2)
    assert normal_kl(zeros.to(one), 0.0, zeros.to(another), 0.0).dtype == result


# Errors.


@pytest.mark.parametrize(
    ("parameters", "named"),
    [
        (torch.zeros(2, 4, dtype=torch.int64), ["torch.int64", "(2, 4)", "floating-point"]),
        (torch.zeros(2, 4, dtype=torch.bool), ["torch.bool", "(2, 4)", "floating-point"]),
        (torch.zeros(2, 4, dtype=torch.complex64), ["torch.complex64", "(2, 4)", "floating-point"]),
        (np.zeros((2, 4)), ["ndarray", "floating-point tensor"]),
        ([[0.0, 0.0]], ["list", "floating-point tensor"]),
        (None, ["NoneType", "floating-point tensor"]),
    ],
)
def test_what_is_not_a_floating_point_tensor_is_refused(parameters: Any, named: list[str]) -> None:
    for call in (
        lambda: Posterior(parameters),
        lambda: Posterior(torch.zeros(2, 4)).nll(parameters),
        lambda: Posterior(torch.zeros(2, 4), deterministic=True).nll(parameters),
    ):
        with pytest.raises(TypeError) as error:
            call()
        assert all(part in str(error.value) for part in named)


@pytest.mark.parametrize(
    ("shape", "options", "named"),
    [
        ((), {}, "a batch and a channel axis, got 0 axes"),
        ((4,), {}, "a batch and a channel axis, got 1 axes"),
        ((2, 3), {}, "even number of channels, got 3"),
        ((2, 0, 4), {}, "even number of channels, got 0"),
        ((2, 4, 5), {"layout": "blc"}, "even number of channels, got 5"),
        ((2, 4), {"layout": "bchw"}, "names 4 axes"),
        ((2, 4), {"layout": "bd"}, "exactly one c"),
        ((2, 4), {"channel_dim": 2}, r"channel_dim must be in \[1, 1\]"),
        ((2, 4), {"channel_dim": 0}, r"channel_dim must be in \[1, 1\]"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused_with_shape_and_dtype(
    shape: tuple[int, ...], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(ValueError, match=named) as error:
        Posterior(torch.zeros(shape, dtype=torch.float16), **options)
    assert f"shape {shape}, dtype torch.float16" in str(error.value)


def test_layout_and_channel_dim_together_are_refused() -> None:
    with pytest.raises(ValueError, match="layout or channel_dim, not both"):
        Posterior(torch.zeros(2, 4), layout="bc", channel_dim=1)


@pytest.mark.parametrize("parameterization", ["log_var", "LOGVAR", "none", ""])
def test_an_unknown_parameterization_is_refused_with_the_known_ones(parameterization: str) -> None:
    with pytest.raises(ValueError, match="one of logvar, std, var, softplus, got") as error:
        Posterior(torch.zeros(2, 4), parameterization=parameterization)
    assert repr(parameterization) in str(error.value)


@pytest.mark.parametrize(
    "clamp", [(20.0, -30.0), (1.0, 1.0), (math.nan, 1.0), (-math.inf, 1.0), (-1.0, math.inf), (1.0,), 5.0, ("a", "b")]
)
def test_a_clamp_without_two_ordered_finite_bounds_is_refused(clamp: Any) -> None:
    with pytest.raises(ValueError, match="the clamp needs"):
        check_clamp(clamp)
    with pytest.raises(ValueError, match="the clamp needs"):
        Posterior(torch.zeros(2, 4), clamp=clamp)


@pytest.mark.parametrize("deterministic", [False, True])
def test_a_sample_or_other_of_a_shape_that_does_not_fit_is_refused(deterministic: bool) -> None:
    posterior = Posterior(torch.zeros(2, 6, 5), deterministic)
    with pytest.raises(ValueError, match=r"the sample to have the shape \(2, 3, 5\) .* got one of shape \(2, 6, 5\)"):
        posterior.nll(torch.zeros(2, 6, 5))
    with pytest.raises(ValueError, match=r"the other .* shape \(2, 3, 5\) .* got one of shape \(2, 4, 5\)"):
        posterior.kl(Posterior(torch.zeros(2, 8, 5)))


def test_an_other_that_is_no_posterior_is_refused() -> None:
    with pytest.raises(TypeError, match="expected other to be a DiagonalGaussianDistribution, got Tensor"):
        Posterior(torch.zeros(2, 4)).kl(torch.zeros(2, 2))  # type: ignore[arg-type]


def test_the_kl_to_a_point_and_a_point_as_torch_normal_are_refused() -> None:
    point = Posterior(torch.zeros(2, 4), deterministic=True)
    with pytest.raises(ValueError, match="the KL to a deterministic distribution is infinite"):
        Posterior(torch.zeros(2, 4)).kl(point)
    with pytest.raises(ValueError, match=r"no torch\.distributions\.Normal"):
        point.to_torch()


def test_normal_kl_without_a_floating_point_tensor_is_refused() -> None:
    with pytest.raises(TypeError, match="at least one tensor"):
        normal_kl(0.0, 0.0, 0.0, 0.0)
    with pytest.raises(TypeError, match=r"torch\.int64"):
        normal_kl(torch.zeros(2, dtype=torch.int64), 0.0, 0.0, 0.0)


# Laws that hold for every input.


@st.composite
def posteriors(draw: st.DrawFn) -> DiagonalGaussianDistribution:
    """Any rank, layout, dtype, parameterization; means and scales over a wide range, exact ones included."""
    rank = draw(st.integers(2, 5))
    channel_dim = draw(st.integers(1, rank - 1))
    shape = draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    parameterization = draw(st.sampled_from(PARAMETERIZATIONS))
    dtype = draw(st.sampled_from(DTYPES))
    scale = 10.0 ** draw(st.integers(-6, 1))
    noise = torch.randn(2, *shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 2**31))))
    mean, logvar = scale * noise
    raw = {
        "logvar": logvar,
        "std": torch.exp(0.5 * logvar),
        "var": torch.exp(logvar),
        "softplus": logvar,
    }[parameterization].clamp(-400, 400)
    parameters = torch.cat([mean, raw], dim=channel_dim).to(dtype)
    return DiagonalGaussianDistribution(parameters, channel_dim=channel_dim, parameterization=parameterization)


@settings(deadline=None)
@given(posteriors())
def test_kl_is_zero_at_the_prior_alone_and_else_positive(posterior: DiagonalGaussianDistribution) -> None:
    kl = posterior.kl()
    prior = ((posterior.mean == 0) & (posterior.var == 1) & (posterior.logvar == 0)).flatten(1).all(1)
    assert torch.equal(kl == 0, prior)
    assert (kl >= 0).all()


@pytest.mark.parametrize(
    ("parameterization", "raw"), [("logvar", 0.0), ("std", 1.0), ("var", 1.0)], ids=["logvar", "std", "var"]
)
@dtypes
def test_kl_of_the_prior_is_zero_to_the_last_bit(dtype: torch.dtype, parameterization: str, raw: float) -> None:
    parameters = torch.cat([torch.zeros(3, 2, 5), torch.full((3, 2, 5), raw)], dim=1).to(dtype)
    assert not Posterior(parameters, parameterization=parameterization).kl().any()


@settings(deadline=None)
@given(posteriors())
def test_kl_to_itself_is_zero(posterior: DiagonalGaussianDistribution) -> None:
    assert not posterior.kl(posterior).any()


@settings(deadline=None)
@given(posteriors(), st.integers(0, 2**31))
def test_kl_to_another_is_never_negative(posterior: DiagonalGaussianDistribution, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(posterior.mean), generator=generator)
    other = Posterior(
        reordered(posterior.parameters, order), layout=posterior.layout, parameterization=posterior.parameterization
    )
    assert (posterior.kl(other) >= 0).all()


@settings(deadline=None)
@given(posteriors())
def test_kl_is_the_sum_over_channels(posterior: DiagonalGaussianDistribution) -> None:
    axis = posterior.layout.index("c")
    mean, raw = posterior.parameters.to(posterior.std.dtype).chunk(2, dim=axis)
    channels = [
        Posterior(torch.cat(pair, axis), layout=posterior.layout, parameterization=posterior.parameterization).kl()
        for pair in zip(mean.split(1, axis), raw.split(1, axis), strict=True)
    ]
    torch.testing.assert_close(posterior.kl(), torch.stack(channels).sum(0), rtol=3e-7, atol=0.0)


@settings(deadline=None)
@given(posteriors(), st.integers(0, 2**31))
def test_numbers_follow_their_samples_in_any_order(posterior: DiagonalGaussianDistribution, seed: int) -> None:
    order = torch.randperm(len(posterior.mean), generator=torch.Generator().manual_seed(seed))
    options = {"layout": posterior.layout, "parameterization": posterior.parameterization}
    shuffled = Posterior(reordered(posterior.parameters, order), **options)
    torch.testing.assert_close(shuffled.kl(), posterior.kl()[order], rtol=3e-7, atol=0.0)
    torch.testing.assert_close(shuffled.nll(shuffled.mean), posterior.nll(posterior.mean)[order])


@settings(deadline=None)
@given(posteriors())
def test_no_value_is_likelier_than_the_mean(posterior: DiagonalGaussianDistribution) -> None:
    mean = posterior.mean.to(posterior.std.dtype)
    least = posterior.nll(posterior.mode())
    for step in (-1.0, 0.1, 2.0):
        assert (posterior.nll(mean + step * posterior.std) >= least).all()
