"""Samples in float64 as deviations from a center, and the sums of each that the figures of ``stats --with`` come from.

Deviations, and variances of the posteriors, are (samples, channels, positions). What is summed of a sample is summed
in an order that depends on the sample alone.
"""

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.divergence import decoded
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import PART, Floats, Ints, Stored, part_of, total
from latentkit.compiled.scale import spreads, variances

_LARGEST = 1.7976931348623157e308


@loop
def finite_samples(
    mean: Stored, scale: Stored, starts: Ints, shape: tuple[int, int, int], inner: int, values: Floats | None,
    table: Floats | None, kind: int, bounds: Floats, center: Floats, deviations: Floats, spread: Floats | None,
) -> int:  # fmt: skip
    """Decode samples, a row each: means less ``center`` and, where there is ``spread``, σ².

    ``values`` of the mean and ``table`` of σ² are given where these are bit patterns. Samples with a number that is not
    finite are left out; returns how many there are besides, which stand first.
    """
    step, width, length = shape
    mean_buffer, scale_buffer, numbers = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype), np.empty(PART)
    zero, kept = np.zeros_like(center), 0
    for start in starts:
        infinite = 0
        for first in range(0, length, PART):
            count = min(PART, length - first)
            part = part_of(mean, start, step, width, first, count, mean_buffer)
            decoded(part, values, numbers, count)
            infinite += _channels_first(numbers, first, count, inner, center, deviations[kept])
            if spread is not None:
                part = part_of(scale, start, step, width, first, count, scale_buffer)
                if table is None:
                    spreads(part, kind, bounds, numbers, None, count)
                    variances(numbers, kind, count)
                else:
                    decoded(part, table, numbers, count)
                infinite += _channels_first(numbers, first, count, inner, zero, spread[kept])
        if infinite == 0:
            kept += 1
    return kept


@formula
def _channels_first(numbers: Floats, first: int, count: int, inner: int, center: Floats, out: Floats) -> int:
    """Numbers ``first`` to ``first + count`` of a sample, (outer, channels, inner), less the center, to (channels,
    positions); returns how many are infinite or NaN.
    """
    line, within, done, infinite = first // inner, first % inner, 0, 0
    channel, begin = line % center.size, line // center.size * inner
    while done < count:
        some = min(inner - within, count - done)
        # Views, as a loop over them vectorizes.
        run, to = numbers[done : done + some], out[channel, begin + within : begin + within + some]
        middle = center[channel]
        for j in range(some):
            to[j] = run[j] - middle
            infinite += 0 if abs(run[j]) <= _LARGEST else 1
        done, within, channel = done + some, 0, channel + 1
        if channel == center.size:
            channel, begin = 0, begin + inner
    return infinite


@loop
def sums(numbers: Floats, out: Floats) -> None:
    """Σ over positions: (samples, channels)."""
    samples, channels, length = numbers.shape
    terms = np.empty(PART)
    for sample in range(samples):
        for channel in range(channels):
            value = 0.0
            for first in range(0, length, PART):
                count = min(PART, length - first)
                decoded(numbers[sample, channel, first : first + count], None, terms, count)
                value += total(terms, count)
            out[sample, channel] = value


@loop
def powers(deviations: Floats, spread: Floats | None, out: Floats) -> None:
    """Σ of d², of d³ + 3 d σ² and of d⁴ + 6 d² σ² + 3 σ⁴ over positions: (samples, 3, channels)."""
    samples, channels, length = deviations.shape
    second, third, fourth = np.empty(PART), np.empty(PART), np.empty(PART)
    for sample in range(samples):
        for channel in range(channels):
            a = b = c = 0.0
            for first in range(0, length, PART):
                count = min(PART, length - first)
                d = deviations[sample, channel, first : first + count]
                if spread is None:
                    for j in range(count):
                        square = d[j] * d[j]
                        second[j], third[j], fourth[j] = square, d[j] * square, square * square
                else:
                    v = spread[sample, channel, first : first + count]
                    for j in range(count):
                        square = d[j] * d[j]
                        second[j] = square
                        third[j] = d[j] * (square + 3.0 * v[j])
                        fourth[j] = square * (square + 6.0 * v[j]) + 3.0 * v[j] * v[j]
                a += total(second, count)
                b += total(third, count)
                c += total(fourth, count)
            out[sample, 0, channel], out[sample, 1, channel], out[sample, 2, channel] = a, b, c


@loop
def squares(deviations: Floats, out: Floats) -> None:
    """Σ d² over positions: (samples, channels)."""
    samples, channels, positions = deviations.shape
    terms = np.empty(PART)
    for sample in range(samples):
        for channel in range(channels):
            value = 0.0
            for first in range(0, positions, PART):
                count = min(PART, positions - first)
                d = deviations[sample, channel, first : first + count]
                for j in range(count):
                    terms[j] = d[j] * d[j]
                value += total(terms, count)
            out[sample, channel] = value


@loop
def neighbours(length: int, after: int, deviations: Floats, found: Floats) -> None:
    """Σ d d' of neighbours along an axis of so many entries, which stand ``after`` positions apart; Σ of both its ends:
    (samples, 2, channels).
    """
    samples, channels, positions = deviations.shape
    run = (length - 1) * after
    terms = np.empty(PART)
    for sample in range(samples):
        for channel in range(channels):
            d = deviations[sample, channel]
            product, edge, filled = 0.0, 0.0, 0
            for start in range(0, positions, length * after):
                for j in range(start, start + after):
                    edge += d[j] + d[run + j]
                for first in range(start, start + run, PART):
                    count = min(PART, start + run - first)
                    if filled + count > PART:
                        product, filled = product + total(terms, filled), 0
                    one, other = d[first : first + count], d[first + after : first + after + count]
                    out = terms[filled : filled + count]
                    for j in range(count):
                        out[j] = one[j] * other[j]
                    filled += count
            found[sample, 0, channel], found[sample, 1, channel] = product + total(terms, filled), edge


@loop
def add_power(
    transforms: NDArray[np.complex128], bins: Ints, weights: Floats, first: int, planes: int, out: Floats
) -> None:
    """Add |F|² of each frequency of some transforms to its bin, so often as ``weights`` say: (n, F) to (rows, bins).

    A row has so many planes, one after the other; the first transform is of plane ``first``.
    """
    for plane in range(transforms.shape[0]):
        row = out[(first + plane) // planes]
        for j in range(bins.size):
            real, imaginary = transforms[plane, j].real, transforms[plane, j].imag
            row[bins[j]] += weights[j] * (real * real + imaginary * imaginary)
