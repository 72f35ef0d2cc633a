"""Statistics against a plain NumPy recomputation in float64, whatever the dtype, the split and the order."""

import dataclasses
import itertools
import json
import math
import random

import numpy as np
import pytest
import torch
from adapter_stats import Origin, Statistics
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from latentkit.stats import counts
from latentkit.stats.cells import widening
from latentkit.stats.counts import Grid
from latentkit.stats.extrema import Place
from latentkit.stats.summary import Group, Summary

DTYPES = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]
PARAMETERIZATIONS = ["logvar", "std", "var", "softplus"]
LEVELS = [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99]
Array = NDArray[np.float64]


# ---- the plain recomputation --------------------------------------------------------------------------------------


def logvar_of(raw: Array, parameterization: str) -> Array:
    with np.errstate(all="ignore"):
        match parameterization:
            case "logvar":
                return raw
            case "std":
                return np.where(raw < 0, np.nan, 2 * np.log(np.abs(raw)))
            case "var":
                return np.where(raw < 0, np.nan, np.log(np.abs(raw)))
            case _:
                softened = np.log1p(np.exp(-np.abs(raw))) + np.maximum(raw, 0)
                return 2 * np.log(softened + 1e-4)


def remainder(x: Array) -> Array:
    series = np.zeros_like(x)
    for power in range(20, 1, -1):
        series = (series + 1) * x / power if power > 2 else (series + 1) * x * x / 2
    with np.errstate(all="ignore"):
        return np.where(np.abs(x) < 0.3, series, np.exp(x) - 1 - x)


def first(mask: Array, sample_size: int) -> Place | None:
    """The first True of a mask of shape (n, outer, channels, inner), where other channels are False."""
    found = np.flatnonzero(mask)
    return Place("f", "k", *divmod(int(found[0]), sample_size)) if len(found) else None


def assert_close(found: float, expected: float, scale: float = 0.0, tolerance: float = 1e-12) -> None:
    if math.isnan(expected):
        assert math.isnan(found)
    else:
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance * scale)


def check(
    summary: Summary, mean: Tensor, raw: Tensor | None, parameterization: str, clamp: tuple[float, float]
) -> None:
    m = mean.double().numpy()
    s = None if raw is None else raw.double().numpy()
    assert summary.samples == len(m)
    for group in (summary.overall, *summary.per_channel):
        chosen = np.zeros(m.shape, bool)
        chosen[:, :, slice(None) if group.channel is None else group.channel] = True
        check_means(group, m, chosen, summary, mean.dtype)
        if s is not None and raw is not None:
            check_scale(group, m, s, chosen, summary, parameterization, clamp, raw.dtype)
    assert json.dumps(dataclasses.asdict(summary))


def check_quantiles(found: list[float], values: Array, exact: bool, slack: float) -> None:
    if len(values) == 0:
        assert all(math.isnan(value) for value in found)
        return
    expected = np.quantile(values, LEVELS, method="inverted_cdf")
    if exact:
        assert found == expected.tolist()
    else:
        np.testing.assert_allclose(found, expected, rtol=0.0 if slack > 1e-3 else 2**-7, atol=slack)


def check_means(group: Group, m: Array, chosen: NDArray[np.bool_], summary: Summary, dtype: torch.dtype) -> None:
    size, values = m[0].size, m[chosen]
    finite = values[np.isfinite(values)]
    spread = group.mean
    assert group.count == len(values)
    assert spread.finite == len(finite)
    assert spread.nan_count == np.isnan(values).sum()
    assert (spread.minus_inf_count, spread.plus_inf_count) == ((values == -np.inf).sum(), (values == np.inf).sum())
    assert spread.nonfinite_at == first(chosen & ~np.isfinite(m), size)
    check_quantiles(spread.quantiles, finite, summary.exact_quantiles or dtype.itemsize == 1, 2**-16)
    if len(finite):
        assert (spread.min, spread.max) == (finite.min(), finite.max())
        assert spread.min_at == first(chosen & (m == finite.min()), size)
        assert spread.max_at == first(chosen & (m == finite.max()), size)
        sd = finite.std()
        assert_close(spread.mean, math.fsum(finite) / len(finite), max(sd, abs(spread.mean) * 1e-3))
        assert_close(spread.sd, sd, abs(spread.mean) * 1e-3)
        assert_close(group.mean_variance, finite.var() if len(m) > 1 else math.nan, 1e-3 * spread.mean**2)
    for hazard, over in zip(group.hazards, (65520.0, 2.0**128), strict=True):
        with np.errstate(over="ignore"):
            assert hazard.square_over == (values * values >= over).sum()


def check_scale(
    group: Group,
    m: Array,
    s: Array,
    chosen: NDArray[np.bool_],
    summary: Summary,
    parameterization: str,
    clamp: tuple[float, float],
    dtype: torch.dtype,
) -> None:
    size, low, high = m[0].size, *clamp
    whole = logvar_of(s, parameterization)
    logvar = whole[chosen]
    finite, known = logvar[np.isfinite(logvar)], np.clip(logvar[~np.isnan(logvar)], low, high)
    spread, counts = group.logvar, group.clamp
    assert spread is not None and counts is not None and group.kl is not None
    negative = (s[chosen] < 0).sum() if parameterization in ("std", "var") else 0
    assert spread.negative_count == negative
    assert spread.nan_count == np.isnan(logvar).sum() - negative
    assert (spread.minus_inf_count, spread.plus_inf_count) == ((logvar == -np.inf).sum(), (logvar == np.inf).sum())
    assert (counts.below, counts.above) == ((logvar < low).sum(), (logvar > high).sum())
    assert (counts.at_low, counts.at_high) == ((logvar == low).sum(), (logvar == high).sum())
    assert counts.clamped_fraction == (counts.below + counts.above) / len(logvar)
    assert sum(group.histogram) == len(finite)
    assert spread.nonfinite_at == first(chosen & ~np.isfinite(whole), size)
    if len(finite):
        assert_close(spread.min, finite.min())
        assert_close(spread.max, finite.max())
        # The logarithm makes equal what is not; the logvar itself does not.
        if parameterization == "logvar":
            assert spread.min_at == first(chosen & (s == finite.min()), size)
            assert spread.max_at == first(chosen & (s == finite.max()), size)
        assert_close(counts.margin, min(finite.min() - low, high - finite.max()), 50)
        assert_close(spread.mean, math.fsum(finite) / len(finite), max(finite.std(), abs(spread.mean) * 1e-3))
        assert_close(spread.sd, finite.std(), abs(spread.mean) * 1e-3)
        if parameterization == "logvar":
            check_quantiles(spread.quantiles, finite, summary.exact_quantiles or dtype.itemsize == 1, 2**-16)
        else:
            exact = summary.exact_quantiles or dtype.itemsize == 1
            expected = np.quantile(finite, LEVELS, method="inverted_cdf")
            np.testing.assert_allclose(
                spread.quantiles, expected, rtol=1e-12 if exact else 2**-7, atol=0 if exact else 2**-6
            )
    for hazard, over, under in zip(
        group.hazards, (math.log(65520), math.log(2.0**128)), (-25 * math.log(2), -134 * math.log(2)), strict=True
    ):
        assert (hazard.var_over, hazard.var_under) == ((known >= over).sum(), (known <= under).sum())
        assert (hazard.std_over, hazard.std_under) == ((known >= 2 * over).sum(), (known <= 2 * under).sum())
    means = m[chosen & np.isfinite(m)]
    if len(means) and len(known):
        kl = 0.5 * (math.fsum(means**2) / len(means) + math.fsum(remainder(known)) / len(known))
        assert_close(group.kl.element, kl, 0)
        assert_close(group.kl.total, 0.5 * (math.fsum(means**2) + math.fsum(remainder(known))), 0)
        assert_close(group.kl.sample, group.kl.total / len(m), 0)
        if len(m) > 1:
            sd = math.sqrt(means.var() + math.fsum(np.exp(known)) / len(known))
            assert_close(group.drawn.sd, sd, abs(means.mean()) * 1e-3)
            if group.channel is not None:
                assert group.active == (means.var() > 0.01)
                assert group.collapsed == (not group.active and kl < 0.01)


# ---- material -----------------------------------------------------------------------------------------------------


def stored_scale(logvar: Tensor, parameterization: str) -> Tensor:
    match parameterization:
        case "logvar":
            return logvar
        case "std":
            return torch.exp(logvar / 2)
        case "var":
            return torch.exp(logvar)
        case _:
            return torch.log(torch.expm1(torch.exp(logvar / 2).clamp(2e-4) - 1e-4))


def make(
    shape: tuple[int, int, int, int], dtype: torch.dtype, parameterization: str = "logvar", seed: int = 0, odd: int = 0
) -> tuple[Tensor, Tensor]:
    """Means and scales of posteriors; ``odd`` elements of each are made NaN, infinite, or put at or past the clamp."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(shape, generator=generator, dtype=torch.float64)
    logvar = torch.randn(shape, generator=generator, dtype=torch.float64) * 1.5 - 3
    mean, raw = mean.to(dtype), stored_scale(logvar, parameterization).to(dtype)
    if odd:
        _spoil(mean, [math.nan, math.inf, -math.inf, 300.0, -256.0, -0.0, 0.0], odd, seed)
        _spoil(raw, [math.nan, math.inf, -math.inf, 0.0, -0.0, -30.0, 20.0, -40.0, 32.0, 11.1, -18.0, -1.0], odd, seed)
    return mean, raw


def _spoil(tensor: Tensor, values: list[float], count: int, seed: int) -> None:
    chooser = random.Random(seed)
    wide = tensor.double()
    for _ in range(count):
        wide.view(-1)[chooser.randrange(wide.numel())] = chooser.choice(values)
    tensor.copy_(wide)


def accumulated(
    mean: Tensor, raw: Tensor | None, parameterization: str = "logvar", clamp: tuple[float, float] = (-30.0, 20.0)
) -> Statistics:
    statistics = Statistics(mean.shape[2], parameterization, clamp)
    statistics.update(mean, raw, Origin("f", "k"))
    return statistics


def pieces(mean: Tensor, raw: Tensor, cuts: list[tuple[int, int]]) -> list[tuple[Tensor, Tensor, Origin]]:
    """Cut a block along axes, (axis, where) by (axis, where)."""
    parts = [((0, 0, 0, 0), tuple(mean.shape))]
    for axis, where in cuts:
        done = []
        for start, stop in parts:
            middle = start[axis] + where % (stop[axis] - start[axis] + 1)
            first_stop = (*stop[:axis], middle, *stop[axis + 1 :])
            second_start = (*start[:axis], middle, *start[axis + 1 :])
            done += [(a, b) for a, b in ((start, first_stop), (second_start, stop)) if a[axis] < b[axis]]
        parts = done
    result = []
    for start, stop in parts:
        window = tuple(slice(a, b) for a, b in zip(start, stop, strict=True))
        origin = Origin("f", "k", *start, inner=mean.shape[3])
        result.append((mean[window], raw[window], origin))
    return result


def assert_same(one: Summary, other: Summary) -> None:
    """Counts, extrema, places and quantiles bit for bit, moments to 1e-12."""
    a, b = (json.loads(json.dumps(dataclasses.asdict(summary))) for summary in (one, other))

    def compare(x: object, y: object, scale: float) -> None:
        assert type(x) is type(y)
        if isinstance(x, dict) and isinstance(y, dict):
            assert x.keys() == y.keys()
            # Of a constant, the sd is nothing but rounding.
            inner = max(abs(x["sd"]), 1e-3 * abs(x["mean"])) if "sd" in x and "mean" in x else scale
            for key in x:
                exact = key in ("quantiles", "min", "max", "histogram", "clamp", "min_at", "max_at")
                compare(x[key], y[key], -1.0 if exact else inner)
        elif isinstance(x, list) and isinstance(y, list):
            assert len(x) == len(y)
            for left, right in zip(x, y, strict=True):
                compare(left, right, scale)
        elif isinstance(x, float) and isinstance(y, float) and scale >= 0 and not math.isnan(x):
            assert x == pytest.approx(y, rel=1e-12, abs=1e-12 * (scale if math.isfinite(scale) else 1))
        else:
            assert x == y or (x != x and y != y)

    compare(a, b, 1.0)


# ---- promises -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_figures_equal_numpy_in_float64(dtype: torch.dtype, parameterization: str) -> None:
    mean, raw = make((7, 2, 4, 33), dtype, parameterization)
    check(accumulated(mean, raw, parameterization).summary(), mean, raw, parameterization, (-30, 20))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_nan_infinity_and_clamp_are_counted_and_left_out(dtype: torch.dtype, parameterization: str) -> None:
    mean, raw = make((5, 1, 3, 64), dtype, parameterization, odd=60)
    for clamp in ((-30.0, 20.0), (-4.0, -2.0), (-40.0, 25.0)):
        check(accumulated(mean, raw, parameterization, clamp).summary(), mean, raw, parameterization, clamp)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_128_channels(dtype: torch.dtype, parameterization: str) -> None:
    mean, raw = make((4, 1, 128, 50), dtype, parameterization, odd=100)
    statistics = accumulated(mean, raw, parameterization)
    check(statistics.summary(), mean, raw, parameterization, (-30, 20))
    held = (grid.counts.nbytes for each in statistics.counts.values() for grid in each.grids)
    assert sum(held) < 12 << 20


def test_drawn_latents_have_no_scale() -> None:
    latents, _ = make((6, 1, 4, 40), torch.float16)
    summary = accumulated(latents, None, "none").summary()
    check(summary, latents, None, "none", (-30, 20))
    assert summary.overall.logvar is summary.overall.kl is summary.overall.clamp is None
    assert summary.overall.drawn == summary.overall.means
    assert summary.overall.means.scaling_factor == pytest.approx(1 / latents.double().std(correction=0))


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_split_order_and_merge_gives_the_same(data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(DTYPES))
    parameterization = data.draw(st.sampled_from(PARAMETERIZATIONS))
    shape = tuple(data.draw(st.tuples(*(st.integers(1, limit) for limit in (6, 3, 5, 9)))))
    mean, raw = make(shape, dtype, parameterization, data.draw(st.integers(0, 99)), data.draw(st.sampled_from([0, 9])))
    cuts = data.draw(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 9)), max_size=4))
    parts = data.draw(st.permutations(pieces(mean, raw, cuts)))
    workers = [Statistics(shape[2], parameterization) for _ in range(data.draw(st.integers(1, 3)))]
    for part, worker in zip(parts, itertools.cycle(workers), strict=False):
        worker.update(*part)
    order = data.draw(st.permutations(workers))
    for other in order[1:]:
        order[0].merge(other)
    whole = accumulated(mean, raw, parameterization)
    assert_same(order[0].summary(), whole.summary())
    check(whole.summary(), mean, raw, parameterization, (-30, 20))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("channels", [300, 1024, 4096])
def test_counts_of_many_channels_get_coarser_and_take_no_more_memory(dtype: torch.dtype, channels: int) -> None:
    mean, raw = make((3, 1, channels, 8), dtype)
    statistics = accumulated(mean, raw)
    held = (grid.counts.nbytes for each in statistics.counts.values() for grid in each.grids)
    assert sum(held) < 20 << 20
    summary, values = statistics.summary(), raw.double().numpy()
    assert summary.quantile_error == 2.0 ** (widening(channels) - 7)
    for channel in (0, channels // 2, channels - 1):
        logvar = summary.per_channel[channel].logvar
        assert logvar is not None
        expected = np.quantile(values[:, :, channel], LEVELS, method="inverted_cdf")
        np.testing.assert_allclose(logvar.quantiles, expected, rtol=summary.quantile_error, atol=2**-16)
        assert (logvar.min, logvar.max) == (values[:, :, channel].min(), values[:, :, channel].max())
        assert_close(logvar.sd, values[:, :, channel].std())


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("center", [-3.0, -17.3, -29.5, 0.0])
@pytest.mark.parametrize("inner", [25, 1100])
def test_many_samples_of_one_kind_equal_numpy(
    dtype: torch.dtype, parameterization: str, center: float, inner: int
) -> None:
    """Also across thresholds, at the clamp, with means that drift far away, and at the prior; rows of any length."""
    mean, raw = make((40, 1, 4, inner), torch.float64)
    drift = torch.linspace(0, 1, 40, dtype=torch.float64).pow(8).view(40, 1, 1, 1)
    logvar = (raw + 3) * (0.5 if center else 1e-4) + center
    mean, raw = (mean + 200 * drift).to(dtype), stored_scale(logvar, parameterization).to(dtype)
    check(accumulated(mean, raw, parameterization).summary(), mean, raw, parameterization, (-30, 20))


def test_strided_views_and_reused_buffers() -> None:
    mean, raw = make((8, 1, 4, 32), torch.float16)
    statistics = Statistics(4)
    buffer = torch.empty(2, 1, 8, 32, dtype=torch.float16)
    for start in range(0, 8, 2):
        buffer.copy_(torch.cat([mean, raw], 2)[start : start + 2])
        statistics.update(buffer[:, :, :4], buffer[:, :, 4:], Origin("f", "k", start))
    buffer.zero_()
    assert_same(statistics.summary(), accumulated(mean, raw).summary())


def test_mixed_dtypes_are_pooled() -> None:
    blocks = [make((3, 1, 2, 20), dtype, seed=seed, odd=5) for seed, dtype in enumerate(DTYPES)]
    statistics = Statistics(2)
    for seed, (mean, raw) in enumerate(blocks):
        statistics.update(mean, raw, Origin("f", "k", 3 * seed))
    mean, raw = (torch.cat([block[half].double() for block in blocks]) for half in (0, 1))
    check(statistics.summary(), mean, raw, "logvar", (-30, 20))


def test_exact_dtypes_stay_exact_together() -> None:
    statistics = Statistics(2)
    mean, raw = make((3, 1, 2, 20), torch.float16)
    more_mean, more_raw = make((3, 1, 2, 20), torch.bfloat16, seed=1)
    statistics.update(mean, raw, Origin("f", "k"))
    statistics.update(more_mean, more_raw, Origin("f", "k", 3))
    summary = statistics.summary()
    assert summary.exact_quantiles
    means, raws = torch.cat([mean.double(), more_mean.double()]), torch.cat([raw.double(), more_raw.double()])
    check(summary, means, raws, "logvar", (-30, 20))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_equal_extremes_the_first_place_is_kept(order: tuple[int, ...]) -> None:
    block = torch.zeros(2, 1, 2, 4, dtype=torch.float16)
    block[1, 0, 1, 2] = -1
    origins = [Origin("a", "z", 4), Origin("b", "a", 0), Origin("b", "a", 2)]
    parts = []
    for number in order:
        part = Statistics(2)
        part.update(block, block, origins[number])
        parts.append(part)
    parts[0].merge(parts[1])
    parts[0].merge(parts[2])
    together = Statistics(2)
    for number in order:
        together.update(block, block, origins[number])
    for summary in (parts[0].summary(), together.summary()):
        assert summary.overall.mean.min_at == Place("a", "z", 5, 6)
        assert summary.overall.mean.max_at == Place("a", "z", 4, 0)
        assert summary.per_channel[1].mean.max_at == Place("a", "z", 4, 4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("offset", [1e3, -1e6])
def test_moments_keep_their_digits_far_from_zero(dtype: torch.dtype, offset: float) -> None:
    generator = torch.Generator().manual_seed(3)
    mean = (torch.randn(400, 1, 2, 50, generator=generator, dtype=torch.float64) + offset).to(dtype)
    statistics = Statistics(2, "none")
    for start in range(400):
        statistics.update(mean[start : start + 1], None, Origin("f", "k", start))
    values = mean.double().numpy()[:, 0, 0].reshape(-1)
    center = math.fsum(values) / values.size
    variance = math.fsum((values - center) ** 2) / values.size - (math.fsum(values - center) / values.size) ** 2
    spread = statistics.summary().per_channel[0].mean
    assert abs(spread.mean - center) <= 1e-12 * spread.sd + math.ulp(center)
    assert spread.sd == pytest.approx(math.sqrt(variance), rel=1e-12)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-7])
def test_kl_keeps_its_digits_near_the_prior(dtype: torch.dtype, size: float) -> None:
    generator = torch.Generator().manual_seed(4)
    raw = (torch.randn(20, 1, 2, 50, generator=generator, dtype=torch.float64) * size).to(dtype)
    summary = accumulated(torch.zeros_like(raw), raw).summary()
    expected = 0.5 * math.fsum(remainder(raw.double().numpy().reshape(-1)))
    assert summary.overall.kl is not None
    assert summary.overall.kl.total == pytest.approx(expected, rel=1e-12)


def test_posteriors_at_the_prior_are_collapsed_and_have_no_kl() -> None:
    zeros = torch.zeros(3, 1, 2, 8, dtype=torch.float16)
    summary = accumulated(zeros, zeros).summary()
    assert summary.collapsed_channels == 2
    assert summary.overall.kl is not None
    assert summary.overall.kl.total == 0
    assert math.isnan(summary.per_channel[0].kl.share)  # type: ignore[union-attr]
    assert summary.overall.drawn.scaling_factor == 1
    assert math.isnan(summary.overall.means.scaling_factor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32], ids=str)
def test_one_sample_has_no_factors_and_nothing_has_no_figures(dtype: torch.dtype) -> None:
    mean, raw = make((1, 1, 2, 30), dtype)
    summary = accumulated(mean, raw).summary()
    assert summary.per_channel[0].active is None is summary.per_channel[0].collapsed
    assert math.isnan(summary.overall.drawn.sd)
    assert math.isnan(summary.overall.means.shift_factor)
    check(summary, mean, raw, "logvar", (-30, 20))
    for empty in (Statistics(2).summary(), accumulated(mean[:0], raw[:0]).summary()):
        assert empty.samples == empty.overall.count == 0
        assert math.isnan(empty.overall.mean.mean) and math.isnan(empty.overall.mean.min)


def test_law_of_total_variance_is_what_draws_have() -> None:
    mean, raw = make((50, 1, 2, 400), torch.float32)
    drawn = mean + torch.exp(0.5 * raw) * torch.randn(mean.shape, generator=torch.Generator().manual_seed(9))
    assert accumulated(mean, raw).summary().overall.drawn.sd == pytest.approx(float(drawn.std()), rel=0.02)


def test_beyond_float64_is_infinite_and_warns_of_nothing() -> None:
    mean = torch.tensor([1e300, -1e300, 1e308, 5.0], dtype=torch.float64).view(4, 1, 1, 1)
    statistics = accumulated(mean, torch.zeros_like(mean))
    statistics.merge(accumulated(mean, torch.zeros_like(mean)))
    spread = statistics.summary().overall.mean
    assert (spread.min, spread.max, spread.finite) == (-1e300, 1e308, 8)
    assert not math.isfinite(spread.sd)


def test_counts_grow_past_32_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_INT32_ROOM", 40)
    mean, raw = make((1, 1, 2, 30), torch.float16)
    one, other = accumulated(mean, raw), accumulated(mean, raw)
    assert [grid.counts.dtype for grid in one.counts["F16"].grids] == [np.int32, np.int32]
    one.merge(other)
    assert [grid.counts.dtype for grid in one.counts["F16"].grids] == [np.int64, np.int64]
    one.update(mean, raw, Origin("f", "k", 3))
    check(one.summary(), torch.cat([mean] * 3), torch.cat([raw] * 3), "logvar", (-30, 20))


def test_a_grid_comes_back_from_its_arrays() -> None:
    one, other = Grid(2, 4), Grid(2, 4)
    one.counts[1, 2], one.counts[0, 3] = 7, 2
    other.restore(one.arrays())
    assert (one.counts == other.counts).all()


def test_histogram_lies_between_the_bounds_with_room_beyond() -> None:
    raw = torch.tensor([-31.0, -30.0, -29.5, 0.0, 19.5, 20.0, 21.0]).view(7, 1, 1, 1)
    summary = accumulated(torch.zeros_like(raw), raw).summary()
    assert summary.histogram_edges[0] == -30 and summary.histogram_edges[-1] == 20
    histogram = summary.overall.histogram
    assert (histogram[0], histogram[1], histogram[31], histogram[50], histogram[51]) == (1, 2, 1, 2, 1)


@pytest.mark.parametrize(
    ("raw", "edges", "beyond"),
    [
        ([-4.0] * 999 + [-3.0], (-4, -3), (0, 0)),
        ([-4.0] * 1000 + [-3.0] * 1000 + [-29.0, 19.0], (-5, -2), (1, 1)),
        ([-4.0] * 10, (-4.5, -3.5), (0, 0)),
        ([-4.0, math.nextafter(-4.0, 0)] * 5, (-4.5, -3.5), (0, 0)),
        ([40.0] * 10, (19.5, 20.5), (0, 10)),
        ([math.nan] * 10, (-30, 20), (0, 0)),
    ],
    ids=["few", "far out", "constant", "almost", "beyond the clamp", "nan"],
)
def test_histogram_spans_the_data(raw: list[float], edges: tuple[float, float], beyond: tuple[int, int]) -> None:
    values = torch.tensor(raw, dtype=torch.float64).view(-1, 1, 1, 1)
    summary = accumulated(torch.zeros_like(values), values).summary()
    assert (np.diff(summary.histogram_edges) > 0).all()
    assert (summary.histogram_edges[0], summary.histogram_edges[-1]) == edges
    assert (summary.overall.histogram[0], summary.overall.histogram[-1]) == beyond


@pytest.mark.parametrize("parameterization", ["logvar", "std", "softplus"])
def test_a_histogram_of_cells_shows_no_steps_that_the_data_lack(parameterization: str) -> None:
    """Bins hold two cells or three, or none: counted where one number stands for each, a third more or less."""
    logvar = torch.linspace(-5, -3, 20_001, dtype=torch.float64).view(-1, 1, 1, 1)
    std = (logvar / 2).exp()
    stored = {"logvar": logvar, "std": std, "softplus": (std - 1e-4).expm1().log()}[parameterization].float()
    summary = accumulated(torch.zeros_like(stored), stored, parameterization).summary()
    assert not summary.exact_quantiles
    assert (summary.histogram_edges[0], summary.histogram_edges[-1]) == pytest.approx((-5, -3), abs=1e-6)
    below, *inside, above = summary.overall.histogram
    assert (below, above) == (0, 0)
    assert np.abs(np.array(inside) - 400).max() < 40


def test_a_histogram_has_at_a_bound_of_the_clamp_what_the_counts_have() -> None:
    raw = torch.tensor([-40.0] * 2 + [-30.0] * 500 + [-29.9] * 3 + [20.0] * 400 + [21.0] * 5).view(-1, 1, 1, 1)
    summary = accumulated(torch.zeros_like(raw), raw).summary()
    assert (summary.overall.histogram[0], summary.overall.histogram[-1]) == (2, 5)
    assert sum(summary.overall.histogram) == len(raw)


def test_what_does_not_fit_is_refused() -> None:
    mean, raw = make((2, 1, 4, 8), torch.float16)
    origin = Origin("f", "k")
    with pytest.raises(ValueError, match="within 3 channels"):
        Statistics(3).update(mean, raw, origin)
    with pytest.raises(ValueError, match="1 halves"):
        Statistics(4).update(mean, None, origin)
    with pytest.raises(ValueError, match="cannot merge"):
        Statistics(4).merge(Statistics(4, "std"))
    with pytest.raises(ValueError, match="parameterization must be"):
        Statistics(4, "sigma")
    with pytest.raises(ValueError, match="at least one channel"):
        Statistics(0)


def test_a_channel_without_a_finite_mean_has_no_share_of_the_kl() -> None:
    mean, logvar = torch.ones(3, 1, 4, 2), torch.zeros(3, 1, 4, 2) - 1
    mean[:, :, 1] = math.nan
    kl = [group.kl for group in accumulated(mean, logvar).summary().per_channel]
    assert [one and one.share for one in kl] == pytest.approx([1 / 3, math.nan, 1 / 3, 1 / 3], nan_ok=True)
    assert kl[1]
    assert math.isnan(kl[1].total)
