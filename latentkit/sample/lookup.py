"""The recipe's tables and bounds. A pair of float32 stands as one number of 64 bits, the first in its lower half."""

from decimal import Context, Decimal
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from latentkit.compiled.latents import marked_stds
from latentkit.compiled.noise import Longs, Singles
from latentkit.compiled.rows import Floats
from latentkit.compiled.scale import KINDS
from latentkit.compiled.tables import bounds_for, values_of
from latentkit.posterior.parameterization import Clamp


@cache
def normal_table() -> Longs:
    """T and D, spread so that the upper 18 bits of a float32 are the line: 0, then 127 · 512 (the float 1.0) on.

    What lies between is never touched, and so takes no memory.
    """
    shipped = load_file(Path(__file__).with_name("normal_table.safetensors"))
    lines = _pairs(shipped["T"], shipped["D"])
    table = np.zeros((127 << 9) + len(lines) - 1, np.uint64)
    table[0] = lines[0]
    table[127 << 9 :] = lines[1:]
    return table


@cache
def exp_table() -> Longs:
    """exp(k / 512) as a sum of two float32, by the low 17 bits of k, for −2^16 ≤ k < 2^16."""
    coarse = np.array([_exp(i / 2) for i in (*range(256), *range(-256, 0))])
    fine = np.array([_exp(i / 512) for i in range(256)])
    exact = (coarse[:, None] * fine).ravel()
    with np.errstate(over="ignore"):
        largest = np.finfo(np.float32).max
        high = np.minimum(exact, largest).astype(np.float32)
        # Past float32's range the low part is as large, so that their sum is infinite.
        low = np.where(exact > largest, largest, exact - high).astype(np.float32)
    return _pairs(high, low)


@lru_cache(maxsize=16)
def limits_of(parameterization: str, clamp: Clamp) -> Singles:
    """The clamp as float32, (2,): of a log-variance, beyond −210 and 180 of which σ is zero or infinite, else of σ."""
    if parameterization == "logvar":
        return np.array([min(max(bound, -210.0), 180.0) for bound in clamp], np.float32)
    return _std_limits(clamp)


@lru_cache(maxsize=16)
def beyond(parameterization: str, clamp: Clamp) -> Floats:
    """What the clamp acts on, as stored (of ``softplus`` as σ): the least that there is, and the bounds, (3,)."""
    low, high = bounds_for(clamp).reshape(3, 2)[{"logvar": 0, "std": 1, "var": 2, "softplus": 1}[parameterization]]
    return np.array([-np.inf if parameterization == "logvar" else 0.0, low, high])


@lru_cache(maxsize=8)
def stds_of(dtype: str, parameterization: str, clamp: Clamp) -> Singles:
    """σ of every value of a 16- or 8-bit dtype, with a minus sign where the clamp acts on it."""
    limits = _std_limits(clamp), beyond(parameterization, clamp)
    return marked_stds(values_of(dtype), KINDS[parameterization], *limits)


@lru_cache(maxsize=8)
def means_of(dtype: str) -> Singles:
    """Every value of a 16- or 8-bit dtype as float32."""
    return values_of(dtype).astype(np.float32)


def _pairs(first: NDArray[np.float32], second: NDArray[np.float32]) -> Longs:
    return first.view(np.uint32) | second.view(np.uint32).astype(np.uint64) << np.uint64(32)


def _std_limits(clamp: Clamp) -> Singles:
    with np.errstate(over="ignore"):
        return np.array([_exp(bound / 2) for bound in clamp]).astype(np.float32)


def _exp(x: float) -> float:
    """e^x correctly rounded (but for 1 in 10^13), which ``math.exp`` is not everywhere."""
    return float(Decimal(x).exp(Context(prec=30, traps=[])))
