"""The noise: the same bits as a second implementation, on any processor and in any blocks, and normal ones."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import make_normal_table
import noise_reference as reference
import noise_statistics
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from numpy.typing import NDArray
from scipy.special import ndtr

from latentkit.sample import noise

ROOT = Path(__file__).parent.parent
KEY = noise.stream_key(0, noise.stream_name("a.safetensors", "moments"))
SCRATCH = noise.Scratch()
CLAMP = (-30.0, 20.0)
CLAMPS = [CLAMP, (-300.0, 300.0), (-1.3, 0.7)]
SMALL_DTYPES = [torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]
PARAMETERIZATIONS = ["logvar", "std", "var", "softplus"]


def normals(key: tuple[int, int], draw: int, position: int, count: int) -> NDArray[np.float32]:
    return noise.fill_normal(torch.empty(count), key, draw, position, SCRATCH).numpy()


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """As a worker has it; on a busy machine torch's own threads wait for one another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Infinities and NaNs of every kind are among the inputs, and NumPy would warn of each."""
    with np.errstate(all="ignore"):
        yield


def same_bits(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


# Bits and normals


@pytest.mark.parametrize(
    ("counter", "key", "words"),
    [
        (0, 0, "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b"),
        (2**64 - 1, 2**64 - 1, "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter: int, key: int, words: str) -> None:
    known = tuple(int(word, 16) for word in words.split())
    assert reference.philox((counter,) * 4, (key, key)) == known
    before = np.array([(counter - 1) % 2**64] + [counter if counter else 2**64 - 1] * 3, np.uint64)
    assert tuple(np.random.Philox(key=np.array([key, key], np.uint64), counter=before).random_raw(4)) == known


def test_the_references_array_form_of_philox_is_its_integer_form() -> None:
    words = reference.words(KEY, 2**64 - 1, 8 * 2**50, 16).view(np.uint64)
    counters = [(2**50 + i, 2**64 - 1, 0, 0) for i in (1, 2)]
    assert words.tolist() == [word for counter in counters for word in reference.philox(counter, KEY)]


@settings(deadline=None, max_examples=150)
@given(
    seed=st.integers(0, 2**64 - 1),
    name=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    draw=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**60),
    count=st.integers(0, 3000),
)
def test_equal_bits_to_the_second_implementation(seed: int, name: str, draw: int, position: int, count: int) -> None:
    key = noise.stream_key(seed, noise.stream_name(name, "moments"))
    assert key == reference.key_of(seed, reference.nfc(name), "moments")
    assert same_bits(normals(key, draw, position, count), reference.normals(key, draw, position, count))


@pytest.mark.parametrize("position", [0, 5, 2**60 - 1])
def test_equal_bits_across_chunks(position: int) -> None:
    count = 3 * noise._WORDS + 5
    assert same_bits(normals(KEY, 3, position, count), reference.normals(KEY, 3, position, count))


@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(0, 200_000), max_size=8))
def test_noise_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    whole = normals(KEY, 0, 1000, 200_000)
    edges = sorted({0, 200_000, *cuts})
    parts = [normals(KEY, 0, 1000 + a, b - a) for a, b in pairwise(edges)]
    assert same_bits(np.concatenate(parts), whole)


def test_threads_with_a_scratch_each_do_not_disturb_one_another() -> None:
    expected = normals(KEY, 0, 0, 1 << 20)
    out = torch.empty(1 << 20)

    def work(part: int) -> None:
        scratch = noise.Scratch()
        for start in range(part << 18, (part + 1) << 18, 50_000):
            piece = out[start : min(start + 50_000, (part + 1) << 18)]
            noise.fill_normal(piece, KEY, 0, start, scratch)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_bits(out.numpy(), expected)


def test_table_step_on_the_words_where_it_could_go_wrong() -> None:
    powers = [2**i + d for i in range(32) for d in range(-70, 71)]
    ties = [(2**24 + i) * 2**e + 2 ** (e - 1) for e in range(1, 7) for i in range(0, 2**23, 2**19 + 1)]
    words = np.array([w for w in {*powers, *ties, 2**32 - 1} if 0 <= w < 2**32], np.int64).astype(np.uint32)
    words = np.concatenate([words, words ^ np.uint32(2**31)])
    out = torch.empty(len(words))
    noise.normals(
        torch.from_numpy(words.view(np.int32)), *noise.normal_tables(), out, out.view(torch.int32), SCRATCH.buffers
    )
    assert same_bits(out.numpy(), reference.normals_of(words))


def test_streams_are_joined_without_collision_and_in_one_unicode_form() -> None:
    assert noise.stream_name("a/b", "c") != noise.stream_name("a", "b/c")
    assert noise.stream_name("é.safetensors", "m") == noise.stream_name("é.safetensors", "m")
    assert noise.stream_key(1, "2\0a") != noise.stream_key(12, "\0a")
    assert noise.stream_key(0, os.fsdecode(b"\xff.safetensors")) != noise.stream_key(
        0, os.fsdecode(b"\xfe.safetensors")
    )


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=re.escape(str(seed))):
        noise.stream_key(seed, "a")


# The table


def test_the_table_is_made_again_bit_for_bit() -> None:
    assert make_normal_table.table() == reference.TABLE.read_bytes()


def test_the_table_step_inverts_the_normal_distribution() -> None:
    """Of any tail probability: 4e-7 from the lines themselves; the rest is T, D r and ε rounded to float32."""
    octaves = 2.0 ** np.random.default_rng(1).uniform(0, 31, 500_000)
    v = np.unique(np.concatenate([np.arange(100_000), octaves.astype(np.int64)])).astype(np.uint32)
    epsilon = reference.normals_of(v).astype(np.float64)
    exact = v.astype(np.float32).astype(np.float64) + 0.5
    seen = v.astype(np.float32) < 2**31
    error = np.abs(ndtr(-epsilon) * 2**32 / exact - 1)[seen]
    rounding = 2**-23 * np.exp2(np.floor(np.log2(epsilon[seen]))) * (epsilon[seen] + 1 / (epsilon[seen] + 0.8))
    assert np.max(error - 1.01 * rounding) < 4e-7
    assert np.max(error) < 2.5e-6
    assert np.all(np.abs(ndtr(-epsilon) - np.minimum(exact, 2**31) / 2**32) < 1e-7)
    assert 6.3 < epsilon.max() < 6.4


# Statistics: the same table as the guide's, on fewer normals


def test_the_noise_passes_the_tests_of_a_normal_source() -> None:
    rows = noise_statistics.measure(8 * noise_statistics.BLOCK)
    assert len(rows) == 44
    assert [row for row in rows if not abs(row[3]) < 4] == []


# σ


def values_of(dtype: torch.dtype) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """All values of a small dtype, by bit pattern."""
    bits = 8 * dtype.itemsize
    patterns = torch.arange(1 << bits).to(torch.int16 if bits == 16 else torch.uint8)
    return patterns.view(dtype).float().numpy()


@pytest.mark.parametrize("clamp", CLAMPS[::2])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_every_entry_of_a_std_table_is_correctly_rounded(
    dtype: torch.dtype, parameterization: str, clamp: tuple[float, float]
) -> None:
    x, table = values_of(dtype), noise.std_table(dtype, parameterization, clamp).numpy()
    with np.errstate(all="ignore"):
        wide = x.astype(np.float64)
        if parameterization == "logvar":
            wide = np.exp(np.clip(wide, *clamp) / 2)
        else:
            wide = {
                "std": lambda: wide,
                "var": lambda: np.sqrt(wide),
                "softplus": lambda: np.logaddexp(0, wide) + 1e-4,
            }[parameterization]()
            wide = np.clip(wide, np.exp(clamp[0] / 2), np.exp(clamp[1] / 2))
        rounded = wide.astype(np.float32)
    if parameterization in ("std", "var"):
        rounded[x < 0] = np.nan
    # Only within some float64 ulps of the middle between two float32 can the last digits of a library matter.
    near = np.abs((wide.view(np.int64) & (2**29 - 1)) - 2**28) <= 64
    sample = np.random.default_rng(0).choice(len(x), 200)
    for i in {*np.nonzero(near & ~np.isnan(rounded))[0].tolist(), *sample.tolist()}:
        exact = reference.sigma_exact(float(x[i]), parameterization, clamp)
        rounded[i] = np.nan if mp.isnan(exact) else reference.round_float32(exact)
    np.testing.assert_array_equal(table, rounded)


def test_no_16_bit_value_comes_so_near_a_rounding_boundary_that_libraries_could_differ() -> None:
    """4 float64 ulps for log-variance; NumPy's and torch's exp and log1p are within 2."""
    with mp.workdps(50):
        for parameterization, least in (("logvar", 3.9), ("softplus", 1000)):
            for dtype in (torch.float16, torch.bfloat16):
                x = values_of(dtype).astype(np.float64)
                x = x[(x >= -30) & (x <= 10)]
                wide = np.exp(x / 2) if parameterization == "logvar" else np.logaddexp(0, x) + 1e-4
                ulps = np.abs((wide.view(np.int64) & (2**29 - 1)) - 2**28)
                for value in x[ulps < 2000].tolist():
                    mantissa, _ = mp.frexp(reference.sigma_exact(value, parameterization))
                    scaled = mantissa * 2**24
                    assert abs(scaled - mp.floor(scaled) - mpf(1) / 2) * 2**29 > least, value


def edge_logvars() -> NDArray[np.float32]:
    rng = np.random.default_rng(2)
    ties = (np.arange(-15_000, 12_000) + 0.5) / 256
    anything = rng.integers(0, 2**32, 100_000, np.uint32).view(np.float32)
    usual = rng.normal(-6, 1.5, 100_001), rng.uniform(-31, 21, 100_000), rng.normal(0, 1e-3, 10_000)
    special = [0.0, -0.0, np.nan, np.inf, -np.inf, -30, 20, np.nextafter(np.float32(20), np.float32(21)), 1e-45]
    finite = np.concatenate([*usual, ties, np.nextafter(ties.astype(np.float32), np.float32(99)), special])
    return np.concatenate([anything, finite.astype(np.float32)])


@pytest.mark.parametrize("clamp", CLAMPS)
def test_std_of_float32_logvar_is_the_recipes(clamp: tuple[float, float]) -> None:
    x = edge_logvars()
    std = noise.std_float32(torch.from_numpy(x), torch.empty(len(x)), "logvar", clamp, scratch=SCRATCH).numpy()
    np.testing.assert_array_equal(std, reference.sigma32(x, clamp))


def test_std_of_float32_logvar_is_within_051_ulp() -> None:
    x = edge_logvars()
    std = noise.std_float32(torch.from_numpy(x), torch.empty(len(x)), scratch=SCRATCH).numpy()
    exact = np.exp(np.clip(x.astype(np.float64), *CLAMP) / 2)
    assert np.nanmax(np.abs(std - exact) / np.spacing(exact.astype(np.float32))) < 0.51
    for i in np.random.default_rng(3).choice(len(x), 300):  # the yardstick itself
        if not np.isnan(x[i]):
            assert float(abs(reference.sigma_exact(float(x[i]), "logvar") / mpf(float(exact[i])) - 1)) < 1e-15


@pytest.mark.parametrize("clamp", CLAMPS)
@pytest.mark.parametrize("parameterization", ["std", "var", "softplus"])
def test_std_of_float32_by_the_other_parameterizations(parameterization: str, clamp: tuple[float, float]) -> None:
    x = edge_logvars()
    x = np.concatenate([x, np.abs(x)])
    std = noise.std_float32(torch.from_numpy(x), torch.empty(len(x)), parameterization, clamp, scratch=SCRATCH).numpy()
    wide = x.astype(np.float64)
    wide = {"std": wide, "var": np.sqrt(wide), "softplus": np.logaddexp(0, wide) + 1e-4}[parameterization]
    exact = np.clip(wide, np.exp(clamp[0] / 2), np.exp(clamp[1] / 2))
    if parameterization == "softplus":
        np.testing.assert_allclose(std, exact.astype(np.float32), rtol=2**-23)
    else:
        np.testing.assert_array_equal(std, np.where(x < 0, np.nan, exact).astype(np.float32))


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_std_of_float32_and_of_16_bits_agree_on_the_same_values(parameterization: str) -> None:
    """To the last bit but for log-variance, where the arithmetic form may be 0.01 ulp off the middle."""
    x = values_of(torch.bfloat16)
    table = noise.std_table(torch.bfloat16, parameterization).numpy()
    std = noise.std_float32(torch.from_numpy(x), torch.empty(len(x)), parameterization, scratch=SCRATCH).numpy()
    assert np.array_equal(np.isnan(std), np.isnan(table))
    assert np.nanmax(np.abs(std - table) / np.spacing(table)) <= (0 if parameterization in ("std", "var") else 1)


def test_std_of_a_channel_half_and_in_place() -> None:
    moments = torch.randn(3, 8, 5, 5)
    expected = noise.std_float32(moments[:, 4:].contiguous(), torch.empty(3, 4, 5, 5), scratch=SCRATCH)
    assert torch.equal(noise.std_float32(moments[:, 4:], torch.empty(3, 4, 5, 5), scratch=SCRATCH), expected)
    inside = moments[:, 4:].contiguous()
    assert torch.equal(noise.std_float32(inside, inside, scratch=SCRATCH), expected)


def test_unknown_parameterizations_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="'none'"):
        noise.std_table(torch.float16, "none")
    with pytest.raises(ValueError, match="'none'"):
        noise.std_float32(torch.zeros(1), torch.empty(1), "none", scratch=SCRATCH)
    with pytest.raises(TypeError, match="float32"):
        noise.std_table(torch.float32)
    with pytest.raises(TypeError, match="int16"):
        noise.std_table(torch.int16)
    with pytest.raises(TypeError, match="float8"):
        noise.store(torch.zeros(1), torch.empty(1, dtype=torch.float8_e5m2))


# Latents


@settings(deadline=None, max_examples=60)
@given(
    dtype=st.sampled_from(["F16", "BF16", "F32"]),
    out_dtype=st.sampled_from(["F16", "BF16", "F32"]),
    seed=st.integers(0, 2**32),
    temperature=st.sampled_from([1.0, 0.0, 0.7, 1.5]),
    affine=st.sampled_from([(0.0, 1.0), (0.0609, 0.3611), (-0.0, 1.0), "channels"]),
)
def test_latents_have_the_references_bits(
    dtype: str, out_dtype: str, seed: int, temperature: float, affine: tuple[float, float] | str
) -> None:
    rng = np.random.default_rng(seed)
    shape = (5, 4, 3, 7)
    mean, spread = rng.normal(0, 3, shape).astype(np.float32), rng.normal(-3, 9, shape).astype(np.float32)
    mean.flat[:6] = [0.0, -0.0, np.inf, -np.inf, np.nan, 70000]
    spread.flat[6:9] = [np.nan, np.inf, -np.inf]
    stored = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}
    means, spreads = (torch.from_numpy(x).to(stored[dtype]) for x in (mean, spread))
    shift, scale = affine if affine != "channels" else (rng.normal(size=(4, 1, 1)), rng.normal(size=(4, 1, 1)))

    def raw(x: torch.Tensor) -> NDArray[np.generic]:
        return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()

    if dtype == "F32":
        std = noise.std_float32(spreads, torch.empty(shape), scratch=SCRATCH)
    else:
        std = noise.std_table(spreads.dtype)[spreads.view(torch.int16).int() & 0xFFFF]
    eps = noise.fill_normal(torch.empty(shape), KEY, 1, 99, SCRATCH)
    as32 = [torch.from_numpy(np.asarray(a, np.float32)) for a in (shift, scale)]
    z = noise.draw(means.float(), std, eps, temperature, *as32)
    ours = noise.store(z, torch.empty(shape, dtype=stored[out_dtype]))
    theirs = reference.sample(
        *(raw(means), raw(spreads), dtype),
        key=KEY,
        draw=1,
        position=99,
        temperature=temperature,
        shift=shift,
        scale=scale,
        out_dtype=out_dtype,
    )
    assert same_bits(raw(ours), theirs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_nan_is_stored_with_the_same_bits(dtype: torch.dtype) -> None:
    patterns = torch.tensor([0x7FC00000, 0x7F800001, -1, -0x400000, 0x7FFFFFFF, 0x3F800000], dtype=torch.int32)
    out = noise.store(patterns.view(torch.float32), torch.empty(6, dtype=dtype))
    size = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    expected = {torch.float16: 0x7E00, torch.bfloat16: 0x7FC0, torch.float32: 0x7FC00000, torch.float64: 0x7FF8 << 48}
    assert out.view(size)[:5].tolist() == [expected[dtype]] * 5
    assert out[5] == 1


# The primitives: what everything above rests on


def any_float32(seed: int, count: int = 100_003) -> NDArray[np.float32]:
    """All exponents alike, subnormal numbers too, and a length that leaves a tail after whole vectors."""
    x = np.random.default_rng(seed).integers(0, 2**32, count, np.uint32).view(np.float32)
    return np.where(np.isfinite(x), x, np.float32(1))


def near(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, 100_003).astype(np.float32)


@pytest.mark.parametrize("name", ["add", "sub", "mul"])
@pytest.mark.parametrize("values", [any_float32, near])
def test_float32_arithmetic_is_correctly_rounded(name: str, values: type) -> None:
    """Float64 has more than twice the digits, so rounding its result again is the correct rounding."""
    a, b = values(1), values(2)
    wide = {"add": np.add, "sub": np.subtract, "mul": np.multiply}[name]
    ours = getattr(torch, name)
    expected = wide(a.astype(float), b).astype(np.float32)
    assert same_bits(ours(torch.from_numpy(a), torch.from_numpy(b)).numpy(), expected)
    scalar = 0.1  # rounded to float32 before it is used
    expected = wide(a.astype(float), float(np.float32(scalar))).astype(np.float32)
    assert same_bits(ours(torch.from_numpy(a), scalar).numpy(), expected)


def test_float64_arithmetic_is_correctly_rounded() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.normal(size=3001), rng.normal(size=3001) * np.exp2(rng.integers(-60, 60, 3001))
    for ours, exact in ((torch.add, Fraction.__add__), (torch.mul, Fraction.__mul__)):
        result = ours(torch.from_numpy(a), torch.from_numpy(b)).numpy()
        assert all(float(exact(Fraction(x), Fraction(y))) == z for x, y, z in zip(a, b, result, strict=True))


def test_casts_are_correctly_rounded() -> None:
    ties = (2**24 + np.arange(100_003)) * 2 + 1
    whole = np.concatenate([ties, np.random.default_rng(6).integers(0, 2**31, 100_003)]).astype(np.int32)
    assert torch.from_numpy(whole).float().double().tolist() == [reference.to_float32(x) for x in whole.tolist()]

    wide = np.random.default_rng(7).normal(size=20_001) * np.exp2(np.random.default_rng(8).integers(-155, 129, 20_001))
    wide[::3] = np.abs(near(3)[: len(wide[::3])]).astype(float) * (1 + 2.0**-24)
    narrow = torch.from_numpy(wide).float().numpy()
    for x, y in zip(wide.tolist(), narrow, strict=True):
        if np.isfinite(y):
            low, high = np.nextafter(y, np.float32(-np.inf)), np.nextafter(y, np.float32(np.inf))
            distance = abs(Fraction(x) - Fraction(float(y)))
            assert all(distance <= abs(Fraction(x) - Fraction(float(z))) for z in (low, high) if np.isfinite(z))

    halves = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = (halves[:-1] + halves[1:])[np.isfinite(halves[:-1] + halves[1:])] / 2
    x = np.concatenate([any_float32(9), near(10), middles, any_float32(11).view(np.uint32) & 0xFFFF8000 | 0x8000])
    x = np.concatenate([x.astype(np.float32), (any_float32(11).view(np.uint32) & 0xFFFF0000 | 0x8000).view(np.float32)])
    x = x[np.isfinite(x)]
    assert same_bits(torch.from_numpy(x).half().numpy(), reference.encode(x, "F16"))
    assert same_bits(torch.from_numpy(x).bfloat16().view(torch.uint16).numpy(), reference.encode(x, "BF16"))


def test_numpy_sqrt_is_correctly_rounded() -> None:
    """torch.sqrt is not, on some processors: 1 ulp off in 1 to 17 % of values."""
    x = np.abs(any_float32(12))
    assert same_bits(np.sqrt(x), np.sqrt(x.astype(float)).astype(np.float32))
    for value, root in zip(x[:2000].tolist(), np.sqrt(x[:2000]), strict=True):
        low = (Fraction(float(np.nextafter(root, np.float32(0)))) + Fraction(float(root))) / 2
        high = (Fraction(float(np.nextafter(root, np.float32(np.inf)))) + Fraction(float(root))) / 2
        assert low**2 <= Fraction(value) <= high**2


def test_copysign_moves_the_sign_of_nan_patterns_too() -> None:
    words = torch.tensor([-1, 0x7FFFFFFF, -(2**31), 0] * 7, dtype=torch.int32)
    assert torch.ones(28).copysign_(words.view(torch.float32)).tolist() == [-1.0, 1.0, -1.0, 1.0] * 7


# Everything at once, on other instruction sets

EVERYTHING = """
import hashlib, json, sys
import numpy as np, torch
import noise_reference as reference
from latentkit.sample import noise

scratch, tables, latents = noise.Scratch(), hashlib.sha256(), {}
x = noise.fill_normal(torch.empty(200_003), (1, 2), 0, 0, scratch).mul_(8).sub_(5)
for parameterization in ("logvar", "std", "var", "softplus"):
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2):
        tables.update(noise.std_table(dtype, parameterization).nan_to_num(-1).numpy())
    if parameterization != "softplus":
        std = noise.std_float32(x, torch.empty_like(x), parameterization, scratch=scratch)
        tables.update(std.nan_to_num(-1).numpy())
call = dict(reference.GOLDEN_CALL)
draw, position = call.pop("draw"), call.pop("position")
for name, dtype in {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}.items():
    mean, spread = (torch.from_numpy(half.copy()).view(dtype) for half in reference.golden_moments(name))
    if name == "F32":
        std = noise.std_float32(spread, torch.empty_like(spread), scratch=scratch)
    else:
        std = noise.std_table(dtype)[spread.view(torch.int16).int() & 0xFFFF]
    eps = noise.fill_normal(torch.empty(len(std)), reference.GOLDEN_KEY, draw, position, scratch)
    affine = {name: torch.tensor(call[name], dtype=torch.float32) for name in ("shift", "scale")}
    stored = noise.store(noise.draw(mean.float(), std, eps, call["temperature"], **affine), torch.empty_like(mean))
    latents[name] = hashlib.sha256(stored.view(torch.uint8).numpy()).hexdigest()
print(json.dumps([torch.backends.cpu.get_cpu_capability(), tables.hexdigest(), latents]))
"""

# Made once; they change only with noise.RECIPE. The latents' come from `python tests/noise_reference.py`.
GOLDEN_TABLES = "e5931ab7927bcd64f535e4646687e605c17194625337f8440316c70653738ae2"
GOLDEN_LATENTS = {
    "F16": "3189bba11dd2de5c7f231c52520b33f19e8cee32e333d26d07d800b4a7b366f1",
    "BF16": "9d2633cfa8f6c42275724f2d19da31d21eebca743d1f50835db34c262c3f60fe",
    "F32": "d0b644bdd93d67cc016400ad20f1f8327632aedd60798f05d670aebf1fedbcbf",
}


def everything(capability: str) -> list[Any]:
    env = {**os.environ, "ATEN_CPU_CAPABILITY": capability, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    if capability == "default":  # NumPy as well
        from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

        env["NPY_DISABLE_CPU_FEATURES"] = " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))
    run = subprocess.run([sys.executable, "-c", EVERYTHING], env=env, capture_output=True, text=True, check=True)
    result: list[Any] = json.loads(run.stdout)
    return result


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_the_same_bits_on_every_instruction_set(capability: str) -> None:
    order = ["DEFAULT", "AVX2", "AVX512"]
    here = torch.backends.cpu.get_cpu_capability()
    if capability != "default" and (here not in order or order.index(here) < order.index(capability.upper())):
        pytest.skip(f"the processor has {here}")
    used, tables, latents = everything(capability)
    assert used == capability.upper() or here not in order
    assert tables == GOLDEN_TABLES
    assert latents == GOLDEN_LATENTS


def test_the_golden_latents_are_the_second_implementations() -> None:
    assert reference.golden() == GOLDEN_LATENTS


# The guide

PAGE = (ROOT / "latentkit" / "guide" / "noise.md").read_text(encoding="utf-8")


def test_the_guides_vectors() -> None:
    vectors = re.findall(r"```text\n(seed .*?)\n\n(.*?)\n```", PAGE, re.DOTALL)
    assert len(vectors) == 4
    for head, body in vectors:
        field = dict(line.split(maxsplit=1) for line in head.splitlines())
        key = noise.stream_key(int(field["seed"]), noise.stream_name(field["name"], field["tensor"]))
        assert "{:016x} {:016x}".format(*key) == field["key"]
        rows = body.splitlines()
        draw, position = int(field["draw"]), int(field["position"])
        words = reference.words(key, draw, position, len(rows))
        for row, word, value in zip(rows, words, normals(key, draw, position, len(rows)), strict=True):
            assert row.split() == [f"{word:08x}", f"{value.view(np.uint32):08x}", f"{value:.9g}"]


@pytest.mark.parametrize("head", ["word      ε", "l         σ"])
def test_the_guides_single_steps(head: str) -> None:
    found = re.search(rf"```text\n{head}\n(.*?)\n```", PAGE, re.DOTALL)
    assert found
    for given_, bits, decimal in (line.split() for line in found[1].splitlines()):
        out = torch.empty(1)
        if head.startswith("word"):
            word = torch.from_numpy(np.array([int(given_, 16)], np.uint32).view(np.int32))
            noise.normals(word, *noise.normal_tables(), out, out.view(torch.int32), SCRATCH.buffers)
        else:
            noise.std_float32(torch.tensor([float(given_)]), out, scratch=SCRATCH)
        assert [bits, decimal] == [f"{out.numpy().view(np.uint32)[0]:08x}", f"{out.item():.9g}"]


def test_the_guides_lines_of_numpy_give_the_words() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    names = {"np": np, "p": 80_000, "d": 2**63 + 1, "key": KEY, "n": 20}
    exec(code[1], names)
    assert same_bits(names["words"], reference.words(KEY, 2**63 + 1, 80_000, 40))


def test_the_guide_names_the_table_it_ships_with() -> None:
    assert hashlib.sha256(reference.TABLE.read_bytes()).hexdigest() in PAGE
