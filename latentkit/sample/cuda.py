"""Drawing on a GPU: the same bytes as on the host.

Random bits and σ come from there; what is left to do are sums, products, look-ups and conversions, which IEEE 754
defines, one operation at a time.
"""

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.compiled.noise import fill_words
from latentkit.cuda import DTYPES, on
from latentkit.read.blocks import Block, read_block
from latentkit.read.bytes import Buffers
from latentkit.sample import drawing
from latentkit.sample.drawing import Drawn, Take
from latentkit.sample.lookup import normal_table
from latentkit.sample.recipe import Recipe

_CANONICAL_NAN = {"F16": 0x7E00, "BF16": 0x7FC0, "F32": 0x7FC00000}


def draw_block(block: Block, recipe: Recipe, take: Take, buffers: Buffers, device: str) -> Drawn:
    """As ``sample.drawing.draw_block``, by steps 3 and 5 of guide/noise.md; the mode, without noise, on the host."""
    if recipe.mode:
        return drawing.draw_block(block, recipe, take, buffers)
    posterior = block.spans[0].posterior
    halves, dtype = read_block(block, buffers), recipe.dtype_of(posterior)
    *decoded, clamped = drawing.decode(halves, posterior.parameterization, recipe.clamp, buffers)
    noise, factors = drawing.noise_of(block, recipe), drawing.factors_of(recipe.affine, block)
    words = buffers.take("words", math.prod(block.shape), np.uint32)
    odd, overflowed = np.zeros(block.samples, np.bool_), 0
    with on(device):
        means, stds = (torch.from_numpy(each).to(device, non_blocking=True).view(block.shape) for each in decoded)
        shift, scale = (torch.from_numpy(each).to(device).view(1, 1, -1, 1) for each in factors)
        stds = stds * torch.tensor(recipe.temperature, dtype=torch.float32, device=device)
        for number in range(recipe.draws or 1):
            fill_words(noise[0], number, *noise[1:], words)
            latents = stds * _normals(words, device).view(block.shape)
            latents = ((means + latents) - shift) * scale
            finite, out = latents.isfinite(), latents.to(DTYPES[dtype])
            overflowed += int((finite & out.isinf()).sum())
            odd |= (~finite.flatten(1).all(1)).cpu().numpy()
            bits = out.view({2: torch.int16, 4: torch.int32}[out.itemsize])
            stored = bits.masked_fill_(latents.isnan(), _CANONICAL_NAN[dtype]).cpu().numpy()
            take(block, number, stored.reshape(block.samples, -1).view(drawing.BITS[dtype]))
    return drawing.drawn_of(block, odd, overflowed, clamped)


def _normals(words: NDArray[np.uint32], device: str) -> Tensor:
    """One word, one normal: see ``compiled.noise.normals``."""
    word = torch.from_numpy(words.view(np.int32)).to(device, non_blocking=True)
    bits = (word & 0x7FFFFFFF).to(torch.float32).view(torch.int32)
    line, (values, slopes) = bits >> 14, _normal_table(device)
    steps = (bits & 0x3FFF).to(torch.float32) * slopes.index_select(0, line)
    size = values.index_select(0, line) + steps
    return (size.view(torch.int32) | (word & -0x80000000)).view(torch.float32)


@lru_cache(maxsize=8)
def _normal_table(device: str) -> tuple[Tensor, Tensor]:
    """T and D."""
    pairs = torch.from_numpy(normal_table().view(np.float32).copy()).view(-1, 2).T.contiguous().to(device)
    return pairs[0], pairs[1]
