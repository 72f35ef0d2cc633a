"""Sampling: inputs -> files of latents, or a comparison with latents that are there.

Any order of blocks gives the same bytes: noise goes by position, and every element has its place in the output.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from math import prod
from typing import NamedTuple

from latentkit.errors import DataError
from latentkit.failures import Failures
from latentkit.read.blocks import Block, plan_blocks
from latentkit.read.bytes import DTYPE_BYTES, Buffers, as_bytes, read_at, read_chunks
from latentkit.read.choice import Posterior, Span
from latentkit.run import locate, run
from latentkit.sample.drawing import Drawn, Latents, draw_on
from latentkit.sample.outputs import Output
from latentkit.sample.recipe import Recipe, layout_of
from latentkit.sample.verify import Claim
from latentkit.write.batch import Batch
from latentkit.write.placing import Placement


def draw_files(
    files: "OutputFiles",
    *,
    finite: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> Generator[tuple[Drawn, int]]:
    """Write every output; yields what each block came to, and the bytes read for it, in order.

    Outputs are complete, synced and in place when the iterator ends. One that is left early places those that are
    complete, but for the last block's, and leaves no half file. ``finite``: latents that are not are a ``DataError``.
    """
    once, draw, failures = _Once(), draw_on(device), files.failures

    def work(block: Block, buffers: Buffers) -> Drawn:
        return _checked(draw(block, files.recipe, files.write, buffers), finite=finite)

    try:
        blocks = plan_blocks(files.spans, batch_size, apart=failures.keep_going)
        for block, drawn in run(files.opening(blocks), work, workers, failures=failures):
            yield once(block, drawn), _bytes_read(block)
            files.finish(block)
    finally:
        files.close()


def draw_stream(
    output: Output,
    recipe: Recipe,
    write: Callable[[memoryview], None],
    *,
    finite: bool = False,
    workers: int | None = None,
    device: str = "cpu",
) -> Iterator[tuple[Drawn, int]]:
    """Hand one output, of one posterior and one draw, to ``write`` in order, from the first byte to the last.

    ``finite`` as for ``draw_files``.
    """
    layout = layout_of(output, recipe)
    ((key, spans),) = output.latents.items()
    once, draw = _Once(), draw_on(device)

    def work(block: Block, buffers: Buffers) -> tuple[Drawn, bytes]:
        pieces: list[bytes] = []
        drawn = draw(block, recipe, lambda *taken: pieces.append(bytes(as_bytes(taken[-1]))), buffers)
        return _checked(drawn, finite=finite), pieces[0]

    write(memoryview(layout.header))
    for part in sorted(layout.offsets, key=layout.offsets.__getitem__):
        if part != key:
            for chunk in _chunks(output, part):
                write(chunk)
            continue
        # Latents wait for their turn: a reader may be slow.
        for block, (drawn, data) in run(plan_blocks(spans), work, workers, together=1):
            write(memoryview(data))
            yield once(block, drawn), _bytes_read(block)


def compare(
    claim: Claim, *, workers: int | None = None, device: str = "cpu"
) -> Iterator[tuple[tuple[Posterior, int] | None, int]]:
    """Draw again what a tensor claims to hold, and compare bit by bit.

    Yields, block by block, the first sample that differs or None, and the bytes read for it.
    """
    rows, draw = sum(span.count for span in claim.spans), draw_on(device)

    def work(block: Block, buffers: Buffers) -> tuple[Posterior, int] | None:
        unequal: list[int] = []

        def take(block: Block, number: int, latents: Latents) -> None:
            there = buffers.take("there", latents.size, latents.dtype)
            read_at(claim.header, claim.tensor, block.position(number * rows + block.first_row), there)
            unequal.extend((latents != there.reshape(latents.shape)).any(axis=1).nonzero()[0].tolist())

        draw(block, claim.recipe, take, buffers)
        return locate(block, min(unequal)) if unequal else None

    for block, first in run(plan_blocks(claim.spans), work, workers):
        yield first, _bytes_read(block)


def _checked(drawn: Drawn, *, finite: bool) -> Drawn:
    if finite and drawn.first is not None:
        posterior, index = drawn.first
        sentence = f"{posterior.label}, sample {index} gives NaN or infinite latents; its file was not written"
        raise DataError(sentence, kind="nonfinite", tensor=posterior.key, index=index)
    return drawn


def _bytes_read(block: Block) -> int:
    element: int = DTYPE_BYTES[block.spans[0].posterior.mean.dtype]
    return 2 * prod(block.shape) * element


def _chunks(output: Output, key: str) -> Iterator[memoryview]:
    for part in output.copies[key].parts:
        yield from read_chunks(*part)


class _Once:
    """Takes what blocks came to in order, and counts a sample once that is not finite in several of its pieces."""

    def __init__(self) -> None:
        self._counted = -1

    def __call__(self, block: Block, drawn: Drawn) -> Drawn:
        if not drawn.nonfinite:
            return drawn
        if block.first_row == self._counted:
            return drawn._replace(nonfinite=0)
        self._counted = block.first_row
        return drawn


class _Tensor(NamedTuple):
    """A tensor being written: rows ``first_row`` on of the plan, ``rows`` of them, ``offset`` bytes into its file."""

    first_row: int
    rows: int
    placement: Placement
    offset: int


class OutputFiles:
    """The outputs under way: opened before their first block is computed, placed after their last.

    Outputs stand in the order of the plan, so a row of the plan says which tensor it goes to.
    """

    def __init__(
        self, outputs: Sequence[Output], recipe: Recipe, *, overwrite: bool, failures: Failures | None = None
    ) -> None:
        self.recipe = recipe
        self.failures = Failures() if failures is None else failures
        self._overwrite = overwrite
        self._waiting = deque(outputs)
        self._open: deque[tuple[int, Placement, int, str]] = deque()
        self._batch = Batch()
        self._tensors: list[_Tensor] = []
        self._begun_rows = 0

    @property
    def spans(self) -> Iterator[Span]:
        """What is to be drawn, in order."""
        return (span for output in tuple(self._waiting) for part in output.latents.values() for span in part)

    @property
    def placed(self) -> int:
        """How many outputs are in their places."""
        return self._batch.placed

    def opening(self, blocks: Iterator[Block]) -> Iterator[Block]:
        """The plan, with each output opened just before the first block that needs it."""
        for block in blocks:
            end = block.first_row + block.samples
            while self._begun_rows < end:
                placement = self._begin(self._waiting.popleft())
                if block.last and self._begun_rows <= end:
                    # Written by this block alone, as a rule: a block may have many so small.
                    placement.rest()
            yield block

    def _begin(self, output: Output) -> Placement:
        layout = layout_of(output, self.recipe)
        placement = Placement(output.path, overwrite=self._overwrite)
        for key, spans in output.latents.items():
            rows = sum(span.count for span in spans)
            self._tensors.append(_Tensor(self._begun_rows, rows, placement, layout.offsets[key]))
            self._begun_rows += rows
        path = spans[0].posterior.file.path
        self._open.append((self._begun_rows, placement, layout.size, path))
        placement.write(0, memoryview(layout.header))
        try:
            for key in output.copies:
                start = layout.offsets[key]
                for chunk in _chunks(output, key):
                    placement.write(start, chunk)
                    start += len(chunk)
        except DataError as error:
            self.failures.add(path, error)
        return placement

    def write(self, block: Block, number: int, latents: Latents) -> None:
        """Put one draw of a block's latents in their place; threads call this at once."""
        first, end = block.first_row, block.first_row + block.samples
        at = bisect_right(self._tensors, first, key=lambda tensor: tensor.first_row) - 1
        while first < end:
            tensor = self._tensors[at]
            stop = min(end, tensor.first_row + tensor.rows)
            start = block.position(number * tensor.rows + first - tensor.first_row) * latents.itemsize
            rows = latents[first - block.first_row : stop - block.first_row]
            tensor.placement.write(tensor.offset + start, as_bytes(rows))
            first, at = stop, at + 1

    def finish(self, block: Block) -> None:
        """Count a block done; place the outputs it completes, many at a time."""
        done = block.first_row + block.samples if block.last else block.first_row
        while self._open and self._open[0][0] <= done:
            _, placement, size, path = self._open.popleft()
            if path in self.failures:
                placement.discard()
            else:
                self._batch.add(placement, size)

    def close(self) -> None:
        """Place the outputs that are complete, and leave nothing of the others."""
        try:
            self._batch.commit()
        finally:
            for _, placement, *_ in self._open:
                placement.discard()
