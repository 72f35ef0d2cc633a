"""Sampling: inputs -> files of latents, or a comparison with latents that are there.

Any order of blocks gives the same bytes: noise goes by position, and every element has its place in the output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from latentkit.drawing import Drawn, Take, draw_block
from latentkit.pipeline import run
from latentkit.recipe import Recipe, layout_of
from latentkit.storage.blocks import TORCH_DTYPES, Block, as_bytes, plan_blocks, read_at, read_chunks
from latentkit.storage.choice import Posterior, Run, Span
from latentkit.storage.header import Header, TensorInfo
from latentkit.storage.outputs import Output
from latentkit.storage.placing import Placement, commit_all
from latentkit.storage.writer import write_at
from latentkit.workspace import Workspace

# Outputs are synced when so many of them, or so many bytes, are complete.
_SYNC_FILES = 256
_SYNC_BYTES = 1 << 30


def draw_files(
    outputs: Sequence[Output],
    recipe: Recipe,
    *,
    overwrite: bool,
    batch_size: int | None = None,
    workers: int | None = None,
) -> Iterator[tuple[Drawn, int]]:
    """Write every output; yields what each block came to, and the bytes read for it, in order.

    Outputs are complete, synced and in place when the iterator ends; one that is left early leaves no half file.
    """
    files = _Files(outputs, recipe, overwrite=overwrite)
    try:
        for block, drawn in run(files.opening(batch_size), _work(recipe, files.write), workers):
            files.finish(block)
            yield drawn, _bytes_read(block)
        files.commit()
    finally:
        files.discard()


def draw_stream(
    output: Output, recipe: Recipe, write: Callable[[memoryview], None], *, workers: int | None = None
) -> Iterator[tuple[Drawn, int]]:
    """Hand one output, of one posterior and one draw, to ``write`` in order, from the first byte to the last."""
    layout = layout_of(output, recipe)
    ((key, (span,)),) = output.latents.items()

    def work(block: Block, workspace: Workspace) -> tuple[Drawn, bytes]:
        pieces: list[bytes] = []
        drawn = draw_block(block, recipe, lambda *taken: pieces.append(bytes(as_bytes(taken[-1]))), workspace)
        return drawn, b"".join(pieces)

    write(memoryview(layout.header))
    for part in sorted(layout.offsets, key=layout.offsets.__getitem__):
        if part != key:
            for chunk in _chunks(output, part):
                write(chunk)
            continue
        for block, (drawn, data) in run(plan_blocks([span.posterior]), work, workers):
            write(memoryview(data))
            yield drawn, _bytes_read(block)


def compare(
    recipe: Recipe,
    runs: Mapping[Posterior, Sequence[tuple[Run, Header, TensorInfo]]],
    *,
    workers: int | None = None,
) -> Iterator[tuple[tuple[Posterior, int] | None, int]]:
    """Draw again and compare with the latents in ``runs``, bit by bit.

    Yields, block by block, the first sample that differs or None, and the bytes read for it.
    """

    def work(block: Block, workspace: Workspace) -> tuple[Posterior, int] | None:
        differing: list[tuple[Posterior, int]] = []

        def take(span: Span, block: Block, number: int, latents: Tensor) -> None:
            for part, header, tensor in runs[span.posterior]:
                rows, row = part.overlap(span)
                if len(rows):
                    ours = latents[rows.start : rows.stop]
                    theirs = workspace.take("theirs", tuple(ours.shape), ours.dtype)
                    read_at(header, tensor, block.position(span.posterior, number * part.rows + row), theirs)
                    unequal = (_bits(ours) != _bits(theirs)).flatten(1).any(dim=1).nonzero()
                    differing.extend((span.posterior, span.first + rows.start + int(at)) for at in unequal[:1])

        draw_block(block, recipe, take, workspace)
        return differing[0] if differing else None

    spans = [Span(posterior, part.first, part.count) for posterior, parts in runs.items() for part, _, _ in parts]
    for block, first in run(plan_blocks(spans, apart=True), work, workers):
        yield first, _bytes_read(block)


def runs_of(spans: Sequence[Span]) -> list[Run]:
    """Where each of the spans stands in a tensor that holds them end to end."""
    rows = sum(span.count for span in spans)
    runs, row = [], 0
    for span in spans:
        runs.append(Run(span.first, span.count, row, rows))
        row += span.count
    return runs


def _work(recipe: Recipe, take: Take) -> Callable[[Block, Workspace], Drawn]:
    return lambda block, workspace: draw_block(block, recipe, take, workspace)


def _bits(latents: Tensor) -> Tensor:
    return latents.view({2: torch.int16, 4: torch.int32, 8: torch.int64}[latents.element_size()])


def _bytes_read(block: Block) -> int:
    element = TORCH_DTYPES[block.spans[0].posterior.mean.dtype].itemsize
    return 2 * prod(block.shape) * element


def _chunks(output: Output, key: str) -> Iterator[memoryview]:
    for part in output.copies[key].parts:
        yield from read_chunks(*part)


class _Files:
    """The outputs under way: opened before their first block is computed, placed after their last."""

    def __init__(self, outputs: Sequence[Output], recipe: Recipe, *, overwrite: bool) -> None:
        self._recipe = recipe
        self._overwrite = overwrite
        self._waiting = list(reversed(outputs))
        self._left: dict[Placement, int] = {}
        self._sizes: dict[Placement, int] = {}
        self._complete: list[Placement] = []
        self._places: dict[Posterior, list[tuple[Run, Placement, int]]] = {}
        self._posteriors = list(
            dict.fromkeys(span.posterior for output in outputs for spans in output.latents.values() for span in spans)
        )

    def opening(self, batch_size: int | None) -> Iterator[Block]:
        """The plan, with each output opened just before the first block that needs it."""
        for block in plan_blocks(self._posteriors, batch_size):
            for span in block.spans:
                while self._covered(span.posterior) < span.first + span.count:
                    self._begin(self._waiting.pop())
            yield block

    def _covered(self, posterior: Posterior) -> int:
        """How many of its samples have a place in outputs that are open."""
        places = self._places.get(posterior)
        return places[-1][0].first + places[-1][0].count if places else 0

    def _begin(self, output: Output) -> None:
        layout = layout_of(output, self._recipe)
        placement = Placement(output.path, overwrite=self._overwrite)
        self._left[placement] = sum(span.count for spans in output.latents.values() for span in spans)
        self._sizes[placement] = layout.size
        write_at(placement.descriptor, 0, memoryview(layout.header))
        for key in output.copies:
            start = layout.offsets[key]
            for chunk in _chunks(output, key):
                write_at(placement.descriptor, start, chunk)
                start += len(chunk)
        for key, spans in output.latents.items():
            for span, part in zip(spans, runs_of(spans), strict=True):
                self._places.setdefault(span.posterior, []).append((part, placement, layout.offsets[key]))

    def write(self, span: Span, block: Block, number: int, latents: Tensor) -> None:
        """Put one span's latents of one draw in their place; threads call this at once."""
        for part, placement, offset in self._places[span.posterior]:
            rows, row = part.overlap(span)
            if len(rows):
                start = block.position(span.posterior, number * part.rows + row) * latents.element_size()
                write_at(placement.descriptor, offset + start, as_bytes(latents[rows.start : rows.stop]))

    def finish(self, block: Block) -> None:
        """Count a block done; place the outputs it completes, many at a time."""
        for span in block.spans if block.last else ():
            for part, placement, _ in self._places[span.posterior]:
                rows, _ = part.overlap(span)
                if len(rows):
                    self._left[placement] -= len(rows)
                    if self._left[placement] == 0:
                        del self._left[placement]
                        self._complete.append(placement)
        if len(self._complete) >= _SYNC_FILES or sum(map(self._sizes.__getitem__, self._complete)) >= _SYNC_BYTES:
            self.commit()

    def commit(self) -> None:
        if self._complete:
            commit_all(self._complete)
        self._complete = []

    def discard(self) -> None:
        """Leave nothing of what is not in place."""
        for placement in [*self._complete, *self._left]:
            placement.discard()
