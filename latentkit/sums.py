"""Sums whose bits depend on the terms alone: not on the batch, the threads or the vector width.

Torch's own row sums depend on batch and threads for long rows.
"""

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
    if not per_channel:
        return _row_sums(terms.view(n, -1), workspace)[:, None]
    if outer > 1:
        by_channel = workspace.take("by_channel", (n, channels, outer, inner), terms.dtype)
        terms = by_channel.copy_(terms.permute(0, 2, 1, 3))
    return _row_sums(terms.view(n * channels, -1), workspace).reshape(n, channels)


def _row_sums(rows: Tensor, workspace: Workspace) -> NDArray[np.float64]:
    if rows.dtype == torch.float32:
        rows = _fold(rows)
        rows = workspace.take("wide_rows", tuple(rows.shape), torch.float64).copy_(rows)
    # NumPy adds a contiguous row pairwise in an order that its length alone decides.
    sums: NDArray[np.float64] = np.add.reduce(rows.numpy(), axis=1)
    return sums


def _fold(rows: Tensor) -> Tensor:
    """Add the second half of each row to its first, a few times over."""
    width = rows.shape[1]
    for _ in range(_FLOAT32_FOLDS):
        half = width // 2
        rows[:, :half].add_(rows[:, width - half : width])
        width -= half
    return rows[:, :width]
