"""Counting: posteriors -> their statistics, one accumulator a worker, merged at the end."""

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np
import torch
from torch import Tensor

from latentkit.cores import threads_for
from latentkit.health.outliers import SampleValues
from latentkit.measures.formulas import Arithmetic, kl_to_prior
from latentkit.parts import samples_at_once
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Block, plan_blocks, read_latents, read_posterior
from latentkit.read.choice import Span
from latentkit.run import run, sample_values
from latentkit.stats import Origin, Statistics
from latentkit.stats.accumulate import EXACT_CHANNELS
from latentkit.stats.extras import Extras
from latentkit.sums import Values, by_units, sample_sums
from latentkit.workspace import Workspace

Measured = tuple[Span, Values]

# Bytes of all workers' accumulators and buffers; and of the buffers of one.
_MEMORY, _BUFFERS = 200 << 20, 24 << 20
# What one needs more for figures beside the counts.
_EXTRA_BUFFERS = 16 << 20


def _unwatched(results: Iterator[tuple[Measured, int]]) -> Iterator[Measured]:
    return (result for result, _ in results)


def statistics_of(
    spans: Sequence[Span],
    clamp: Clamp,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    per_sample: SampleValues | None = None,
    extras: Extras | None = None,
    progress: Callable[[Iterator[tuple[Measured, int]]], Iterator[Measured]] = _unwatched,
) -> Statistics:
    """Statistics of the spans' posteriors, which have the same channels and parameterization, in one pass.

    ``per_sample`` is handed the KL of every sample, or of latents already drawn their mean square, and ``extras``
    every sample. ``progress`` is handed an iterator of results with the bytes read for each, and passes the results on.
    """
    posterior = spans[0].posterior
    channels, parameterization = posterior.axes.channels, posterior.parameterization
    is_drawn = parameterization == "none"
    arithmetic = Arithmetic(clamp)
    accumulators: dict[Workspace, Statistics] = {}
    parts: dict[Workspace, Extras] = {}

    def work(block: Block, workspace: Workspace) -> Values:
        if workspace not in accumulators:
            accumulators[workspace] = Statistics(channels, parameterization, clamp)
        mean, raw = (read_latents(block, workspace), None) if is_drawn else read_posterior(block, workspace)
        origins = [(_origin(span, block), span.count) for span in block.spans]
        accumulators[workspace].update_spans(mean, raw, origins)
        if extras is not None:
            if workspace not in parts:
                parts[workspace] = extras.part()
            parts[workspace].update(block, mean, raw, workspace)
        if per_sample is None:
            return np.zeros((block.samples, 1))
        if raw is None:
            return by_units(_squares, mean)
        return kl_to_prior(mean, raw, parameterization, arithmetic, workspace, per_channel=False)

    threads = _threads_for(workers, channels, extras is not None)
    blocks = plan_blocks(spans, batch_size, workers=threads)
    for span, values in progress(sample_values(run(blocks, work, threads))):
        if per_sample is not None:
            elements = prod(span.posterior.axes.view[1:]) if is_drawn else 1
            per_sample.add(values[:, 0] / elements, span)
    merged = Statistics(channels, parameterization, clamp)
    for accumulator in accumulators.values():
        merged.merge(accumulator)
    for part in parts.values():
        assert extras is not None
        extras.merge(part)
    return merged


def _squares(latents: Tensor) -> Values:
    """Σ z² of each sample, ``(n, 1)``, in float64: some samples at a time, which do not leave the cache."""
    parts = torch.split(latents, samples_at_once(latents))
    return np.concatenate([sample_sums(part.double().square()) for part in parts])


def _threads_for(asked: int | None, channels: int, has_extras: bool) -> int:
    """As many as are asked for, or one a core, as far as there is memory for their counts."""
    each = _BUFFERS + has_extras * _EXTRA_BUFFERS + (min(channels, EXACT_CHANNELS) << 19)
    return min(threads_for(asked), max(2, _MEMORY // each))


def _origin(span: Span, block: Block) -> Origin:
    posterior, piece = span.posterior, block.piece
    return Origin(
        posterior.file.path, posterior.key, span.first, piece.outer[0], piece.channels[0], piece.inner[0],
        posterior.axes.view[3],
    )  # fmt: skip
