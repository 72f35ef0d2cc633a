"""Sums whose bits depend on the terms alone: not on the batch, the threads or the vector width.

Torch's own row sums depend on batch and threads for long rows.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.workspace import Workspace

# Additions in float32 before the sum goes on in float64: each may cost 6e-8 of it.
_FLOAT32_FOLDS = 2


def sample_sums(terms: Tensor, workspace: Workspace, *, per_channel: bool = False) -> NDArray[np.float64]:
    """Sum terms of shape ``(n, outer, channels, inner)`` over all but the samples, or but samples and channels.

    Args:
        terms: contiguous float32 or float64 on the CPU; overwritten.

    Returns float64 of shape ``(n, 1)`` or ``(n, channels)``.
    """
    n, outer, channels, inner = terms.shape
    if per_channel and outer > 1:
        by_channel = workspace.take("by_channel", (n, channels, outer, inner), terms.dtype)
        terms = by_channel.copy_(terms.permute(0, 2, 1, 3)).view(n, 1, channels, outer * inner)
    columns = channels if per_channel else 1
    if terms.dtype == torch.float64:
        rows = terms.view(n * columns, -1).numpy()
    else:
        folding = workspace.prepared(_folding, terms, columns)
        for target, source in folding.steps:
            target.add_(source)
        folding.wide.copy_(folding.narrow)
        rows = folding.rows
    # NumPy adds a contiguous row pairwise in an order that its length alone decides.
    sums: NDArray[np.float64] = np.add.reduce(rows, axis=1)
    return sums.reshape(n, columns)


class _Folding(NamedTuple):
    """Adds the second half of each row to its first, a few times over, then widens what is left to float64."""

    steps: tuple[tuple[Tensor, Tensor], ...]
    narrow: Tensor
    wide: Tensor
    rows: NDArray[np.float64]


def _folding(workspace: Workspace, terms: Tensor, columns: int) -> _Folding:
    rows = terms.view(terms.shape[0] * columns, -1)
    width = rows.shape[1]
    steps = []
    for _ in range(_FLOAT32_FOLDS):
        half = width // 2
        steps.append((rows[:, :half], rows[:, width - half : width]))
        width -= half
    wide = workspace.take("wide_rows", (rows.shape[0], width), torch.float64)
    return _Folding(tuple(steps), rows[:, :width], wide, wide.numpy())
