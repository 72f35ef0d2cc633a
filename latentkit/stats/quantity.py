"""What a stored number means: a mean, or a scale parameter that stands for a log-variance."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.counting import MEAN
from latentkit.compiled.formulas import SOFTPLUS_FLOOR
from latentkit.compiled.scale import KINDS, LOGVAR_BEFORE, REMAINDER, VARIANCE, every_scale, terms_of
from latentkit.compiled.tables import bounds_for
from latentkit.posterior.parameterization import Clamp
from latentkit.stats.sums import Floats

Masks = NDArray[np.bool_]


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

    nan: Masks
    negative: Masks
    minus_inf: Masks
    plus_inf: Masks

    @property
    def finite(self) -> Masks:
        finite: Masks = ~(self.nan | self.negative | self.minus_inf | self.plus_inf)
        return finite


@dataclass(frozen=True)
class Quantity:
    """The mean (``parameterization`` None), or a scale parameter; its value is the mean or raw log-variance.

    The value never falls as the stored number grows, so thresholds on log-variance are thresholds on what is stored,
    and comparing needs no logarithm.
    """

    parameterization: str | None
    clamp: Clamp

    @property
    def kind(self) -> int:
        """As loops have it."""
        return MEAN if self.parameterization is None else KINDS[self.parameterization]

    @cached_property
    def thresholds(self) -> Floats:
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

    def classes(self, stored: Floats) -> Classes:
        """Sort stored numbers, any shape, into classes."""
        none = np.zeros(stored.shape, np.bool_)
        if self.parameterization in ("std", "var"):
            return Classes(np.isnan(stored), stored < 0, stored == 0, stored == math.inf)
        if self.parameterization == "softplus":
            return Classes(np.isnan(stored), none, none, stored == math.inf)
        return Classes(np.isnan(stored), none, stored == -math.inf, stored == math.inf)

    def value(self, stored: Floats) -> Floats:
        """The mean, or the log-variance before the clamp, of stored numbers (n,)."""
        return stored if self.parameterization in (None, "logvar") else self._scales(stored)[LOGVAR_BEFORE]

    def terms(self, stored: Floats) -> tuple[Floats, Floats]:
        """h(l) = e^l − 1 − l and e^l after the clamp, of stored scale parameters (n,)."""
        scales = self._scales(stored)
        return scales[REMAINDER], scales[VARIANCE]

    def terms_at_bounds(self) -> tuple[Floats, Floats]:
        """h(l) and e^l at both bounds of the clamp, (2,) each: what infinite log-variances are taken for."""
        remainders, variances = terms_of(np.array(self.clamp))
        return remainders, variances

    def _scales(self, stored: Floats) -> Floats:
        return every_scale(stored, self.kind, bounds_for(self.clamp))


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
