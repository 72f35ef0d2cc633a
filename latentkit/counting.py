"""Counting: posteriors -> their statistics, one accumulator a worker, merged at the end."""

from collections.abc import Callable, Iterator, Sequence

from latentkit.parameterization import Clamp
from latentkit.pipeline import run
from latentkit.statistics import Origin, Statistics
from latentkit.storage.blocks import Block, plan_blocks, read_posterior
from latentkit.storage.choice import Span
from latentkit.workspace import Workspace


def statistics_of(
    spans: Sequence[Span],
    clamp: Clamp,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    progress: Callable[[Iterator[tuple[None, int]]], Iterator[object]] = iter,
) -> Statistics:
    """Statistics of the spans' posteriors, which have the same channels and parameterization, in one pass.

    ``progress`` is handed an iterator of the bytes read, block by block, and must exhaust it.
    """
    posterior = spans[0].posterior
    channels, parameterization = posterior.axes.channels, posterior.parameterization
    accumulators: dict[Workspace, Statistics] = {}

    def work(block: Block, workspace: Workspace) -> None:
        if workspace not in accumulators:
            accumulators[workspace] = Statistics(channels, parameterization, clamp, workspace=workspace)
        mean, raw = read_posterior(block, workspace)
        row = 0
        for span in block.spans:
            rows = slice(row, row + span.count)
            accumulators[workspace].update(mean[rows], raw[rows], _origin(span, block))
            row += span.count

    results = run(plan_blocks(spans, batch_size), work, workers)
    for _ in progress((None, sum(span.nbytes for span in block.spans if block.last)) for block, _ in results):
        pass
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
