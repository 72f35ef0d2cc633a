"""What the second half of the channels may mean, and the bounds of the log-variance."""

import math
from typing import Literal, get_args

Parameterization = Literal["logvar", "std", "var", "softplus"]
PARAMETERIZATIONS: tuple[str, ...] = get_args(Parameterization)
Clamp = tuple[float, float]

#: Bounds of the log-variance in CompVis's and diffusers' ``DiagonalGaussianDistribution``.
DEFAULT_CLAMP: Clamp = (-30.0, 20.0)


def check_clamp(clamp: Clamp) -> Clamp:
    """Return ``clamp``; raise ``ValueError`` unless it is (low, high) with low < high, both finite."""
    try:
        low, high = (float(bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"the clamp needs two numbers (low, high), got {clamp!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the clamp needs finite bounds with low < high, got ({low}, {high})")
    return low, high
