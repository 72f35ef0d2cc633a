"""Counting: posteriors -> their statistics, one accumulator a worker, merged at the end."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from latentkit.measures import Arithmetic, Values, kl_to_prior
from latentkit.outliers import SampleKl
from latentkit.parameterization import Clamp
from latentkit.pipeline import run, sample_values
from latentkit.statistics import Origin, Statistics
from latentkit.storage.blocks import Block, plan_blocks, read_latents, read_posterior
from latentkit.storage.choice import Span
from latentkit.workspace import Workspace

Measured = tuple[Span, Values]


def _unwatched(results: Iterator[tuple[Measured, int]]) -> Iterator[Measured]:
    return (result for result, _ in results)


def statistics_of(
    spans: Sequence[Span],
    clamp: Clamp,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    sample_kl: SampleKl | None = None,
    progress: Callable[[Iterator[tuple[Measured, int]]], Iterator[Measured]] = _unwatched,
) -> Statistics:
    """Statistics of the spans' posteriors, which have the same channels and parameterization, in one pass.

    ``sample_kl`` is handed the KL of every sample (latents already drawn have none). ``progress`` is handed an
    iterator of results with the bytes read for each, and passes the results on.
    """
    posterior = spans[0].posterior
    channels, parameterization = posterior.axes.channels, posterior.parameterization
    is_drawn = parameterization == "none"
    arithmetic = Arithmetic(clamp)
    accumulators: dict[Workspace, Statistics] = {}

    def work(block: Block, workspace: Workspace) -> Values:
        if workspace not in accumulators:
            accumulators[workspace] = Statistics(channels, parameterization, clamp)
        mean, raw = (read_latents(block, workspace), None) if is_drawn else read_posterior(block, workspace)
        row = 0
        for span in block.spans:
            rows = slice(row, row + span.count)
            accumulators[workspace].update(mean[rows], None if raw is None else raw[rows], _origin(span, block))
            row += span.count
        if sample_kl is None or raw is None:
            return np.zeros((row, 1))
        return kl_to_prior(mean, raw, parameterization, arithmetic, workspace, per_channel=False)

    for span, values in progress(sample_values(run(plan_blocks(spans, batch_size), work, workers))):
        if sample_kl is not None and not is_drawn:
            sample_kl.add(values[:, 0], span)
    merged = Statistics(channels, parameterization, clamp)
    for accumulator in accumulators.values():
        merged.merge(accumulator)
    return merged


def _origin(span: Span, block: Block) -> Origin:
    posterior, piece = span.posterior, block.piece
    return Origin(
        posterior.file.path, posterior.key, span.first, piece.outer[0], piece.channels[0], piece.inner[0],
        posterior.axes.view[3],
    )  # fmt: skip
