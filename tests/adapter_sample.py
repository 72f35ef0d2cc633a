"""The insides of drawing as tests see them: arrays in, arrays out. Stored numbers are held as ``HELD_AS`` says."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import latents as loops
from latentkit.compiled import noise
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Halves
from latentkit.read.bytes import HELD_AS, Buffers
from latentkit.sample import drawing, lookup

Singles = NDArray[np.float32]
Key = tuple[int, int]


def normals(key: Key, draw: int, position: int, count: int) -> Singles:
    out = np.empty(count, np.float32)
    noise.fill_normals(np.array(key, np.uint64), np.uint64(draw), position, lookup.normal_table(), out)
    return out


def table_step(words: NDArray[np.uint32]) -> Singles:
    out = np.empty(len(words), np.float32)
    noise.normals_of(words, lookup.normal_table(), out)
    return out


def held(array: NDArray[Any], dtype: str) -> NDArray[Any]:
    return np.ascontiguousarray(array).reshape(-1).view(HELD_AS[dtype])


def decoded(
    mean: NDArray[Any], scale: NDArray[Any], dtype: str, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP
) -> tuple[Singles, Singles, int]:
    """Means, σ, and on how many scales the clamp acts."""
    size = mean.size
    halves = Halves(dtype, held(mean, dtype), held(scale, dtype), (1, 1, 1, size), size)
    return drawing.decode(halves, parameterization, clamp, Buffers())


def stds(
    scale: NDArray[Any], dtype: str = "F32", parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP
) -> Singles:
    return decoded(scale, scale, dtype, parameterization, clamp)[1]


def every_pattern(dtype: str) -> NDArray[Any]:
    kind = HELD_AS[dtype]
    return np.arange(1 << 8 * np.dtype(kind).itemsize).astype(kind)


def stored(latents: Singles, dtype: str) -> NDArray[Any]:
    """Float32 rounded to what latents are stored as, as bits."""
    out = np.empty(latents.size, drawing.BITS[dtype])
    none = np.zeros(1, np.float32), np.ones(1, np.float32)
    loops.mode(latents, *none, 1, loops.FORMATS[dtype], latents.size, out, np.zeros(1, np.bool_))
    return out


def sample(
    mean: NDArray[Any],
    scale: NDArray[Any],
    dtype: str,
    *,
    key: Key,
    draw: int = 0,
    position: int = 0,
    parameterization: str = "logvar",
    clamp: Clamp = DEFAULT_CLAMP,
    temperature: float = 1.0,
    shift: Any = 0.0,
    scaling: Any = 1.0,
    inner: int = 1,
    out_dtype: str | None = None,
) -> NDArray[Any]:
    """Latents as bits; of a shift and a scaling per channel, ``inner`` elements of each follow one another."""
    means, spread, _ = decoded(mean, scale, dtype, parameterization, clamp)
    out = np.empty(mean.size, drawing.BITS[out_dtype or dtype])
    shifts, scalings = (np.array(each, np.float32).reshape(-1) for each in (shift, scaling))
    shifts = np.where((shifts == 0).all(), np.float32(0), shifts)
    loops.draw(
        means, spread, draw, np.array([key], np.uint64), np.array([position]), np.array([mean.size]),
        lookup.normal_table(), np.float32(temperature), shifts, scalings, inner, loops.FORMATS[out_dtype or dtype],
        mean.size, out, np.zeros(1, np.bool_),
    )  # fmt: skip
    return out
