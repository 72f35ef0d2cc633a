"""Statistics of posteriors in one pass: accumulators that merge, and the summary they come to.

One ``Statistics`` a worker takes blocks as they are read (``update``); the accumulators are merged at the end
(``merge``), read out (``summary``), or kept (``arrays``, ``restore``). Counts are whole numbers and sums are exact, so
every figure is the same to the last bit for any order, block size, split and number of accumulators.

=================  =========================================================================================
``quantity``       what a stored number means: mean or scale parameter, its classes and thresholds
``sums``           exact sums that merge
``facts``          counts of classes and sums of each channel, and their means and variances
``cells``          cells for quantiles and histograms
``counts``         counts by bit pattern, of which all else is a function, or by cells, with facts beside them
``extrema``        the least and the greatest, and where they stand
``accumulate``     ``Statistics``: blocks in, summary out
``summary``        the figures, as frozen dataclasses
``sample_values``  one value of every sample: its KL, or mean square
``by_label``       the figures of ``--by``: of each label's samples
``counting``       blocks on threads -> statistics
``state``          what was counted as a file, for another process to merge
``extras``         the figures of ``--with``: correlation, shape, spectrum, duplicates
=================  =========================================================================================
"""

#: So many channels have statistics in bounded memory, with those that they are set beside; so many are in a report; and
#: so many have their correlation with each other.
MOST_CHANNELS, MOST_REPORTED, MOST_CORRELATED = 1 << 14, 1 << 12, 512
