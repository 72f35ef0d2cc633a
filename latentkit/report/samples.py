"""The KL of samples as bars of a histogram."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from latentkit.outliers import SampleKl, cell_edges

# Bins are 2 n^(1/3), the Rice rule, but no fewer and no more than these.
_FEWEST, _MOST = 12, 44
# From this ratio of the 99th to the 1st percentile on, bins are of equal ratio and not of equal width.
_WIDE = 20.0
# What is a KL of zero on a logarithmic axis, in nats.
_LEAST = 1e-6


@dataclass(frozen=True, slots=True)
class KlHistogram:
    """``counts`` of samples between ``edges`` (one more) in nats, and how many are below and above them all.

    ``is_log``: bins are of about equal ratio, not of equal width.
    """

    edges: list[float]
    counts: list[int]
    below: int
    above: int
    is_log: bool


def kl_histogram(sample_kl: SampleKl) -> KlHistogram | None:
    """Up to 44 bins over the finite KL; None where there is none.

    They reach from the 1st to the 99th percentile and as far again to either side, if there are samples: a few far
    out leave the others their room. KL is counted in cells 0.8 % wide, so edges are moved to edges of cells: no bin
    has one cell more than its share, and the narrowest are single cells.
    """
    if not sample_kl.count:
        return None
    least, first, last, most = (max(sample_kl.quantile(level), _LEAST) for level in (0.0, 0.01, 0.99, 1.0))
    bins = min(_MOST, max(_FEWEST, round(2 * sample_kl.count ** (1 / 3))))
    is_log = last / first > _WIDE
    if is_log:
        low, high = max(least, first * first / last), min(most, last * last / first)
        spaced = np.geomspace(low, high, bins + 1)
    else:
        low, high = max(least, 2 * first - last), min(most, 2 * last - first)
        spaced = np.linspace(low, high, bins + 1)
    starts, ends = cell_edges(spaced)
    edges = np.unique(np.append(starts[:-1], ends[-1])).tolist()
    at_least = [sample_kl.at_least(edge) for edge in edges]
    if edges[0] <= _LEAST:
        at_least[0] = sample_kl.count
    below, above = sample_kl.count - at_least[0], at_least[-1]
    counts = [more - fewer for more, fewer in pairwise(at_least)]
    return KlHistogram(edges, counts, below, above, is_log)
