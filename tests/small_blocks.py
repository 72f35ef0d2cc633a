"""What tests of small blocks share: moments of many layouts, and files of them."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import noise_reference as reference
import numpy as np
import pytest
import torch
from conftest import DTYPES
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from latentkit.read import blocks
from latentkit.read.choice import Posterior, Selection
from latentkit.read.plan import find_posteriors

LAYOUTS = ["bchw", "blc", "btchw", "bcl", "bc"]


@contextmanager
def blocks_of(elements: int) -> Iterator[None]:
    """Blocks and pieces of so many elements at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "BLOCK_ELEMENTS", elements)
        blocks.pieces_of.cache_clear()
        yield
    blocks.pieces_of.cache_clear()


@st.composite
def tensors(draw: st.DrawFn, layout: str, dtype: str, samples: int | None = None, odd: bool = True) -> Tensor:
    """Moments of a layout: usual values, and some that are not."""
    shape = [draw(st.integers(1, 5))] + [draw(st.integers(1, 14)) for _ in layout[1:]]
    shape[layout.index("c")] = 2 * draw(st.integers(1, 9))
    if samples is not None:
        shape[0] = samples
    while math.prod(shape[1:]) > 1200:
        big = max(range(1, len(shape)), key=lambda axis: shape[axis])
        shape[big] = shape[big] // 4 * 2 if layout[big] == "c" else shape[big] // 2
    moments = reference.normals((draw(st.integers(0, 99)), 1), 0, 0, math.prod(shape)).reshape(shape) * np.float32(2)
    moments = torch.from_numpy(moments)
    if odd:
        for value in draw(
            st.lists(st.sampled_from([math.nan, math.inf, -math.inf, 7e4, -40.0, 25.0, -0.0]), max_size=3)
        ):
            moments.view(-1)[draw(st.integers(0, moments.numel() - 1))] = value
    return moments.to(DTYPES[dtype])


def halves(moments: Tensor, layout: str) -> tuple[Tensor, Tensor]:
    mean, raw = moments.chunk(2, layout.index("c"))
    return mean.contiguous(), raw.contiguous()


def found_in(folder: Path, layout: str, files: dict[str, Tensor]) -> list[Posterior]:
    for old in folder.iterdir():
        old.unlink()
    for name, moments in files.items():
        save_file({"moments": moments}, folder / name)
    return list(find_posteriors([str(folder)], Selection(layout=layout)).posteriors)
