"""Sums whose bits depend on the terms alone: not on the batch, the threads or the vector width.

Torch's own row sums depend on batch and threads for long rows.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from latentkit.scripted import scripted

# Additions in float32 before the sum goes on in float64: each may cost 6e-8 of it. ``fold`` has its own copy.
_FOLDS = 2


@scripted
def fold(rows: Tensor, wide: Tensor) -> None:
    """Add the second half of each float32 row to its first, twice, then widen what is left to float64.

    ``rows`` (r, k) is overwritten; ``wide`` is (r, ``folded_width(k)``).
    """
    width = rows.size(1)
    for _ in range(2):
        half = width // 2
        rows[:, :half].add_(rows[:, width - half : width])
        width -= half
    wide.copy_(rows[:, :width])


def folded_width(width: int) -> int:
    """What ``fold`` leaves of a row."""
    for _ in range(_FOLDS):
        width -= width // 2
    return width


def row_sums(rows: Tensor) -> NDArray[np.float64]:
    """Sums of contiguous float64 rows, in an order that their length alone decides (NumPy adds pairwise)."""
    sums: NDArray[np.float64] = np.add.reduce(rows.numpy(), axis=1)
    return sums


def sample_sums(terms: Tensor, *, per_channel: bool = False) -> NDArray[np.float64]:
    """Sum float64 terms ``(n, outer, channels, inner)`` over all but the samples, or but samples and channels.

    Returns float64 of shape ``(n, 1)`` or ``(n, channels)``.
    """
    n, _, channels, _ = terms.shape
    columns = channels if per_channel else 1
    if per_channel:
        terms = terms.transpose(1, 2)
    return row_sums(terms.contiguous().view(n * columns, -1).cpu()).reshape(n, columns)
