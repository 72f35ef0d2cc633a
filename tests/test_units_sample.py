"""Draws of samples in many pieces, in blocks of many files: blocks are made so small that many shapes are tried.

The constant of the cuts is made small; everything else is as it is.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import noise_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from small_blocks import LAYOUTS, blocks_of, found_in, halves, tensors
from torch import Tensor

from latentkit.posterior.affine import Affine
from latentkit.posterior.parameterization import DEFAULT_CLAMP
from latentkit.read.blocks import Block, plan_blocks
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior
from latentkit.sample.drawing import Latents, draw_block
from latentkit.sample.recipe import Recipe


@pytest.fixture(autouse=True, scope="module", params=[192, 5000])
def small_blocks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Less than a part of a loop, and several parts."""
    with blocks_of(request.param):
        yield


def as_stored(tensor: Tensor) -> NDArray[np.generic]:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("units")


BUFFERS = Buffers()  # for all, as a thread has them: what an example leaves must not show in the next


@settings(max_examples=120, suppress_health_check=list(HealthCheck), deadline=None)
@given(data=st.data())
def test_draws(folder: Path, data: st.DataObject) -> None:
    layout = data.draw(st.sampled_from(LAYOUTS))
    axis = layout.index("c")
    draws = data.draw(st.sampled_from([None, 1, 3]))
    out_dtype = data.draw(st.sampled_from([None, "F16", "BF16", "F32"]))
    temperature = data.draw(st.sampled_from([1.0, 0.7]))
    clamp = data.draw(st.sampled_from([DEFAULT_CLAMP, (-2.5, 1.25)]))
    files: dict[str, Tensor] = {}
    dtypes: dict[str, str] = {}
    channels = None
    for number in range(data.draw(st.integers(1, 4))):
        dtype = data.draw(st.sampled_from(["F16", "BF16", "F32"]))
        moments = data.draw(tensors(layout, dtype))
        channels = channels or moments.shape[axis]
        if moments.shape[axis] != channels:
            moments = moments.narrow(axis, 0, min(channels, moments.shape[axis]))
            if moments.shape[axis] < channels:
                continue
            moments = moments.contiguous()
        name = f"{number}.safetensors"
        files[name], dtypes[name] = moments, dtype
    c = channels // 2
    per_channel = data.draw(st.booleans())
    shift = tuple(0.25 * i - 0.5 for i in range(c)) if per_channel else (data.draw(st.sampled_from([0.0, 0.3])),)
    scale: tuple[float, ...] = (data.draw(st.sampled_from([1.0, 0.18215])),)
    if per_channel and data.draw(st.booleans()):
        scale = tuple(1.5 - 0.125 * i or 1.0 for i in range(c))
    affine = Affine(shift, scale)
    recipe = Recipe(seed=7, draws=draws, temperature=temperature, dtype=out_dtype, affine=affine, clamp=clamp)
    posteriors = found_in(folder, layout, files)
    rank = len(layout)
    broadcast = [-1 if a == axis else 1 for a in range(rank)]
    expected: dict[Posterior, NDArray[Any]] = {}
    wide: dict[Posterior, NDArray[Any]] = {}
    with np.errstate(all="ignore"):
        for posterior in posteriors:
            name = posterior.file.name
            mean, raw = halves(files[name], layout)
            options: dict[str, Any] = {
                "key": reference.key_of(7, name, "moments"),
                "temperature": temperature,
                "clamp": clamp,
                "shift": np.reshape(np.array(shift, np.float32), broadcast),
                "scale": np.reshape(np.array(scale, np.float32), broadcast),
            }
            halves_stored = as_stored(mean), as_stored(raw), dtypes[name]
            for store, how in ((expected, recipe.dtype_of(posterior)), (wide, "F32")):
                drawn_alone = [
                    reference.sample(*halves_stored, draw=number, out_dtype=how, **options).reshape(-1)
                    for number in range(draws or 1)
                ]
                store[posterior] = np.stack(drawn_alone)
    got = {posterior: np.zeros_like(expected[posterior]) for posterior in posteriors}
    filled = dict.fromkeys(posteriors, 0)

    def take(block: Block, number: int, latents: Latents) -> None:
        row = 0
        for span in block.spans:
            start = block.position(span.first)
            some = latents[row : row + span.count].reshape(-1).view(got[span.posterior].dtype)
            got[span.posterior][number, start : start + len(some)] = some
            filled[span.posterior] += len(some)
            row += span.count

    batch_size = data.draw(st.sampled_from([None, 1, 2]))
    for block in plan_blocks(posteriors, batch_size):
        drawn = draw_block(block, recipe, take, BUFFERS)
        odd, overflowed, clamped, first = 0, 0, 0, None
        for span in block.spans:
            for index in range(span.first, span.first + span.count):
                start = block.position(index)
                part = slice(start, start + math.prod(block.piece.shape))
                z, e = wide[span.posterior][:, part], expected[span.posterior][:, part]
                zf = z.view(np.float32) if z.dtype != np.float32 else z
                bad = ~np.isfinite(zf)
                if bad.any():
                    odd += 1
                    first = first or (span.posterior, index)
                kind = recipe.dtype_of(span.posterior)
                ef = reference.decode(e, kind)
                overflowed += int((np.isinf(ef) & ~bad).sum())
                raw = halves(files[span.posterior.file.name], layout)[1].double().reshape(-1)[part].numpy()
                clamped += int(((raw < clamp[0]) | (raw > clamp[1])).sum())
        assert (drawn.nonfinite, drawn.first, drawn.overflowed, drawn.clamped) == (odd, first, overflowed, clamped)
    for posterior in posteriors:
        assert filled[posterior] == got[posterior].size
        assert got[posterior].tobytes() == expected[posterior].tobytes()
