"""What a stored number means: a mean, or a scale parameter that stands for a log-variance."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.kernels import exact_remainder
from latentkit.posterior.parameterization import SOFTPLUS_FLOOR, Clamp, Scale, scale_of, softplus_std


@dataclass(frozen=True, slots=True)
class HalfPrecision:
    """Where a 16-bit dtype ends: e^x rounds to infinity from ``ln_over`` on, and to zero up to ``ln_under``."""

    dtype: str
    over: float
    ln_under: float

    @property
    def ln_over(self) -> float:
        return math.log(self.over)


#: The least number that rounds to infinity, and half of the least subnormal (which rounds to zero, ties to even).
HALF_PRECISIONS = (
    HalfPrecision("float16", 65520.0, -25 * math.log(2)),
    HalfPrecision("bfloat16", 2.0**128 - 2.0**119, -134 * math.log(2)),
)


class Classes(NamedTuple):
    """Masks of the numbers that have no finite value. ``negative`` ones are σ or variances, and count as NaN."""

    nan: Tensor
    negative: Tensor
    minus_inf: Tensor
    plus_inf: Tensor

    @property
    def finite(self) -> Tensor:
        return ~(self.nan | self.negative | self.minus_inf | self.plus_inf)


@dataclass(frozen=True)
class Quantity:
    """The mean (``parameterization`` None), or a scale parameter; its value is the mean or raw log-variance.

    The value never falls as the stored number grows, so thresholds on log-variance are thresholds on what is stored,
    and comparing needs no logarithm.
    """

    parameterization: str | None
    clamp: Clamp

    @cached_property
    def thresholds(self) -> NDArray[np.float64]:
        """Stored numbers, (K,), at which elements are counted: see ``summary`` for what for.

        Mean: ±√ of each 16-bit dtype's end. Scale: the clamp's bounds, then for each 16-bit dtype the log-variances
        from which σ² and σ overflow, and up to which they vanish.
        """
        if self.parameterization is None:
            return np.array([sign * math.sqrt(half.over) for half in HALF_PRECISIONS for sign in (-1, 1)])
        logvars = [*self.clamp]
        for half in HALF_PRECISIONS:
            logvars += [half.ln_over, half.ln_under, 2 * half.ln_over, 2 * half.ln_under]
        return np.array([stored_at(logvar, self.parameterization) for logvar in logvars])

    @property
    def lowest(self) -> float:
        """Stored numbers up to this one have no finite value (-inf itself aside for softplus, whose σ has a floor)."""
        return 0.0 if self.parameterization in ("std", "var") else -math.inf

    @property
    def neutral(self) -> float:
        """A stored number that does no harm where there is none: mean 0, or log-variance 0."""
        return stored_at(0.0, self.parameterization or "logvar")

    def classes(self, stored: Tensor) -> Classes:
        """Sort stored numbers, any shape, into classes."""
        none = torch.zeros_like(stored, dtype=torch.bool)
        if self.parameterization in ("std", "var"):
            return Classes(stored.isnan(), stored < 0, stored == 0, stored == math.inf)
        if self.parameterization == "softplus":
            return Classes(stored.isnan(), none, none, stored == math.inf)
        return Classes(stored.isnan(), none, stored == -math.inf, stored == math.inf)

    def value(self, stored: Tensor) -> Tensor:
        """The mean, or the log-variance before the clamp, of stored numbers in float64 of any shape."""
        match self.parameterization:
            case None | "logvar":
                return stored
            case "std":
                return 2 * torch.log(stored)
            case "var":
                return torch.log(stored)
            case "softplus":
                return 2 * torch.log(softplus_std(stored))
        raise ValueError(f"{self.parameterization!r} is no parameterization")

    def variance(self, stored: Tensor, out: Tensor) -> Tensor:
        """e^l before the clamp, straight from what is stored, in float64; into ``out``, which is returned."""
        match self.parameterization:
            case "std":
                return torch.square(stored, out=out)
            case "var":
                return out.copy_(stored)
            case "softplus":
                return torch.square(softplus_std(stored), out=out)
        return torch.exp(stored, out=out)

    def scale(self, stored: Tensor) -> Scale:
        """Log-variance, σ and σ² after the clamp, of stored scale parameters in float64."""
        return scale_of(stored, self.parameterization or "none", self.clamp)

    def terms(self, stored: Tensor) -> tuple[Tensor, Tensor]:
        """h(l) = e^l − 1 − l and e^l after the clamp, of stored scale parameters in float64."""
        scale = self.scale(stored)
        return exact_remainder(scale.logvar, scale.var), scale.var

    def terms_at(self, logvar: float) -> tuple[float, float]:
        """h(l) and e^l of one log-variance."""
        wide = torch.tensor(logvar, dtype=torch.float64)
        return float(exact_remainder(wide, wide.exp())), float(wide.exp())


def stored_at(logvar: float, parameterization: str) -> float:
    """The scale parameter that stands for a log-variance: the inverse of ``Quantity.value``.

    NaN below softplus's floor: no number compares as less than it, or equal.
    """
    if parameterization == "logvar":
        return logvar
    if parameterization == "var":
        return _exp(logvar)
    std = _exp(0.5 * logvar)
    if parameterization == "std":
        return std
    softened = std - SOFTPLUS_FLOOR
    if softened <= 0:
        return math.nan
    return softened + math.log(-math.expm1(-softened)) if math.isfinite(softened) else math.inf


def _exp(x: float) -> float:
    return math.exp(x) if x < 709.7 else math.inf
