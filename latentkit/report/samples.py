"""Bars of a histogram: of the KL or mean square of samples, and of log-variances."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from latentkit.stats.sample_values import SampleValues, cell_edges

# Bins are 2 n^(1/3), the Rice rule, but no fewer and no more than these.
_FEWEST, _MOST = 12, 44
# From this ratio of the 99th to the 1st percentile on, bins are of equal ratio and not of equal width.
_WIDE = 20.0
# What is a zero on a logarithmic axis, by the greatest value, or by 1 if that is greater.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class Histogram:
    """``counts`` between ``edges`` (one more), and how many are below and above them all.

    ``is_log``: bins are of about equal ratio, not of equal width.
    """

    edges: list[float]
    counts: list[int]
    below: int
    above: int
    is_log: bool = False


def histogram_of(values: SampleValues) -> Histogram | None:
    """Up to 44 bins over the finite values; None where there is none.

    They reach from the 1st to the 99th percentile and as far again to either side, if there are samples: a few far
    out leave the others their room. Where values are counted in cells 0.8 % wide, edges are moved to edges of cells: no
    bin has one cell more than its share, and the narrowest are single cells.
    """
    if not values.count:
        return None
    zero = _LEAST * min(values.quantile(1.0) or 1.0, 1.0)
    least, first, last, most = (max(values.quantile(level), zero) for level in (0.0, 0.01, 0.99, 1.0))
    bins = min(_MOST, max(_FEWEST, round(2 * values.count ** (1 / 3))))
    is_log = last / first > _WIDE
    if is_log:
        low, high = max(least, first * first / last), min(most, last * last / first)
        spaced = np.geomspace(low, high, bins + 1)
    else:
        low, high = max(least, 2 * first - last), min(most, 2 * last - first)
        spaced = np.linspace(low, high, bins + 1)
    if values.exact is None:
        starts, ends = cell_edges(spaced)
        spaced = np.append(starts[:-1], ends[-1])
    else:
        spaced[-1] = np.nextafter(spaced[-1], np.inf)  # so that what is at the last edge is inside
    edges = np.unique(spaced).tolist()
    at_least = [values.at_least(edge) for edge in edges]
    if edges[0] <= zero:
        at_least[0] = values.count
    below, above = values.count - at_least[0], at_least[-1]
    counts = [more - fewer for more, fewer in pairwise(at_least)]
    return Histogram(edges, counts, below, above, is_log)
