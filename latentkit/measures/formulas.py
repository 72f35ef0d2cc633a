"""Measures: a block of posteriors -> KL or NLL of its samples.

16- and 8-bit posteriors go through tables and float32, float32 ones through float32 arithmetic; sums are float64, and
by units of a fixed size. Where float32 cannot keep the accuracy (near the prior, beyond its range), the rows concerned
are done again in float64, from the same bytes, so that a healthy sample pays nothing.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.kernels import exact_kl, exact_remainder, kl_logvar, kl_tabulated, nll_tabulated
from latentkit.parts import samples_at_once
from latentkit.posterior.distribution import LOG_2PI
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp, Scale, log_variance_ratio, scale_of
from latentkit.sums import UNIT_ELEMENTS, Values, by_units, fold, folded_width, in_units, row_sums, sample_sums
from latentkit.tabulated import can_tabulate, codes_of, look_up_scale, tables_of
from latentkit.workspace import Workspace

# Below these means of m² + h(l), float32 could be off by more than 5e-7 of the sum. With tables each of four steps
# costs at most half a unit, 6e-8 of a term, and only the underflow of m² is left. The arithmetic form adds the errors
# of e^l, or of l, of up to a unit; the worst mixture of elements is then off by 4.9e-7 where their mean is 1.2.
_LEAST_MEAN_TERM_TABULATED = 1e-30
_LEAST_MEAN_TERM_COMPUTED = 1.2

# Elements that are done in float64 at once.
_EXACT_ELEMENTS = 1 << 15


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How posteriors are read and computed: the same for every block of a run.

    ``precision``: ``auto`` (float32, and float64 where float32 would show), ``float32`` (no sample is done again in
    float64), ``float64`` (always).
    """

    clamp: Clamp = DEFAULT_CLAMP
    precision: str = "auto"
    device: str = "cpu"

    @property
    def place(self) -> str:
        """Where it is done: on the host for MPS, which has no float64."""
        return "cpu" if self.device == "mps" else self.device


def kl_to_prior(
    mean: Tensor, raw: Tensor, parameterization: str, arithmetic: Arithmetic, workspace: Workspace, *, per_channel: bool
) -> Values:
    """KL to the standard normal in nats, shape ``(n, 1)``, or ``(n, channels)`` per channel.

    ``mean`` and ``raw`` are ``(n, outer, channels, inner)`` in the stored dtype, any strides.
    """

    def measure(mean: Tensor, raw: Tensor) -> Values:
        return _kl_to_prior(mean, raw, parameterization, arithmetic, workspace, per_channel=per_channel)

    return by_units(measure, mean, raw, per_channel=per_channel)


def _kl_to_prior(
    mean: Tensor, raw: Tensor, parameterization: str, arithmetic: Arithmetic, workspace: Workspace, *, per_channel: bool
) -> Values:
    def terms(mean: Tensor, raw: Tensor) -> Tensor:
        if parameterization == "logvar" and not can_tabulate(raw.dtype):
            return exact_kl(mean, raw, arithmetic.clamp)
        wide, scale = _float64(mean, raw, parameterization, arithmetic)
        return 0.5 * wide * wide + 0.5 * exact_remainder(scale.logvar, scale.var)

    def exactly(mean: Tensor, raw: Tensor) -> Values:
        return _exact_sums(terms, arithmetic, workspace, mean, raw, per_channel=per_channel)

    harmful = arithmetic.precision == "auto" and not can_tabulate(raw.dtype) and not _float32_holds(arithmetic.clamp)
    if _needs_float64(mean, arithmetic) or harmful:
        return exactly(mean, raw)
    wide = _kl_rows(mean, raw, parameterization, arithmetic.clamp, workspace, per_channel=per_channel)
    values = 0.5 * row_sums(wide).reshape(len(mean), -1)
    if arithmetic.precision == "auto":
        least = _LEAST_MEAN_TERM_TABULATED if can_tabulate(raw.dtype) else _LEAST_MEAN_TERM_COMPUTED
        least *= 0.5 * prod(mean.shape[1:]) / values.shape[1]
        held: NDArray[np.bool_] = ((values >= least) & np.isfinite(values)).all(axis=1)
        _again(~held, values, exactly, mean, raw)
    return values


def _kl_rows(
    mean: Tensor, raw: Tensor, parameterization: str, clamp: Clamp, workspace: Workspace, *, per_channel: bool
) -> Tensor:
    """Float64 rows whose sums are m² + h(l) of each sample, or of each of its channels."""
    columns = mean.shape[2] if per_channel else 1
    if per_channel:
        mean, raw = mean.transpose(1, 2), raw.transpose(1, 2)
    wide = _wide(mean, columns, workspace)
    if can_tabulate(raw.dtype):
        step, buffers = _buffers(mean, torch.int32, workspace)
        table = tables_of(raw.dtype, parameterization, clamp).remainder
        kl_tabulated(mean, codes_of(raw), table, wide, columns, buffers, step)
        return wide
    step, buffers = _buffers(mean, torch.float32, workspace)
    if parameterization == "logvar":
        kl_logvar(mean, raw, *clamp, wide, columns, buffers, step)
        return wide
    for start in range(0, len(mean), step):
        part = slice(start, start + step)
        terms = buffers[0][: len(mean[part])]
        # Of softplus in float64.
        for out, some_mean, some_raw in _small_parts(terms, mean[part], raw[part]):
            scale = scale_of(some_raw, parameterization, clamp)
            out.copy_(some_mean.square() + (scale.var - 1 - scale.logvar))
        fold(terms.view(len(terms) * columns, -1), wide[start * columns : (start + step) * columns])
    return wide


def _wide(mean: Tensor, columns: int, workspace: Workspace) -> Tensor:
    width = folded_width(prod(mean.shape[1:]) // columns)
    return workspace.take("wide", (len(mean) * columns, width), torch.float64)


def _buffers(mean: Tensor, last: torch.dtype, workspace: Workspace) -> tuple[int, list[Tensor]]:
    """How many samples are worked on at once, and three buffers for them: two of float32 and one of ``last``."""
    step = samples_at_once(mean)
    dtypes = {"terms": torch.float32, "terms 2": torch.float32, "terms 3": last}
    return step, [workspace.take(name, (step, *mean.shape[1:]), dtype) for name, dtype in dtypes.items()]


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

    def terms(mean: Tensor, raw: Tensor, other_mean: Tensor, other_raw: Tensor) -> Tensor:
        m1, scale1 = _float64(mean, raw, parameterization, arithmetic)
        m2, scale2 = _float64(other_mean, other_raw, other[2], arithmetic)
        if can_tabulate(raw.dtype) and can_tabulate(other_raw.dtype):
            # Their log-variances are far enough apart for a plain difference, which is the same on every machine.
            log_ratio = scale1.logvar - scale2.logvar
        else:
            log_ratio = log_variance_ratio(scale1, parameterization, scale2, other[2])
        both = _kl_terms(m1 - m2, scale1, scale2, log_ratio)
        return both + _kl_terms(m1 - m2, scale2, scale1, -log_ratio) if symmetric else both

    def measure(*tensors: Tensor) -> Values:
        return _exact_sums(terms, arithmetic, workspace, *tensors, per_channel=per_channel)

    others = (tensor.expand_as(mean) for tensor in other[:2])
    return by_units(measure, mean, raw, *others, per_channel=per_channel)


def nll(
    mean: Tensor, raw: Tensor, parameterization: str, latents: Tensor, arithmetic: Arithmetic, workspace: Workspace
) -> Values:
    """−log density of ``latents`` (of the mean's shape) in nats, shape ``(n, 1)``; other shapes as in ``kl_to_prior``.

    ½ Σ (log 2π + l + (x − m)² e^(−l)).
    """

    def measure(mean: Tensor, raw: Tensor, latents: Tensor) -> Values:
        return _nll(mean, raw, parameterization, latents, arithmetic, workspace)

    return by_units(measure, mean, raw, latents)


def _nll(
    mean: Tensor, raw: Tensor, parameterization: str, latents: Tensor, arithmetic: Arithmetic, workspace: Workspace
) -> Values:
    def terms(mean: Tensor, raw: Tensor, latents: Tensor) -> Tensor:
        wide, scale = _float64(mean, raw, parameterization, arithmetic)
        deviation = (latents.to(wide.device, non_blocking=True).double() - wide) / scale.std
        return 0.5 * scale.logvar + 0.5 * deviation * deviation

    def exactly(*tensors: Tensor) -> Values:
        return _exact_sums(terms, arithmetic, workspace, *tensors) + constant

    constant = 0.5 * LOG_2PI * mean[0].numel()
    if _needs_float64(mean, arithmetic) or latents.dtype == torch.float64 or not can_tabulate(raw.dtype):
        return exactly(mean, raw, latents)
    tables = tables_of(raw.dtype, parameterization, arithmetic.clamp)
    wide = _wide(mean, 1, workspace)
    step, buffers = _buffers(mean, torch.int32, workspace)
    nll_tabulated(mean, codes_of(raw), latents, tables.inverse_var, tables.logvar, wide, buffers, step)
    values = 0.5 * row_sums(wide).reshape(-1, 1) + constant
    if arithmetic.precision == "auto":
        _again(~np.isfinite(values[:, 0]), values, exactly, mean, raw, latents)
    return values


def first_negative(raw: Tensor) -> int | None:
    """The first sample of ``raw`` with a negative value, if one has one."""
    rows = (raw.double() < 0).flatten(1).any(dim=1).nonzero()
    return int(rows[0]) if len(rows) else None


def _needs_float64(mean: Tensor, arithmetic: Arithmetic) -> bool:
    return mean.dtype == torch.float64 or arithmetic.precision == "float64" or arithmetic.place != "cpu"


@lru_cache(maxsize=8)
def _float32_holds(clamp: Clamp) -> bool:
    """Whether the clamp's rounding to float32 does no harm to the arithmetic form.

    That of 19.9 does: e^19.9 is then 1e-6 off. That of σ at a bound between 0 and 3 does, where KL is small.
    """
    low, high = clamp
    return low <= 0 and high >= 3 and torch.tensor(clamp, dtype=torch.float32).tolist() == [low, high]


def _float64(mean: Tensor, raw: Tensor, parameterization: str, arithmetic: Arithmetic) -> tuple[Tensor, Scale]:
    if arithmetic.place == "cpu" and can_tabulate(raw.dtype):
        return mean.double(), look_up_scale(raw, parameterization, arithmetic.clamp)
    scale = scale_of(raw.to(arithmetic.place).double(), parameterization, arithmetic.clamp)
    return mean.to(arithmetic.place).double(), scale


def _kl_terms(difference: Tensor, scale1: Scale, scale2: Scale, log_ratio: Tensor) -> Tensor:
    """½ ((m1 − m2)² e^(−l2) + h(l1 − l2)) in float64."""
    deviation, ratio = difference / scale2.std, scale1.std / scale2.std
    return 0.5 * deviation * deviation + 0.5 * exact_remainder(log_ratio, ratio * ratio)


def _exact_sums(
    terms_of: Callable[..., Tensor],
    arithmetic: Arithmetic,
    workspace: Workspace,
    *tensors: Tensor,
    per_channel: bool = False,
) -> Values:
    """Sums of the float64 terms that ``terms_of`` gives of tensors of any part of the samples."""
    if arithmetic.place != "cpu":
        # A device has memory enough, and no use for small parts.
        return sample_sums(terms_of(*tensors), per_channel=per_channel)
    n, step = len(tensors[0]), max(1, UNIT_ELEMENTS // prod(tensors[0].shape[1:]))
    sums = []
    for start in range(0, n, step):
        some = [tensor[start : start + step] for tensor in tensors]
        terms = workspace.take("exact terms", tuple(some[0].shape), torch.float64)
        for part, *sources in _small_parts(terms, *some):
            part.copy_(terms_of(*sources))
        sums.append(sample_sums(terms, per_channel=per_channel))
    return np.concatenate(sums)


def _small_parts(*tensors: Tensor) -> Iterator[list[Tensor]]:
    """Samples some at a time, or parts of one: float64 steps keep a dozen numbers for every element."""
    for _, views in in_units(_EXACT_ELEMENTS, *tensors):
        step = max(1, _EXACT_ELEMENTS // prod(views[0].shape[1:]))
        yield from map(list, zip(*(torch.split(view, step) for view in views), strict=True))


def _again(rows: NDArray[np.bool_], values: Values, measure: Callable[..., Values], *tensors: Tensor) -> None:
    """Replace the values of the rows marked by what ``measure`` gives for them, some at a time."""
    if rows.any():
        for chosen in torch.split(torch.from_numpy(np.flatnonzero(rows)), samples_at_once(tensors[0])):
            # 8-bit floats cannot be indexed in every version of torch; their bytes can.
            picked = [_bytes(tensor).index_select(0, chosen).view(tensor.dtype) for tensor in tensors]
            values[chosen.numpy()] = measure(*picked)


def _bytes(tensor: Tensor) -> Tensor:
    return tensor.view(torch.uint8) if tensor.element_size() == 1 else tensor
