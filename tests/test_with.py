"""The figures of ``stats --with``: against numpy and scipy, merged in any way, at the command line."""

import hashlib
import json
import math
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from adapter_with import add_hashes, extras_for, extras_of
from counted import statistics_of
from damaged_state import assert_refused, contents_of
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from latentkit.health.findings import find
from latentkit.posterior.distribution import scale_of
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.stats import centred, duplicates
from latentkit.stats import extras as extras_module
from latentkit.stats.correlation import effective_rank
from latentkit.stats.duplicates import SampleHashes
from latentkit.stats.extras import NAMES, Extras
from latentkit.stats.extrema import Place
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.state import State, from_file, to_pieces
from latentkit.stats.summary import ExtraFigures
from tests.conftest import DTYPES, SAMPLE_DATA, Cli, moments_of

CLAMP = (-30.0, 20.0)
Write = Callable[..., Path]
Floats = NDArray[np.float64]
WITH_ALL = [part for name in NAMES for part in ("--with", name)]


def to_bytes(state: State) -> bytes:
    return b"".join(to_pieces(state))


def run(paths: Iterable[Path], names: Iterable[str] = NAMES, *, limit: int | None = None, **reading: Any) -> State:
    found = find_posteriors(list(map(str, paths)), Selection(**reading))
    extras = extras_for(found.spans, names)
    per_sample = SampleValues()
    statistics = statistics_of(found.spans, CLAMP, batch_size=limit, per_sample=per_sample, extras=extras)
    return State(statistics, per_sample, found.readings, extras)


def figures(path: Path, *names: str, **reading: Any) -> ExtraFigures:
    return extras_of([path], names or NAMES, **reading).figures()


def smooth(samples: int, channels: int, *free: int, dtype: str = "F32", seed: int = 0) -> Tensor:
    """Moments whose channels are correlated, skewed, smooth and off zero."""
    generator = torch.Generator().manual_seed(seed)
    mean = torch.randn(samples, channels, *free, generator=generator, dtype=torch.float64)
    mean = mean + 0.7 * mean.roll(1, -1) + 0.4 * mean.roll(1, 1) + torch.randn(samples, 1, *[1] * len(free))
    mean = mean + 0.2 * mean**2 + torch.arange(channels).view(1, -1, *[1] * len(free))
    logvar = torch.randn(mean.shape, generator=generator, dtype=torch.float64) - 1
    return torch.cat([mean, logvar], 1).to(DTYPES[dtype])


def halves(moments: Tensor, parameterization: str = "logvar") -> tuple[Floats, Floats]:
    """Means and variances in float64, channels first: (C, n, ...)."""
    mean, raw = moments.double().transpose(0, 1).chunk(2)
    return mean.numpy(), scale_of(raw, parameterization, CLAMP).var.numpy()


def close(value: Any, expected: Any, tolerance: float = 1e-11) -> None:
    np.testing.assert_allclose(np.array(value, float), np.array(expected, float), rtol=tolerance, atol=tolerance)


# ---- correlation --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES)
def test_covariance_is_that_of_the_means_with_the_noise_on_the_diagonal(write: Write, dtype: str) -> None:
    moments = smooth(90, 5, 7, 9, dtype=dtype)
    found = figures(write("a.safetensors", moments=moments), "correlation").correlation
    assert found is not None
    mean, var = (half.reshape(5, -1) for half in halves(moments))
    covariance = np.cov(mean, bias=True) + np.diag(var.mean(1))
    close(found.covariance, covariance)
    sd = np.sqrt(np.diag(covariance))
    close(found.matrix, covariance / np.outer(sd, sd))
    values = scipy.linalg.svdvals(covariance)
    close(found.eigenvalues, values)
    close(found.effective_rank, math.exp(scipy.stats.entropy(values)))
    pairs = {pair.channels: pair.correlation for pair in found.strongest}
    assert len(pairs) == 10 and all(found.matrix[i][j] == value for (i, j), value in pairs.items())
    assert list(map(abs, pairs.values())) == sorted(map(abs, pairs.values()), reverse=True)


def test_correlation_of_stored_latents_is_that_of_numpy(write: Write) -> None:
    latents = smooth(60, 3, 4, 5)
    path = write("a.safetensors", latents=latents)
    found = figures(path, "correlation", parameterization="none").correlation
    assert found is not None
    close(found.matrix, np.corrcoef(latents.double().transpose(0, 1).reshape(6, -1).numpy()))


@given(st.integers(1, 40), st.floats(0.01, 100))
def test_the_effective_rank_of_equal_eigenvalues_is_their_number(count: int, value: float) -> None:
    spectrum = np.r_[np.full(count, value), np.zeros(3)]
    assert effective_rank(spectrum) == pytest.approx(count, rel=1e-12)
    assert math.isnan(effective_rank(np.zeros(3)))


def test_a_channel_without_variance_correlates_with_none(write: Write) -> None:
    latents = smooth(20, 2, 3, 3)
    latents[:, 1] = 2.5
    found = figures(write("a.safetensors", latents=latents), parameterization="none")
    assert found.correlation and found.shape and found.spectrum
    matrix = np.array(found.correlation.matrix)
    assert np.isnan(matrix[1]).all() and np.isnan(matrix[:, 1]).all() and not np.isnan(matrix[0, [0, 2, 3]]).any()
    assert found.correlation.effective_rank < 3
    assert math.isnan(found.shape.channels[1].skewness)
    assert np.isnan(found.spectrum.power[1]).all() and not np.isnan(found.spectrum.overall).any()


# ---- shape --------------------------------------------------------------------------------------------------------


def mixture_shape(mean: Floats, var: Floats) -> tuple[float, float]:
    """By Gauss-Hermite quadrature: three points a normal are exact up to the fifth power."""
    nodes = np.stack([mean - np.sqrt(3 * var), mean, mean + np.sqrt(3 * var)])
    weights = np.array([1, 4, 1]).reshape(3, *[1] * mean.ndim) / 6 / mean.size
    center = (weights * nodes).sum()
    second, third, fourth = ((weights * (nodes - center) ** power).sum() for power in (2, 3, 4))
    return third / second**1.5, fourth / second**2 - 3


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "F8_E5M2"])
def test_shape_is_that_of_the_mixture_of_normals(write: Write, dtype: str) -> None:
    moments = smooth(80, 3, 6, 8, dtype=dtype)
    shape = figures(write("a.safetensors", moments=moments), "shape").shape
    assert shape is not None
    mean, var = halves(moments)
    for channel in range(3):
        found = shape.channels[channel]
        close([found.skewness, found.excess_kurtosis], mixture_shape(mean[channel], var[channel]))
    close([shape.overall.skewness, shape.overall.excess_kurtosis], mixture_shape(mean, var))


def test_shape_of_stored_latents_is_that_of_scipy(write: Write) -> None:
    latents = smooth(60, 2, 4, 5)
    shape = figures(write("a.safetensors", latents=latents), "shape", parameterization="none").shape
    assert shape is not None
    flat = latents.double().transpose(0, 1).reshape(4, -1).numpy()
    close([each.skewness for each in shape.channels], scipy.stats.skew(flat, axis=1))
    close([each.excess_kurtosis for each in shape.channels], scipy.stats.kurtosis(flat, axis=1))
    close(shape.overall.skewness, scipy.stats.skew(flat, axis=None))


@pytest.mark.parametrize("parameterization", ["std", "var", "softplus"])
def test_every_parameterization_gives_what_its_variance_gives(write: Write, parameterization: str) -> None:
    moments = smooth(30, 2, 4, 4)
    moments[:, 2:] = moments[:, 2:].exp()
    path = write("a.safetensors", moments=moments)
    found = figures(path, "correlation", "shape", parameterization=parameterization)
    assert found.correlation and found.shape
    mean, var = halves(moments, parameterization)
    close(found.correlation.covariance[1][1], mean[1].var() + var[1].mean())
    close(found.shape.overall.skewness, mixture_shape(mean, var)[0])


# ---- spectrum -----------------------------------------------------------------------------------------------------


def radial_power(mean: Floats, var: Floats, center: float) -> dict[float, float]:
    """Of one channel, (n, H, W), about a mean: the plain full transform, frequency by frequency."""
    _, height, width = mean.shape
    power = (np.abs(np.fft.fft2(mean - center)) ** 2).mean(0) / (height * width) + var.mean()
    bins: dict[float, list[float]] = {}
    for row, fy in enumerate(np.fft.fftfreq(height)):
        for column, fx in enumerate(np.fft.fftfreq(width)):
            bins.setdefault(math.floor(math.hypot(fy, fx) * 64 + 0.5) / 64, []).append(power[row, column])
    return {frequency: float(np.mean(values)) for frequency, values in sorted(bins.items())}


@pytest.mark.parametrize("size", [(8, 8), (7, 10), (5, 9), (1, 6), (48, 40)])
def test_power_is_that_of_the_full_transform(write: Write, size: tuple[int, int]) -> None:
    moments = smooth(12, 3, *size)
    spectrum = figures(write("a.safetensors", moments=moments), "spectrum").spectrum
    assert spectrum is not None and spectrum.samples == 12
    mean, var = halves(moments)
    expected = []
    for channel in range(3):
        variance = mean[channel].var() + var[channel].mean()
        power = radial_power(mean[channel], var[channel], mean[channel].mean())
        assert spectrum.frequencies == list(power)
        expected.append(np.array(list(power.values())) / variance)
    close(spectrum.power, expected)
    close(spectrum.overall, np.mean(expected, axis=0))


def test_white_noise_has_the_same_power_at_every_frequency(write: Write) -> None:
    latents = torch.randn(4000, 2, 16, 16, generator=torch.Generator().manual_seed(1)) * 3 + 5
    spectrum = figures(write("a.safetensors", latents=latents), "spectrum", parameterization="none").spectrum
    assert spectrum is not None
    np.testing.assert_allclose(spectrum.overall, 1, atol=0.1)
    assert all(abs(lag.overall) < 0.01 for lag in spectrum.lag1)


def lag(mean: Floats, var: Floats, axis: int) -> float:
    centered = mean - mean.mean()
    before, behind = (centered.take(range(start, start + mean.shape[axis] - 1), axis) for start in (0, 1))
    return float((before * behind).mean() / (mean.var() + var.mean()))


@pytest.mark.parametrize(
    ("layout", "axes"),
    [("bchw", {"h": 2, "w": 3}), ("bcthw", {"t": 2, "h": 3, "w": 4}), ("bhwc", {"h": 1, "w": 2}), ("bct", {"t": 2})],
)
def test_neighbours_are_compared_along_every_axis(write: Write, layout: str, axes: dict[str, int]) -> None:
    sizes = {"b": 20, "c": 3, "t": 4, "h": 5, "w": 6}
    channels_first = "bc" + layout.replace("b", "").replace("c", "")
    moments = smooth(*(sizes[letter] for letter in channels_first))
    stored = moments.permute([channels_first.index(letter) for letter in layout]).contiguous()
    spectrum = figures(write("a.safetensors", moments=stored), "spectrum", layout=layout).spectrum
    assert spectrum is not None
    mean, var = halves(moments)
    assert [entry.axis for entry in spectrum.lag1] == sorted(axes)
    for entry in spectrum.lag1:
        axis = channels_first.index(entry.axis) - 1
        expected = [lag(mean[channel], var[channel], axis) for channel in range(3)]
        close(entry.channels, expected)
        close(entry.overall, np.mean(expected))
    assert bool(spectrum.frequencies) == ("h" in axes)


def test_frames_of_a_video_are_planes(write: Write) -> None:
    moments = smooth(6, 2, 3, 8, 8)
    video = figures(write("a.safetensors", moments=moments), "spectrum").spectrum
    frames = moments.transpose(1, 2).flatten(0, 1).contiguous()
    images = figures(write("b.safetensors", moments=frames), "spectrum").spectrum
    assert video and images and video.frequencies == images.frequencies
    close(video.power, images.power)


def test_samples_of_other_sizes_fall_on_one_grid(write: Write) -> None:
    one, other = smooth(9, 2, 16, 16), smooth(5, 2, 8, 12, seed=1)
    paths = [write("a.safetensors", moments=one), write("b.safetensors", moments=other)]
    spectrum = extras_of(paths, ["spectrum"]).figures().spectrum
    assert spectrum is not None and spectrum.samples == 14
    parts = [halves(one), halves(other)]
    mean = np.concatenate([mean[1].ravel() for mean, _ in parts])
    variance = mean.var() + np.concatenate([var[1].ravel() for _, var in parts]).mean()
    noise = np.concatenate([var[1].ravel() for _, var in parts]).mean()
    total: Counter[float] = Counter()
    weights: Counter[float] = Counter()
    for means, _ in parts:
        n, height, width = means[1].shape
        counted = Counter(
            math.floor(math.hypot(fy, fx) * 64 + 0.5) / 64
            for fy in np.fft.fftfreq(height)
            for fx in np.fft.fftfreq(width)
        )
        for frequency, power in radial_power(means[1], np.zeros(1), float(mean.mean())).items():
            weights[frequency] += n * counted[frequency]
            total[frequency] += n * counted[frequency] * power
    assert spectrum.frequencies == sorted(total)
    close(spectrum.power[1], [(total[at] / weights[at] + noise) / variance for at in sorted(total)])


def test_tokens_and_vectors_have_no_spectrum(write: Write) -> None:
    path = write("a.safetensors", moments=smooth(10, 2, 6).transpose(1, 2).contiguous())
    found = figures(path, layout="blc")
    assert found.spectrum is not None and found.correlation is not None
    assert (found.spectrum.samples, found.spectrum.samples_without_axes) == (0, 10)
    assert found.spectrum.lag1 == [] and found.spectrum.frequencies == [] and found.spectrum.overall == []


# ---- duplicates ---------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 6), min_size=1, max_size=40), st.integers(1, 50), st.randoms())
@settings(max_examples=60)
def test_copies_are_those_that_comparing_all_with_all_finds(contents: list[int], most: int, random: Any) -> None:
    """In files of three, counted in any order by two that are merged, the first ``most`` by name."""
    samples = torch.tensor(contents).half().view(-1, 1, 1, 1).repeat(1, 1, 2, 3)
    places = [(f"{number // 3:03}", "moments", number % 3) for number in range(len(contents))]
    order = list(range(0, len(contents), 3))
    random.shuffle(order)
    parts = SampleHashes(most), SampleHashes(most)
    for start in order:
        block = samples[start : start + 3]
        add_hashes(random.choice(parts), block, block + 1, Place(*places[start], 0))
    parts[0].merge(parts[1])
    found = parts[0].figures()
    kept = contents[:most]
    firsts = {content: places[kept.index(content)] for content in kept}
    copies = [(places[at], firsts[content]) for at, content in enumerate(kept) if places[at] != firsts[content]]
    assert (found.duplicate_count, found.samples_hashed) == (len(copies), len(kept))
    assert found.is_capped == (len(contents) > most)
    assert found.groups == sum(count > 1 for count in Counter(kept).values())
    pairs = [(pair.sample, pair.copy_of) for pair in found.pairs]
    assert pairs == [(Place(*one, 0), Place(*other, 0)) for one, other in copies[:10]]


def test_what_lies_beyond_the_bound_is_dropped_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_SLACK", 4)
    samples = torch.arange(3.0).repeat(40).view(-1, 1, 1, 1)
    hashes = SampleHashes(10)
    for start in [*range(60, 120, 2), *range(0, 60, 2)]:
        add_hashes(hashes, samples[start : start + 2], None, Place("a", "latents", start, 0))
    found = hashes.figures()
    assert (found.samples_hashed, found.duplicate_count, found.is_capped) == (10, 7, True)
    assert found.pairs[0].sample.index == 3 and found.pairs[0].copy_of.index == 0


def test_shape_dtype_and_scale_tell_samples_apart() -> None:
    mean = torch.zeros(1, 1, 2, 8)
    hashes = SampleHashes()
    for place, (part, scale) in enumerate([
        (mean, mean), (mean, mean + 1), (mean.view(1, 1, 4, 4), mean.view(1, 1, 4, 4)), (mean, None),
        (mean.half().repeat(1, 1, 1, 2), None),
    ]):  # fmt: skip
        add_hashes(hashes, part, scale, Place("a", "moments", place, 0))
    assert hashes.figures().duplicate_count == 0


def test_a_pair_and_moments_of_the_same_bytes_are_copies(write: Write) -> None:
    moments = smooth(4, 2, 3, 3)
    mean, logvar = (half.contiguous() for half in moments.chunk(2, 1))
    paths = [write("a.safetensors", moments=moments), write("b.safetensors", mean=mean, logvar=logvar)]
    found = extras_of(paths, ["duplicates"]).figures().duplicates
    assert found is not None and (found.duplicate_count, found.groups) == (4, 4)


def test_copies_are_a_finding_only_where_there_are_some(write: Write) -> None:
    for name in ("healthy-f16", "collapsed", "deterministic", "video", "pair", "shards"):
        path = SAMPLE_DATA / (name if name == "shards" else f"{name}.safetensors")
        summary = run([path]).summary()
        assert "duplicates" not in {finding.kind for finding in find(summary)}
    moments = smooth(12, 2, 3, 3)
    moments[7], moments[9] = moments[2], moments[2]
    (finding,) = find(run([write("a.safetensors", moments=moments)]).summary())
    assert (finding.kind, finding.severity, finding.figure) == ("duplicates", "warning", 2)
    assert finding.sentence.startswith("2 samples are copies of earlier ones, to the last byte; the first is ")
    assert "sample 7, which equals" in finding.sentence and finding.sentence.endswith("sample 2")


# ---- what is left out, and what is merged -------------------------------------------------------------------------


def same(one: Any, other: Any, where: str = "") -> None:
    """Whole numbers, names and places are equal; the rest to 1e-12, of a value or of 1."""
    if isinstance(one, float) and isinstance(other, float):
        assert one == pytest.approx(other, rel=1e-12, abs=1e-12, nan_ok=True), where
    elif hasattr(one, "__dataclass_fields__"):
        for name in one.__dataclass_fields__:
            same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            same(*pair, f"{where}[{number}]")
    else:
        assert one == other, where


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_sample_that_is_not_finite_is_left_out_whole(write: Write, value: float) -> None:
    moments = smooth(9, 2, 4, 4)
    broken = torch.cat([moments[:4], moments[3:4], moments[4:]])
    broken[4, 1, 2, 2] = value
    whole, found = (figures(write(f"{n}.safetensors", moments=m)) for n, m in (("a", moments), ("b", broken)))
    assert (whole.nonfinite_samples, found.nonfinite_samples) == (0, 1)
    for name in ("correlation", "shape", "spectrum"):
        same(getattr(found, name), getattr(whole, name), name)


def test_an_infinite_log_variance_is_clamped_and_nan_is_not(write: Write) -> None:
    moments = smooth(9, 2, 4, 4)
    moments[3, 2, 0, 0] = -torch.inf
    assert figures(write("a.safetensors", moments=moments), "shape").nonfinite_samples == 0
    moments[3, 2, 0, 0] = torch.nan
    assert figures(write("b.safetensors", moments=moments), "shape").nonfinite_samples == 1


def test_values_whose_sum_leaves_float64_are_finite_all_the_same(write: Write) -> None:
    latents = torch.full((4, 2, 1, 2), 1.7e308, dtype=torch.float64)
    assert figures(write("a.safetensors", latents=latents), "shape", parameterization="none").nonfinite_samples == 0


@pytest.mark.parametrize(
    ("shape", "dtype", "large"),
    [((1, 8, 1024, 640), "F16", 0), ((1, 8, 1024, 641), "F16", 1), ((1, 5, 1024, 640), "F64", 1)],
    ids=["as large as may be", "in a channel", "float64"],
)
def test_samples_too_large_to_be_held_are_counted(write: Write, shape: tuple[int, ...], dtype: str, large: int) -> None:
    path = write("a.safetensors", moments=torch.zeros((1, 2 * shape[1], *shape[2:]), dtype=DTYPES[dtype]))
    found = figures(path, "duplicates")
    assert found.duplicates and (found.large_samples, found.duplicates.samples_hashed) == (large, 1 - large)


def test_a_sample_in_pieces_gives_what_it_gives_in_one(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """1,095,200 elements of a mean are more than a block holds."""
    moments = smooth(3, 8, 370, 370, dtype="F16")
    moments[1, 5, 100, 7] = torch.nan
    path = write("a.safetensors", moments=moments)
    found = figures(path)
    assert (found.nonfinite_samples, found.large_samples) == (1, 0)
    mean, var = halves(moments[[0, 2]])
    assert found.correlation and found.shape and found.spectrum and found.duplicates
    close(found.correlation.covariance, np.cov(mean.reshape(8, -1), bias=True) + np.diag(var.reshape(8, -1).mean(1)))
    close(found.shape.overall.excess_kurtosis, mixture_shape(mean, var)[1])
    close(found.spectrum.lag1[1].channels, [lag(mean[channel], var[channel], 2) for channel in range(8)])
    power = radial_power(mean[3], var[3], mean[3].mean())
    close(found.spectrum.power[3], np.array(list(power.values())) / (mean[3].var() + var[3].mean()))
    assert found.duplicates.samples_hashed == 3
    monkeypatch.setattr(extras_module, "MOST_ELEMENTS", 1 << 20)
    found = figures(path)
    assert found.large_samples == 3 and found.duplicates and found.duplicates.samples_hashed == 0
    empty = to_bytes(run([path]))
    path.with_suffix(".state").write_bytes(empty)
    assert to_bytes(from_file(str(path.with_suffix(".state")))) == empty
    assert found.correlation and math.isnan(found.correlation.effective_rank)


@pytest.mark.parametrize("dtype", ["F32", "F16"])
@pytest.mark.parametrize(
    ("layout", "shape"),
    [("bcthw", (1, 6, 7, 11, 13)), ("btchw", (1, 7, 6, 11, 13)), ("blc", (1, 999, 6)), ("bcl", (1, 6, 999))],
)
def test_a_large_sample_that_is_decoded_in_parts_gives_the_same_bytes(
    write: Write, monkeypatch: pytest.MonkeyPatch, layout: str, shape: tuple[int, ...], dtype: str
) -> None:
    path = write(
        "a.safetensors", moments=torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    )
    whole = to_bytes(run([path], layout=layout))
    monkeypatch.setattr(centred, "_AT_ONCE", 2000)
    assert to_bytes(run([path], layout=layout)) == whole


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_any_order_split_and_block_gives_the_same(write: Write, offset: float) -> None:
    moments = smooth(60, 4, 6, 6, dtype="F64")
    moments[:, :4] += offset
    moments[50] = moments[10]
    whole = figures(write("whole.safetensors", moments=moments))
    bounds = [0, 1, 2, 20, 43, 60]
    paths = [
        write(f"{number}.safetensors", moments=moments[start:end].clone())
        for number, (start, end) in enumerate(pairwise(bounds))
    ]
    tolerance = 1e-12 * max(1.0, offset)
    for limit, order in ((None, paths), (7, paths[::-1]), (1, paths)):
        found = extras_of(order, NAMES, limit=limit).figures()
        assert found.correlation and whole.correlation and found.shape and whole.shape
        assert found.spectrum and whole.spectrum and found.duplicates
        close(found.correlation.covariance, whole.correlation.covariance, tolerance)
        close([each.skewness for each in found.shape.channels], [s.skewness for s in whole.shape.channels], tolerance)
        close(found.spectrum.power, whole.spectrum.power, tolerance)
        close([each.channels for each in found.spectrum.lag1], [e.channels for e in whole.spectrum.lag1], tolerance)
        assert found.duplicates.duplicate_count == 1


@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), st.integers(0, 2**31))
@settings(max_examples=12)
def test_accumulators_merge_to_what_one_gives(sizes: list[int], seed: int) -> None:
    """Each worker's own, some of them empty."""
    moments = smooth(sum(sizes), 2, 3, 4, dtype="F64", seed=seed)
    parts = moments.split(sizes)
    names = ["correlation", "shape", "spectrum"]
    merged = Extras(names, 2, "logvar", CLAMP, np.zeros(2))
    with TemporaryDirectory() as folder:
        paths = [Path(folder, f"{number}.safetensors") for number in range(len(parts))]
        for path, part in zip(paths, parts, strict=True):
            save_file({"moments": part.clone()}, path)
        save_file({"moments": moments}, Path(folder, "all.safetensors"))
        for path in [*paths[::2], *paths[1::2]]:
            extras = extras_of([path], names)
            merged.merge(extras)
            merged.merge(extras.part())
        same(merged.figures(), figures(Path(folder, "all.safetensors"), *names))


def contents(extras: Extras) -> tuple[dict[str, bytes], str]:
    """The bytes of all that was counted, and the figures."""
    names: dict[tuple[str, str], int] = {}
    arrays = extras.arrays(lambda place: names.setdefault((place.name, place.key), len(names)))
    return {name: array.tobytes() for name, array in arrays.items()}, repr(extras.figures())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("free", "dtype", "layout"),
    [((6, 5), "F16", None), ((2, 4, 6), "F32", None), ((40,), "BF16", "bcl"), ((), "F64", None)],
)
def test_workers_and_batches_give_the_same_bytes(
    write: Write, name: str, free: tuple[int, ...], dtype: str, layout: str | None
) -> None:
    paths = []
    for number, samples in enumerate((37, 1, 20)):
        moments = smooth(samples, 5, *free or (1,), dtype=dtype, seed=number)
        moments[samples // 2] = moments[0]
        moments[samples // 3] = torch.nan if number == 2 else moments[samples // 3]
        paths.append(write(f"{number}.safetensors", moments=moments if free else moments.flatten(1)))
    first, *others = (
        contents(extras_of(paths, [name], limit=limit, workers=workers, layout=layout))
        for workers in (1, 2, 3)
        for limit in (None, 1, 7, 16)
        for _ in range(2)
    )
    assert all(other == first for other in others)


@pytest.mark.parametrize(
    "environment",
    [{"NUMBA_CPU_NAME": "generic"}, {"NUMBA_DISABLE_JIT": "1"}],
    ids=["a generic processor", "interpreted"],
)
def test_the_sums_are_the_same_on_any_processor(tmp_path: Path, environment: dict[str, str]) -> None:
    """But for the transform, which is NumPy's."""
    for parameterization, dtype in (("logvar", "F16"), ("softplus", "F32"), ("var", "F64"), ("none", "BF16")):
        save_file({"moments": smooth(5, 3, 3, 4, dtype=dtype).abs()}, tmp_path / f"{parameterization}.safetensors")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, tmp_path],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == list(digests(tmp_path))


def digests(folder: Path) -> Iterator[str]:
    for path in sorted(folder.iterdir()):
        arrays, _ = contents(extras_of([path], ["correlation", "shape", "spectrum"], parameterization=path.stem))
        yield from (f"{path.stem} {name} {hashlib.sha256(array).hexdigest()}" for name, array in arrays.items())


def test_a_state_of_a_center_far_away_merges(write: Write) -> None:
    """In either order; of two centers that of the larger part stays."""
    near, far = smooth(50, 3, 4, 5, dtype="F64"), smooth(2, 3, 4, 5, dtype="F64", seed=1)
    far[:, :3] += 100
    paths = [write("a.safetensors", moments=near), write("b.safetensors", moments=far)]
    names = ["correlation", "shape", "spectrum"]
    whole = extras_of(paths, names).figures()
    for order in (paths, paths[::-1]):
        merged, other = (extras_of([path], names) for path in order)
        before = contents(other)
        merged.merge(other)
        assert contents(other) == before
        same(merged.figures(), whole)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16"])
def test_a_constant_channel_has_no_variance_to_the_last_bit(write: Write, dtype: str) -> None:
    latents = smooth(20, 1, 3, 3, dtype=dtype)
    latents[:, 1] = 0.1
    found = figures(write("a.safetensors", latents=latents), "correlation", parameterization="none")
    assert found.correlation and found.correlation.covariance[1] == [0, 0]


def test_a_first_sample_that_is_not_finite_leaves_the_center_to_the_next(write: Write) -> None:
    latents = smooth(20, 1, 3, 3) + 1e4
    latents[0], latents[1, 0, 1:] = torch.nan, torch.inf
    posterior = find_posteriors([str(write("a.safetensors", latents=latents))], Selection(parameterization="none"))
    first = latents[1, 0, 0].double()
    nearest = first[(first - first.mean()).abs().argmin()]
    assert extras_module.center_of(posterior.spans)[0] == nearest


# ---- states -------------------------------------------------------------------------------------------------------


def test_a_state_reads_back_with_its_figures(tmp_path: Path) -> None:
    state = run([SAMPLE_DATA / "video.safetensors"])
    (tmp_path / "a.state").write_bytes(to_bytes(state))
    back = from_file(str(tmp_path / "a.state"))
    assert repr(back.summary()) == repr(state.summary())
    assert to_bytes(back) == to_bytes(state)


def test_merged_states_are_what_one_run_gives(cli: Cli, write: Write) -> None:
    parts = [smooth(9, 2, 4, 4), smooth(7, 2, 6, 4, seed=1), smooth(5, 2, 1, 3, seed=2)]
    parts[1][6], parts[2][4, 0, 0, 0] = parts[1][2], torch.nan
    for number, part in enumerate(parts):
        write(f"{number}.safetensors", moments=part)
        assert cli("stats", f"{number}.safetensors", *WITH_ALL, "--state", f"{number}.state").status == 0
    whole = cli("stats", *(f"{number}.safetensors" for number in range(3)), *WITH_ALL).json["with"]
    assert whole["nonfinite_samples"] == 1 and whole["duplicates"]["duplicate_count"] == 1
    merged = cli("stats", "--merge", "2.state", "0.state", "1.state", "--state", "all.state")
    same_json(merged.json["with"], whole)
    same_json(cli("stats", "--merge", "all.state").json["with"], whole)


def same_json(one: Any, other: Any, where: str = "with") -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            same_json(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other), where
        for number, pair in enumerate(zip(one, other, strict=True)):
            same_json(*pair, f"{where}[{number}]")
    else:
        same(one, other, where)


def test_states_made_with_other_figures_are_refused(cli: Cli) -> None:
    path = SAMPLE_DATA / "pair.safetensors"
    assert cli("stats", path, "--state", "a.state", "--with", "shape").status == 0
    assert cli("stats", path, "--state", "b.state").status == 0
    outcome = cli("stats", "--merge", "a.state", "b.state")
    assert outcome.status == 2 and "their --with are shape and none" in outcome.complaint
    assert cli("stats", "--merge", "a.state", "--with", "shape").status == 2
    outcome = cli("stats", "--merge", "a.state", "--fail-if", "duplicate_count > 0")
    assert outcome.status == 2 and "takes --with duplicates" in outcome.complaint


def test_a_damaged_state_is_a_sentence_and_no_traceback(tmp_path: Path) -> None:
    good = tmp_path / "good.state"
    good.write_bytes(to_bytes(run([SAMPLE_DATA / "pair.safetensors"])))
    tensors, facts = contents_of(good)
    damaged = partial(assert_refused, tmp_path)
    own = [name for name in tensors if name.startswith("with.")]
    assert len(own) > 20
    for name in own:
        damaged({key: other for key, other in tensors.items() if key != name}, facts)
        damaged(tensors | {name: torch.cat([tensors[name], tensors[name]])}, facts)
    twice = torch.frombuffer(bytearray(json.dumps([["a", "b"], ["a", "b"]]).encode()), dtype=torch.uint8)
    damaged(tensors | {"names": twice}, facts)
    damaged(tensors | {"with.duplicates.files": tensors["with.duplicates.files"] + 1}, facts)
    damaged(tensors | {"with.duplicates.files": tensors["with.duplicates.files"] - 1}, facts)
    for names in (["x"], "shape", [1], {"shape": 1, "y": 2}, 3):
        damaged(tensors, facts | {"with": names})


# ---- the command line ---------------------------------------------------------------------------------------------


def test_nothing_is_there_that_was_not_asked_for(cli: Cli) -> None:
    names = ["correlation", "shape", "spectrum", "duplicates"]
    document = cli("stats", SAMPLE_DATA / "pair.safetensors").json
    assert document["with"] == dict.fromkeys(names) | {"nonfinite_samples": 0, "large_samples": 0}
    document = cli("stats", SAMPLE_DATA / "pair.safetensors", "--with", "shape", "--with", "shape").json
    assert [name for name in names if document["with"][name] is not None] == ["shape"]


@pytest.mark.parametrize(
    ("condition", "status"),
    [("effective_rank < 3.5", 0), ("effective_rank < 3.8", 3), ("duplicate_count > 0", 0), ("duplicate_count < 1", 3)],
)
def test_conditions_on_figures_that_were_asked_for(cli: Cli, condition: str, status: int) -> None:
    outcome = cli("stats", SAMPLE_DATA / "healthy-f16.safetensors", *WITH_ALL, "--fail-if", condition)
    assert outcome.status == status and outcome.json["with"]["correlation"]["effective_rank"] == pytest.approx(
        3.67, 0.01
    )


def test_a_condition_on_a_figure_not_asked_for_says_what_to_add_and_loads_no_torch() -> None:
    code = (
        "import sys; from latentkit.cli.main import main; sys.argv = ['latentkit', *sys.argv[1:]]\n"
        "try: main()\n"
        "finally: assert 'torch' not in sys.modules"
    )
    arguments = ["stats", SAMPLE_DATA / "pair.safetensors", "--with", "shape", "--fail-if", "effective_rank < 3"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    sentence = "--fail-if 'effective_rank < 3': effective_rank takes --with correlation"
    assert done.stderr == f"latentkit: {sentence}\n"


def test_a_broken_file_turns_no_condition_green(cli: Cli) -> None:
    path = SAMPLE_DATA / "synthetic-clamp.safetensors"
    assert cli("stats", path, "--with", "correlation", "--fail-if", "effective_rank < 0", "-q").status == 3


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("video", ()),
        ("synthetic-clamp", ()),
        ("tokens", ("--layout", "blc")),
        ("latents", ("--parameterization", "none")),
    ],
)
def test_tables_fit_80_columns(cli: Cli, monkeypatch: pytest.MonkeyPatch, name: str, options: tuple[str, ...]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    out = cli("stats", SAMPLE_DATA / f"{name}.safetensors", *WITH_ALL, "--format", "table", "--full", *options).out
    assert max(map(len, out.splitlines())) <= 80
    for words in ("Correlation of channels: effective rank", "Shape of the latents", "Copies among"):
        assert words in out
    assert ("Power by spatial frequency" in out) == (name != "tokens")
    assert ("without spatial axes" in out) == (name == "tokens")


def test_of_many_channels_the_strongest_pairs_are_shown(cli: Cli, write: Write) -> None:
    moments = moments_of(50, 128, 4)
    moments[:, 100] = -moments[:, 17]
    write("a.safetensors", moments=moments)
    out = cli("stats", "a.safetensors", "--layout", "bcl", "--with", "correlation", "--format", "table", "--full").out
    table = out[out.index("Correlation of channels") :].splitlines()
    assert table[3].split()[:2] == ["17", "100"] and float(table[3].split()[2]) < -0.7
    assert len(table[12].split()) == 3 and table[13].startswith("eigenvalues")


def test_what_is_left_out_is_said_in_a_pipe(cli: Cli) -> None:
    err = cli("stats", SAMPLE_DATA / "synthetic-clamp.safetensors", "--with", "shape").err
    assert "with a value that is not finite: left out of shape\n" in err
    err = cli("stats", SAMPLE_DATA / "tokens.safetensors", "--layout", "blc", "--with", "spectrum").err
    assert "without spatial axes (tokens, vectors): left out of the spectrum" in err


def test_names_of_files_that_hold_copies_are_made_harmless(cli: Cli, write: Write) -> None:
    moments = smooth(6, 2, 3, 3)
    moments[5] = moments[0]
    write("[red]\x1b[31m.safetensors", moments=moments)
    out = cli("stats", "[red]\x1b[31m.safetensors", "--with", "duplicates", "--format", "table").out
    assert "\x1b[31m" not in out and "[red]\\x1b[31m" in out.replace("\n", "")


def test_the_kl_of_a_normal_with_the_latents_moments(cli: Cli, tmp_path: Path) -> None:
    document = cli("stats", SAMPLE_DATA / "healthy-f16.safetensors").json
    for group in (document["overall"], *document["per_channel"]):
        latents = Normal(torch.tensor(group["drawn"]["shift_factor"], dtype=torch.float64), group["drawn"]["sd"])
        expected = float(kl_divergence(latents, Normal(torch.zeros((), dtype=torch.float64), 1.0)))
        assert group["aggregate_kl"] == pytest.approx(expected, rel=1e-9)
    cli("stats", SAMPLE_DATA / "healthy-f16.safetensors", "-o", "a.csv")
    rows = (tmp_path / "a.csv").read_text().splitlines()
    assert rows[0].split(",")[-1] == "aggregate_kl"
    assert [float(row.split(",")[-1]) for row in rows[1:]] == [g["aggregate_kl"] for g in document["per_channel"]]


if __name__ == "__main__":
    print(*digests(Path(sys.argv[1])), sep="\n")
