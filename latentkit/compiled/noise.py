"""Standard normals that are a function of key, draw and position alone: steps 2 and 3 of guide/noise.md."""

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import PART, Ints

Singles = NDArray[np.float32]
Words = NDArray[np.uint32]
Longs = NDArray[np.uint64]

#: Words of 64 bits that hold those of a part, wherever among the eight of a counter it begins.
WORDS = PART // 2 + 4

_A, _B = np.uint64(0xD2E7470EE14C6C93), np.uint64(0xCA5A826395121157)
_A_KEY, _B_KEY = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xBB67AE8584CAA73B)
_LOW, _UPPER = np.uint64(0xFFFFFFFF), np.uint64(32)
_A_LOW, _A_HIGH, _B_LOW, _B_HIGH = _A & _LOW, _A >> _UPPER, _B & _LOW, _B >> _UPPER


@formula
def _high_product(high: np.uint64, low: np.uint64, x: np.uint64) -> np.uint64:
    """The upper 64 bits of (2^32 high + low) x, by halves: unlike the one instruction for it, these vectorize.

    A normal takes 0.5 ns so, and 1.0 ns by the instruction, where vectors have 512 bits; with 256 they are equal.
    """
    upper, lower = x >> _UPPER, x & _LOW
    cross = high * lower
    middle = low * upper + ((low * lower) >> _UPPER) + (cross & _LOW)
    return high * upper + (cross >> _UPPER) + (middle >> _UPPER)


@formula
def random_words(key: Longs, draw: np.uint64, position: int, count: int, out: Longs) -> Words:
    """The words of ``count`` positions, at most a part: Philox 4x64-10 (Salmon et al., "Parallel random numbers: as
    easy as 1, 2, 3", 2011) at counter (position // 8 + 1, draw, 0, 0) and on.

    Each word of 64 bits is two of 32, the lower half first.
    """
    first, skip = position // 8 + 1, position % 8
    for group in range((skip + count + 7) // 8):
        x0, x1, x2, x3 = np.uint64(first + group), draw, np.uint64(0), np.uint64(0)
        a, b = key[0], key[1]
        for _ in range(10):
            x0, x1, x2, x3 = (
                _high_product(_B_HIGH, _B_LOW, x2) ^ x1 ^ a, _B * x2, _high_product(_A_HIGH, _A_LOW, x0) ^ x3 ^ b,
                _A * x0,
            )  # fmt: skip
            a, b = a + _A_KEY, b + _B_KEY
        out[4 * group], out[4 * group + 1], out[4 * group + 2], out[4 * group + 3] = x0, x1, x2, x3
    return out.view(np.uint32)[skip : skip + count]


@formula
def looked_up(lines: Words, table: Longs, out: Longs, count: int) -> Singles:
    """Lines of a table of pairs of float32, one pair after the other; apart from the arithmetic, which vectorizes."""
    for j in range(count):
        out[j] = table[lines[j]]
    return out.view(np.float32)


@formula
def normals(words: Words, table: Longs, lines: Words, pairs: Longs, out: Singles, count: int) -> None:
    """One word, one normal: bit 31 is its sign, the others choose a line of the table and a place on it.

    A line of ``table`` holds T, then D, and stands where the upper 18 bits of a float32 say. ``lines`` and ``pairs``
    are room for a part.
    """
    for j in range(count):
        bits = np.float32(np.int32(words[j] & np.uint32(0x7FFFFFFF))).view(np.uint32)
        lines[j] = bits >> np.uint32(14)
    ends = looked_up(lines, table, pairs, count)
    for j in range(count):
        word = words[j]
        bits = np.float32(np.int32(word & np.uint32(0x7FFFFFFF))).view(np.uint32)
        size = ends[2 * j] + np.float32(np.int32(bits & np.uint32(0x3FFF))) * ends[2 * j + 1]
        # What the table gives is not negative.
        out[j] = np.uint32(np.float32(size).view(np.uint32) | (word & np.uint32(0x80000000))).view(np.float32)


@loop
def fill_normals(key: Longs, draw: int, position: int, table: Longs, out: Singles) -> None:
    """The normals at ``position``, ``position + 1``, … of one draw."""
    memory, pairs, lines = np.empty(WORDS, np.uint64), np.empty(PART, np.uint64), np.empty(PART, np.uint32)
    for first in range(0, out.size, PART):
        count = min(PART, out.size - first)
        words = random_words(key, np.uint64(draw), position + first, count, memory)
        normals(words, table, lines, pairs, out[first:], count)


@loop
def fill_words(keys: Longs, draw: int, positions: Ints, counts: Ints, out: Words) -> None:
    """The words of one draw, of ``counts`` elements of streams from ``positions`` on, end to end."""
    memory, done = np.empty(WORDS, np.uint64), 0
    for stream in range(counts.size):
        for first in range(0, counts[stream], PART):
            count = min(PART, counts[stream] - first)
            words = random_words(keys[stream], np.uint64(draw), positions[stream] + first, count, memory)
            out[done : done + count] = words
            done += count


@loop
def normals_of(words: Words, table: Longs, out: Singles) -> None:
    """The table step alone."""
    pairs, lines = np.empty(PART, np.uint64), np.empty(PART, np.uint32)
    for first in range(0, out.size, PART):
        normals(words[first:], table, lines, pairs, out[first:], min(PART, out.size - first))
