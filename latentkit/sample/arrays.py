"""Sampling into memory: spans of posteriors -> one array of latents."""

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.read.blocks import Block, plan_blocks
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Span
from latentkit.run import run
from latentkit.sample.drawing import BITS, Drawn, Latents, draw_on
from latentkit.sample.recipe import Recipe, latents_shape


def draw_array(
    spans: Sequence[Span],
    recipe: Recipe,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
) -> NDArray[Any]:
    """The bits of the latents of spans that are alike in shape and dtype, end to end: what their files would hold."""
    posterior = spans[0].posterior
    rows = sum(span.count for span in spans)
    elements = rows * prod(posterior.axes.view[1:])
    out = np.empty((recipe.draws or 1) * elements, BITS[recipe.dtype_of(posterior)])
    draw = draw_on(device)

    def take(block: Block, number: int, latents: Latents) -> None:
        start = block.position(number * rows + block.first_row)
        out[start : start + latents.size] = latents.reshape(-1)

    def work(block: Block, buffers: Buffers) -> Drawn:
        return draw(block, recipe, take, buffers)

    for _ in run(plan_blocks(spans, batch_size), work, workers):
        pass
    return out.reshape(latents_shape(spans, recipe.draws))


def numbers_of(bits: NDArray[Any], dtype: str) -> NDArray[Any]:
    """The bits of latents as numbers; those of bfloat16, which NumPy has not, as float32."""
    if dtype == "BF16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits.view(bits.dtype.str.replace("u", "f"))
