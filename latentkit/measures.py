"""Measures: a block of posteriors -> KL, NLL or latents of its samples.

16- and 8-bit posteriors go through tables and float32, float32 ones through float32 arithmetic; sums are float64.
Where float32 cannot keep the accuracy (near the prior, beyond its range), the rows concerned are done again in
float64, from the same bytes, so that a healthy sample pays nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.distributions import LOG_2PI, exp_remainder
from latentkit.parameterization import DEFAULT_CLAMP, Clamp, Scale, scale_of
from latentkit.sums import sample_sums
from latentkit.tabulated import can_tabulate, look_up, tables_of
from latentkit.workspace import Workspace

Values = NDArray[np.float64]

# Below these means of m² + h(l), rounding in float32 would show. Tables leave only the underflow of m²; the
# arithmetic form e^l − 1 − l is off by up to 4 units of 6e-8 an element.
_LEAST_MEAN_TERM_TABULATED = 1e-36
_LEAST_MEAN_TERM_COMPUTED = 1.2


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How posteriors are read and computed: the same for every block of a run.

    ``precision``: ``auto`` (float32, and float64 where float32 would show), ``float32`` (never float64 but for
    float64 input), ``float64`` (always).
    """

    clamp: Clamp = DEFAULT_CLAMP
    precision: str = "auto"
    device: str = "cpu"


def kl_to_prior(
    mean: Tensor, raw: Tensor, parameterization: str, arithmetic: Arithmetic, workspace: Workspace, *, per_channel: bool
) -> Values:
    """KL to the standard normal in nats, shape ``(n, 1)``, or ``(n, channels)`` per channel.

    ``mean`` and ``raw`` are ``(n, outer, channels, inner)`` in the stored dtype, any strides.
    """

    def exactly(mean: Tensor, raw: Tensor) -> Values:
        wide, scale = _float64(mean, raw, parameterization, arithmetic)
        terms = wide * wide + exp_remainder(scale.logvar, scale.var)
        return sample_sums(terms.cpu(), workspace, per_channel=per_channel)

    if _needs_float64(mean, arithmetic):
        return 0.5 * exactly(mean, raw)
    terms = workspace.take("terms", tuple(mean.shape), torch.float32)
    terms.copy_(mean)
    terms.mul_(terms)
    if can_tabulate(raw.dtype):
        tables = tables_of(raw.dtype, parameterization, arithmetic.clamp)
        terms.add_(look_up(tables.remainder, raw, "looked_up", workspace))
        least = _LEAST_MEAN_TERM_TABULATED
    else:
        terms.add_(_computed_remainder(raw, parameterization, arithmetic.clamp, workspace))
        least = _LEAST_MEAN_TERM_COMPUTED
    sums = sample_sums(terms, workspace, per_channel=per_channel)
    if arithmetic.precision == "auto":
        least *= terms[0].numel() / sums.shape[1]
        _again(~((sums >= least) & np.isfinite(sums)).all(axis=1), sums, exactly, mean, raw)
    return 0.5 * sums


def kl_to_other(
    mean: Tensor,
    raw: Tensor,
    parameterization: str,
    other: tuple[Tensor, Tensor, str],
    arithmetic: Arithmetic,
    workspace: Workspace,
    *,
    per_channel: bool,
    symmetric: bool,
) -> Values:
    """KL(posterior ‖ other) in nats, or the sum of both directions (Jeffreys); shapes as in ``kl_to_prior``.

    ``other`` is (mean, raw, parameterization), of equal shape or with one sample for all. Always in float64: the
    difference of two log-variances, rounded to float32, would cost 2e-6.
    """
    m1, scale1 = _float64(mean, raw, parameterization, arithmetic)
    m2, scale2 = _float64(*other, arithmetic)
    terms = _kl_terms(m1, scale1, m2, scale2)
    if symmetric:
        terms += _kl_terms(m2, scale2, m1, scale1)
    return 0.5 * sample_sums(terms.contiguous().cpu(), workspace, per_channel=per_channel)


def nll(
    mean: Tensor, raw: Tensor, parameterization: str, latents: Tensor, arithmetic: Arithmetic, workspace: Workspace
) -> Values:
    """−log density of ``latents`` (of the mean's shape) in nats, shape ``(n, 1)``; other shapes as in ``kl_to_prior``.

    ½ Σ (log 2π + l + (x − m)² e^(−l)).
    """

    def exactly(mean: Tensor, raw: Tensor, latents: Tensor) -> Values:
        wide, scale = _float64(mean, raw, parameterization, arithmetic)
        deviation = (latents.to(wide.device, wide.dtype) - wide) / scale.std
        return sample_sums((scale.logvar + deviation * deviation).cpu(), workspace)

    constant = LOG_2PI * mean[0].numel()
    if _needs_float64(mean, arithmetic) or latents.dtype == torch.float64 or not can_tabulate(raw.dtype):
        return 0.5 * (exactly(mean, raw, latents) + constant)
    tables = tables_of(raw.dtype, parameterization, arithmetic.clamp)
    terms = workspace.take("terms", tuple(mean.shape), torch.float32)
    terms.copy_(latents)
    terms.sub_(workspace.take("mean", tuple(mean.shape), torch.float32).copy_(mean))
    terms.mul_(look_up(tables.inverse_std, raw, "looked_up", workspace))
    terms.mul_(terms)
    terms.add_(look_up(tables.logvar, raw, "looked_up", workspace))
    sums = sample_sums(terms, workspace)
    if arithmetic.precision == "auto":
        _again(~np.isfinite(sums[:, 0]), sums, exactly, mean, raw, latents)
    return 0.5 * (sums + constant)


def first_negative(raw: Tensor) -> int | None:
    """The first sample of ``raw`` with a negative value, if one has one."""
    rows = (raw.double() < 0).flatten(1).any(dim=1).nonzero()
    return int(rows[0]) if len(rows) else None


def _needs_float64(mean: Tensor, arithmetic: Arithmetic) -> bool:
    return mean.dtype == torch.float64 or arithmetic.precision == "float64" or arithmetic.device != "cpu"


def _float64(mean: Tensor, raw: Tensor, parameterization: str, arithmetic: Arithmetic) -> tuple[Tensor, Scale]:
    device = "cpu" if arithmetic.device == "mps" else arithmetic.device  # MPS has no float64
    scale = scale_of(raw.to(device).double(), parameterization, arithmetic.clamp)
    return mean.to(device).double(), scale


def _kl_terms(m1: Tensor, scale1: Scale, m2: Tensor, scale2: Scale) -> Tensor:
    """(m1 − m2)² e^(−l2) + h(l1 − l2) in float64."""
    deviation = (m1 - m2) / scale2.std
    difference = scale1.logvar - scale2.logvar
    return deviation * deviation + exp_remainder(difference, torch.exp(difference))


def _computed_remainder(raw: Tensor, parameterization: str, clamp: Clamp, workspace: Workspace) -> Tensor:
    """e^l − 1 − l of a float32 scale, by subtraction."""
    out = workspace.take("remainder", tuple(raw.shape), torch.float32)
    if parameterization != "logvar":
        scale = scale_of(raw, parameterization, clamp)
        return torch.sub(scale.var, 1, out=out).sub_(scale.logvar)
    logvar = torch.clamp(raw, *clamp, out=workspace.take("logvar", tuple(raw.shape), torch.float32))
    return torch.exp(logvar, out=out).sub_(1).sub_(logvar)


def _again(rows: NDArray[np.bool_], sums: Values, measure: Callable[..., Values], *tensors: Tensor) -> None:
    """Replace the sums of the rows marked by what ``measure`` gives for them."""
    if rows.any():
        chosen = torch.from_numpy(np.flatnonzero(rows))
        # 8-bit floats cannot be indexed in every version of torch; their bytes can.
        picked = [_bytes(tensor).index_select(0, chosen).view(tensor.dtype) for tensor in tensors]
        sums[rows] = measure(*picked)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
