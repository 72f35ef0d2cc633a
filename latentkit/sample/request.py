"""What a user asks to be drawn -> a recipe, refused where it makes no sense."""

import math
import os
from collections.abc import Mapping, Sequence
from operator import index

from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.posterior.affine import Affine, from_factors, from_normalization
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.choice import Posterior
from latentkit.read.header import container_of
from latentkit.read.metadata import common_factors
from latentkit.sample.recipe import Recipe

#: Names of the dtypes that latents may have, and safetensors' names for them.
DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32", "float64": "F64"}


def recipe_of(
    posteriors: Sequence[Posterior],
    *,
    seed: int = 0,
    draws: int | None = None,
    mode: bool = False,
    temperature: float = 1.0,
    dtype: str | None = None,
    scaling_factor: float | None = None,
    shift_factor: float | None = None,
    normalization: str | os.PathLike[str] | None = None,
    clamp: Clamp = DEFAULT_CLAMP,
    streams: Mapping[Posterior, str] | None = None,
    failures: Failures | None = None,
) -> Recipe:
    """How the latents of these posteriors are drawn, scaled as their metadata says where nothing is said.

    Raises ``RequestError`` for what is no number of its kind, and, unless ``failures`` take it, a posterior of other
    channels than the affine's.
    """
    seed = index(seed)
    if not 0 <= seed < 1 << 64:
        raise RequestError(f"--seed {seed}: a seed is a whole number from 0 to 2^64 - 1")
    if draws is not None and index(draws) < 1:
        raise RequestError(f"--draws {draws}: must be 1 or more")
    if not math.isfinite(temperature) or temperature < 0:
        raise RequestError(f"--temperature {temperature}: must be a finite number, 0 or above")
    if mode and temperature != 1:
        raise RequestError(f"--temperature {temperature} multiplies noise, and --mode has none: leave out one of them")
    if dtype is not None and dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype}: choose {', '.join(DTYPES)}")
    if dtype == "float64" and not mode:
        raise RequestError("--dtype float64 goes with --mode: noise is drawn in float32")
    if scaling_factor is None and shift_factor is None and normalization is None:
        scaling_factor, shift_factor = common_factors(posterior.header for posterior in posteriors)
    affine = affine_asked(scaling_factor, shift_factor, normalization)
    failures = Failures() if failures is None else failures
    for posterior in posteriors:
        with failures.passing_over(posterior.file.path):
            if affine.channels() not in (1, posterior.axes.channels):
                raise RequestError(
                    f"{normalization}: is for {affine.channels()} channels; {posterior.label} has "
                    f"{posterior.axes.channels}",
                    tensor=posterior.key,
                )
    return Recipe(seed, draws, mode, temperature, DTYPES[dtype] if dtype else None, affine, clamp, streams or {})


def affine_asked(
    scaling_factor: float | None, shift_factor: float | None, normalization: str | os.PathLike[str] | None
) -> Affine:
    """The normalization, and then the factors; raises ``RequestError`` for what is none."""
    factors = from_factors(scaling_factor, shift_factor)
    return factors if normalization is None else _normalizing(os.fspath(normalization)).then(factors)


def _normalizing(path: str) -> Affine:
    if not os.path.exists(path):
        raise RequestError(f"{path}: no such normalization file")
    if container_of(path) is None:
        return from_normalization(path)

    from latentkit.sample.statistics import normalizing

    return normalizing(path)
