"""The noise: the same bits as a second implementation, on any processor and in any blocks, and normal ones."""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from math import factorial
from pathlib import Path
from typing import Any

import adapter_sample as ours
import make_normal_table
import noise_reference as reference
import noise_statistics
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpmath import mp, mpf
from numpy.typing import NDArray
from scipy.special import ndtr

from latentkit.compiled.latents import FORMATS
from latentkit.compiled.tables import values_of
from latentkit.sample.streams import stream_key, stream_name

ROOT = Path(__file__).parent.parent
KEY = stream_key(0, stream_name("a.safetensors", "moments"))
CLAMP = (-30.0, 20.0)
CLAMPS = [CLAMP, (-300.0, 300.0), (-1.3, 0.7)]
SMALL_DTYPES = ["F16", "BF16", "F8_E4M3", "F8_E5M2"]
PARAMETERIZATIONS = ["logvar", "std", "var", "softplus"]


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
    key = stream_key(seed, stream_name(name, "moments"))
    assert key == reference.key_of(seed, reference.nfc(name), "moments")
    assert same_bits(ours.normals(key, draw, position, count), reference.normals(key, draw, position, count))


@pytest.mark.parametrize("position", [0, 5, 2**60 - 1])
def test_equal_bits_across_chunks(position: int) -> None:
    count = 3 * (1 << 20) + 5
    assert same_bits(ours.normals(KEY, 3, position, count), reference.normals(KEY, 3, position, count))


@settings(deadline=None, max_examples=15)
@given(cuts=st.lists(st.integers(0, 200_000), max_size=8))
def test_noise_does_not_depend_on_how_it_is_cut(cuts: list[int]) -> None:
    whole = ours.normals(KEY, 0, 1000, 200_000)
    edges = sorted({0, 200_000, *cuts})
    parts = [ours.normals(KEY, 0, 1000 + a, b - a) for a, b in pairwise(edges)]
    assert same_bits(np.concatenate(parts), whole)


def test_threads_do_not_disturb_one_another() -> None:
    expected = ours.normals(KEY, 0, 0, 1 << 20)
    out = np.empty(1 << 20, np.float32)

    def work(part: int) -> None:
        for start in range(part << 18, (part + 1) << 18, 50_000):
            stop = min(start + 50_000, (part + 1) << 18)
            out[start:stop] = ours.normals(KEY, 0, start, stop - start)

    threads = [threading.Thread(target=work, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert same_bits(out, expected)


def test_table_step_on_the_words_where_it_could_go_wrong() -> None:
    powers = [2**i + d for i in range(32) for d in range(-70, 71)]
    ties = [(2**24 + i) * 2**e + 2 ** (e - 1) for e in range(1, 7) for i in range(0, 2**23, 2**19 + 1)]
    words = np.array([w for w in {*powers, *ties, 2**32 - 1} if 0 <= w < 2**32], np.int64).astype(np.uint32)
    words = np.concatenate([words, words ^ np.uint32(2**31)])
    assert same_bits(ours.table_step(words), reference.normals_of(words))


def test_streams_are_joined_without_collision_and_in_one_unicode_form() -> None:
    assert stream_name("a/b", "c") != stream_name("a", "b/c")
    assert stream_name("é.safetensors", "m") == stream_name("é.safetensors", "m")
    assert stream_key(1, "2\0a") != stream_key(12, "\0a")
    assert stream_key(0, os.fsdecode(b"\xff.safetensors")) != stream_key(0, os.fsdecode(b"\xfe.safetensors"))


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_a_seed_out_of_range_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match=re.escape(str(seed))):
        stream_key(seed, "a")


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


@pytest.mark.parametrize("clamp", CLAMPS[::2])
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", SMALL_DTYPES)
def test_every_entry_of_a_std_table_is_correctly_rounded(
    dtype: str, parameterization: str, clamp: tuple[float, float]
) -> None:
    x = values_of(dtype).astype(np.float32)
    table = ours.stds(ours.every_pattern(dtype), dtype, parameterization, clamp)
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
    """4 float64 ulps for log-variance; our exp and softplus are within 3."""
    with mp.workdps(50):
        for parameterization, least in (("logvar", 3.9), ("softplus", 1000)):
            for dtype in ("F16", "BF16"):
                x = values_of(dtype)
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
    np.testing.assert_array_equal(ours.stds(x, clamp=clamp), reference.sigma32(x, clamp))


def test_std_of_float32_logvar_is_within_051_ulp() -> None:
    x = edge_logvars()
    std = ours.stds(x)
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
    std = ours.stds(x, "F32", parameterization, clamp)
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
    x = values_of("BF16").astype(np.float32)
    table = ours.stds(ours.every_pattern("BF16"), "BF16", parameterization)
    std = ours.stds(x, "F32", parameterization)
    assert np.array_equal(np.isnan(std), np.isnan(table))
    assert np.nanmax(np.abs(std - table) / np.spacing(table)) <= (0 if parameterization in ("std", "var") else 1)


def test_float32_softplus_is_the_nearest_float32_or_next_to_it() -> None:
    """σ in float64 is within 3 of its units, so only 1 in 10^8 may be rounded the other way."""
    x = np.concatenate([edge_logvars()[100_000:], np.float32([-103.0, -88.7, -17.3, -9.21, 0.0, 16.6, 88.8, 1e30])])
    std = ours.stds(x, "F32", "softplus", (-300.0, 300.0))
    for i in np.random.default_rng(4).choice(len(x), 3000).tolist() + list(range(len(x) - 20, len(x))):
        if np.isnan(x[i]):
            assert np.isnan(std[i])
            continue
        exact = reference.sigma_exact(float(x[i]), "softplus", (-300.0, 300.0))
        assert abs(mpf(float(std[i])) - exact) <= (0.5 + 1e-8) * mpf(float(np.spacing(std[i]))) or np.isinf(std[i])


def softplus_by_the_guide(stored: NDArray[np.float32], clamp: tuple[float, float]) -> NDArray[np.float32]:
    """The guide's steps once more, in NumPy."""
    s = stored.astype(np.float64)
    n = np.maximum(-np.abs(s), -1100.0)
    k = np.rint(n * 1.4426950408889634)
    r = (n - k * 0.693147180369123816490) - k * 1.90821492927058770002e-10
    t = np.full_like(r, 1 / factorial(14))
    for i in range(13, 1, -1):
        t = t * r + 1 / factorial(i)
    y = (1 + (r + r * r * t)) * np.exp2(np.floor(k / 2)) * np.exp2(k - np.floor(k / 2))
    a = y / (2 + y)
    b = a * a
    u = np.full_like(b, 1 / 37)
    for i in range(35, 1, -2):
        u = u * b + 1 / i
    std = ((np.maximum(s, 0) + (2 * a) * (1 + b * u)) + 0.0001).astype(np.float32)
    low, high = (reference.round_float32(reference.sigma_exact(bound, "logvar")) for bound in clamp)
    return np.minimum(np.maximum(std, low), high)


def test_float32_softplus_is_what_the_guide_says() -> None:
    x = edge_logvars()
    np.testing.assert_array_equal(ours.stds(x, "F32", "softplus"), softplus_by_the_guide(x, CLAMP))


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
    means, spreads = (reference.encode(x, dtype) for x in (mean, spread))
    shift, scale = affine if affine != "channels" else (rng.normal(size=(4, 1, 1)), rng.normal(size=(4, 1, 1)))
    common: dict[str, Any] = {"key": KEY, "draw": 1, "position": 99, "temperature": temperature}
    drawn = ours.sample(means, spreads, dtype, **common, shift=shift, scaling=scale, inner=21, out_dtype=out_dtype)
    theirs = reference.sample(means, spreads, dtype, **common, shift=shift, scale=scale, out_dtype=out_dtype)
    assert drawn.tobytes() == theirs.tobytes()


@pytest.mark.parametrize("dtype", FORMATS)
def test_every_nan_is_stored_with_the_same_bits(dtype: str) -> None:
    patterns = np.array([0x7FC00000, 0x7F800001, 0xFFFFFFFF, 0xFFC00000, 0x7FFFFFFF, 0x3F800000], np.uint32)
    bits = ours.stored(patterns.view(np.float32), dtype)
    expected = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7FC00000}
    assert bits[:5].tolist() == [expected[dtype]] * 5
    assert reference.decode(bits.view({"F16": np.float16, "BF16": np.uint16, "F32": np.float32}[dtype]), dtype)[5] == 1


def test_storing_is_correctly_rounded() -> None:
    """All exponents alike, middles between two neighbours, and what lies just beside them."""
    x = np.random.default_rng(9).integers(0, 2**32, 1_000_003, np.uint32)
    upper = np.arange(1 << 16, dtype=np.uint32)[:, None] << np.uint32(16)
    lower = np.array([0, 1, 0xFFF, 0x1000, 0x1001, 0x1FFF, 0x2FFF, 0x3000, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    x = np.concatenate([x, (upper | lower).ravel()]).view(np.float32)
    for dtype in FORMATS:
        assert ours.stored(x, dtype).tobytes() == reference.encode(x, dtype).tobytes()


# Everything at once, on other processors


def everything(count: int) -> dict[str, str]:
    """Checksums of σ of every dtype and parameterization, and of latents drawn of the golden moments."""
    x = (reference.normals((1, 2), 0, 0, count) * np.float32(8) - np.float32(5)).astype(np.float32)
    digests = {}
    for parameterization in PARAMETERIZATIONS:
        for dtype in SMALL_DTYPES:
            found = ours.stds(ours.every_pattern(dtype)[:: -(-200_003 // count)], dtype, parameterization)
            digests[f"{dtype} {parameterization}"] = np.nan_to_num(found, nan=-1)
        for dtype in ("F32", "F64"):
            found = ours.stds(x.astype({"F32": np.float32, "F64": np.float64}[dtype]), dtype, parameterization)
            digests[f"{dtype} {parameterization}"] = np.nan_to_num(found, nan=-1)
    call = dict(reference.GOLDEN_CALL)
    call["scaling"] = call.pop("scale")
    for dtype in FORMATS:
        mean, spread = (half[:count] for half in reference.golden_moments(dtype))
        for parameterization in PARAMETERIZATIONS:
            digests[f"latents {dtype} {parameterization}"] = ours.sample(
                mean, spread, dtype, key=reference.GOLDEN_KEY, parameterization=parameterization, **call
            )
    return {name: hashlib.sha256(np.ascontiguousarray(found).tobytes()).hexdigest() for name, found in digests.items()}


# Made once; they change only with recipe.RECIPE. The latents' come from `python tests/noise_reference.py`.
GOLDEN_TABLES = "e5931ab7927bcd64f535e4646687e605c17194625337f8440316c70653738ae2"
GOLDEN_LATENTS = {
    "F16": "3189bba11dd2de5c7f231c52520b33f19e8cee32e333d26d07d800b4a7b366f1",
    "BF16": "9d2633cfa8f6c42275724f2d19da31d21eebca743d1f50835db34c262c3f60fe",
    "F32": "d0b644bdd93d67cc016400ad20f1f8327632aedd60798f05d670aebf1fedbcbf",
}


def test_the_tables_and_latents_are_golden() -> None:
    with np.errstate(all="ignore"):
        x = (reference.normals((1, 2), 0, 0, 200_003) * np.float32(8) - np.float32(5)).astype(np.float32)
    tables = hashlib.sha256()
    for parameterization in PARAMETERIZATIONS:
        for dtype in SMALL_DTYPES:
            found = ours.stds(ours.every_pattern(dtype), dtype, parameterization)
            tables.update(np.nan_to_num(found, nan=-1))
        if parameterization != "softplus":
            tables.update(np.nan_to_num(ours.stds(x, "F32", parameterization), nan=-1))
    assert tables.hexdigest() == GOLDEN_TABLES
    drawn = everything(200_003)
    assert {dtype: drawn[f"latents {dtype} logvar"] for dtype in FORMATS} == GOLDEN_LATENTS


@pytest.mark.parametrize(
    ("environment", "count"),
    [({"NUMBA_CPU_NAME": "generic"}, 200_003), ({"NUMBA_DISABLE_JIT": "1"}, 1500)],
    ids=["a generic processor", "interpreted"],
)
def test_the_bits_are_the_same_on_any_processor(environment: dict[str, str], count: int) -> None:
    env = {**os.environ, **environment, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
    command = [sys.executable, "-W", "ignore", __file__, str(count)]
    run = subprocess.run(command, env=env, capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == everything(count)


def test_the_golden_latents_are_the_second_implementations() -> None:
    assert reference.golden() == GOLDEN_LATENTS


# The guide

PAGE = (ROOT / "latentkit" / "guide" / "noise.md").read_text(encoding="utf-8")


def test_the_guides_vectors() -> None:
    vectors = re.findall(r"```text\n(seed .*?)\n\n(.*?)\n```", PAGE, re.DOTALL)
    assert len(vectors) == 4
    for head, body in vectors:
        field = dict(line.split(maxsplit=1) for line in head.splitlines())
        key = stream_key(int(field["seed"]), stream_name(field["name"], field["tensor"]))
        assert "{:016x} {:016x}".format(*key) == field["key"]
        rows = body.splitlines()
        draw, position = int(field["draw"]), int(field["position"])
        words = reference.words(key, draw, position, len(rows))
        for row, word, value in zip(rows, words, ours.normals(key, draw, position, len(rows)), strict=True):
            assert row.split() == [f"{word:08x}", f"{value.view(np.uint32):08x}", f"{value:.9g}"]


@pytest.mark.parametrize("head", ["word      ε", "l         σ", "s         σ"])
def test_the_guides_single_steps(head: str) -> None:
    found = re.search(rf"```text\n{head}\n(.*?)\n```", PAGE, re.DOTALL)
    assert found
    for given_, bits, decimal in (line.split() for line in found[1].splitlines()):
        if head.startswith("word"):
            out = ours.table_step(np.array([int(given_, 16)], np.uint32))
        else:
            out = ours.stds(np.array([float(given_)], np.float32), "F32", "logvar" if head[0] == "l" else "softplus")
        assert [bits, decimal] == [f"{out.view(np.uint32)[0]:08x}", f"{out[0]:.9g}"]


def test_the_guides_lines_of_numpy_give_the_words() -> None:
    code = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert code
    names = {"np": np, "p": 80_000, "d": 2**63 + 1, "key": KEY, "n": 20}
    exec(code[1], names)
    assert same_bits(names["words"], reference.words(KEY, 2**63 + 1, 80_000, 40))


def test_the_guide_names_the_table_it_ships_with() -> None:
    assert hashlib.sha256(reference.TABLE.read_bytes()).hexdigest() in PAGE


if __name__ == "__main__":
    print(json.dumps(everything(int(sys.argv[1]))))
