"""Counts and sums of stored numbers, channel by channel: of bit patterns counts alone, of floats all that follows.

A block is (samples, outer, channels, inner) elements, of which ``run_step`` lie between one outer entry and the next.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.divergence import decoded
from latentkit.compiled.exact import Sums, add_terms
from latentkit.compiled.formulas import log, remainder_and_exp, remainder_of_variance, softplus_std
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import LANES, PART, Floats, Ints, Stored, part_of, short_total, total
from latentkit.compiled.scale import LOGVAR, SOFTPLUS, STD, VAR, clamped

#: (samples, outer, channels, inner) of a block.
Dims = tuple[int, int, int, int]
#: The kind of a number that is no scale parameter.
MEAN = -1
#: What is counted of each channel, in this order.
TALLIES = ("total", "nan", "negative", "minus_inf", "plus_inf")
#: What is summed of each channel, exactly: x, x², h(l) and e^l; of a scale parameter x is the log-variance.
SUMS = 4

# Of a number that was counted: four of its sum, and the rest of its square's.
_TERMS_OF_COUNTED = 13
_LARGEST = 1.7976931348623157e308
_LARGEST_SINGLE = 3.4028234663852886e38
_ALL_BUT_SIGN = np.int64(0x7FFFFFFFFFFFFFFF)
_MINUS_INF, _ZERO, _INF = np.int64(-0x7FF0000000000001), np.int64(0), np.int64(0x7FF0000000000000)


@formula
def key_of(code: int, sign: int) -> np.uint16:
    """A whole number that grows with the number whose bit pattern this is; ``sign`` is the pattern's sign bit."""
    return np.uint16(2 * sign - 1 - code) if code >= sign else np.uint16(code + sign)


@loop
def count_codes(codes: Stored, dims: Dims, run_step: int, sign: int, counts: NDArray[Any], ends: Ints) -> None:
    """Add one to ``counts`` (channels, patterns) for every bit pattern of a block.

    ``ends`` (channels, 2) becomes the least and the greatest key of each channel's patterns.
    """
    samples, outer, channels, inner = dims
    for channel in range(channels):
        ends[channel, 0], ends[channel, 1] = 2 * sign, -1
    for run in range(samples * outer):
        for channel in range(channels):
            at = run * run_step + channel * inner
            part, row = codes[at : at + inner], counts[channel]
            for j in range(inner):
                row[part[j]] += 1
            least = greatest = key_of(part[0], sign)
            for j in range(inner):
                least, greatest = min(least, key_of(part[j], sign)), max(greatest, key_of(part[j], sign))
            ends[channel, 0], ends[channel, 1] = min(ends[channel, 0], least), max(ends[channel, 1], greatest)


@loop
def count_floats(
    stored: Stored, values: Floats | None, dims: Dims, run_step: int, kind: int, bounds: Floats, thresholds: Floats,
    fold: NDArray[Any] | None, counts: NDArray[Any] | None, rows_of: Ints | None, tallies: Ints, beneath: Ints,
    sums: Sums, tops: Ints, odd: Floats, ends: Floats,
) -> None:  # fmt: skip
    """Count and sum the numbers of a block: floats, or bit patterns that stand for ``values``.

    Args:
        kind, bounds: what the numbers are (``MEAN``, or as in ``scale``), and the clamp's bounds.
        thresholds: (k,) stored numbers at which finite ones are counted: ``beneath`` (channels, k, 2) takes in how many
            are less, and how many at most that.
        fold: the cell of each upper half of a float32 pattern; None: the half itself. ``counts`` (channels, cells);
            None: none.
        rows_of: (samples,) in which row of what follows the first channel of each sample is counted; None: in the
            first.
        tallies: (channels, 5), see ``TALLIES``.
        sums, tops, odd: (channels · 4) exact sums, see ``SUMS``.
        ends: (channels, 2), becomes the least and greatest of the finite; +∞ and −∞ where there is none.

    A sample's channel is summed in parts of fixed length about a number near their mean, and each part's sums, float64,
    are added exactly: the order of samples, and who counts them, does not matter.
    """
    samples, outer, channels, inner = dims
    length = outer * inner
    together = max(1, PART // length)
    # All of a part are finite means or log-variances where their keys lie between these (of softplus also −∞ is one,
    # but that is rare).
    lowest = _ZERO if kind in (STD, VAR) else _MINUS_INF
    buffer = np.empty(PART, stored.dtype)
    x, terms, variances = np.empty(PART), np.empty(PART), np.empty(PART)
    at, found, singles = np.empty(9 * PART, np.int64), np.empty(9 * PART), np.empty(PART, np.float32)
    for channel in range(channels):
        ends[channel, 0], ends[channel, 1] = np.inf, -np.inf
        for sample in range(0, samples, together):
            rows = min(together, samples - sample)
            start = sample * outer * run_step + channel * inner
            for first in range(0, length, PART):
                size = min(PART, length - first)
                decoded(part_of(stored, start, run_step, inner, first, rows * size, buffer), values, x, rows * size)
                least, greatest = _ends(x, rows * size)
                clean = lowest < least and greatest < _INF
                groups, in_group = (1, rows) if clean and rows_of is None else (rows, 1)
                for group in range(groups):
                    some, count = x[group * size : (group + in_group) * size], size
                    row = channel if rows_of is None else rows_of[sample + group] + channel
                    if clean:
                        tallies[row, 0] += in_group * size
                    else:
                        count = _finite(some, kind, tallies[row])
                    if count:
                        if not clean:
                            least, greatest = _ends(some, count)
                        low, high = _number_of(least), _number_of(greatest)
                        ends[channel, 0], ends[channel, 1] = min(ends[channel, 0], low), max(ends[channel, 1], high)
                        if counts is not None:
                            _count_cells(some, fold, counts[channel], singles, in_group * count)
                        _count_beneath(some, thresholds, beneath[row], low, high, in_group * count)
                        n = _terms(some, terms, variances, kind, bounds, SUMS * row, count, in_group, at, found)
                        add_terms(sums, tops, odd, at, found, n)


@formula
def _key_of(x: float) -> np.int64:
    """A whole number that grows with x: its bits, those of negative numbers turned over."""
    bits = np.float64(x).view(np.int64)
    return np.int64(bits ^ ((bits >> np.int64(63)) & _ALL_BUT_SIGN))


@formula
def _number_of(key: np.int64) -> np.float64:
    """The number of this key."""
    return np.int64(key ^ ((key >> np.int64(63)) & _ALL_BUT_SIGN)).view(np.float64)


@formula
def _ends(x: Floats, count: int) -> tuple[np.int64, np.int64]:
    """The least and the greatest key: whole numbers, as comparing floats one after the other does not vectorize.

    The keys of NaN lie beyond those of the infinities.
    """
    least = greatest = _key_of(x[0])
    for j in range(count):
        key = _key_of(x[j])
        least, greatest = min(least, key), max(greatest, key)
    return least, greatest


@formula
def _finite(x: Floats, kind: int, tally: Ints) -> int:
    """Count numbers by class, and move those that stand for a finite value to the front; returns how many they are."""
    tally[0] += x.size
    count = 0
    for j in range(x.size):
        if x[j] != x[j]:
            tally[1] += 1
        elif kind in (STD, VAR) and x[j] < 0.0:
            tally[2] += 1
        elif (kind in (STD, VAR) and x[j] == 0.0) or (x[j] == -np.inf and kind != SOFTPLUS):
            tally[3] += 1
        elif x[j] == np.inf:
            tally[4] += 1
        else:
            x[count] = x[j]
            count += 1
    return count


@formula
def _terms(
    x: Floats, terms: Floats, variances: Floats, kind: int, bounds: Floats, first_sum: int, size: int, rows: int,
    at: Ints, found: Floats,
) -> int:  # fmt: skip
    """What is to be added for rows of finite numbers, and to which sums; returns how many terms. x is overwritten."""
    n = 0
    if kind != MEAN:
        _scale_terms(x, terms, variances, kind, bounds, rows * size)
        for row in range(rows):
            begin, end = row * size, row * size + size
            at[n], at[n + 1] = first_sum + 2, first_sum + 3
            found[n] = total(terms[begin:end], size) if size > 1 else terms[row]
            found[n + 1] = total(variances[begin:end], size) if size > 1 else variances[row]
            n += 2
    for row in range(rows):
        some = x[row * size : row * size + size]
        # A number near their mean (four bits go where it is furthest), of 24 bits, so that products with it are exact
        # in two parts.
        near = short_total(some, 0, min(size, LANES)) / min(size, LANES)
        center = np.float64(np.float32(clamped(near, -_LARGEST_SINGLE, _LARGEST_SINGLE)))
        rest, squares = some[0] - center, (some[0] - center) * (some[0] - center)
        if size > 1:
            for j in range(size):
                some[j] -= center
                terms[j] = some[j] * some[j]
            rest, squares = total(some, size), total(terms, size)
        whole, twice = size * center, 2.0 * rest
        at[n] = at[n + 1] = first_sum
        at[n + 2] = at[n + 3] = at[n + 4] = at[n + 5] = at[n + 6] = first_sum + 1
        found[n], found[n + 1], found[n + 2] = whole, rest, squares
        found[n + 3], found[n + 4] = upper(whole) * center, (whole - upper(whole)) * center
        found[n + 5], found[n + 6] = upper(twice) * center, (twice - upper(twice)) * center
        n += 7
    return n


@formula
def upper(x: float) -> float:
    """x to 24 bits; what is left has 29."""
    return np.int64(np.float64(x).view(np.int64) & np.int64(-(1 << 29))).view(np.float64)


@formula
def _count_cells(
    x: Floats, fold: NDArray[Any] | None, counts: NDArray[Any], singles: NDArray[np.float32], count: int
) -> None:
    """Float64 is rounded to float32 for its cell, and only for that; by a loop of its own, as it alone vectorizes."""
    for j in range(count):
        singles[j] = clamped(x[j], -_LARGEST_SINGLE, _LARGEST_SINGLE)
    patterns = singles.view(np.uint32)
    if fold is None:
        for j in range(count):
            counts[patterns[j] >> np.uint32(16)] += 1
    else:
        for j in range(count):
            counts[fold[patterns[j] >> np.uint32(16)]] += 1


@formula
def _count_beneath(x: Floats, thresholds: Floats, beneath: Ints, least: float, greatest: float, count: int) -> None:
    """How many are less than each threshold, and how many at most that: looked at one by one where it lies within."""
    for k in range(thresholds.size):
        if greatest < thresholds[k]:
            beneath[k, 0] += count
            beneath[k, 1] += count
        elif least <= thresholds[k]:
            less = at_most = 0
            for j in range(count):
                less += 1 if x[j] < thresholds[k] else 0
                at_most += 1 if x[j] <= thresholds[k] else 0
            beneath[k, 0] += less
            beneath[k, 1] += at_most


@formula
def _scale_terms(x: Floats, remainders: Floats, variances: Floats, kind: int, bounds: Floats, count: int) -> None:
    """h(l) and e^l after the clamp; x becomes the log-variance before it."""
    if kind == LOGVAR:
        for j in range(count):
            remainders[j], variances[j] = remainder_and_exp(clamped(x[j], bounds[0], bounds[1]))
    elif kind == VAR:
        for j in range(count):
            variances[j] = clamped(x[j], bounds[4], bounds[5])
            remainders[j] = remainder_of_variance(variances[j], variances[j] - 1.0)
            x[j] = log(x[j])
    else:
        if kind == SOFTPLUS:
            for j in range(count):
                x[j] = softplus_std(x[j])
        for j in range(count):
            std = clamped(x[j], bounds[2], bounds[3])
            variances[j] = std * std
            remainders[j] = remainder_of_variance(variances[j], (std - 1.0) * (std + 1.0))
            x[j] = 2.0 * log(x[j])


@loop
def sum_counted(
    values: Floats, remainders: Floats, variances: Floats, counts: Ints, sums: Sums, tops: Ints, odd: Floats
) -> None:
    """Add what ``count_floats`` sums, of numbers of which there are ``counts`` (channels, n): see ``SUMS``.

    ``remainders`` and ``variances`` are empty for means. Values are finite; those of scales are log-variances.
    """
    at, found = np.empty(_TERMS_OF_COUNTED, np.int64), np.empty(_TERMS_OF_COUNTED)
    for channel in range(counts.shape[0]):
        first_sum = SUMS * channel
        for j in range(_TERMS_OF_COUNTED):
            at[j] = first_sum if j < 4 else first_sum + 1
        for j in range(values.size):
            number = np.float64(counts[channel, j])
            if number == 0.0:
                continue
            # In parts of 24 and 29 bits, whose products are exact; only that of the two smallest may be rounded.
            value, many = upper(values[j]), upper(number)
            low, few = values[j] - value, number - many
            square, cross = value * value, 2.0 * value * low
            found[0], found[1], found[2], found[3] = many * value, few * value, many * low, few * low
            found[4], found[5] = many * upper(square), many * (square - upper(square))
            found[6], found[7] = few * upper(square), few * (square - upper(square))
            found[8], found[9] = many * upper(cross), many * (cross - upper(cross))
            found[10], found[11], found[12] = few * upper(cross), few * (cross - upper(cross)), number * (low * low)
            add_terms(sums, tops, odd, at, found, _TERMS_OF_COUNTED)
        for j in range(remainders.size):
            at[0], at[1] = first_sum + 2, first_sum + 3
            found[0], found[1] = counts[channel, j] * remainders[j], counts[channel, j] * variances[j]
            add_terms(sums, tops, odd, at, found, 2)
