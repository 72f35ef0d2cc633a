"""Drawing latents: inputs -> files of latents, written in place while blocks are computed.

Any order of blocks writes the same bytes: noise goes by position, and every element has its place in the output.
"""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from latentkit import __version__
from latentkit.affine import Affine
from latentkit.noise import RECIPE, draw, fill_normal, std_float32, std_table, store, stream_key, stream_name
from latentkit.parameterization import Clamp
from latentkit.pipeline import channel_values, locate, run
from latentkit.storage.blocks import (
    TORCH_DTYPES,
    Block,
    Span,
    as_bytes,
    plan_blocks,
    read_chunks,
    read_posterior,
)
from latentkit.storage.choice import RECIPE_ENTRY, Posterior
from latentkit.storage.outputs import Output
from latentkit.storage.placing import Placement, commit_all
from latentkit.storage.writer import Layout, TensorSpec, lay_out, write_at
from latentkit.tabulated import bit_patterns, can_tabulate, look_up
from latentkit.workspace import Workspace

#: Outputs are synced when so many of them, or so many bytes, are complete.
_SYNC_FILES = 256
_SYNC_BYTES = 1 << 30


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is drawn: the same for every input of a run.

    ``draws`` None: one draw, without an axis for it. ``mode``: the mean, without noise.
    ``dtype``: safetensors' name, or None for the input's own.
    """

    seed: int = 0
    draws: int | None = None
    mode: bool = False
    temperature: float = 1.0
    dtype: str | None = None
    affine: Affine = field(default_factory=Affine)
    clamp: Clamp = (-30.0, 20.0)


class Drawn(NamedTuple):
    """What a block came to: samples with NaN or infinite latents, the first of them, elements the dtype cannot hold."""

    nonfinite: int
    first: tuple[Posterior, int] | None
    overflowed: int


def output_dtype(posterior: Posterior, recipe: Recipe) -> str:
    """The dtype of the latents: as asked, or the input's; float32 for 8-bit and float64 input."""
    return recipe.dtype or (posterior.mean.dtype if posterior.mean.dtype in ("F16", "BF16") else "F32")


def layout_of(output: Output, recipe: Recipe) -> Layout:
    """The header and the places of everything in an output."""
    leading = () if recipe.draws is None else (recipe.draws,)
    tensors = {
        key: TensorSpec(output_dtype(posterior, recipe), (*leading, *posterior.axes.shape))
        for key, posterior in output.latents.items()
    }
    tensors |= {tensor.key: TensorSpec(tensor.dtype, tensor.shape) for tensor in output.carried}
    return lay_out(tensors, metadata_of(output, recipe))


def metadata_of(output: Output, recipe: Recipe) -> dict[str, str]:
    """Enough to make the file again, and to know it for drawn latents."""
    sources = {
        key: {
            "key": posterior.key,
            "scale_key": posterior.scale.key if posterior.scale else None,
            "layout": posterior.layout,
            "parameterization": posterior.parameterization,
        }
        for key, posterior in output.latents.items()
    }
    size, mtime_ns = output.header.stamp
    metadata = {
        RECIPE_ENTRY: str(RECIPE),
        "latentkit_version": __version__,
        "seed": str(recipe.seed),
        "stream": output.stream,
        "mode": json.dumps(recipe.mode),
        "temperature": json.dumps(recipe.temperature),
        "clamp": json.dumps(list(recipe.clamp)),
        "affine": recipe.affine.to_json(),
        "sources": json.dumps(sources),
        "input": json.dumps(
            {"name": next(iter(output.latents.values())).file.name, "bytes": size, "mtime_ns": mtime_ns}
        ),
    }
    return metadata if recipe.draws is None else metadata | {"draws": str(recipe.draws)}


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

    def work(block: Block, workspace: Workspace) -> Drawn:
        return draw_block(block, recipe, files.streams, files.write, workspace)

    try:
        for block, drawn in run(files.opening(batch_size), work, workers):
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
    ((key, posterior),) = output.latents.items()
    streams = {posterior: stream_key(recipe.seed, stream_name(output.stream, posterior.key))}
    carried = {tensor.key: tensor for tensor in output.carried}

    def work(block: Block, workspace: Workspace) -> tuple[Drawn, bytes]:
        pieces: list[bytes] = []
        drawn = draw_block(block, recipe, streams, lambda *place: pieces.append(bytes(place[-1])), workspace)
        return drawn, b"".join(pieces)

    write(memoryview(layout.header))
    for part in sorted(layout.offsets, key=layout.offsets.__getitem__):
        if part != key:
            for chunk in read_chunks(output.header, carried[part]):
                write(chunk)
            continue
        for block, (drawn, data) in run(plan_blocks([posterior]), work, workers):
            write(memoryview(data))
            yield drawn, _bytes_read(block)


Write = Callable[[Span, Block, int, memoryview], None]


def draw_block(
    block: Block, recipe: Recipe, streams: Mapping[Posterior, tuple[int, int]], write: Write, workspace: Workspace
) -> Drawn:
    """Draw a block's latents and hand them to ``write(span, block, draw, bytes)`` in the output's dtype."""
    stored, raw = read_posterior(block, workspace)
    posterior = block.spans[0].posterior
    dtype = TORCH_DTYPES[output_dtype(posterior, recipe)]
    out = workspace.take("out", block.shape, dtype)
    if recipe.mode and dtype == torch.float64:
        out.copy_(stored).sub_(channel_values(recipe.affine.shift, block))
        out.mul_(channel_values(recipe.affine.scale, block))
        _send(block, 0, out, write)
        return _look(out, dtype, block)
    mean = workspace.take("mean", block.shape, torch.float32).copy_(stored)
    latents = workspace.take("latents", block.shape, torch.float32)
    shift, scale = _float32(recipe.affine.shift, block), _float32(recipe.affine.scale, block)
    drawn = Drawn(0, None, 0)
    for number in range(recipe.draws or 1):
        if recipe.mode:
            std = workspace.take("std", block.shape, torch.float32).zero_()
            latents.zero_()
        else:
            std = _std_of(raw, posterior.parameterization, recipe.clamp, workspace)
            _fill(block, number, streams, latents, workspace)
        draw(mean, std, latents, temperature=recipe.temperature, shift=shift, scale=scale)
        drawn = _look(latents, dtype, block)
        store(latents, out)
        _send(block, number, out, write)
    return drawn


def _fill(
    block: Block, number: int, streams: Mapping[Posterior, tuple[int, int]], noise: Tensor, workspace: Workspace
) -> None:
    row = 0
    for span in block.spans:
        position = _position(span, block, 0)
        fill_normal(noise[row : row + span.count], streams[span.posterior], number, position, workspace.scratch)
        row += span.count


def _std_of(raw: Tensor, parameterization: str, clamp: Clamp, workspace: Workspace) -> Tensor:
    shape = tuple(raw.shape)
    std = workspace.take("std", shape, torch.float32)
    if can_tabulate(raw.dtype):
        index = bit_patterns(raw, workspace.take("index", shape, torch.int32))
        return look_up(_std_table(raw.dtype, parameterization, clamp), index, std)
    std.copy_(raw)
    return std_float32(std, std, parameterization, clamp, scratch=workspace.scratch)


@lru_cache(maxsize=8)
def _std_table(dtype: torch.dtype, parameterization: str, clamp: Clamp) -> Tensor:
    return std_table(dtype, parameterization, clamp)


def _float32(values: tuple[float, ...], block: Block) -> float | Tensor:
    return values[0] if len(values) == 1 else channel_values(values, block).float()


def _look(latents: Tensor, dtype: torch.dtype, block: Block) -> Drawn:
    """Count what is not finite, and what will be too large for ``dtype``."""
    low, high = (float(bound) for bound in torch.aminmax(latents))
    limit = torch.finfo(dtype).max
    if -limit <= low and high <= limit:
        return Drawn(0, None, 0)
    finite = latents.isfinite()
    rows = (~finite).flatten(1).any(dim=1)
    first = int(rows.nonzero()[0]) if rows.any() else None
    too_large = finite & latents.to(dtype).isinf()
    return Drawn(int(rows.sum()), None if first is None else locate(block, first), int(too_large.sum()))


def _send(block: Block, number: int, out: Tensor, write: Write) -> None:
    row = 0
    for span in block.spans:
        write(span, block, number, as_bytes(out[row : row + span.count]))
        row += span.count


def _position(span: Span, block: Block, number: int) -> int:
    """Where the block's piece of a span begins in the latents of its posterior, in elements."""
    samples, outer, channels, inner = span.posterior.axes.view
    return (number * samples + span.first) * outer * channels * inner + block.piece.start(channels, inner)


def _bytes_read(block: Block) -> int:
    element = TORCH_DTYPES[block.spans[0].posterior.mean.dtype].itemsize
    return 2 * prod(block.shape) * element


class _Files:
    """The outputs under way: opened before their first block is computed, placed after their last."""

    def __init__(self, outputs: Sequence[Output], recipe: Recipe, *, overwrite: bool) -> None:
        self._recipe = recipe
        self._overwrite = overwrite
        self._outputs = {posterior: output for output in outputs for posterior in output.latents.values()}
        self._left = {output.path: sum(p.samples for p in output.latents.values()) for output in outputs}
        self._open: dict[str, tuple[Placement, Layout]] = {}
        self._complete: list[Placement] = []
        self._complete_bytes = 0
        self._places: dict[Posterior, tuple[int, int]] = {}
        self.streams = {
            posterior: stream_key(recipe.seed, stream_name(output.stream, posterior.key))
            for posterior, output in self._outputs.items()
        }

    def opening(self, batch_size: int | None) -> Iterator[Block]:
        """The plan, with each output opened just before the first block that needs it."""
        for block in plan_blocks(self._outputs, batch_size):
            for span in block.spans:
                if span.posterior not in self._places:
                    self._begin(self._outputs[span.posterior])
            yield block

    def _begin(self, output: Output) -> None:
        layout = layout_of(output, self._recipe)
        placement = Placement(output.path, overwrite=self._overwrite)
        self._open[output.path] = placement, layout
        write_at(placement.descriptor, 0, memoryview(layout.header))
        for tensor in output.carried:
            start = layout.offsets[tensor.key]
            for chunk in read_chunks(output.header, tensor):
                write_at(placement.descriptor, start, chunk)
                start += len(chunk)
        for key, posterior in output.latents.items():
            self._places[posterior] = placement.descriptor, layout.offsets[key]

    def write(self, span: Span, block: Block, number: int, data: memoryview) -> None:
        """Put one span's latents of one draw in their place; threads call this at once."""
        descriptor, offset = self._places[span.posterior]
        element = TORCH_DTYPES[output_dtype(span.posterior, self._recipe)].itemsize
        write_at(descriptor, offset + _position(span, block, number) * element, data)

    def finish(self, block: Block) -> None:
        """Count a block done; place the outputs it completes, many at a time."""
        for span in block.spans if block.last else ():
            path = self._outputs[span.posterior].path
            self._left[path] -= span.count
            if self._left[path] == 0:
                placement, layout = self._open.pop(path)
                self._complete.append(placement)
                self._complete_bytes += layout.size
        if len(self._complete) >= _SYNC_FILES or self._complete_bytes >= _SYNC_BYTES:
            self.commit()

    def commit(self) -> None:
        if self._complete:
            commit_all(self._complete)
        self._complete, self._complete_bytes = [], 0

    def discard(self) -> None:
        """Leave nothing of what is not in place."""
        for placement in [*self._complete, *(placement for placement, _ in self._open.values())]:
            placement.discard()
