"""KL of rows, to the standard normal and to another posterior: ½ Σ (m² + h(l)), ½ Σ ((m − m2)² e^(−l2) + h(l − l2))."""

import numpy as np

from latentkit.compiled.formulas import remainder, remainder_of_variance
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import PART, Floats, Ints, Stored, part_of, total
from latentkit.compiled.scale import LOGVAR, STD, VAR, quick_remainders, spreads, variances

#: How a tensor's rows lie: see ``rows``. Of each row ``starts`` says where it begins.
Shape = tuple[int, int, int]  # step, width, length


@loop
def kl_of_codes(
    mean: Stored, scale: Stored, starts: Ints, shape: Shape, half_squares: Floats, half_remainders: Floats, out: Floats
) -> None:
    """KL to the prior, in nats, of rows of bit patterns: two look-ups and a sum per element."""
    step, width, length = shape
    mean_buffer, scale_buffer = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    for row in range(starts.size):
        value = 0.0
        for first in range(0, length, PART):
            count = min(PART, length - first)
            m = part_of(mean, starts[row], step, width, first, count, mean_buffer)
            s = part_of(scale, starts[row], step, width, first, count, scale_buffer)
            a = b = c = d = 0.0
            whole = count // 4 * 4
            for j in range(0, whole, 4):
                a += half_squares[m[j]] + half_remainders[s[j]]
                b += half_squares[m[j + 1]] + half_remainders[s[j + 1]]
                c += half_squares[m[j + 2]] + half_remainders[s[j + 2]]
                d += half_squares[m[j + 3]] + half_remainders[s[j + 3]]
            for j in range(whole, count):
                a += half_squares[m[j]] + half_remainders[s[j]]
            value += (a + b) + (c + d)
        out[row] = value


@loop
def kl_of_floats(
    mean: Stored, scale: Stored, starts: Ints, shape: Shape, kind: int, bounds: Floats, out: Floats
) -> None:
    """KL to the prior, in nats, of rows of float32 or float64 numbers."""
    step, width, length = shape
    mean_buffer, scale_buffer = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    terms, scratch = np.empty(PART), np.empty((4, PART), np.float32)
    for row in range(starts.size):
        value = 0.0
        for first in range(0, length, PART):
            count = min(PART, length - first)
            m = part_of(mean, starts[row], step, width, first, count, mean_buffer)
            s = part_of(scale, starts[row], step, width, first, count, scale_buffer)
            quick_remainders(s, kind, bounds, terms, scratch, count)
            for j in range(count):
                wide = np.float64(m[j])
                # Halved first: the square may exceed float64 where its half does not.
                terms[j] = 0.5 * wide * wide + 0.5 * terms[j]
            value += total(terms, count)
        out[row] = value


@formula
def decoded(part: Stored, values: Floats | None, out: Floats, count: int) -> None:
    """Stored numbers as float64: bit patterns looked up in ``values``, floats as they are (None)."""
    if values is None:
        for j in range(count):
            out[j] = part[j]
    else:
        for j in range(count):
            out[j] = values[part[j]]


@loop
def half_squares_of(stored: Stored, starts: Ints, shape: Shape, values: Floats | None, out: Floats) -> None:
    """½ Σ x² of rows of floats, or of bit patterns that stand for ``values``."""
    step, width, length = shape
    buffer, terms = np.empty(PART, stored.dtype), np.empty(PART)
    for row in range(starts.size):
        value = 0.0
        for first in range(0, length, PART):
            count = min(PART, length - first)
            decoded(part_of(stored, starts[row], step, width, first, count, buffer), values, terms, count)
            for j in range(count):
                terms[j] = 0.5 * terms[j] * terms[j]
            value += total(terms, count)
        out[row] = value


@formula
def spread(
    part: Stored, table: Floats | None, kind: int, bounds: Floats, base: Floats, inverse: Floats | None, count: int
) -> None:
    """Base and, where asked for, 1/σ of stored scales: looked up in ``table`` (2 or more, n), or of floats computed."""
    if table is None:
        spreads(part, kind, bounds, base, inverse, count)
    else:
        for j in range(count):
            base[j] = table[0, part[j]]
        if inverse is not None:
            for j in range(count):
                inverse[j] = table[1, part[j]]


@formula
def _terms(
    means: Floats, bases: Floats, other_means: Floats, other_bases: Floats, other_inverse: Floats, kind: int, count: int
) -> None:
    """½ ((m − m2)² / σ2² + h(l − l2)) of a part, into ``means``.

    Two posteriors may be far from the prior and near each other: what tells them apart is then in the last digits of
    their log-variances, which a logarithm rounds away. So v / v2 − 1 comes from what is stored.
    """
    for j in range(count):
        deviation = (means[j] - other_means[j]) * other_inverse[j]
        means[j] = 0.5 * deviation * deviation
    if kind == LOGVAR:
        for j in range(count):
            means[j] += 0.5 * remainder(bases[j] - other_bases[j])
    elif kind == STD:
        for j in range(count):
            excess = ((bases[j] - other_bases[j]) / other_bases[j]) * ((bases[j] + other_bases[j]) / other_bases[j])
            ratio = bases[j] / other_bases[j]
            means[j] += 0.5 * remainder_of_variance(ratio * ratio, excess)
    else:
        for j in range(count):
            excess = (bases[j] - other_bases[j]) / other_bases[j]
            means[j] += 0.5 * remainder_of_variance(bases[j] / other_bases[j], excess)


@loop
def kl_to_other(
    mean: Stored, scale: Stored, starts: Ints, shape: Shape, values: Floats | None, table: Floats | None, kind: int,
    other_mean: Stored, other_scale: Stored, other_starts: Ints, other_shape: Shape, other_values: Floats | None,
    other_table: Floats | None, other_kind: int, common: int, bounds: Floats, out: Floats,
) -> None:  # fmt: skip
    """KL(posterior ‖ other), in nats, row by row.

    Of each posterior: its mean and scale as stored, its rows, tables where these are bit patterns (``values`` of the
    mean; base and 1/σ of the scale), and the kind of its base. ``common`` is the kind that both are compared as.
    """
    buffers = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    other_buffers = np.empty(PART, other_mean.dtype), np.empty(PART, other_scale.dtype)
    means, bases, inverse = np.empty(PART), np.empty(PART), np.empty(PART)
    other_means, other_bases = np.empty(PART), np.empty(PART)
    for row in range(starts.size):
        value = 0.0
        for first in range(0, shape[2], PART):
            count = min(PART, shape[2] - first)
            part = part_of(mean, starts[row], shape[0], shape[1], first, count, buffers[0])
            decoded(part, values, means, count)
            part = part_of(scale, starts[row], shape[0], shape[1], first, count, buffers[1])
            spread(part, table, kind, bounds, bases, None, count)
            other = part_of(
                other_mean, other_starts[row], other_shape[0], other_shape[1], first, count, other_buffers[0]
            )
            decoded(other, other_values, other_means, count)
            other = part_of(
                other_scale, other_starts[row], other_shape[0], other_shape[1], first, count, other_buffers[1]
            )
            spread(other, other_table, other_kind, bounds, other_bases, inverse, count)
            if common == VAR:
                variances(bases, kind, count)
                variances(other_bases, other_kind, count)
            _terms(means, bases, other_means, other_bases, inverse, common, count)
            value += total(means, count)
        out[row] = value
