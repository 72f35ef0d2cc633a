"""The formulas that everything is made of, against 80-digit arithmetic, in units in the last place."""

import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from conftest import SAMPLE_DATA
from hypothesis import example, given
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numpy.typing import NDArray

from latentkit.compiled import formulas
from latentkit.compiled.divergence import kl_of_floats
from latentkit.compiled.scale import LOGVAR, LOGVAR_SINGLE, REMAINDER, every_scale
from latentkit.compiled.tables import bounds_for

mp = mpmath.mp.clone()
mp.dps = 80
Number = Any  # mpmath's mpf has no types

RANDOM = np.random.default_rng(7)
LEAST, LEAST_NORMAL, LARGEST = 5e-324, sys.float_info.min, sys.float_info.max
#: Above, h(x) is so near the largest number that the formula gives infinity.
H_FINITE = 709.43


def exact_h(x: Number) -> Number:
    """e^x − 1 − x; below 1e-30, what the series leaves out is under 1e-62 of it."""
    return x**2 / 2 + x**3 / 6 if abs(x) < mp.mpf("1e-30") else mp.exp(x) - 1 - x


def exact_softplus_std(x: Number) -> Number:
    return mp.log1p(mp.exp(x)) + mp.mpf("1e-4")


def h_of_variance(v: float) -> float:
    return formulas.remainder_of_variance(v, v - 1.0)


def h_of_std(s: float) -> float:
    return formulas.remainder_of_variance(s * s, (s - 1.0) * (s + 1.0))


Formula = Callable[[float], float]
#: Each with what it should be, the units it may be off, and the range that is asked of it.
FORMULAS: dict[str, tuple[Formula, Callable[[Number], Number], float, tuple[float, float]]] = {
    "exp": (formulas.exp, mp.exp, 1, (-1e308, 709.78)),
    "log": (formulas.log, mp.log, 3, (LEAST, LARGEST)),
    "h": (formulas.remainder, exact_h, 12, (-LARGEST, H_FINITE)),
    "e^x beside h": (lambda x: formulas.remainder_and_exp(x)[1], mp.exp, 1, (-708.0, H_FINITE)),
    "h of a variance": (h_of_variance, lambda v: v - 1 - mp.log(v), 4, (LEAST, LARGEST)),
    "h of a standard deviation": (h_of_std, lambda s: s * s - 1 - 2 * mp.log(s), 7, (1e-150, 1e150)),
    "softplus": (formulas.softplus_std, exact_softplus_std, 5, (-LARGEST, LARGEST)),
}


def units(got: float, exact: Number) -> float:
    """How far ``got`` is from what is exact, in units in the last place of the latter; subnormal ones have one size."""
    place = max(int(mp.floor(mp.log(abs(exact), 2))), -1022) if exact else -1022
    return float(abs(mp.mpf(got) - exact) / mp.mpf(2) ** (place - 52))


def around(middle: float, least: float, most: float, count: int = 400) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Numbers on both sides of ``middle``, of every size from ``least`` to ``most``."""
    sizes = np.exp(RANDOM.uniform(math.log(least), math.log(most), count))
    return np.concatenate([middle - sizes, middle + sizes])


#: Where something changes: near 0 and 1, where k or the exponent steps, and the whole range.
PLACES = np.concatenate(
    [
        around(0.0, 1e-323, 1e-300), around(0.0, 1e-170, 1.0), around(0.0, 1.0, 1e300), around(1.0, 1e-16, 0.9),
        around(math.sqrt(2), 1e-15, 0.1), around(math.sqrt(0.5), 1e-15, 0.1), around(math.log(2) / 2, 1e-15, 0.05),
        around(-math.log(2) / 2, 1e-15, 0.05), RANDOM.uniform(-3, 3, 2000), RANDOM.uniform(-10, 3, 2000),
        RANDOM.uniform(-60, 60, 1000), RANDOM.uniform(-745, 710, 1000),
        [LEAST, -LEAST, LEAST_NORMAL, -LEAST_NORMAL, 0.5, 1.0, -1.0, 2.0, 2.0**-54, LARGEST, -LARGEST],
    ]
)  # fmt: skip


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_are_within_the_units_that_they_name(name: str) -> None:
    formula, exact, bound, (low, high) = FORMULAS[name]
    places = [float(x) for x in PLACES if low <= x <= high]
    worst = max((units(formula(x), exact(mp.mpf(x))), x) for x in places)
    print(f"{name}: {worst[0]:.2f} units at {worst[1]!r}")
    assert worst[0] <= bound, worst


@pytest.mark.parametrize("name", FORMULAS)
@given(data=st.data())
def test_formulas_are_within_the_units_that_they_name_for_any_number(name: str, data: st.DataObject) -> None:
    formula, exact, bound, (low, high) = FORMULAS[name]
    x = data.draw(st.floats(low, high) | st.floats(max(low, -40.0), min(high, 40.0)))
    assert units(formula(x), exact(mp.mpf(x))) <= bound


@given(st.floats(allow_nan=False, allow_infinity=False))
@example(709.7827128933841)
def test_no_remainder_is_negative_and_no_softplus_below_its_floor(x: float) -> None:
    assert formulas.remainder(x) >= 0.0
    assert h_of_variance(abs(x)) >= 0.0
    assert h_of_std(abs(x)) >= 0.0
    assert formulas.softplus_std(x) >= formulas.SOFTPLUS_FLOOR


inf, nan = math.inf, math.nan


@pytest.mark.parametrize(
    ("formula", "argument", "value"),
    [
        (formulas.exp, 0.0, 1.0), (formulas.exp, -0.0, 1.0), (formulas.exp, LEAST, 1.0), (formulas.exp, -inf, 0.0),
        (formulas.exp, -746.0, 0.0), (formulas.exp, 709.79, inf), (formulas.exp, inf, inf), (formulas.exp, nan, nan),
        (formulas.log, 1.0, 0.0), (formulas.log, 0.0, -inf), (formulas.log, -0.0, -inf), (formulas.log, inf, inf),
        (formulas.log, -LEAST, nan), (formulas.log, -1.0, nan), (formulas.log, -inf, nan), (formulas.log, nan, nan),
        (formulas.remainder, 0.0, 0.0), (formulas.remainder, -0.0, 0.0), (formulas.remainder, LEAST, 0.0),
        (formulas.remainder, 710.0, inf), (formulas.remainder, inf, inf),
        (formulas.remainder, nan, nan),
        (h_of_variance, 1.0, 0.0), (h_of_variance, 0.0, inf), (h_of_variance, -0.0, inf), (h_of_variance, inf, inf),
        (h_of_variance, -LEAST, nan), (h_of_variance, -1.0, nan), (h_of_variance, -inf, nan), (h_of_variance, nan, nan),
        (formulas.softplus_std, -inf, formulas.SOFTPLUS_FLOOR), (formulas.softplus_std, inf, inf),
        (formulas.softplus_std, nan, nan),
    ],
)  # fmt: skip
def test_zeros_infinities_negative_numbers_and_nan(formula: Formula, argument: float, value: float) -> None:
    np.testing.assert_equal(formula(argument), value)


# ---- float32 ------------------------------------------------------------------------------------------------------


def of_singles(logvars: NDArray[np.float32], clamp: tuple[float, float]) -> NDArray[np.float64]:
    """Twice the KL of means that are zero, each in a row of its own."""
    kl = np.empty(logvars.size)
    starts = np.arange(logvars.size)
    kl_of_floats(np.zeros_like(logvars), logvars, starts, (1, 1, 1), LOGVAR_SINGLE, bounds_for(clamp), kl)
    return 2 * kl


CLAMPS = pytest.mark.parametrize(
    "clamp", [(-30.0, 20.0), (-1e30, 80.0), (-1e30, 700.0)], ids=["default clamp", "all in float32", "hardly a clamp"]
)


@CLAMPS
def test_remainders_of_float32_are_within_1e_7_of_themselves(clamp: tuple[float, float]) -> None:
    patterns = RANDOM.integers(0, 1 << 32, 2000, dtype=np.uint32).view(np.float32)
    with np.errstate(over="ignore"):
        stored = np.concatenate([PLACES.astype(np.float32), patterns])
    stored = stored[np.isfinite(stored)]
    found = of_singles(stored, clamp)
    worst = 0.0
    for raw, got in zip(stored.tolist(), found.tolist(), strict=True):
        exact = exact_h(mp.mpf(min(max(raw, clamp[0]), clamp[1])))
        assert exact == 0 if got == 0.0 else abs(got - exact) <= 1e-7 * exact, raw
        worst = max(worst, float(abs(got - exact) / exact)) if exact else worst
    print(f"{worst:.2e}")


@CLAMPS
def test_remainders_of_float32_all_over_its_range(clamp: tuple[float, float]) -> None:
    # Against float64, within 12 units of mpmath: a thousandth of all float32, of which each was within 9.2e-8.
    stored = np.arange(0, 1 << 32, 997, dtype=np.uint32).view(np.float32)
    with np.errstate(invalid="ignore"):
        stored = stored[np.isfinite(stored)]
    exact = every_scale(stored.astype(np.float64), LOGVAR, bounds_for(clamp))[REMAINDER]
    found = of_singles(stored, clamp)
    np.testing.assert_allclose(found, exact, rtol=1e-7, atol=0)


def test_remainders_of_float32_that_are_no_numbers() -> None:
    stored = np.array([nan, -inf, inf, 0.0, -0.0], np.float32)
    low, high = (float(exact_h(mp.mpf(bound))) for bound in (-30.0, 20.0))
    found = of_singles(stored, (-30.0, 20.0))
    np.testing.assert_allclose(found, [nan, low, high, 0.0, 0.0], rtol=2e-7)


# ---- the same bits everywhere -------------------------------------------------------------------------------------

BITS = """
import hashlib, sys
import numpy as np
from latentkit.compiled import formulas as f
from latentkit.compiled.divergence import kl_of_floats
from latentkit.compiled.scale import LOGVAR_SINGLE
from latentkit.compiled.tables import bounds_for
places = np.frombuffer(sys.stdin.buffer.read())
results = [
    [f.exp(x), f.log(x), f.remainder(x), f.remainder_of_variance(x, x - 1.0), f.softplus_std(x)] for x in places
]
with np.errstate(all="ignore"):
    singles, kl = places.astype(np.float32), np.empty(places.size)
shape = 1, 1, 1
kl_of_floats(singles, singles, np.arange(places.size), shape, LOGVAR_SINGLE, bounds_for((-30.0, 20.0)), kl)
for part in (np.array(results), kl):
    print(hashlib.sha256(np.where(np.isnan(part), np.nan, part).tobytes()).hexdigest())
"""


def run(program: str, *arguments: str, given: bytes = b"", **environment: str) -> str:
    process = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program, *arguments],
        env=os.environ | environment, input=given, stdout=subprocess.PIPE, check=True,
    )  # fmt: skip
    return process.stdout.decode()


def test_compiled_interpreted_and_for_any_processor_the_bits_are_the_same() -> None:
    places = np.concatenate([PLACES[::7], [0.0, -0.0, inf, -inf, nan]]).tobytes()
    native = run(BITS, given=places)
    assert native.count("\n") == 2
    assert run(BITS, given=places, NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="") == native
    assert run(BITS, given=places, NUMBA_DISABLE_JIT="1") == native


def processor_features() -> list[str]:
    return [name for name, there in get_host_cpu_features().items() if there]


#: Runs command lines, then prints the loops that were compiled for them, and which of them hold a fused instruction.
FUSED = r"""
import contextlib, importlib, json, os, pkgutil, re, sys
import numba
import latentkit.compiled
from latentkit.cli.main import main

fused = re.compile(r"\bv?fn?m(add|sub)")

@numba.njit(fastmath={"contract"})
def contracted(a, b, c):
    return a * b + c

contracted(1.0, 2.0, 3.0)
for arguments in json.loads(sys.argv[1]):
    sys.argv = ["latentkit", *arguments]
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            main()
        except SystemExit as exit:
            assert not exit.code, arguments
loops, bad = set(), set()
for found in pkgutil.iter_modules(latentkit.compiled.__path__):
    module = importlib.import_module(f"latentkit.compiled.{found.name}")
    for name, function in vars(module).items():
        if hasattr(function, "inspect_asm") and function.py_func.__module__ == module.__name__:
            for code in function.inspect_asm().values():
                loops.add(name)
                if fused.search(code):
                    bad.add(name)
one = "".join(contracted.inspect_asm().values())
print(json.dumps([sorted(loops), sorted(bad), bool(fused.search(one))]))
"""

MEASURING = [
    ["kl", "healthy-f16.safetensors"],
    ["kl", "healthy-f32.safetensors"],
    ["kl", "healthy-f32.safetensors", "--against", "healthy-bf16.safetensors"],
    ["kl", "healthy-f32.safetensors", "--parameterization", "softplus"],
    ["nll", "healthy-f32.safetensors", "--latents", "latents.safetensors"],
]
COUNTING = [["stats", "healthy-f16.safetensors"], ["stats", "healthy-f32.safetensors", "--with", "shape"]]
DRAWING = [["sample", f"healthy-{dtype}.safetensors", "-o", f"{dtype}.safetensors"] for dtype in ("f16", "f32")]


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="reads the assembly of x86")
@pytest.mark.parametrize(
    ("commands", "least"),
    [(MEASURING, {"kl_of_codes", "kl_of_floats", "kl_to_other", "nll_of"}), (COUNTING, set()), (DRAWING, set())],
    ids=["measuring", "counting", "drawing"],
)
def test_compiled_code_holds_no_fused_multiply_add(
    commands: Sequence[Sequence[str]], least: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two operations with one rounding would give other bits where the processor has it."""
    inputs = [
        [str(SAMPLE_DATA / word) if (SAMPLE_DATA / word).exists() else word for word in line] for line in commands
    ]
    # Code out of the cache could not be looked at.
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    found = run(FUSED, json.dumps(inputs), NUMBA_CACHE_DIR=str(tmp_path / "file"))
    loops, fused, seen = json.loads(found)
    assert seen or "fma" not in processor_features(), "the pattern finds none where there must be one"
    assert least <= set(loops)
    assert loops
    assert fused == []
