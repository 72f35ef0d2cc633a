"""Rows: the elements whose terms are summed into one value, in parts that stay in a core's first cache.

A row is a sample's latents, or those of one of its channels: ``length`` elements in runs of ``width``, which begin
``step`` elements apart from ``start`` on. With ``bchw`` a sample is one run; with ``blc`` it has a run per token. Parts
and lanes are fixed by the row alone, so that a sum's bits depend on nothing else.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.jit import formula

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
#: Stored numbers: float64, float32, or the bit patterns of narrower ones.
Stored = NDArray[Any]

#: Elements of a part: 8 KiB in float64, of which a core's first cache holds four or more.
PART = 1024
#: Lanes in which a part's terms are summed.
LANES = 64


@formula
def part_of(stored: Stored, start: int, step: int, width: int, first: int, count: int, buffer: Stored) -> Stored:
    """Elements ``first`` to ``first + count`` of a row: a view of them where they lie in one run, else a copy."""
    run, within = first // width, first % width
    if within + count <= width:
        begin = start + run * step + within
        return stored[begin : begin + count]
    done = 0
    while done < count:
        some = min(width - within, count - done)
        begin = start + run * step + within
        for j in range(some):
            buffer[done + j] = stored[begin + j]
        done, run, within = done + some, run + 1, 0
    return buffer[:count]


@formula
def total(terms: Floats, count: int) -> float:
    """The sum of a part's terms, which are overwritten: many lanes at a time, as such a loop vectorizes, then eight."""
    whole = count // LANES * LANES
    for first in range(LANES, whole, LANES):
        for lane in range(LANES):
            terms[lane] += terms[first + lane]
    rest = short_total(terms, whole, count)
    return short_total(terms, 0, LANES) + rest if whole else rest


@formula
def short_total(terms: Floats, first: int, end: int) -> float:
    """The sum of a few terms, which stay, in eight lanes that are added up in pairs."""
    a = b = c = d = e = f = g = h = 0.0
    whole = first + (end - first) // 8 * 8
    for j in range(first, whole, 8):
        a += terms[j]
        b += terms[j + 1]
        c += terms[j + 2]
        d += terms[j + 3]
        e += terms[j + 4]
        f += terms[j + 5]
        g += terms[j + 6]
        h += terms[j + 7]
    for j in range(whole, end):
        a += terms[j]
    return ((a + b) + (c + d)) + ((e + f) + (g + h))
