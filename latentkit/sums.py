"""Sums whose bits depend on the terms alone: not on the batch, the threads or the vector width.

Torch's own row sums depend on batch and threads for long rows. Long samples are summed in units of a fixed size, which
are added in order.
"""

from collections.abc import Callable
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.scripted import scripted

Values = NDArray[np.float64]

#: Elements of a sample that are summed at once, at most: another number would change the last digits.
UNIT_ELEMENTS = 1 << 17

# Additions in float32 before the sum goes on in float64: each may cost 6e-8 of it.
_FOLDS = 2


@scripted
def fold(rows: Tensor, wide: Tensor, times: int = _FOLDS) -> None:
    """Add the second half of each float32 row to its first, so many times, then widen what is left to float64.

    ``rows`` (r, k) is overwritten; ``wide`` is (r, ``folded_width(k)``).
    """
    width = rows.size(1)
    for _ in range(times):
        half = width // 2
        rows[:, :half].add_(rows[:, width - half : width])
        width -= half
    wide.copy_(rows[:, :width])


def folded_width(width: int) -> int:
    """What ``fold`` leaves of a row."""
    for _ in range(_FOLDS):
        width -= width // 2
    return width


def row_sums(rows: Tensor) -> Values:
    """Sums of contiguous float64 rows, in an order that their length alone decides (NumPy adds pairwise)."""
    sums: Values = np.add.reduce(rows.numpy(), axis=1)
    return sums


def sample_sums(terms: Tensor, *, per_channel: bool = False) -> Values:
    """Sum float64 terms ``(n, outer, channels, inner)`` over all but the samples, or but samples and channels.

    Returns float64 of shape ``(n, 1)`` or ``(n, channels)``. What is on a GPU is summed there, in its own order.
    """
    n, _, channels, _ = terms.shape
    columns = channels if per_channel else 1
    if per_channel:
        terms = terms.transpose(1, 2)
    rows = terms.contiguous().view(n * columns, -1)
    sums: Values = rows.sum(1).cpu().numpy() if rows.is_cuda else row_sums(rows)
    return sums.reshape(n, columns)


def by_units(measure: Callable[..., Values], *tensors: Tensor) -> Values:
    """``measure`` of samples, ``(n, 1)``, where it is a sum over elements: long samples unit by unit.

    ``tensors`` are ``(n, outer, channels, inner)`` each, samples or a piece of one; ``measure`` takes as many, of such
    a shape too.
    """
    if prod(tensors[0].shape[1:]) <= UNIT_ELEMENTS or tensors[0].is_cuda:
        return measure(*tensors)
    samples = []
    for row in range(len(tensors[0])):
        units = zip(*(units_of(tensor[row : row + 1]) for tensor in tensors), strict=True)
        samples.append(np.concatenate([measure(*some) for some in units]).sum(axis=0, keepdims=True))
    return np.concatenate(samples)


def units_of(sample: Tensor) -> list[Tensor]:
    """Cut ``(1, outer, channels, inner)`` into units, each one stretch of it: ``(k, …)`` where k of them are alike."""
    _, outer, channels, inner = sample.shape
    axis, step = unit_axis(channels, inner)
    for before, size in ((1, outer), (2, channels)):
        if before < axis and size > 1:
            return [unit for entry in torch.split(sample, 1, before) for unit in units_of(entry)]
    full = sample.shape[axis] // step * step
    units = torch.unflatten(sample.narrow(axis, 0, full), axis, (full // step, step)).movedim(axis, 0).squeeze(1)
    rest = sample.narrow(axis, full, sample.shape[axis] - full)
    return [part for part in (units, rest) if part.numel()]


def unit_axis(channels: int, inner: int) -> tuple[int, int]:
    """The axis of ``(1, outer, channels, inner)`` along which units are cut, and their extent on it: the last axis of
    which one entry, with all that is behind it, is not too large.
    """
    if channels * inner <= UNIT_ELEMENTS:
        return 1, max(1, UNIT_ELEMENTS // max(1, channels * inner))
    if inner <= UNIT_ELEMENTS:
        return 2, UNIT_ELEMENTS // inner
    return 3, UNIT_ELEMENTS
