"""What the commands compute, against 50-digit arithmetic. `pytest -s` prints the worst error of each cell."""

import math
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import adapter
import numpy as np
import pytest
import reference
import regimes
import torch
from adapter import every_value, nll
from regimes import DTYPES, Worst, far_means, generator_for, one_torch_thread, spread_of, stored, tolerance
from safetensors.torch import save_file
from torch import Tensor

from latentkit.compiled.tables import half_remainders, half_squares, spreads_of
from latentkit.measures.kl import kl_values
from latentkit.posterior.distribution import scale_of
from latentkit.posterior.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp
from latentkit.read.blocks import BLOCK_ELEMENTS
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.run import Values

NARROW = DTYPES[2:]
Pair = tuple[Tensor, Tensor]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def barely_there(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As small as the dtype goes, subnormal where it can be; the squares are below float32, not below float64."""
    small = {torch.float64: 1e-150, torch.float32: 1e-40, torch.bfloat16: 1e-39}.get(dtype, torch.finfo(dtype).tiny)
    return spread_of(small, small)(shape, dtype, generator)


# Of float64, the squares of as many as there are here still have a sum.
REGIMES = regimes.REGIMES | {"far means": far_means({torch.float64: 1e150}), "barely there": barely_there}
every_cell = regimes.every_cell_of(REGIMES)

# (samples, outer, channels, inner), as the layouts bc, bchw, blc and bcthw with channels in the middle give them.
SHAPES = [(8, 1, 1, 1), (1, 1, 4, 6), (1, 6, 4, 1), (2, 3, 2, 2)]
CONSTANT = (3, 1, 2, 64)  # each sample one element again and again: errors do not average out


def blocks(regime: str, parameterization: str, dtype: torch.dtype, *seed: str) -> Iterator[tuple[Tensor, Tensor]]:
    """Means and scales as the pipeline reads them: views of moments, ``(samples, outer, channels, inner)``."""
    generator = generator_for(regime, parameterization, dtype, *seed)
    for shape in (*SHAPES, CONSTANT):
        size = shape[0], 1 if shape is CONSTANT else math.prod(shape[1:])
        halves = stored(*REGIMES[regime](size, dtype, generator), dtype, parameterization)
        yield moments(*(half.view(-1, 1, 1, 1).expand(shape) if size[1] == 1 else half for half in halves), shape)


def moments(mean: Tensor, raw: Tensor, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    both = torch.cat([mean.reshape(shape), raw.reshape(shape)], dim=2)
    return both[:, :, : shape[2]], both[:, :, shape[2] :]


def kl(mean: Tensor, raw: Tensor, parameterization: str, clamp: Clamp = DEFAULT_CLAMP, **options: bool) -> list[float]:
    return adapter.kl(mean, raw, parameterization, clamp, **options).ravel().tolist()


def kl_to_another(one: Pair, other: Pair, parameterization: str, *, symmetric: bool = False) -> Values:
    return adapter.kl_to_other((*one, parameterization), (*other, parameterization), symmetric=symmetric)


def single(mean: Tensor, raw: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Elements as samples of their own."""
    return tuple(tensor.reshape(-1, 1, 1, 1) for tensor in (mean, raw, *rest))


def kl_error(got: float, expected: tuple[object, object], dtype: torch.dtype, parameterization: str) -> float:
    """The error relative to the KL; of float64 softplus, whose σ − 1 is rounded before, to the terms' sizes."""
    value, size = expected
    if dtype == torch.float64 and parameterization == "softplus":
        return reference.relative_error(got, value, size)
    return reference.relative_error(got, value)


def kl_tolerance(dtype: torch.dtype, parameterization: str) -> float:
    return 1e-15 if dtype == torch.float64 and parameterization == "softplus" else tolerance(dtype)


# ---- every cell ---------------------------------------------------------------------------------------------------


@every_cell
def test_kl_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    for mean, raw in blocks(regime, parameterization, dtype):
        for index, got in enumerate(kl(mean, raw, parameterization)):
            expected = reference.kl(mean[index], raw[index], parameterization)
            error = kl_error(got, expected, dtype, parameterization)
            worst.note("kl", dtype, parameterization, regime, error)
            assert error <= kl_tolerance(dtype, parameterization), (mean.shape, index)


@every_cell
def test_kl_per_channel_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    for mean, raw in list(blocks(regime, parameterization, dtype, "per channel"))[2:]:
        values = iter(kl(mean, raw, parameterization, per_channel=True))
        for index in range(len(mean)):
            for channel in range(mean.shape[2]):
                expected = reference.kl(mean[index, :, channel], raw[index, :, channel], parameterization)
                error = kl_error(next(values), expected, dtype, parameterization)
                worst.note("channel", dtype, parameterization, regime, error)
                assert error <= kl_tolerance(dtype, parameterization), (mean.shape, index, channel)


@every_cell
def test_kl_to_another_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for("other", regime, parameterization, dtype)
    for shape in (*SHAPES[:2], CONSTANT):
        mean, logvar = REGIMES[regime]((shape[0], 1 if shape is CONSTANT else math.prod(shape[1:])), dtype, generator)
        # Some equal, some nearly, some not.
        nearness = 10.0 ** torch.randint(-6, 1, (shape[0], 1), generator=generator)
        nearness[0] = float(shape[0] == 1)
        shift, stretch = nearness * torch.randn(2, *mean.shape, dtype=torch.float64, generator=generator)
        pairs = (mean, logvar), (mean + shift * torch.exp(0.5 * logvar.clamp(*DEFAULT_CLAMP)), logvar + stretch)
        one, other = (
            moments(*(half.repeat(1, math.prod(shape[1:]) // half.shape[1]) for half in halves), shape)
            for halves in (stored(*pair, dtype, parameterization) for pair in pairs)
        )
        forth, both = (
            kl_to_another(one, other, parameterization, symmetric=symmetric).ravel() for symmetric in (False, True)
        )
        for index in range(shape[0]):
            first, second = ([half[index] for half in posterior] for posterior in (one, other))
            there = reference.kl_other(*first, *second, parameterization)
            back = reference.kl_other(*second, *first, parameterization)
            for measure, got, (expected, size) in (
                ("other", forth[index], there),
                ("symmetric", both[index], (there[0] + back[0], there[1] + back[1])),
            ):
                error = reference.relative_error(float(got), expected)
                worst.note(measure, dtype, parameterization, regime, error)
                allowed = tolerance(dtype)
                clamped = regime in ("lower bound", "upper bound", "wide") and dtype == torch.float64
                if (parameterization == "softplus" or (clamped and parameterization != "logvar")) and expected:
                    # Nearly equal ones, where one σ was rounded: by softplus, or to a bound of the clamp.
                    allowed += float(1e-15 * size / expected)
                assert error <= allowed, (measure, shape, index)


@every_cell
def test_nll_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for("nll", regime, parameterization, dtype)
    for mean, raw in list(blocks(regime, parameterization, dtype, "nll"))[::2]:
        std = scale_of(raw.double(), parameterization).std
        # At the mean, as the posterior draws them, a hundred σ away, and farther than σ can tell.
        distance = torch.tensor([0.0, 1.0, 100.0, 1e12])[torch.randint(4, (len(mean), 1, 1, 1), generator=generator)]
        if mean.shape == CONSTANT:
            noise = torch.randn(len(mean), 1, 1, 1, dtype=torch.float64, generator=generator).expand(mean.shape)
        else:
            noise = torch.randn(mean.shape, dtype=torch.float64, generator=generator)
        drawn = mean.double() + distance * std * noise
        for stored_as in {dtype, torch.float32, torch.float64}:
            largest = torch.finfo(stored_as).max
            latents = drawn.clamp(-largest, largest).to(stored_as)
            values = nll(mean, raw, latents, parameterization).ravel().tolist()
            for index, got in enumerate(values):
                expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization)
                error = reference.relative_error(got, expected, size)
                worst.note("nll", dtype, parameterization, regime, error)
                assert error <= tolerance(dtype), (mean.shape, index, stored_as)


# ---- many dimensions ----------------------------------------------------------------------------------------------


LARGE = [
    ("one hot dimension", 16_384),
    ("typical", 1_000_000),
    ("near the prior 1e-5", 1_000_000),
    ("far means", 140_000),
]


@pytest.mark.parametrize(
    ("size", "dtype", "parameterization", "layout"),
    [
        *product(LARGE, DTYPES, ["logvar"], ["bcd"]),
        *product(LARGE, [torch.float64, torch.float32], ["std", "softplus"], ["bdc"]),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_samples_of_many_dimensions_are_right(
    size: tuple[str, int], dtype: torch.dtype, parameterization: str, layout: str, tmp_path: Path, worst: Worst
) -> None:
    """Large ones are computed in pieces."""
    regime, dimensions = size
    generator = generator_for(size, dtype, parameterization)
    # Few distinct elements, each many times in random places, so that 50 digits stay quick; the first is kept single.
    chosen = torch.randint(1, 100, (dimensions,), generator=generator)
    chosen[7] = 0
    halves = stored(*REGIMES[regime]((1, 100), dtype, generator), dtype, parameterization)
    # By way of float64, as older versions of torch do not index 8-bit floats.
    mean, raw = (half.double()[0, chosen].to(dtype) for half in halves)
    shape = (1, 4, -1) if layout == "bcd" else (1, -1, 4)
    both = torch.cat([mean.view(shape), raw.view(shape)], dim=layout.index("c"))
    save_file({"moments": both}, tmp_path / "a.safetensors")
    selection = Selection(layout=layout, parameterization=parameterization)
    spans = find_posteriors([str(tmp_path / "a.safetensors")], selection).spans
    ((_, values), _) = next(kl_values(spans))
    expected, parts = reference.kl(mean, raw, parameterization)
    error = reference.relative_error(float(values[0, 0]), expected)
    worst.note("kl large", dtype, parameterization, f"{regime}, {dimensions:,}", error)
    rounded_before = dtype == torch.float64 and parameterization == "softplus"
    assert error <= tolerance(dtype) + (float(1e-15 * parts / expected) if rounded_before else 0.0)


# ---- where float32 is trusted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_no_float32_scale_is_wrong(parameterization: str) -> None:
    """A dense walk over single elements; float64 is exact enough to judge float32."""
    logvar = torch.cat([torch.linspace(-31, 21, 200_000), torch.linspace(-3, 3, 500_000)])
    _, raw = stored(logvar.double(), logvar.double(), torch.float32, parameterization)
    for mean in (0.0, 1.1):
        mean, raw = single(torch.full_like(raw, mean), raw)
        auto, wide = (adapter.kl(*pair, parameterization) for pair in ((mean, raw), (mean.double(), raw.double())))
        assert (abs(auto - wide) <= 5e-7 * wide).all()


@pytest.mark.parametrize(
    ("dtype", "parameterization"),
    [*product([torch.float32], PARAMETERIZATIONS), (torch.float16, "logvar"), (torch.bfloat16, "softplus")],
    ids=str,
)
def test_no_choice_of_elements_makes_rounding_errors_add_up(dtype: torch.dtype, parameterization: str) -> None:
    """Samples of few elements, near the threshold and where e^l is largest for its last place: the worst of many."""
    generator = generator_for(dtype, parameterization)
    shape = 100_000, 4
    center = torch.tensor([-2.0, 0.0, 1.2, 1.387, 2.08])[torch.randint(5, shape, generator=generator)]
    logvar = center + 0.1 * torch.rand(shape, generator=generator)
    mean = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    mean, raw = moments(*stored(mean.double(), logvar.double(), dtype, parameterization), (shape[0], 1, 4, 1))
    auto, wide = (adapter.kl(*pair, parameterization) for pair in ((mean, raw), (mean.double(), raw.double())))
    assert (abs(auto - wide) <= 5e-7 * wide).all()


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_no_choice_of_latents_makes_the_rounding_of_nll_add_up(dtype: torch.dtype) -> None:
    generator = generator_for("nll", dtype)
    shape = 50_000, 1, 4, 1
    halves = stored(*spread_of(1.0, 4.0, -8.0)(shape, dtype, generator), dtype, "logvar")
    mean, raw = moments(*halves, shape)
    latents = (100 * torch.randn(shape, generator=generator)).clamp(-400, 400).to(torch.float32)
    wide = nll(mean.double(), raw.double(), latents.double())
    auto = nll(mean, raw, latents)
    size = wide + raw.double().clamp(*DEFAULT_CLAMP).clamp(max=0).abs().sum((1, 2, 3)).numpy()[:, None]
    assert (abs(auto - wide) <= 5e-7 * size).all()


@pytest.mark.parametrize("clamp", [(-5.0, 1.4), (-19.9, 19.9), (1.5, 4.0), (-1.0, 1.0), (-80.0, 95.0)], ids=str)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_a_clamp_of_ones_own_is_right(dtype: torch.dtype, parameterization: str, clamp: Clamp) -> None:
    generator = generator_for(clamp, parameterization, dtype)
    halves = stored(*spread_of(0.3, 30.0)((24, 1), dtype, generator), dtype, parameterization)
    mean, raw = single(*halves)
    latents = torch.ones_like(mean.float()).to(dtype)
    values = nll(mean, raw, latents, parameterization, clamp).ravel().tolist()
    for index, (got_kl, got_nll) in enumerate(zip(kl(mean, raw, parameterization, clamp), values, strict=True)):
        expected, size = reference.kl(mean[index], raw[index], parameterization, clamp)
        allowed = tolerance(dtype)
        if dtype == torch.float64 and parameterization == "softplus" and expected:
            allowed += float(1e-15 * size / expected)
        assert reference.relative_error(got_kl, expected) <= allowed, index
        expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization, clamp)
        assert reference.relative_error(got_nll, expected, size) <= tolerance(dtype), index


# ---- the tables, value by value -----------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_every_value_of_a_table_is_right(dtype: torch.dtype, parameterization: str) -> None:
    """All are checked against other formulas in float64, and those against 50 digits: 8-bit values all, others now
    and then.
    """
    patterns = every_value(dtype)
    raw = patterns.double().numpy()
    raw = np.where(np.isnan(raw), np.nan, raw)  # none of them signalling
    logvar, var, remainder = in_float64(raw, parameterization)
    for place in range(0, len(raw), 1 if dtype.itemsize == 1 else 61):
        expected = reference.logvar_of(float(raw[place]), parameterization)
        values = float(logvar[place]), float(var[place]), float(remainder[place])
        for value, exact in zip(values, (expected, *reference.spread(expected)), strict=True):
            assert reference.relative_error(value, exact) <= 1e-12, raw[place]

    name = adapter.NAMES[dtype]
    assert_close(half_squares(name), 0.5 * raw * raw, 0.0)
    # Of softplus σ − 1 is rounded before, here and there.
    near = 1e-10 if parameterization == "softplus" else 1e-12
    assert_close(half_remainders(name, parameterization, DEFAULT_CLAMP), 0.5 * remainder, near)
    base, inverse, logvar_there = spreads_of(name, parameterization, DEFAULT_CLAMP)
    assert_close(logvar_there, logvar, near)
    assert_close(inverse, 1 / np.sqrt(var), 1e-12)
    assert_close(base, {"logvar": logvar, "var": var}.get(parameterization, np.sqrt(var)), 1e-12)


def in_float64(raw: Values, parameterization: str) -> tuple[Values, Values, Values]:
    """l, e^l and e^l − 1 − l, by formulas that latentkit does not use."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logvar = {
            "logvar": lambda: raw,
            "std": lambda: np.log1p(raw * raw - 1),
            "var": lambda: np.log1p(raw - 1),
            "softplus": lambda: 2 * np.log(np.logaddexp(0, raw) + 1e-4),
        }[parameterization]()
    # log1p keeps its digits near 1, log far from it; a negative scale is none.
    if parameterization in ("std", "var"):
        with np.errstate(divide="ignore", invalid="ignore"):
            far = {"std": 2, "var": 1}[parameterization] * np.log(raw)
        logvar = np.where(abs(far) > 0.5, far, logvar)
        logvar[raw < 0] = np.nan
    logvar = np.clip(logvar, *DEFAULT_CLAMP)
    small = np.where(abs(logvar) < 0.5, logvar, 0)
    series = sum(small**power / math.factorial(power) for power in range(15, 1, -1))
    return logvar, np.exp(logvar), np.where(abs(logvar) < 0.5, series, np.expm1(logvar) - logvar)


def assert_close(got: Values, expected: Values, tolerance: float) -> None:
    """Equal but for a relative ``tolerance``; NaN where NaN is."""
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    with np.errstate(invalid="ignore"):
        assert (same | (abs(got - expected) <= tolerance * abs(expected))).all()


# ---- the largest, the smallest, and what is no number ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "mean"), [(torch.float64, 1.89e154), (torch.float32, 3.4e38), (torch.bfloat16, 3.38e38)], ids=str
)
def test_kl_is_infinite_only_where_float64_is(dtype: torch.dtype, mean: float) -> None:
    halves = single(torch.tensor([mean], dtype=dtype), torch.zeros(1, dtype=dtype))
    expected, _ = reference.kl(*halves, "logvar")
    assert reference.relative_error(kl(*halves, "logvar")[0], expected) <= 1e-15
    if dtype == torch.float64:
        assert kl(2 * halves[0], halves[1], "logvar") == [math.inf]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_farthest_mean_at_the_lower_clamp_is_right(dtype: torch.dtype) -> None:
    """e^30 m² is beyond float32 by forty orders of magnitude."""
    far, zero, low = (torch.tensor([value], dtype=dtype) for value in (3e38, 0.0, -99.0))
    mean, raw, other_mean, other_raw = single(far, zero, zero, low)
    got = kl_to_another((mean, raw), (other_mean, other_raw), "logvar")
    expected, _ = reference.kl_other(mean, raw, other_mean, other_raw)
    assert reference.relative_error(got.item(), expected) <= 1e-8
    got = nll(other_mean, other_raw, mean)
    expected, size = reference.nll(other_mean, other_raw, mean)
    assert reference.relative_error(got.item(), expected, size) <= 1e-8


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_values_that_are_not_finite_are_taken_as_ruled(dtype: torch.dtype, parameterization: str) -> None:
    """A NaN anywhere gives NaN, an infinite mean infinity, an infinite or zero scale the clamped value."""
    special = torch.tensor([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]).to(dtype)
    smallest = {torch.float64: 1e-150, torch.float32: 1e-45}
    tiny = smallest[dtype] if dtype in smallest else every_value(dtype)[1].item()
    scales = torch.tensor([*special.tolist(), tiny], dtype=torch.float64).to(dtype)
    mean, raw = (axis.ravel() for axis in torch.meshgrid(special.double(), scales.double(), indexing="ij"))
    mean, raw = single(mean.to(dtype), raw.to(dtype))
    latents = torch.ones_like(mean.float()).to(dtype)
    values = nll(mean, raw, latents, parameterization).ravel().tolist()
    for index, (got_kl, got_nll) in enumerate(zip(kl(mean, raw, parameterization), values, strict=True)):
        expected, _ = reference.kl(mean[index], raw[index], parameterization)
        assert reference.relative_error(got_kl, expected) <= tolerance(dtype), (mean[index], raw[index])
        expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization)
        assert reference.relative_error(got_nll, expected, size) <= tolerance(dtype), (mean[index], raw[index])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_bad_element_spoils_its_own_sample_alone(dtype: torch.dtype) -> None:
    mean, raw = (half.clone() for half in next(iter(blocks("typical", "logvar", dtype))))
    clean = kl(mean, raw, "logvar")
    mean[3], raw[5] = math.inf, math.nan
    spoilt = kl(mean, raw, "logvar")
    assert spoilt[3] == math.inf and math.isnan(spoilt[5])
    assert [value for index, value in enumerate(spoilt) if index not in (3, 5)] == [
        value for index, value in enumerate(clean) if index not in (3, 5)
    ]


def test_a_block_is_as_long_as_these_tests_think() -> None:
    assert BLOCK_ELEMENTS == 262_144
