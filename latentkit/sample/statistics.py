"""LightningDiT's latents_stats.pt as a normalization: its ``mean`` and ``std``, as that tool's loader applies them."""

import numpy as np

from latentkit.errors import RequestError
from latentkit.posterior.affine import Affine, from_statistics
from latentkit.read.bytes import HELD_AS, read_at
from latentkit.read.choice import describe
from latentkit.read.header import Header, read_header


def normalizing(path: str) -> Affine:
    """``(z − mean) / std``; raises ``RequestError`` where the file holds something else."""
    header = read_header(path)
    return from_statistics(_numbers(header, "mean"), _numbers(header, "std"), path)


def _numbers(header: Header, key: str) -> tuple[float, ...]:
    tensor = header.tensors.get(key)
    if tensor is None or tensor.dtype not in ("F32", "F64"):
        raise RequestError(
            f"{header.path}: no normalization: statistics of latents are tensors mean and std of F32 or F64, a number "
            f"per channel, and {describe(header)}"
        )
    numbers = np.empty(tensor.elements, HELD_AS[tensor.dtype])
    read_at(header, tensor, 0, numbers)
    return tuple(numbers.tolist())
