"""A block of posteriors as the loops between two tensors take it: stored numbers, their rows, and their tables."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.scale import KINDS
from latentkit.compiled.tables import WIDE, kind_of, spreads_of, values_of
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Halves
from latentkit.run import Values


class Operand(NamedTuple):
    """One of two, see ``compiled.divergence.kl_to_other``; tables are None for float32 and float64."""

    mean: NDArray[Any]
    scale: NDArray[Any]
    starts: NDArray[np.int64]
    shape: tuple[int, int, int]
    values: Values | None
    table: Values | None
    kind: int


def operand(
    halves: Halves, parameterization: str, clamp: Clamp, *, per_channel: bool = False, samples: int | None = None
) -> Operand:
    """A row per sample, or a row for each channel of each; of one sample so many as ``samples`` says."""
    starts, shape = halves.channels if per_channel else halves.samples
    if samples is not None and halves.dims[0] != samples:
        starts = np.tile(starts, samples)
    if halves.dtype in WIDE:
        return Operand(halves.mean, halves.scale, starts, shape, None, None, kind_of(halves.dtype, parameterization))
    table = spreads_of(halves.dtype, parameterization, clamp)
    return Operand(halves.mean, halves.scale, starts, shape, values_of(halves.dtype), table, KINDS[parameterization])
