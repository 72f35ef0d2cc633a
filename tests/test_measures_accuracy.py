"""What the commands compute, against 50-digit arithmetic. `pytest -s` prints the worst error of each cell."""

import math
from collections.abc import Callable, Iterator

import pytest
import reference
import regimes
import torch
from regimes import DTYPES, Worst, far_means, generator_for, spread_of, stored, tolerance
from safetensors.torch import save_file
from torch import Tensor

from latentkit.measures import Arithmetic, kl_to_other, kl_to_prior, nll
from latentkit.parameterization import DEFAULT_CLAMP, PARAMETERIZATIONS, Clamp, scale_of
from latentkit.pipeline import kl_values
from latentkit.storage.blocks import BLOCK_ELEMENTS
from latentkit.storage.choice import Selection
from latentkit.storage.plan import find_posteriors
from latentkit.tabulated import every_value, look_up_scale, tables_of
from latentkit.workspace import Workspace

WIDE, NARROW = DTYPES[:2], DTYPES[2:]


def barely_there(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """As small as the dtype goes, subnormal where it can be; the squares are below float32, not below float64."""
    small = {torch.float64: 1e-150, torch.float32: 1e-40, torch.bfloat16: 1e-39}.get(dtype, torch.finfo(dtype).tiny)
    return spread_of(small, small)(shape, dtype, generator)


# Of float64, 128 squares of the farthest still have a sum.
REGIMES = regimes.REGIMES | {"far means": far_means({torch.float64: 1e152}), "barely there": barely_there}

# (samples, outer, channels, inner), as the layouts bc, bchw, blc and bcthw with channels in the middle give them.
SHAPES = [(12, 1, 1, 1), (2, 1, 4, 6), (2, 6, 4, 1), (2, 3, 2, 5)]
CONSTANT = (4, 1, 2, 64)  # each sample one element again and again: errors do not average out


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
    options = {"per_channel": False} | options
    return kl_to_prior(mean, raw, parameterization, Arithmetic(clamp), Workspace(), **options).ravel().tolist()


def single(mean: Tensor, raw: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    """Elements as samples of their own."""
    return tuple(tensor.reshape(-1, 1, 1, 1) for tensor in (mean, raw, *rest))


@pytest.fixture(scope="module")
def worst() -> Iterator[Worst]:
    collected = Worst()
    yield collected
    print(collected.table())


def every_cell(test: Callable[..., None]) -> Callable[..., None]:
    for names, values in (("regime", REGIMES), ("parameterization", PARAMETERIZATIONS), ("dtype", DTYPES)):
        test = pytest.mark.parametrize(names, values, ids=lambda value: str(value).removeprefix("torch."))(test)
    return test


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
    for mean, raw in blocks(regime, parameterization, dtype, "per channel"):
        values = iter(kl(mean, raw, parameterization, per_channel=True))
        for index in range(len(mean)):
            for channel in range(mean.shape[2]):
                expected = reference.kl(mean[index, :, channel], raw[index, :, channel], parameterization)
                error = kl_error(next(values), expected, dtype, parameterization)
                worst.note("channel", dtype, parameterization, regime, error)
                assert error <= kl_tolerance(dtype, parameterization), (mean.shape, index, channel)


@pytest.mark.parametrize("symmetric", [False, True], ids=["one way", "symmetric"])
@every_cell
def test_kl_to_another_is_right(
    regime: str, parameterization: str, dtype: torch.dtype, symmetric: bool, worst: Worst
) -> None:
    generator = generator_for("other", regime, parameterization, dtype, symmetric)
    for shape in (*SHAPES[:2], CONSTANT):
        mean, logvar = REGIMES[regime]((shape[0], 1 if shape is CONSTANT else math.prod(shape[1:])), dtype, generator)
        # Some equal, some nearly, some not.
        nearness = 10.0 ** torch.randint(-6, 1, (shape[0], 1), generator=generator)
        nearness[0] = 0
        shift, stretch = nearness * torch.randn(2, *mean.shape, dtype=torch.float64, generator=generator)
        pairs = (mean, logvar), (mean + shift * torch.exp(0.5 * logvar.clamp(*DEFAULT_CLAMP)), logvar + stretch)
        one, other = (
            moments(*(h.repeat(1, math.prod(shape[1:]) // h.shape[1]) for h in halves), shape)
            for halves in (stored(*pair, dtype, parameterization) for pair in pairs)
        )
        values = kl_to_other(
            *one,
            parameterization,
            (*other, parameterization),
            Arithmetic(),
            Workspace(),
            per_channel=False,
            symmetric=symmetric,
        )
        for index, got in enumerate(values.ravel().tolist()):
            stored_values = one[0][index], one[1][index], other[0][index], other[1][index]
            expected, size = reference.kl_other(*stored_values, parameterization)
            if symmetric:
                back, back_size = reference.kl_other(*stored_values[2:], *stored_values[:2], parameterization)
                expected, size = expected + back, size + back_size
            error = reference.relative_error(got, expected)
            allowed = tolerance(dtype)
            clamped = regime in ("lower bound", "upper bound", "wide") and dtype == torch.float64
            if (parameterization == "softplus" or (clamped and parameterization != "logvar")) and expected:
                # Two that are nearly equal, where one of the σ was rounded: by softplus, or to a bound of the clamp.
                allowed += float(1e-15 * size / expected)
            worst.note("symmetric" if symmetric else "other", dtype, parameterization, regime, error)
            assert error <= allowed, (shape, index)


@every_cell
def test_nll_is_right(regime: str, parameterization: str, dtype: torch.dtype, worst: Worst) -> None:
    generator = generator_for("nll", regime, parameterization, dtype)
    for mean, raw in blocks(regime, parameterization, dtype, "nll"):
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
            values = nll(mean, raw, parameterization, latents, Arithmetic(), Workspace()).ravel().tolist()
            for index, got in enumerate(values):
                expected, size = reference.nll(mean[index], raw[index], latents[index], parameterization)
                error = reference.relative_error(got, expected, size)
                worst.note("nll", dtype, parameterization, regime, error)
                assert error <= tolerance(dtype), (mean.shape, index, stored_as)


# ---- many dimensions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ["bcd", "bdc"])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
@pytest.mark.parametrize(
    ("regime", "dimensions"),
    [("one hot dimension", 16_384), ("typical", 1_000_000), ("near the prior 1e-5", 1_000_000), ("far means", 140_000)],
)
def test_samples_of_many_dimensions_are_right(
    regime: str, dimensions: int, dtype: torch.dtype, parameterization: str, layout: str, tmp_path, worst: Worst
) -> None:
    generator = generator_for(regime, dimensions, dtype, parameterization)
    # Few distinct elements, each many times in random places, so that 50 digits stay quick; the first is kept single.
    chosen = torch.randint(1, 300, (dimensions,), generator=generator)
    chosen[7] = 0
    mean, raw = (half[0, chosen] for half in stored(*REGIMES[regime]((1, 300), dtype, generator), dtype, parameterization))
    if dtype == torch.float64 and regime == "far means":
        mean = mean / 1e3
    halves = [half.view((1, 4, -1) if layout == "bcd" else (1, -1, 4)) for half in (mean, raw)]
    save_file({"moments": torch.cat(halves, dim=layout.index("c"))}, tmp_path / "a.safetensors")
    selection = Selection(layout=layout, parameterization=parameterization)
    spans = find_posteriors([str(tmp_path / "a.safetensors")], selection).spans
    ((_, values), _) = next(kl_values(spans, Arithmetic()))
    expected, size = reference.kl(mean, raw, parameterization)
    error = reference.relative_error(float(values[0, 0]), expected)
    worst.note("kl, large", dtype, parameterization, f"{regime}, {dimensions:,}", error)
    rounded_before = dtype == torch.float64 and parameterization == "softplus"
    assert error <= tolerance(dtype) + (float(1e-15 * size / expected) if rounded_before else 0.0)


# ---- where float32 is trusted -------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_no_float32_scale_passes_the_threshold_and_is_wrong(parameterization: str) -> None:
    """A dense walk over single elements; float64 is exact enough to judge float32."""
    logvar = torch.cat([torch.linspace(-31, -1, 500_000), torch.linspace(-3, 4, 3_000_000), torch.linspace(4, 21, 500_000)])
    _, raw = stored(logvar.double(), logvar.double(), torch.float32, parameterization)
    for mean in (0.0, 0.3, 1.1):
        mean, raw = single(torch.full_like(raw, mean), raw)
        wide = kl_to_prior(
            mean, raw, parameterization, Arithmetic(precision="float64"), Workspace(), per_channel=False
        )
        auto = kl_to_prior(mean, raw, parameterization, Arithmetic(), Workspace(), per_channel=False)
        assert (abs(auto - wide) <= 5e-7 * wide).all()


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_no_choice_of_elements_makes_rounding_errors_add_up(dtype: torch.dtype, parameterization: str) -> None:
    """Samples of few elements, near the threshold and where e^l is largest for its last place: the worst of many."""
    generator = generator_for(dtype, parameterization)
    shape = 300_000, 4
    center = torch.tensor([-2.0, 0.0, 1.2, 1.387, 2.08])[torch.randint(5, shape, generator=generator)]
    logvar = center + 0.1 * torch.rand(shape, generator=generator)
    mean = torch.rand(shape, generator=generator) * (torch.rand(shape, generator=generator) < 0.5)
    mean, raw = moments(*stored(mean.double(), logvar.double(), dtype, parameterization), (shape[0], 1, 4, 1))
    wide = kl_to_prior(mean, raw, parameterization, Arithmetic(precision="float64"), Workspace(), per_channel=False)
    auto = kl_to_prior(mean, raw, parameterization, Arithmetic(), Workspace(), per_channel=False)
    assert (abs(auto - wide) <= 5e-7 * wide).all()


@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_no_choice_of_latents_makes_the_rounding_of_nll_add_up(dtype: torch.dtype) -> None:
    generator = generator_for("nll", dtype)
    shape = 200_000, 1, 4, 1
    halves = stored(*spread_of(1.0, 4.0, -8.0)(shape, dtype, generator), dtype, "logvar")
    mean, raw = moments(*halves, shape)
    latents = (100 * torch.randn(shape, generator=generator)).clamp(-400, 400).to(torch.float32)
    wide = nll(mean, raw, "logvar", latents.double(), Arithmetic(), Workspace())
    auto = nll(mean, raw, "logvar", latents, Arithmetic(), Workspace())
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
    values = nll(mean, raw, parameterization, latents, Arithmetic(clamp), Workspace()).ravel().tolist()
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
    """Float32 entries within a rounding (half a unit, 2^-24), float64 ones within 28 bits."""
    patterns = every_value(dtype)
    tables = tables_of(dtype, parameterization, DEFAULT_CLAMP)
    scale = look_up_scale(patterns, parameterization, DEFAULT_CLAMP)
    columns = [
        column.double().tolist()
        for column in (patterns, tables.remainder, tables.logvar, tables.inverse_var, scale.logvar, scale.std, scale.var)
    ]
    half, mpf = 2.0**-24 * (1 + 1e-6), reference.mp.mpf
    for raw, remainder, logvar, inverse_var, wide_logvar, std, var in zip(*columns, strict=True):
        expected = reference.logvar_of(raw, parameterization)
        if reference.mp.isnan(expected):
            assert all(map(math.isnan, (remainder, logvar, inverse_var, wide_logvar, std, var))), raw
            continue
        expected_var, expected_remainder = reference.spread(expected)
        assert abs(mpf(remainder) - expected_remainder) <= expected_remainder * half + 2.0**-149, raw
        assert abs(mpf(logvar) - expected) <= abs(expected) * half + 2.0**-149, raw
        assert abs(mpf(inverse_var) * expected_var - 1) <= half, raw
        assert abs(mpf(wide_logvar) - expected) <= abs(expected) * 1e-15 + 2e-16 * (parameterization == "softplus"), raw
        assert abs(mpf(std) ** 2 / expected_var - 1) <= 2e-8, raw
        assert abs(mpf(var) / expected_var - 1) <= 1e-8, raw


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
    other = other_mean, other_raw, "logvar"
    got = kl_to_other(mean, raw, "logvar", other, Arithmetic(), Workspace(), per_channel=False, symmetric=False)
    expected, _ = reference.kl_other(mean, raw, other_mean, other_raw)
    assert reference.relative_error(got.item(), expected) <= 1e-8
    got = nll(other_mean, other_raw, "logvar", mean, Arithmetic(), Workspace())
    expected, size = reference.nll(other_mean, other_raw, mean)
    assert reference.relative_error(got.item(), expected, size) <= 1e-8


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_values_that_are_not_finite_are_taken_as_ruled(dtype: torch.dtype, parameterization: str) -> None:
    """A NaN anywhere gives NaN, an infinite mean infinity, an infinite or zero scale the clamped value."""
    special = torch.tensor([0.0, -0.0, 1.0, math.inf, -math.inf, math.nan]).to(dtype)
    tiny = every_value(dtype)[1] if dtype in NARROW else torch.tensor(5e-324, dtype=torch.float64).to(dtype)
    scales = torch.cat([special.double(), tiny.double().view(1)]).to(dtype)
    mean, raw = (axis.ravel() for axis in torch.meshgrid(special.double(), scales.double(), indexing="ij"))
    mean, raw = single(mean.to(dtype), raw.to(dtype))
    latents = torch.ones_like(mean.float()).to(dtype)
    values = nll(mean, raw, parameterization, latents, Arithmetic(), Workspace()).ravel().tolist()
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


def test_a_piece_is_as_long_as_these_tests_think() -> None:
    assert BLOCK_ELEMENTS == 131_072
