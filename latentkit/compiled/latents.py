"""Latents: mean + temperature · σ · ε, minus a shift, times a scale; steps 4 and 5 of guide/noise.md.

Everything is float32, one rounded operation after another, but for σ of ``softplus`` and of 16 and 8 bits: these are
computed in float64 and rounded once.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.divergence import Shape
from latentkit.compiled.formulas import exp, softplus_std
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.noise import WORDS, Longs, Singles, Words, looked_up, normals, random_words
from latentkit.compiled.rows import PART, Floats, Ints, Stored, part_of
from latentkit.compiled.scale import LOGVAR, SOFTPLUS, STD, VAR

_SIZE, _SIGN, _INFINITY = np.uint32(0x7FFFFFFF), np.uint32(0x80000000), np.uint32(0x7F800000)
_HALF_BITS = np.uint32(0x3F000000)
# 1.5 · 2^15, whose last place is 1/256: a sum with it is rounded to a multiple of that, which stands in its last bits.
_STEPS = np.float32(49152.0)
_EIGHTH, _HALF = np.float32(0.125), np.float32(0.5)

Flags = NDArray[np.bool_]


class Format(NamedTuple):
    """How the bits of a float32 become those of another format.

    ``rebias`` is what exponents differ by, and ``drop`` the bits that go; before they do, ``rounding`` is added, half
    of the last place that stays less one, and ``tie`` where that place is odd. Numbers under ``least_normal`` are
    subnormal there, and those from ``beyond`` on rounded to ``infinity``. ``sign`` is how far down the sign moves.
    """

    rebias: np.uint32
    drop: np.uint32
    rounding: np.uint32
    tie: np.uint32
    least_normal: np.uint32
    beyond: np.uint32
    infinity: np.uint32
    nan: np.uint32
    sign: np.uint32


def _format(*bits: int) -> Format:
    return Format(*map(np.uint32, bits))


#: What latents are stored as: by safetensors' names.
FORMATS = {
    "F16": _format(0x38000000, 13, 0xFFF, 1, 0x38800000, 0x477FF000, 0x7C00, 0x7E00, 16),
    "BF16": _format(0, 16, 0x7FFF, 1, 0, 0x7F7F8000, 0x7F80, 0x7FC0, 16),
    "F32": _format(0, 0, 0, 0, 0, 0x7F800000, 0x7F800000, 0x7FC00000, 0),
}


@formula
def _limited(x: np.float32, low: np.float32, high: np.float32) -> np.float32:
    """x within limits; NaN stays NaN."""
    x = low if x < low else x
    return high if x > high else x


@formula
def _is_clamped(x: float, least: float, low: float, high: float) -> bool:
    """Whether the clamp acts on x, which counts from ``least`` on."""
    return ((x >= least) & (x < low)) | (x > high)


@formula
def _stds_of_logvars(
    stored: Stored, low: np.float32, high: np.float32, exps: Longs, lines: Words, pairs: Longs, out: Singles, count: int
) -> None:
    """σ = E (1 + q), with k/256 the multiple nearest to l, E = exp(k / 512) = H + L from a table, and q = f/2 + f²/8 of
    the f = l − k/256 that is left."""
    for j in range(count):
        x = _limited(np.float32(stored[j]), low, high)
        shifted = np.float32(x + _STEPS)
        # Within the table whatever a NaN's bits are.
        lines[j] = shifted.view(np.uint32) & np.uint32(0x1FFFF)
        f = x - (shifted - _STEPS)
        out[j] = (f * _EIGHTH + _HALF) * f
    ends = looked_up(lines, exps, pairs, count)
    for j in range(count):
        out[j] = ends[2 * j] + (ends[2 * j + 1] + ends[2 * j] * out[j])


@formula
def _clamped_of(stored: Stored, least: float, low: float, high: float, count: int) -> np.int64:
    """How many scale parameters the clamp acts on."""
    clamped = np.uint32(0)
    for j in range(count):
        clamped = np.uint32(clamped + np.uint32(_is_clamped(np.float64(stored[j]), least, low, high)))
    return np.int64(clamped)


@formula
def _stds_of_floats(
    stored: Stored, kind: int, limits: Singles, beyond: Floats, exps: Longs, lines: Words, pairs: Longs, out: Singles,
    count: int,
) -> np.int64:  # fmt: skip
    """σ of scale parameters that are rounded to float32; returns how many of them the clamp acts on."""
    low, high = limits
    least, below, above = beyond
    if kind == LOGVAR:
        _stds_of_logvars(stored, low, high, exps, lines, pairs, out, count)
    elif kind == STD:
        for j in range(count):
            x = np.float32(stored[j])
            out[j] = np.float32(np.nan) if x < 0 else _limited(x, low, high)
    elif kind == VAR:
        for j in range(count):
            out[j] = _limited(np.sqrt(np.float32(stored[j])), low, high)
    else:
        clamped = np.int64(0)
        for j in range(count):
            std = softplus_std(np.float64(np.float32(stored[j])))
            out[j] = _limited(np.float32(std), low, high)
            clamped += _is_clamped(std, least, below, above)
        return clamped
    return _clamped_of(stored, least, below, above, count)


@formula
def _std_of(x: float, kind: int) -> float:
    """σ in float64, before the clamp."""
    if kind == LOGVAR:
        return exp(0.5 * x)
    if kind == STD:
        return np.nan if x < 0.0 else x
    if kind == VAR:
        root: float = np.sqrt(x)
        return root
    return softplus_std(x)


@loop
def marked_stds(values: Floats, kind: int, limits: Singles, beyond: Floats) -> Singles:
    """σ of every value as a scale parameter, with a minus sign where the clamp acts on it."""
    low, high = limits
    least, below, above = beyond
    out = np.empty(values.size, np.float32)
    for j in range(values.size):
        std = _std_of(values[j], kind)
        size = _limited(np.float32(std), low, high)
        # By its bits: processors give NaN a sign of their own.
        bits = np.uint32(np.float32(size).view(np.uint32) & _SIZE)
        clamped = _is_clamped(std if kind == SOFTPLUS else values[j], least, below, above)
        out[j] = np.uint32(bits | _SIGN if clamped else bits).view(np.float32)
    return out


@formula
def _stds_of_codes(codes: Stored, marked: Singles, out: Singles, count: int) -> np.int64:
    """σ of bit patterns, looked up; returns how many the clamp acts on."""
    for j in range(count):
        out[j] = marked[codes[j]]
    clamped = np.uint32(0)
    for j in range(count):
        bits = np.float32(out[j]).view(np.uint32)
        out[j] = np.uint32(bits & _SIZE).view(np.float32)
        clamped = np.uint32(clamped + (bits >> np.uint32(31)))
    return np.int64(clamped)


@loop
def decode_codes(
    mean: Stored, scale: Stored, shape: Shape, values: Singles, marked: Singles, means: Singles, stds: Singles
) -> np.int64:
    """Means and σ of a block of bit patterns, looked up; returns on how many scales the clamp acts.

    The rows of samples, see ``rows``, follow each other; what is decoded lies end to end.
    """
    step, width, _ = shape
    mean_buffer, scale_buffer = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    clamped = np.int64(0)
    for first in range(0, means.size, PART):
        count = min(PART, means.size - first)
        codes = part_of(mean, 0, step, width, first, count, mean_buffer)
        for j in range(count):
            means[first + j] = values[codes[j]]
        codes = part_of(scale, 0, step, width, first, count, scale_buffer)
        clamped += _stds_of_codes(codes, marked, stds[first:], count)
    return clamped


@loop
def decode_floats(
    mean: Stored, scale: Stored, shape: Shape, kind: int, limits: Singles, beyond: Floats, exps: Longs, means: Singles,
    stds: Singles,
) -> np.int64:  # fmt: skip
    """As ``decode_codes``, of float32 or float64 numbers, which are rounded to float32."""
    step, width, _ = shape
    mean_buffer, scale_buffer = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    pairs, lines = np.empty(PART, np.uint64), np.empty(PART, np.uint32)
    clamped = np.int64(0)
    for first in range(0, means.size, PART):
        count = min(PART, means.size - first)
        stored = part_of(mean, 0, step, width, first, count, mean_buffer)
        for j in range(count):
            means[first + j] = np.float32(stored[j])
        stored = part_of(scale, 0, step, width, first, count, scale_buffer)
        clamped += _stds_of_floats(stored, kind, limits, beyond, exps, lines, pairs, stds[first:], count)
    return clamped


@formula
def _mapped(latents: Singles, shift: Singles, scale: Singles, inner: int, first: int, count: int) -> None:
    """(z − shift) · scale, of a value per channel or one for all; ``first`` is where in the tensor the part begins."""
    if shift.size == 1:
        for j in range(count):
            latents[j] = (latents[j] - shift[0]) * scale[0]
        return
    done, channel, within = 0, first // inner % shift.size, first % inner
    while done < count:
        some = min(inner - within, count - done)
        for j in range(done, done + some):
            latents[j] = (latents[j] - shift[channel]) * scale[channel]
        done, channel, within = done + some, (channel + 1) % shift.size, 0


@formula
def _stored(latents: Singles, format: Format, out: Stored, odd: Flags, length: int, first: int, count: int) -> np.int64:
    """Round a part, which begins at ``first`` in its block, to the nearest, ties to even, with one NaN.

    Returns, and sets in ``odd``, what ``draw`` does.
    """
    nonfinite = large = np.uint32(0)
    for j in range(count):
        bits = np.float32(latents[j]).view(np.uint32)
        size = np.uint32(bits & _SIZE)
        rounding = np.uint32(format.rounding + ((size >> format.drop) & format.tie))
        usual = np.uint32(np.uint32(size - format.rebias + rounding) >> format.drop)
        # The last place of one half is the least float16 above 0.
        small = np.uint32(np.float32(size.view(np.float32) + _HALF).view(np.uint32) - _HALF_BITS)
        number = small if size < format.least_normal else usual
        number = format.infinity if size >= format.beyond else number
        number = np.uint32(number | ((bits & _SIGN) >> format.sign))
        out[j] = format.nan if size > _INFINITY else number
        nonfinite = np.uint32(nonfinite + np.uint32(size >= _INFINITY))
        large = np.uint32(large + np.uint32(size >= format.beyond))
    if nonfinite:
        for j in range(count):
            if not np.isfinite(latents[j]):
                odd[(first + j) // length] = True
    return np.int64(large) - np.int64(nonfinite)


@loop
def draw(
    means: Singles, stds: Singles, number: int, keys: Longs, positions: Ints, counts: Ints, table: Longs,
    temperature: np.float32, shift: Singles, factor: Singles, inner: int, format: Format, length: int, out: Stored,
    odd: Flags,
) -> np.int64:  # fmt: skip
    """Draw ``number`` of a block into ``out``; returns how many finite latents became infinite.

    The block has ``counts`` elements of streams of noise, from ``positions`` on. Of samples, ``length`` elements each,
    that are not finite ``odd`` is set.
    """
    memory, pairs, lines = np.empty(WORDS, np.uint64), np.empty(PART, np.uint64), np.empty(PART, np.uint32)
    latents = np.empty(PART, np.float32)
    large, start = np.int64(0), 0
    for stream in range(counts.size):
        for first in range(0, counts[stream], PART):
            count = min(PART, counts[stream] - first)
            words = random_words(keys[stream], np.uint64(number), positions[stream] + first, count, memory)
            normals(words, table, lines, pairs, latents, count)
            m, s = means[start:], stds[start:]
            for j in range(count):
                latents[j] = m[j] + (temperature * s[j]) * latents[j]
            _mapped(latents, shift, factor, inner, start, count)
            large += _stored(latents, format, out[start:], odd, length, start, count)
            start += count
    return large


@loop
def mode(
    means: Singles, shift: Singles, factor: Singles, inner: int, format: Format, length: int, out: Stored, odd: Flags
) -> np.int64:
    """As ``draw``, without noise."""
    latents = np.empty(PART, np.float32)
    large = np.int64(0)
    for first in range(0, means.size, PART):
        count = min(PART, means.size - first)
        latents[:count] = means[first : first + count]
        _mapped(latents, shift, factor, inner, first, count)
        large += _stored(latents, format, out[first:], odd, length, first, count)
    return large
