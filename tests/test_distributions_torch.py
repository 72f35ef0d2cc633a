"""A good citizen of torch: gradients, compile, vmap, autocast, meta tensors, and no copies behind the caller's back."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from latentkit import DiagonalGaussianDistribution, normal_kl
from latentkit.posterior.parameterization import PARAMETERIZATIONS

Posterior = DiagonalGaussianDistribution
parameterizations = pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)

# Every quantity that gradients flow through, as a function of one posterior.
MEASURES: dict[str, Callable[[Posterior], Tensor]] = {
    "sample": lambda posterior: posterior.sample(torch.Generator().manual_seed(0)),
    "kl": lambda posterior: posterior.kl(),
    "kl to another": lambda posterior: posterior.kl(like(posterior, other_moments())),
    "kl from another": lambda posterior: like(posterior, other_moments()).kl(posterior),
    "nll": lambda posterior: posterior.nll(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(2, 2, 3)),
}
measures = pytest.mark.parametrize("measure", MEASURES)


def moments(dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    """(2, 4, 3), valid in every parameterization: the second half is positive."""
    noise = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.cat([noise[:, :2], 0.2 + noise[:, 2:].abs()], dim=1).to(dtype)


def other_moments() -> Tensor:
    return moments(seed=1)


def like(posterior: Posterior, parameters: Tensor) -> Posterior:
    return Posterior(parameters.to(posterior.parameters), parameterization=posterior.parameterization)


def with_scale(raw: float, dtype: torch.dtype = torch.float32) -> Tensor:
    parameters = moments(dtype)
    parameters[:, 2:] = raw
    return parameters.requires_grad_()


# Gradients.


@parameterizations
@measures
def test_gradients_are_those_of_the_formula(measure: str, parameterization: str) -> None:
    parameters = moments().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda moments: MEASURES[measure](Posterior(moments, parameterization=parameterization)), parameters
    )


@parameterizations
@measures
def test_gradients_are_finite_and_zero_for_the_scale_beyond_the_clamp(measure: str, parameterization: str) -> None:
    # log-variances beyond 20 and below -30 in each parameterization; softplus has its floor of 1e-4 above that.
    above = {"logvar": 25.0, "std": 1e5, "var": 1e10, "softplus": 1e5}[parameterization]
    below = {"logvar": -35.0, "std": 1e-8, "var": 1e-20, "softplus": -1e5}[parameterization]
    for raw in (above, below):
        parameters = with_scale(raw)
        MEASURES[measure](Posterior(parameters, parameterization=parameterization)).sum().backward()
        assert parameters.grad is not None
        assert parameters.grad.isfinite().all()
        assert not parameters.grad[:, 2:].any()


@measures
@pytest.mark.parametrize("bound", [-30.0, 20.0])
def test_gradients_at_the_bound_itself_still_flow_as_in_the_originals(measure: str, bound: float) -> None:
    parameters = with_scale(bound)
    MEASURES[measure](Posterior(parameters)).sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()
    assert parameters.grad[:, 2:].any()


@parameterizations
@measures
@pytest.mark.parametrize("distance", [0.0, 1e-7, -1e-7, 1e-3, -1e-3])
def test_gradients_are_finite_at_and_near_the_prior(measure: str, parameterization: str, distance: float) -> None:
    at_prior = {"logvar": 0.0, "std": 1.0, "var": 1.0, "softplus": 0.5411666}[parameterization]
    parameters = with_scale(at_prior + distance)
    MEASURES[measure](Posterior(parameters, parameterization=parameterization)).sum().backward()
    assert parameters.grad is not None
    assert parameters.grad.isfinite().all()


@pytest.mark.parametrize("logvar", [0.0, 1e-6, -1e-4, 0.3, -0.999, -1.001, 1.999, 2.001, 15.0, -20.0])
def test_the_gradient_of_the_kl_keeps_its_digits(logvar: float) -> None:
    parameters = with_scale(logvar)
    Posterior(parameters).kl().sum().backward()
    assert parameters.grad is not None
    expected = 0.5 * torch.expm1(parameters.detach().double()[:, 2:])
    torch.testing.assert_close(parameters.grad[:, 2:].double(), expected, rtol=1e-6, atol=0.0)


@measures
def test_second_derivatives_exist(measure: str) -> None:
    parameters = moments().requires_grad_()
    assert torch.autograd.gradgradcheck(lambda moments: MEASURES[measure](Posterior(moments)), parameters)


def test_normal_kl_gives_gradients_to_all_four() -> None:
    arguments = tuple(torch.randn(3, dtype=torch.float64, requires_grad=True) for _ in range(4))
    assert torch.autograd.gradcheck(normal_kl, arguments)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_gradients_reach_half_precision_parameters(dtype: torch.dtype) -> None:
    parameters = moments(dtype).requires_grad_()
    posterior = Posterior(parameters)
    (posterior.sample().sum() + posterior.kl().sum() + posterior.nll(posterior.mode() + 1).sum()).backward()
    assert parameters.grad is not None
    assert parameters.grad.dtype == dtype
    assert parameters.grad.isfinite().all()


def test_no_grad_records_nothing() -> None:
    parameters = moments().requires_grad_()
    with torch.no_grad():
        posterior = Posterior(parameters)
        results = posterior.sample(), posterior.kl(), posterior.nll(posterior.mean)
    assert not any(result.requires_grad for result in results)


# Transformations.


def everything(parameters: Tensor, parameterization: str) -> tuple[Tensor, ...]:
    posterior = Posterior(parameters, parameterization=parameterization)
    other = Posterior(parameters.flip(0), parameterization=parameterization)
    point = Posterior(parameters, deterministic=True, parameterization=parameterization)
    latents = posterior.mode() + 1
    return (
        posterior.kl(),
        posterior.kl(other),
        posterior.nll(latents),
        posterior.nll(latents, dims=[1]),
        point.kl(),
        point.nll(latents),
        normal_kl(posterior.mean, posterior.logvar, 0.0, 0.0),
    )


@parameterizations
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compile_takes_it_whole_without_a_graph_break(backend: str, parameterization: str) -> None:
    torch.compiler.reset()
    compiled = torch.compile(everything, backend=backend, fullgraph=True)
    parameters = moments(torch.float32)
    for got, expected in zip(
        compiled(parameters, parameterization), everything(parameters, parameterization), strict=True
    ):
        torch.testing.assert_close(got, expected)


def test_a_compiled_sample_draws_and_gives_gradients() -> None:
    torch.compiler.reset()
    parameters = moments(torch.float32).requires_grad_()
    compiled = torch.compile(lambda moments: Posterior(moments).sample(), backend="aot_eager", fullgraph=True)
    sample = compiled(parameters)
    sample.sum().backward()
    assert sample.shape == (2, 2, 3)
    assert parameters.grad is not None
    assert parameters.grad.any()


@parameterizations
def test_vmap_gives_what_a_loop_gives(parameterization: str) -> None:
    batches = torch.stack([moments(seed=seed) for seed in range(4)])
    mapped = torch.func.vmap(lambda parameters: everything(parameters, parameterization))(batches)
    looped = zip(*(everything(parameters, parameterization) for parameters in batches), strict=True)
    for got, expected in zip(mapped, looped, strict=True):
        torch.testing.assert_close(got, torch.stack(expected))


def test_vmap_draws_differently_for_each() -> None:
    batches = moments().expand(4, 2, 4, 3)
    samples = torch.func.vmap(lambda parameters: Posterior(parameters).sample(), randomness="different")(batches)
    assert samples.shape == (4, 2, 2, 3)
    assert not torch.equal(samples[0], samples[1])


def test_functional_gradients_agree_with_autograd() -> None:
    parameters = moments()
    got = torch.func.grad(lambda parameters: Posterior(parameters).kl().sum())(parameters)
    mean, logvar = parameters.chunk(2, dim=1)
    torch.testing.assert_close(got, torch.cat([mean, 0.5 * torch.expm1(logvar)], dim=1))


@parameterizations
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_autocast_leaves_the_arithmetic_in_float32(dtype: torch.dtype, parameterization: str) -> None:
    parameters = moments(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = everything(parameters, parameterization)
        assert Posterior(parameters).sample().dtype == dtype
    for got, expected in zip(results, everything(parameters, parameterization), strict=True):
        assert got.dtype == torch.float32
        assert torch.equal(got, expected)


# Devices.


@parameterizations
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16], ids=str)
def test_meta_tensors_give_shapes_and_dtypes(dtype: torch.dtype, parameterization: str) -> None:
    parameters = moments(dtype)
    on_meta = everything(parameters.to("meta"), parameterization)
    for got, expected in zip(on_meta, everything(parameters, parameterization), strict=True):
        assert (got.device.type, got.shape, got.dtype) == ("meta", expected.shape, expected.dtype)
    posterior = Posterior(parameters.to("meta"))
    for sample in (posterior.sample(), posterior.sample(torch.Generator())):
        assert (sample.device.type, sample.shape, sample.dtype) == ("meta", posterior.mean.shape, dtype)


class Operations(TorchDispatchMode):
    """Notes each operation that ran, and whether its result left the device."""

    def __init__(self, device: str) -> None:
        super().__init__()
        self.device = device
        self.names: set[str] = set()
        self.elsewhere: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.names.add(func.overloadpacket.__name__)
        if isinstance(result, Tensor) and result.device.type != self.device:
            self.elsewhere.add(str(func))
        return result


@parameterizations
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_nothing_is_read_back_or_made_on_another_device(device: str, parameterization: str) -> None:
    # Meta tensors stand in for a GPU's. The operations are the same on both, but not all of them show on both:
    # lift_fresh is a constant made on the host, which a GPU would wait for.
    parameters = moments(torch.float32).to(device).requires_grad_()
    with Operations(device) as operations:
        results = everything(parameters, parameterization)
        sample = Posterior(parameters, parameterization=parameterization).sample()
        torch.cat([result.flatten() for result in (*results, sample)]).sum().backward()
    assert operations.names
    assert not operations.elsewhere
    assert not operations.names & {"_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "lift_fresh"}
