"""The formulas over every value of a 16- or 8-bit dtype, in order of the bit patterns: tables to look up in."""

from functools import lru_cache

import numpy as np

from latentkit.compiled.rows import Floats
from latentkit.compiled.scale import (
    CLAMPED_LOGVAR,
    INVERSE,
    KINDS,
    LOGVAR,
    LOGVAR_SINGLE,
    REMAINDER,
    every_scale,
    terms_of,
)

#: safetensors' names of dtypes that are stored as floats; all others as unsigned bit patterns.
WIDE = ("F64", "F32")


def kind_of(dtype: str, parameterization: str) -> int:
    """What numbers of a dtype stand for; those of 16 and 8 bits are looked up as float64."""
    kind = KINDS[parameterization]
    return LOGVAR_SINGLE if kind == LOGVAR and dtype == "F32" else kind


@lru_cache(maxsize=16)
def bounds_for(clamp: tuple[float, float]) -> Floats:
    """The bounds of l, σ and σ² for a clamp: (6,)."""
    logvars = np.array([*clamp])
    return np.concatenate([logvars, terms_of(0.5 * logvars)[1], terms_of(logvars)[1]])


@lru_cache(maxsize=8)
def values_of(dtype: str) -> Floats:
    """Every value of a 16- or 8-bit dtype, with one NaN."""
    patterns = np.arange(1 << (16 if dtype in ("F16", "BF16") else 8), dtype=np.uint32)
    with np.errstate(invalid="ignore"):  # of signalling NaN
        if dtype == "F8_E4M3":
            values = _e4m3()
        elif dtype == "BF16":
            values = (patterns << np.uint32(16)).view(np.float32).astype(np.float64)
        else:
            # An E5M2 is the upper half of a float16.
            halves = patterns << np.uint32(8) if dtype == "F8_E5M2" else patterns
            values = halves.astype(np.uint16).view(np.float16).astype(np.float64)
    return np.where(np.isnan(values), np.nan, values)


def _e4m3() -> Floats:
    """Of 1 + 4 + 3 bits, bias 7, without infinities: its largest pattern is NaN (Micikevicius et al. 2022)."""
    size = np.arange(128)
    exponent, mantissa = size >> 3, size & 7
    values = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    values[127] = np.nan
    return np.concatenate([values, -values])


@lru_cache(maxsize=8)
def half_squares(dtype: str) -> Floats:
    """½ m² of every value."""
    values = values_of(dtype)
    return 0.5 * values * values


@lru_cache(maxsize=8)
def scales_of(dtype: str, parameterization: str, clamp: tuple[float, float]) -> Floats:
    """(6, n): all that is known of every value as a scale parameter, see ``scale.every_scale``."""
    return every_scale(values_of(dtype), KINDS[parameterization], bounds_for(clamp))


@lru_cache(maxsize=8)
def half_remainders(dtype: str, parameterization: str, clamp: tuple[float, float]) -> Floats:
    """½ h(l) of every value as a scale parameter."""
    remainders: Floats = 0.5 * scales_of(dtype, parameterization, clamp)[REMAINDER]
    return remainders


def spreads_of(dtype: str, parameterization: str, clamp: tuple[float, float]) -> Floats:
    """(3, n): base, 1/σ and log-variance of every value as a scale parameter."""
    return scales_of(dtype, parameterization, clamp)[: CLAMPED_LOGVAR + 1]


@lru_cache(maxsize=8)
def likelihoods_of(dtype: str, parameterization: str, clamp: tuple[float, float]) -> Floats:
    """(2, n): log-variance and 1/σ of every value as a scale parameter."""
    chosen: Floats = scales_of(dtype, parameterization, clamp)[[CLAMPED_LOGVAR, INVERSE]]
    return chosen
