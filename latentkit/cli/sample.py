"""``latentkit sample``: draw latents that come out the same anywhere, and write them as safetensors."""

import fnmatch
import math
import os
import sys
from collections.abc import Callable, Sequence
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Annotated

import typer

from latentkit.affine import IDENTITY, Affine, from_factors, from_normalization
from latentkit.cli.device import check_device_name, resolve_device
from latentkit.cli.options import Computing, Files, Messages, OnNonfinite, Reading
from latentkit.cli.rows import say_reading
from latentkit.cli.screen import count_of, note, track
from latentkit.errors import DataError, RequestError
from latentkit.storage.choice import Posterior, describe
from latentkit.storage.header import Header, TensorInfo
from latentkit.storage.outputs import Output
from latentkit.storage.pairing import latents_key
from latentkit.storage.placing import check_place, is_stream
from latentkit.storage.plan import find_posteriors, refuse_equal_names
from latentkit.storage.tables import write_all
from latentkit.storage.writer import check_free_space

if TYPE_CHECKING:
    from latentkit.drawing import Recipe

EXAMPLES = """
latentkit sample sample_data/healthy-f16.safetensors -o latents.safetensors --seed 7

latentkit sample sample_data/shards -o latents --carry labels --scaling-factor 0.18215

latentkit sample sample_data/video.safetensors -o mode.safetensors --mode --dtype float32
"""


class Dtype(StrEnum):
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"


_STORED = {Dtype.float16: "F16", Dtype.bfloat16: "BF16", Dtype.float32: "F32", Dtype.float64: "F64"}


def sample(
    files: Files,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            help="A .safetensors file, or a folder that mirrors the inputs; - for a pipe.",
        ),
    ],
    reading: Reading,
    computing: Computing,
    messages: Messages,
    seed: Annotated[int, typer.Option("--seed", metavar="N", min=0, max=2**64 - 1, help="Seed of the noise.")] = 0,
    draws: Annotated[
        int | None, typer.Option("--draws", metavar="K", min=1, help="K draws, along a new leading axis.")
    ] = None,
    mode: Annotated[bool, typer.Option("--mode", help="The mean, without noise.")] = False,
    temperature: Annotated[float, typer.Option("--temperature", metavar="T", help="Multiplies σ.")] = 1.0,
    dtype: Annotated[
        Dtype | None,
        typer.Option("--dtype", metavar="DTYPE", help="float16, bfloat16, float32, float64; unless said the input's, or float32.")."),
    ] = None,
    scaling_factor: Annotated[
        float | None, typer.Option("--scaling-factor", metavar="S", help="Latents are (z - shift) times S.")
    ] = None,
    shift_factor: Annotated[
        float | None, typer.Option("--shift-factor", metavar="S", help="Latents are (z - S) times scale.")
    ] = None,
    normalization: Annotated[
        str | None,
        typer.Option(
            "--normalization", metavar="FILE", help="JSON of latents_mean and latents_std; before the factors."
        ),
    ] = None,
    carry: Annotated[
        list[str] | None,
        typer.Option("--carry", metavar="KEY", help="Copy this tensor through; a name or a glob; repeatable."),
    ] = None,
    relative_to: Annotated[
        str | None,
        typer.Option("--relative-to", metavar="DIR", help="Names of inputs, and so their noise, go from here."),
    ] = None,
    stream: Annotated[
        str | None, typer.Option("--stream", metavar="TEXT", help="Name of a single input, for its noise.")
    ] = None,
    on_nonfinite: Annotated[
        OnNonfinite, typer.Option("--on-nonfinite", metavar="RULE", help="NaN and infinities in the data: warn or error.")
    ] = OnNonfinite.warn,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace outputs that exist.")] = False,
) -> None:
    """Draw latents from each sample's posterior, the same for a seed on any machine."""
    check_device_name(computing.device)
    if on_nonfinite is OnNonfinite.skip:
        raise RequestError(
            "--on-nonfinite skip: sample keeps every row, so that latents stay beside their labels; use error"
        )
    if not math.isfinite(temperature) or temperature < 0:
        raise RequestError(f"--temperature {temperature}: must be a finite number, 0 or above")
    if dtype is Dtype.float64 and not mode:
        raise RequestError("--dtype float64 goes with --mode: noise is drawn in float32")
    clamp = computing.clamp()
    found = find_posteriors(files, reading.selection(), relative_to=relative_to)
    refuse_equal_names(found.posteriors)
    affine = _affine(scaling_factor, shift_factor, normalization, found.posteriors)
    planned = _plan(found.posteriors, output, carry or [], stream, overwrite=overwrite)

    from latentkit.drawing import Recipe, draw_files, draw_stream, layout_of

    resolve_device(computing.device, messages)
    recipe = Recipe(seed, draws, mode, temperature, _STORED[dtype] if dtype else None, affine, clamp)
    say_reading(found, "safetensors", messages)
    if not mode and any(posterior.mean.dtype == "F64" for posterior in found.posteriors):
        note(messages, "float64 moments are rounded to float32 before drawing")
    if is_stream(output):
        results = draw_stream(_only(planned, recipe), recipe, _pipe(output))
    else:
        check_free_space(os.path.dirname(planned[0].path), sum(layout_of(one, recipe).size for one in planned))
        results = draw_files(planned, recipe, overwrite=overwrite, batch_size=computing.batch_size)
    nonfinite = overflowed = 0
    for drawn in track(results, found.nbytes, messages):
        nonfinite += drawn.nonfinite
        overflowed += drawn.overflowed
        if drawn.first is not None and on_nonfinite is OnNonfinite.error:
            posterior, index = drawn.first
            raise DataError(
                f"{posterior.label}, sample {index} gives NaN or infinite latents; nothing was written for it"
            )
    if nonfinite:
        note(messages, f"{nonfinite:,} of {count_of(found.samples, 'sample')} have NaN or infinite latents")
    if overflowed:
        note(messages, f"{count_of(overflowed, 'latent')} too large for the output's dtype became infinite")


def _affine(
    scaling_factor: float | None, shift_factor: float | None, normalization: str | None, posteriors: Sequence[Posterior]
) -> Affine:
    factors = from_factors(scaling_factor, shift_factor)
    affine = from_normalization(normalization).then(factors) if normalization else factors
    for posterior in posteriors:
        if affine.channels() not in (1, posterior.axes.channels):
            raise RequestError(
                f"{normalization}: is for {affine.channels()} channels; {posterior.label} has {posterior.axes.channels}"
            )
    return affine if not affine.is_identity else IDENTITY


def _plan(
    posteriors: Sequence[Posterior], output: str, carry: list[str], stream: str | None, *, overwrite: bool
) -> list[Output]:
    """One output for each input file; refuses what cannot be written before any work."""
    by_file = [list(group) for _, group in groupby(posteriors, key=lambda posterior: posterior.file)]
    if stream is not None and len(by_file) > 1:
        raise RequestError(f"--stream names a single input, and there are {len(by_file)}")
    as_file = is_stream(output) or (output.endswith(".safetensors") and not os.path.isdir(output))
    if as_file and len(by_file) > 1:
        raise RequestError(f"{output}: one file, and there are {len(by_file)} inputs; give a folder")
    planned = []
    for group in by_file:
        file = group[0].file
        path = output if as_file else os.path.join(output, *file.name.split("/"))
        check_place(path, overwrite=overwrite)
        if os.path.exists(path) and os.path.samefile(path, file.path):
            raise RequestError(f"{path}: is the input itself; choose another -o")
        latents = {latents_key(posterior, len(group)): posterior for posterior in group}
        planned.append(Output(path, stream or file.name, latents, _carried(group, carry, latents)))
    return planned


def _carried(group: list[Posterior], patterns: list[str], latents: dict[str, Posterior]) -> list[TensorInfo]:
    """The tensors to copy through; ``*`` is every one but the moments."""
    header: Header = group[0].header
    moments = {tensor.key for posterior in group for tensor in (posterior.mean, posterior.scale) if tensor}
    carried: dict[str, TensorInfo] = {}
    for pattern in patterns:
        keys = [pattern] if pattern in header.tensors else fnmatch.filter(header.tensors, pattern)
        keys = [key for key in keys if key == pattern or key not in moments]
        if not keys and "*" not in pattern:
            raise RequestError(f"{header.path}: no tensor is called {pattern!r} to carry; {describe(header)}")
        carried |= {key: header.tensors[key] for key in keys}
    for key in carried:
        if key in latents:
            raise RequestError(f"{header.path}: tensor {key!r} cannot be carried: the latents go by that key")
    return list(carried.values())


def _only(planned: list[Output], recipe: "Recipe") -> Output:
    if len(planned[0].latents) != 1 or recipe.draws not in (None, 1):
        raise RequestError("a pipe takes one input tensor and one draw; give -o a file or a folder")
    return planned[0]


def _pipe(output: str) -> Callable[[memoryview], None]:
    if output == "-" and sys.stdout.isatty():
        raise RequestError("-o -: stdout is a terminal, and latents are not for reading; give -o a file, or a pipe")
    descriptor = sys.stdout.fileno() if output == "-" else os.open(output, os.O_WRONLY)
    return lambda data: write_all(descriptor, data)
