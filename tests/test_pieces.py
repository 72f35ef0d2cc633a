"""Samples in many pieces, in blocks of many files: pieces are made so small that many shapes are tried.

The constant of the cuts is made small; everything else is as it is.
"""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path

import noise_reference as reference
import numpy as np
import pytest
import torch
from conftest import DTYPES
from counted import statistics_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.torch import save_file
from small_blocks import LAYOUTS, blocks_of, found_in, halves, tensors
from torch import Tensor

from latentkit.measures.kl import kl_values
from latentkit.measures.nll import nll_values
from latentkit.posterior.affine import Affine
from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.read.choice import Posterior, Selection
from latentkit.read.pairing import pair_latents
from latentkit.read.plan import find_posteriors
from latentkit.run import Progressing, Values
from latentkit.stats.extrema import Place

PIECE = 24


@pytest.fixture(autouse=True, scope="module")
def small_pieces() -> Iterator[None]:
    with blocks_of(PIECE):
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("units")


def kl_terms(mean: Tensor, raw: Tensor, clamp: tuple[float, float]) -> NDArray[np.float64]:
    m, logvar = mean.double().numpy(), np.clip(raw.double().numpy(), *clamp)
    with np.errstate(all="ignore"):
        return 0.5 * (m * m + (np.expm1(logvar) - logvar))


def close(got: Values, expected: Values, size: Values | None = None, tolerance: float = 5e-7) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert got.shape == expected.shape
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    size = np.abs(expected) if size is None else size
    with np.errstate(all="ignore"):
        assert (same | (np.abs(got - expected) <= tolerance * size)).all(), (got, expected)


def all_values(results: Progressing, posteriors: Sequence[Posterior]) -> dict[Posterior, Values]:
    out: dict[Posterior, list[Values]] = {posterior: [] for posterior in posteriors}
    for (span, values), _ in results:
        assert span.first == sum(map(len, out[span.posterior]))
        out[span.posterior].append(values)
    return {p: np.concatenate(v) for p, v in out.items()}


@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_kl(folder: Path, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    axis = layout.index("c")
    clamp = data.draw(st.sampled_from([DEFAULT_CLAMP, (-2.5, 3.25), (-100.0, 100.0)]))
    files = {
        f"{number}.safetensors": data.draw(tensors(layout, data.draw(st.sampled_from(list(DTYPES)))))
        for number in range(data.draw(st.integers(1, 4)))
    }
    posteriors = found_in(folder, layout, files)
    for per_channel in (False, True):
        ways = [
            all_values(kl_values(posteriors, clamp, per_channel=per_channel, batch_size=b, workers=w), posteriors)
            for b, w in ((None, 1), (1, 2), (2, 8))
        ]
        for p in posteriors:
            terms = kl_terms(*halves(files[p.file.name], layout), clamp)
            others = tuple(a for a in range(1, terms.ndim) if a != axis or not per_channel)
            with np.errstate(all="ignore"):
                expected = terms.sum(axis=others)
            expected = expected.reshape(len(terms), -1)
            close(ways[0][p], expected, tolerance=1e-12 if p.mean.dtype == "F64" else 5e-7)
            assert all(way[p].tobytes() == ways[0][p].tobytes() for way in ways)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_against_and_nll(folder: Path, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    axis = layout.index("c")
    dtype = data.draw(st.sampled_from(list(DTYPES)))
    moments = data.draw(tensors(layout, dtype, odd=False))
    other = moments.double().flip(0).flip(axis)
    if data.draw(st.booleans()):
        other = other[:1]
    other = other.contiguous().to(DTYPES[data.draw(st.sampled_from(list(DTYPES)))])
    (posterior,) = found_in(folder, layout, {"a.safetensors": moments})
    beside = folder.parent / "beside"
    beside.mkdir(exist_ok=True)
    (partner,) = found_in(beside, layout, {"b.safetensors": other})
    m, l1 = (h.double().numpy() for h in halves(moments, layout))
    m2, l2 = (h.double().numpy() for h in halves(other, layout))
    for symmetric in (False, True):
        terms = 0.5 * ((m - m2) ** 2 * np.exp(-l2) + np.expm1(l1 - l2) - (l1 - l2))
        if symmetric:
            terms = terms + 0.5 * ((m - m2) ** 2 * np.exp(-l1) + np.expm1(l2 - l1) - (l2 - l1))
        for per_channel in (False, True):
            options = {"partners": {posterior: partner}, "symmetric": symmetric, "per_channel": per_channel}
            ways = [
                all_values(kl_values([posterior], batch_size=b, workers=w, **options), [posterior])[posterior]
                for b, w in ((None, 1), (1, 8))
            ]
            others = tuple(a for a in range(1, terms.ndim) if a != axis or not per_channel)
            close(ways[0], terms.sum(axis=others).reshape(len(m), -1))
            assert ways[0].tobytes() == ways[1].tobytes()
    draws = data.draw(st.integers(1, 3))
    kind = DTYPES[data.draw(st.sampled_from(["F32", "F16", "F64"]))]
    latents = torch.stack([torch.from_numpy(m + (number + 1) * 0.3) for number in range(draws)]).to(kind)
    path = beside / "latents.safetensors"
    save_file({"latents": latents if draws > 1 else latents[0].contiguous()}, path)
    pairs = pair_latents([posterior], str(path), None)
    affine = data.draw(st.sampled_from([Affine(), Affine((0.1,), (0.5,))]))
    got = [
        all_values(nll_values([posterior], pairs, {posterior: affine}, batch_size=b, workers=w), [posterior])[posterior]
        for b, w in ((None, 1), (1, 8))
    ]
    z = latents.double().numpy() / affine.scale[0] + affine.shift[0]
    terms = 0.5 * (math.log(2 * math.pi) + l1 + (z - m) ** 2 * np.exp(-l1))
    sizes = 0.5 * (math.log(2 * math.pi) + np.abs(l1) + (z - m) ** 2 * np.exp(-l1))
    rest = tuple(range(2, terms.ndim))
    close(got[0], terms.sum(axis=rest).T, sizes.sum(axis=rest).T)
    assert got[0].tobytes() == got[1].tobytes()


def first_of(places: list[tuple[str, str, int, int]], mask: NDArray[np.bool_]) -> tuple[str, str, int, int] | None:
    return min((places[number] for number in np.flatnonzero(mask)), default=None)


def as_tuple(place: Place | None) -> tuple[str, str, int, int] | None:
    return None if place is None else (place.name, place.key, place.index, place.position)


@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_stats(folder: Path, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    axis = layout.index("c")
    files = {}
    first = data.draw(tensors(layout, "F32"))
    for n in range(data.draw(st.integers(1, 6))):
        dtype = data.draw(st.sampled_from(["F16", "BF16", "F32", "F64", "F8_E5M2"]))
        shape = list(first.shape)
        shape[0] = data.draw(st.integers(1, 3))
        if len(layout) > 2 and data.draw(st.booleans()):
            free = len(layout) - 1 if axis != len(layout) - 1 else 1
            shape[free] = data.draw(st.integers(1, 9))
        noise = reference.normals((data.draw(st.integers(0, 9)), 3), 0, 0, math.prod(shape))
        moments = torch.from_numpy(noise.reshape(shape)).clone()
        if data.draw(st.booleans()):
            moments = (moments * 2).round() / 2
        for value in data.draw(st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 60.0, -60.0]), max_size=3)):
            moments.view(-1)[data.draw(st.integers(0, moments.numel() - 1))] = value
        files[f"{n}.safetensors"] = moments.to(DTYPES[dtype])
    posteriors = found_in(folder, layout, files)
    spans = find_posteriors([str(folder)], Selection(layout=layout)).spans
    workers, batch_size = data.draw(st.sampled_from([1, 3, 16])), data.draw(st.sampled_from([None, 1]))
    summary = statistics_of(spans, DEFAULT_CLAMP, workers=workers, batch_size=batch_size).summary()
    channels = first.shape[axis] // 2
    assert summary.samples == sum(len(m) for m in files.values())
    for channel in range(channels):
        group = summary.per_channel[channel]
        for half, spread in ((0, group.mean), (1, group.logvar)):
            values, places = [], []
            for p in posteriors:
                numbers = halves(files[p.file.name], layout)[half].double()
                n, outer, c, inner = p.axes.view
                v = numbers.reshape(n, outer, c, inner)[:, :, channel].numpy()
                values.append(v.reshape(-1))
                places += [
                    (p.file.path, "moments", index, (o * c + channel) * inner + i)
                    for index, o, i in product(range(n), range(outer), range(inner))
                ]
            values = np.concatenate(values)
            finite = np.isfinite(values)
            assert spread.finite == finite.sum()
            assert spread.nan_count == np.isnan(values).sum()
            assert spread.minus_inf_count == (values == -np.inf).sum()
            assert spread.plus_inf_count == (values == np.inf).sum()
            assert as_tuple(spread.nonfinite_at) == first_of(places, ~finite)
            if finite.any():
                low, high = values[finite].min(), values[finite].max()
                assert (spread.min, spread.max) == (low, high)
                assert as_tuple(spread.min_at) == first_of(places, values == low)
                assert as_tuple(spread.max_at) == first_of(places, values == high)
                mean, sd = values[finite].mean(), values[finite].std()
                assert abs(spread.mean - mean) <= 1e-12 * max(sd, abs(mean), 1e-300)
                assert abs(spread.sd - sd) <= 1e-11 * max(sd, abs(mean) * 1e-3)
            if half:
                assert (group.clamp.below, group.clamp.above) == ((values < -30).sum(), (values > 20).sum())
