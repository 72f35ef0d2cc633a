"""Counting in one call, as tests want it."""

from collections.abc import Sequence

from latentkit.posterior.parameterization import Clamp
from latentkit.read.choice import Span
from latentkit.stats.accumulate import Statistics
from latentkit.stats.counting import count
from latentkit.stats.extras import Extras
from latentkit.stats.sample_values import SampleValues


def statistics_of(
    spans: Sequence[Span],
    clamp: Clamp,
    *,
    per_sample: SampleValues | None = None,
    extras: Extras | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Statistics:
    """Statistics of the spans' posteriors, which have the same channels and parameterization, in one pass."""
    posterior = spans[0].posterior
    statistics = Statistics(posterior.axes.channels, posterior.parameterization, clamp)
    for _ in count(spans, statistics, per_sample=per_sample, extras=extras, batch_size=batch_size, workers=workers):
        pass
    return statistics
