"""Sums of products of every two channels: Σ d_i d_j over the positions of each sample, added exactly.

Channels are multiplied four by four, of as many samples as fit in the cache, so that the exact sums of sixteen pairs
are at hand while terms of all these samples are added to them.
"""

import numpy as np

from latentkit.compiled.exact import Sums, add_terms
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import Floats, Ints

#: Positions of a sample whose products are one term of their sum: two tiles of so many are 16 KiB.
POSITIONS = 256

_TILE = 4
# Deviations whose products are taken together: 1 MiB.
_TOGETHER = 1 << 17


@loop
def add_products(limbs: Sums, tops: Ints, odd: Floats, deviations: Floats) -> None:
    """Add the products of (samples, channels, positions) to the sum of each pair i ≤ j: rows of the upper triangle."""
    samples, channels, length = deviations.shape
    tiles, longest = -(-channels // _TILE), min(length, POSITIONS)
    together = min(samples, max(1, _TOGETHER // (tiles * _TILE * longest)))
    # Zero beyond the last channel.
    tiled = np.zeros((together, tiles, longest, _TILE))
    terms, at = np.empty(together * _TILE * _TILE), np.empty(together * _TILE * _TILE, np.int64)
    for begin in range(0, samples, together):
        count = min(together, samples - begin)
        for first in range(0, length, POSITIONS):
            positions = min(POSITIONS, length - first)
            for sample in range(count):
                _cut(deviations[begin + sample, :, first : first + positions], tiled[sample])
            for i in range(tiles):
                for j in range(i, tiles):
                    _multiply(tiled, i, j, count, positions, terms)
                    found = _keep_pairs(i * _TILE, j * _TILE, channels, count, terms, at)
                    add_terms(limbs, tops, odd, at, terms, found)


@formula
def _cut(deviations: Floats, tiles: Floats) -> None:
    """(channels, positions) to (tiles, positions, channels of a tile)."""
    channels, positions = deviations.shape
    for tile in range(tiles.shape[0]):
        for p in range(positions):
            for k in range(min(_TILE, channels - tile * _TILE)):
                tiles[tile, p, k] = deviations[tile * _TILE + k, p]


@formula
def _multiply(tiled: Floats, i: int, j: int, samples: int, positions: int, out: Floats) -> None:
    """Σ over positions of the products of two tiles, of each sample: eight sums at a time, which stay in registers."""
    for sample in range(samples):
        for row in range(0, _TILE, 2):
            s0 = s1 = s2 = s3 = t0 = t1 = t2 = t3 = 0.0
            for p in range(positions):
                x, y = tiled[sample, i, p, row], tiled[sample, i, p, row + 1]
                a, b = tiled[sample, j, p, 0], tiled[sample, j, p, 1]
                c, d = tiled[sample, j, p, 2], tiled[sample, j, p, 3]
                s0 += x * a
                s1 += x * b
                s2 += x * c
                s3 += x * d
                t0 += y * a
                t1 += y * b
                t2 += y * c
                t3 += y * d
            at = (sample * _TILE + row) * _TILE
            out[at], out[at + 1], out[at + 2], out[at + 3] = s0, s1, s2, s3
            out[at + 4], out[at + 5], out[at + 6], out[at + 7] = t0, t1, t2, t3


@formula
def _keep_pairs(row: int, column: int, channels: int, samples: int, terms: Floats, at: Ints) -> int:
    """Keep the terms of pairs i ≤ j, of tiles of the channels from ``row`` and from ``column`` on; returns how many.

    ``at`` gets the place in the triangle of each.
    """
    kept = 0
    for sample in range(samples):
        for i in range(row, min(row + _TILE, channels)):
            before, line = i * (2 * channels - i - 1) // 2, (sample * _TILE + i - row) * _TILE - column
            for j in range(max(i, column), min(column + _TILE, channels)):
                terms[kept], at[kept] = terms[line + j], before + j
                kept += 1
    return kept
