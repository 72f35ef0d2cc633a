"""The insides as tests see them: tensors of posteriors in, values out. What is promised is tested through this file.

Means and scales are ``(samples, outer, channels, inner)`` in the stored dtype, with any strides.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.measures import kl as kl_measure
from latentkit.measures import nll as nll_measure
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Halves
from latentkit.run import Values

NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2",
}  # fmt: skip
_CODES = {1: torch.uint8, 2: torch.uint16}

Posterior = tuple[Tensor, Tensor, str]


def stored(tensor: Tensor) -> NDArray[Any]:
    """The numbers of a tensor, flat and in order, held as latentkit holds them."""
    flat = tensor.contiguous().view(-1)
    return flat.view(_CODES.get(tensor.dtype.itemsize, tensor.dtype)).numpy()


def halves(mean: Tensor, raw: Tensor | None) -> Halves:
    """A block as it is read: moments where both halves are views of one tensor of them, else two tensors."""
    n, outer, channels, inner = mean.shape
    dtype = NAMES[mean.dtype]
    if raw is None:
        return Halves(dtype, stored(mean), stored(mean)[:0], (n, outer, channels, inner), channels * inner)
    if not mean.is_contiguous():
        both = stored(torch.cat([mean, raw], dim=2))
        return Halves(dtype, both, both[channels * inner :], (n, outer, channels, inner), 2 * channels * inner)
    return Halves(dtype, stored(mean), stored(raw), (n, outer, channels, inner), channels * inner)


def kl(
    mean: Tensor, raw: Tensor, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP, **options: bool
) -> Values:
    return kl_measure.kl_to_prior(halves(mean, raw), parameterization, clamp, **options)


def kl_to_other(
    one: Posterior,
    other: Posterior,
    clamp: Clamp = DEFAULT_CLAMP,
    *,
    per_channel: bool = False,
    symmetric: bool = False,
) -> Values:
    ours, theirs = ((halves(mean, raw), kind) for mean, raw, kind in (one, other))
    values = kl_measure.kl_to_other(*ours, *theirs, clamp, per_channel=per_channel)
    return values + kl_measure.kl_to_other(*theirs, *ours, clamp, per_channel=per_channel) if symmetric else values


def nll(
    mean: Tensor,
    raw: Tensor,
    latents: Tensor,
    parameterization: str = "logvar",
    clamp: Clamp = DEFAULT_CLAMP,
    affine: tuple[tuple[float, ...], tuple[float, ...]] = ((), ()),
) -> Values:
    block = halves(mean, raw)
    return nll_measure.nll(block, parameterization, stored(latents), NAMES[latents.dtype], clamp, affine)


def every_value(dtype: torch.dtype) -> Tensor:
    """All values of a 16- or 8-bit dtype, in order of their bit patterns."""
    patterns = np.arange(1 << 8 * dtype.itemsize).astype(np.uint8 if dtype.itemsize == 1 else np.uint16)
    return torch.from_numpy(patterns).view(dtype)
