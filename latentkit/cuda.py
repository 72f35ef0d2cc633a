"""KL and NLL on a GPU: blocks are read as on the host, and copied into its memory.

Values are those of the public class in float64: within the accuracy that is promised; the last bits may differ, as a
GPU sums in an order of its own.

What is named a device here may be torch's CPU as well, which is how this is tested where there is no GPU.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.errors import LatentkitError
from latentkit.posterior.distribution import DiagonalGaussianDistribution
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Halves
from latentkit.read.bytes import Buffers
from latentkit.run import Values

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip

# Each thread's stream: while one waits for its block, others read, copy and compute theirs.
_local = threading.local()


def buffers_for(device: str) -> Callable[[], Buffers]:
    """Makes a thread's buffers: page-locked, so that a GPU copies from them by itself."""
    return partial(Buffers, _page_locked) if device.startswith("cuda") else Buffers


def _page_locked(nbytes: int) -> NDArray[np.uint8]:
    with _in_a_sentence("cuda"):
        return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True).numpy()


def kl_to_prior(halves: Halves, parameterization: str, clamp: Clamp, device: str, *, per_channel: bool) -> Values:
    """As ``measures.kl.kl_to_prior``."""
    with on(device):
        values = _posterior(halves, parameterization, clamp, device, per_channel=per_channel).kl()
        return _values(values, halves.dims[0])


def kl_to_other(
    halves: Halves,
    parameterization: str,
    other: Halves,
    other_parameterization: str,
    clamp: Clamp,
    device: str,
    *,
    per_channel: bool,
) -> Values:
    """As ``measures.kl.kl_to_other``."""
    n = max(halves.dims[0], other.dims[0])
    with on(device):
        ours = _posterior(halves, parameterization, clamp, device, per_channel=per_channel, samples=n)
        theirs = _posterior(other, other_parameterization, clamp, device, per_channel=per_channel, samples=n)
        return _values(ours.kl(theirs), n)


def nll(
    halves: Halves,
    parameterization: str,
    latents: NDArray[Any],
    latents_dtype: str,
    clamp: Clamp,
    factors: tuple[tuple[float, ...], tuple[float, ...]],
    device: str,
) -> Values:
    """As ``measures.nll.nll``; the affine is undone on the device, in float64."""
    with on(device):
        drawn = _copied(latents, latents_dtype, device).view(halves.dims)
        shift, scale = (torch.tensor(each, dtype=torch.float64, device=device).view(1, 1, -1, 1) for each in factors)
        if shift.numel():
            drawn = drawn / scale + shift
        return _values(_posterior(halves, parameterization, clamp, device).nll(drawn), halves.dims[0])


def _posterior(
    halves: Halves,
    parameterization: str,
    clamp: Clamp,
    device: str,
    *,
    per_channel: bool = False,
    samples: int | None = None,
) -> DiagonalGaussianDistribution:
    """The posterior of (samples, outer, channels, inner), or of each channel as a sample, in float64."""
    n, outer, channels, inner = halves.dims
    if halves.run_step == 2 * channels * inner:
        parameters = _copied(halves.mean, halves.dtype, device).view(n, outer, 2 * channels, inner)
    else:
        both = (_copied(each, halves.dtype, device).view(halves.dims) for each in (halves.mean, halves.scale))
        parameters = torch.cat(list(both), dim=2)
    if samples is not None and n != samples:
        parameters = parameters.expand(samples, -1, -1, -1)
    if per_channel:
        apart = parameters.view(-1, outer, 2, channels, inner).permute(0, 3, 1, 2, 4)
        parameters = apart.reshape(-1, outer, 2, inner)
    return DiagonalGaussianDistribution(parameters, layout="boci", parameterization=parameterization, clamp=clamp)


def _copied(stored: NDArray[Any], dtype: str, device: str) -> Tensor:
    """Stored numbers on the device, in float64."""
    return torch.from_numpy(stored).view(DTYPES[dtype]).to(device, non_blocking=True).double()


def _values(values: Tensor, samples: int) -> Values:
    host: Values = values.cpu().numpy()
    return host.reshape(samples, -1)


@contextmanager
def on(device: str) -> Iterator[None]:
    """This thread's stream on the device, without gradients; errors of the device in a sentence."""
    with _in_a_sentence(device), torch.no_grad():
        if not device.startswith("cuda"):
            yield
            return
        if not hasattr(_local, "stream"):
            _local.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        with torch.cuda.stream(_local.stream):
            yield


@contextmanager
def _in_a_sentence(device: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # running out of a GPU's memory is one, too
        reason = str(error).partition("\n")[0][:200]
        raise LatentkitError(
            f"{device}: {reason}; try a smaller --batch-size, fewer --workers, or --device cpu"
        ) from error
