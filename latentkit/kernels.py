"""The sums of KL and NLL over blocks in 16, 8 and 32 bits, part by part in a core's cache; their terms in float64.

Each sum takes means and scales ``(n, a, b, c)`` of any strides, and three buffers of the shape of ``step`` samples. It
gives ``wide``: float64 rows, ``columns`` for each sample, whose sums are the sums of the terms (see ``sums.fold``).
"""

import torch
from torch import Tensor

from latentkit.posterior.distribution import REMAINDER_SERIES
from latentkit.posterior.parameterization import Clamp
from latentkit.sums import fold
from latentkit.tabulated import look_up

_SERIES = REMAINDER_SERIES[torch.float64]


def kl_tabulated(
    mean: Tensor, codes: Tensor, remainder: Tensor, wide: Tensor, columns: int, buffers: list[Tensor], step: int
) -> None:
    """m² + h(l): ``codes`` are the scale's bit patterns, ``remainder`` is the table of h.

    ``buffers``: two of float32, one of int32.
    """
    whole, found, index = buffers
    for start in range(0, mean.size(0), step):
        stop = min(start + step, mean.size(0))
        terms = whole[: stop - start]
        terms.copy_(mean[start:stop])
        terms.mul_(terms)
        terms.add_(look_up(remainder, codes[start:stop], index[: stop - start], found[: stop - start]))
        fold(terms.view((stop - start) * columns, -1), wide[start * columns : stop * columns])


def kl_logvar(
    mean: Tensor, raw: Tensor, low: float, high: float, wide: Tensor, columns: int, buffers: list[Tensor], step: int
) -> None:
    """m² + h(l) of float32 log-variances before the clamp, with h(l) = e^l − 1 − l by subtraction.

    ``buffers``: three of float32.
    """
    whole, remainders, clamped = buffers
    for start in range(0, mean.size(0), step):
        stop = min(start + step, mean.size(0))
        terms, remainder, logvar = whole[: stop - start], remainders[: stop - start], clamped[: stop - start]
        torch.clamp(raw[start:stop], low, high, out=logvar)
        torch.exp(logvar, out=remainder)
        remainder.sub_(1.0).sub_(logvar)
        torch.mul(mean[start:stop], mean[start:stop], out=terms)
        terms.add_(remainder)
        fold(terms.view((stop - start) * columns, -1), wide[start * columns : stop * columns])


def nll_tabulated(
    mean: Tensor,
    codes: Tensor,
    latents: Tensor,
    inverse_var: Tensor,
    logvar: Tensor,
    wide: Tensor,
    buffers: list[Tensor],
    step: int,
) -> None:
    """(x − m)² e^(−l) + l: ``inverse_var`` and ``logvar`` are tables by the bit patterns ``codes``.

    ``buffers``: two of float32, one of int32.
    """
    whole, others, indices = buffers
    for start in range(0, mean.size(0), step):
        stop = min(start + step, mean.size(0))
        terms, other, index = whole[: stop - start], others[: stop - start], indices[: stop - start]
        terms.copy_(latents[start:stop])
        terms.sub_(other.copy_(mean[start:stop]))
        terms.mul_(terms)
        terms.mul_(look_up(inverse_var, codes[start:stop], index, other))
        terms.add_(look_up(logvar, codes[start:stop], index, other))
        fold(terms.view(stop - start, -1), wide[start:stop])


def _remainder(x: Tensor, exp_x: Tensor, coefficients: list[float]) -> Tensor:
    far = ((x > -1.0) & (x < 2.0)).logical_not_()
    small = x.masked_fill(far, 0.0)
    series = torch.full_like(small, coefficients[0])
    for coefficient in coefficients[1:]:
        series.mul_(small).add_(coefficient)
    series.mul_(small.mul_(small))
    return torch.where(far, exp_x - 1.0 - x, series)


def _kl_logvar(mean: Tensor, raw: Tensor, low: float, high: float, coefficients: list[float]) -> Tensor:
    logvar = raw.to(torch.float64).clamp(low, high)
    terms = _remainder(logvar, logvar.exp(), coefficients)
    wide = mean.to(torch.float64)
    # Halved first: the square may exceed float64 where its half does not.
    return terms.mul_(0.5).add_(wide * 0.5 * wide)


def exact_remainder(x: Tensor, exp_x: Tensor) -> Tensor:
    """``distributions.exp_remainder`` of float64: the same bits, in less time and memory, and without gradients."""
    return _remainder(x, exp_x, _SERIES)


def exact_kl(mean: Tensor, raw: Tensor, clamp: Clamp) -> Tensor:
    """½ (m² + h(l)) in float64, of float32 or float64 log-variances before the clamp."""
    return _kl_logvar(mean, raw, *clamp, _SERIES)
