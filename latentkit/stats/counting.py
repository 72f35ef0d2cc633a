"""Counting: posteriors -> their statistics, one accumulator a worker, merged at the end."""

from collections.abc import Iterator, Sequence
from math import prod
from threading import Lock

import numpy as np

from latentkit.compiled.divergence import half_squares_of
from latentkit.compiled.tables import WIDE, values_of
from latentkit.cores import threads_for
from latentkit.failures import Failures
from latentkit.measures.kl import kl_to_prior
from latentkit.measures.refuse import refuse_negative
from latentkit.read.blocks import Block, Halves, plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Span
from latentkit.run import Values, run, sample_values
from latentkit.stats.accumulate import Statistics
from latentkit.stats.by_label import ByLabel
from latentkit.stats.cells import EXACT_CHANNELS
from latentkit.stats.extras import Extras
from latentkit.stats.extrema import Origin
from latentkit.stats.sample_values import SampleValues

# Bytes of all workers' accumulators and buffers; and of the buffers of one.
_MEMORY, _BUFFERS = 200 << 20, 8 << 20
# What one needs more for figures beside the counts.
_EXTRA_BUFFERS = 16 << 20
# Channels beyond which there is memory for one set of counts only; and with such figures beside them.
_MOST_TWICE, _MOST_EXTRAS_TWICE = 4096, 512
# And bytes of counts by label.
_MOST_LABELLED_TWICE = 10 << 20

# What a worker counts into.
_Own = tuple[Statistics, Extras | None, ByLabel | None]


def count(
    spans: Sequence[Span],
    statistics: Statistics,
    *,
    per_sample: SampleValues | None = None,
    extras: Extras | None = None,
    by: ByLabel | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    failures: Failures | None = None,
) -> Iterator[tuple[Span, int]]:
    """Put the spans' posteriors into ``statistics``; yields what was counted, span by span, and the bytes read for it.

    ``per_sample`` takes the KL of every sample, or of latents already drawn their mean square, and ``extras`` every
    sample; ``by`` counts label by label. All hold what they should when the iterator has ended, unless ``failures``
    took a file meanwhile: something of it may have been counted.
    """
    clamp, parameterization = statistics.clamp, statistics.parameterization
    is_drawn = parameterization == "none"
    keep_going = failures is not None and failures.keep_going
    # The first thread to come counts into what is given: it takes no memory besides.
    free: list[_Own] = [(statistics, extras, by)]
    accumulators: dict[Buffers, _Own] = {}
    entering = Lock()

    def accumulator_of(buffers: Buffers) -> _Own:
        with entering:
            if buffers not in accumulators:
                own = free.pop() if free else _like(statistics, extras, by)
                accumulators[buffers] = own
            return accumulators[buffers]

    def work(block: Block, buffers: Buffers) -> Values:
        mine, part, labelled = accumulator_of(buffers)
        halves = read_block(block, buffers)
        if per_sample is None:
            values: Values = np.zeros((block.samples, 1))
        else:
            values = squares_of(halves) if is_drawn else kl_to_prior(halves, parameterization, clamp)
        if keep_going:
            refuse_negative(values, block, halves)
        mine.update(halves, [(origin_of(span, block), span.count) for span in block.spans])
        if part is not None:
            part.update(block, halves, buffers)
        if labelled is not None:
            labelled.update(block, halves)
        return values

    threads = _threads_for(workers, statistics.channels, extras is not None, 0 if by is None else by.nbytes)
    blocks = plan_blocks(spans, batch_size, apart=keep_going)
    for (span, values), nbytes in sample_values(run(blocks, work, threads, failures=failures)):
        if per_sample is not None:
            values = values / (prod(span.posterior.axes.view[1:]) if is_drawn else 1)
            per_sample.add(values[:, 0], span)
            if by is not None:
                by.values.add(values, span)
        yield span, nbytes
    for mine, part, labelled in accumulators.values():
        if mine is not statistics:
            statistics.merge(mine)
            if extras is not None and part is not None:
                extras.merge(part)
            if by is not None and labelled is not None:
                by.merge(labelled)


def _like(statistics: Statistics, extras: Extras | None, by: ByLabel | None) -> _Own:
    """Empty ones of the same kind."""
    empty = Statistics(statistics.channels, statistics.parameterization, statistics.clamp)
    return empty, None if extras is None else extras.part(), None if by is None else by.part()


def squares_of(latents: Halves) -> Values:
    """Σ z² of each sample, ``(n, 1)``."""
    starts, shape = latents.samples
    out: Values = np.empty(len(starts))
    half_squares_of(latents.mean, starts, shape, None if latents.dtype in WIDE else values_of(latents.dtype), out)
    return 2 * out.reshape(-1, 1)


def origin_of(span: Span, block: Block) -> Origin:
    """Where a block's samples of a span come from."""
    posterior, piece = span.posterior, block.piece
    _, _, channels, inner = posterior.axes.view
    return Origin(
        posterior.file.path, posterior.key, span.first, channels, inner, piece.outer[0], piece.channels[0],
        piece.inner[0],
    )  # fmt: skip


def _threads_for(asked: int | None, channels: int, has_extras: bool, labelled: int) -> int:
    """As many as are asked for, or one a core, as far as there is memory for their counts."""
    each = _BUFFERS + has_extras * _EXTRA_BUFFERS + labelled + (min(channels, EXACT_CHANNELS) << 19)
    if channels > (_MOST_EXTRAS_TWICE if has_extras else _MOST_TWICE) or labelled > _MOST_LABELLED_TWICE:
        return 1
    return min(threads_for(asked), max(2, _MEMORY // each))
