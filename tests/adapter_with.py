"""The figures of ``stats --with`` as tests see them: files in, accumulators out."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from adapter import halves
from torch import Tensor

from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.read.blocks import Block, plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.run import run
from latentkit.stats.duplicates import SampleHashes
from latentkit.stats.extras import Extras, center_of
from latentkit.stats.extrema import Place


def extras_of(
    paths: Iterable[Path],
    names: Iterable[str],
    *,
    limit: int | None = None,
    workers: int | None = None,
    **reading: Any,
) -> Extras:
    """What was counted of files, by accumulators of so many workers."""
    found = find_posteriors(list(map(str, paths)), Selection(**reading))
    extras = extras_for(found.spans, names)
    parts: dict[Buffers, Extras] = {}

    def work(block: Block, buffers: Buffers) -> None:
        parts.setdefault(buffers, extras.part()).update(block, read_block(block, buffers), buffers)

    for _ in run(plan_blocks(found.spans, limit), work, workers):
        pass
    for part in parts.values():
        extras.merge(part)
    return extras


def extras_for(spans: Any, names: Iterable[str]) -> Extras:
    """An empty one."""
    posterior = spans[0].posterior
    return Extras(
        list(names), posterior.axes.channels, posterior.parameterization, DEFAULT_CLAMP, center_of(spans)
    )  # fmt: skip


def add_hashes(hashes: SampleHashes, mean: Tensor, raw: Tensor | None, place: Place) -> None:
    """Take samples ``(n, outer, channels, inner)``, the first of which is at ``place``."""
    hashes.update(halves(mean, raw), range(len(mean)), place)
