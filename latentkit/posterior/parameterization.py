"""What the second half of the channels means: raw tensor -> log-variance, standard deviation and variance."""

import math
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

Parameterization = Literal["logvar", "std", "var", "softplus"]
PARAMETERIZATIONS: tuple[str, ...] = get_args(Parameterization)
Clamp = tuple[float, float]

#: Bounds of the log-variance in CompVis's and diffusers' ``DiagonalGaussianDistribution``.
DEFAULT_CLAMP: Clamp = (-30.0, 20.0)

# Stable Audio's Oobleck adds this to softplus, so that no standard deviation is zero
# (diffusers, autoencoder_oobleck.py).
SOFTPLUS_FLOOR = 1e-4


@dataclass(frozen=True, slots=True)
class Scale:
    """The spread of a posterior, each tensor after the clamp, of the raw tensor's shape.

    ``std`` and ``var`` come straight from what is stored, not back from ``logvar``, whose rounding would cost
    1e-6 of them in float32.
    """

    logvar: Tensor
    std: Tensor
    var: Tensor


def check_clamp(clamp: Clamp) -> Clamp:
    """Return ``clamp``; raise ``ValueError`` unless it is (low, high) with low < high, both finite."""
    try:
        low, high = (float(bound) for bound in clamp)
    except (TypeError, ValueError):
        raise ValueError(f"the clamp needs two numbers (low, high), got {clamp!r}") from None
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"the clamp needs finite bounds with low < high, got ({low}, {high})")
    return low, high


def scale_of(raw: Tensor, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP) -> Scale:
    """Read a scale parameter: log-variance, standard deviation and variance after the clamp.

    Args:
        raw: the second half of the channels, any shape, float32 or float64 (the arithmetic is the caller's choice;
            ``softplus`` is computed in float64 where the device has it and rounded back).
        parameterization: ``logvar`` l; ``std`` σ, l = 2 log σ (EDM2); ``var`` v, l = log v;
            ``softplus`` s, σ = softplus(s) + 1e-4 (Stable Audio's Oobleck).
        clamp: bounds of the log-variance; they act on l in every parameterization.

    A NaN stays NaN, as does a negative σ or variance; zero has log-variance -inf, which the clamp lifts to its
    lower bound. There is no branch on the data. Gradients are zero beyond the bounds of the clamp, and flow at them.
    """
    low, high = clamp
    if parameterization == "logvar":
        logvar = _clamped(raw, low, high)
        return Scale(logvar, torch.exp(0.5 * logvar), torch.exp(logvar))
    if parameterization == "var":
        var = _clamped(_not_negative(raw), _exp(low, raw.dtype), _exp(high, raw.dtype))
        return Scale(_clamped(torch.log(var), low, high), torch.sqrt(var), var)
    if parameterization == "std":
        std = _not_negative(raw)
    elif parameterization == "softplus":
        std = softplus_std(raw if raw.device.type == "mps" else raw.double())
    else:
        raise ValueError(f"parameterization must be one of {', '.join(PARAMETERIZATIONS)}, got {parameterization!r}")
    std = _clamped(std, _exp(0.5 * low, std.dtype), _exp(0.5 * high, std.dtype))
    # The logarithm of a rounded bound may lie just outside.
    scale = _clamped(2 * torch.log(std), low, high), std, std * std
    return Scale(*(tensor.to(raw.dtype) for tensor in scale))


def log_variance_ratio(scale: Scale, parameterization: str, other: Scale, other_parameterization: str) -> Tensor:
    """log(v1/v2) of two scales of one dtype, to the last digits also where the two are nearly equal.

    Two posteriors may be far from the prior and near each other: what tells them apart is then in the last digits of
    their log-variances, which a logarithm rounds away. So the ratio comes from what is stored.
    """
    if parameterization != other_parameterization or parameterization == "logvar":
        return scale.logvar - other.logvar
    if parameterization == "var":
        return _log_ratio(scale.var, other.var)
    return 2 * _log_ratio(scale.std, other.std)


def _log_ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    excess = (numerator - denominator) / denominator
    near = excess.abs() < 0.5
    far = torch.log((numerator / denominator).masked_fill(near, 1.0))
    return torch.where(near, torch.log1p(excess.masked_fill(~near, 0.0)), far)


def _clamped(raw: Tensor, low: float, high: float) -> Tensor:
    # At a bound itself torch.clamp passes the gradient up to torch 2.13, and none from 2.14 on.
    return torch.where(raw < low, low, torch.where(raw > high, high, raw))


def _exp(bound: float, dtype: torch.dtype) -> float:
    """e^bound as a bound for tensors of ``dtype``: infinite where they cannot hold it."""
    return math.exp(bound) if bound < math.log(torch.finfo(dtype).max) else math.inf


def _not_negative(raw: Tensor) -> Tensor:
    return raw.masked_fill(raw < 0, math.nan)


def softplus_std(raw: Tensor) -> Tensor:
    """σ = softplus(s) + 1e-4, in the dtype of ``raw``, before any clamp."""
    # torch's own threshold of 20 drops a term of 1e-10, which float64 can see.
    return torch.nn.functional.softplus(raw, threshold=40) + SOFTPLUS_FLOOR
