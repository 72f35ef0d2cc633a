"""Sums whose bits depend on the terms alone: not on the batch, the threads or the vector width.

Torch's own row sums depend on batch and threads for long rows. Long samples are summed in units of a fixed size, which
are added in order.
"""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Values = NDArray[np.float64]

#: Elements of a sample that are summed at once, at most: another number would change the last digits.
UNIT_ELEMENTS = 1 << 17

# Additions in float32 before the sum goes on in float64: each may cost 6e-8 of it.
_FOLDS = 2


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


def by_units(measure: Callable[..., Values], *tensors: Tensor, per_channel: bool = False) -> Values:
    """``measure`` of samples, or of a piece of one, where it is a sum over elements: long samples unit by unit.

    ``tensors`` are ``(n, outer, channels, inner)`` each, as many as ``measure`` takes; its values have one column, or
    per channel one a channel. Returns a row a sample, or for long samples several, which are to be added in order.
    """
    if prod(tensors[0].shape[1:]) <= UNIT_ELEMENTS or tensors[0].is_cuda:
        return measure(*tensors)
    if not per_channel:
        return np.concatenate([measure(*some) for _, some in in_units(UNIT_ELEMENTS, *tensors)])
    samples = zip(*(torch.split(tensor, 1) for tensor in tensors), strict=True)
    return np.concatenate([_channel_rows(measure, sample) for sample in samples])


def _channel_rows(measure: Callable[..., Values], sample: Sequence[Tensor]) -> Values:
    """``by_units`` of one sample, per channel: units of different channels side by side, others below each other."""
    _, outer, channels, inner = sample[0].shape
    axis, step = unit_axis(channels, inner, UNIT_ELEMENTS)
    if axis == 1 or channels == 1:
        return np.concatenate([measure(*some) for _, some in in_units(UNIT_ELEMENTS, *sample)])
    apart, size = (1, 1) if outer > 1 else (2, step if axis == 2 else 1)
    parts = zip(*(torch.split(tensor, size, apart) for tensor in sample), strict=True)
    return np.concatenate([_channel_rows(measure, part) for part in parts], axis=apart - 1)


def in_units(size: int, *tensors: Tensor) -> Iterator[tuple[slice, list[Tensor]]]:
    """Samples ``(n, outer, channels, inner)`` as they are, or of those of more elements than ``size`` the units of that
    size, ``(k, …)`` where k are alike. Which samples they are of comes first.
    """
    if prod(tensors[0].shape[1:]) <= size:
        yield slice(None), list(tensors)
        return
    for row in range(len(tensors[0])):
        one = slice(row, row + 1)
        for units in zip(*(units_of(tensor[one], size) for tensor in tensors), strict=True):
            yield one, list(units)


def units_of(sample: Tensor, size: int) -> list[Tensor]:
    """Cut ``(1, outer, channels, inner)`` into units, each one stretch of it: ``(k, …)`` where k of them are alike."""
    _, outer, channels, inner = sample.shape
    axis, step = unit_axis(channels, inner, size)
    for before, entries in ((1, outer), (2, channels)):
        if before < axis and entries > 1:
            return [unit for entry in torch.split(sample, 1, before) for unit in units_of(entry, size)]
    full = sample.shape[axis] // step * step
    units = torch.unflatten(sample.narrow(axis, 0, full), axis, (full // step, step)).movedim(axis, 0).squeeze(1)
    rest = sample.narrow(axis, full, sample.shape[axis] - full)
    return [part for part in (units, rest) if part.numel()]


def unit_axis(channels: int, inner: int, size: int) -> tuple[int, int]:
    """The axis of ``(1, outer, channels, inner)`` along which units are cut, and their extent on it: the last axis of
    which one entry, with all that is behind it, is not too large.
    """
    if channels * inner <= size:
        return 1, max(1, size // max(1, channels * inner))
    if inner <= size:
        return 2, size // inner
    return 3, size
