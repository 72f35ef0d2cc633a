"""Statistics of posteriors in one pass: accumulators that merge, and the summary they come to.

One ``Statistics`` a worker takes blocks as they are read (``update``); the accumulators are merged at the end
(``merge``) and read out (``summary``). Counts, extrema and quantiles are the same bits for any order, block size,
split and number of accumulators; moments agree to 1e-12 (means: of the standard deviation).

================  ==========================================================================================
``quantity``      what a stored number means: mean or scale parameter, its classes and thresholds
``moments``       sums, means and variances that merge
``extrema``       the least and the greatest, and where they stand
``counts``        counts by bit pattern: exact ones, of which all else is a function, and coarse ones
``accumulate``    ``Statistics``: blocks in, summary out
``state``         what was counted as arrays, for another process to merge
``summary``       the figures, as frozen dataclasses
``centred``       samples about their mean, and how groups about different means merge
``correlation``   covariance, correlation and effective rank of the channels
``shape``         skewness and kurtosis
``spectrum``      autocorrelation and power over space
``duplicates``    samples that are copies of others
================  ==========================================================================================
"""

from latentkit.stats.accumulate import Statistics
from latentkit.stats.extrema import Origin, Place
from latentkit.stats.summary import (
    ClampCounts,
    Divergence,
    Group,
    Hazards,
    Normalization,
    Spread,
    Summary,
)

__all__ = [
    "ClampCounts",
    "Divergence",
    "Group",
    "Hazards",
    "Normalization",
    "Origin",
    "Place",
    "Spread",
    "Statistics",
    "Summary",
]
