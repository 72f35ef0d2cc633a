"""``latentkit sample``: draw latents that come out the same anywhere, and write them as safetensors."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from math import prod
from typing import TYPE_CHECKING, Annotated

import typer

from latentkit.cli.device import resolve_device
from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.interrupts import deferred
from latentkit.cli.options import (
    Carry,
    Choosing,
    Computing,
    Factors,
    Faults,
    Files,
    Messages,
    OnNonfinite,
    Overwrite,
    Reading,
    Typed,
)
from latentkit.cli.rows import say_reading, warn_of_misreading
from latentkit.cli.screen import note, say_kept, track, warn
from latentkit.cli.verify import verify
from latentkit.device import check_device_name
from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.read.pairing import INDEX_NAME
from latentkit.read.plan import Found, find_posteriors, refuse_equal_names
from latentkit.sample.outputs import Output, index_of, mirrored, resharded
from latentkit.sample.recipe import layout_of
from latentkit.sample.request import affine_asked, recipe_of
from latentkit.sample.resume import incomplete
from latentkit.text import count_of, percent
from latentkit.write.complete import is_written
from latentkit.write.leftovers import at_work_in
from latentkit.write.places import OF_ANOTHER_SET, check_outputs, is_folder, of_another_set
from latentkit.write.placing import is_stream, placed
from latentkit.write.safetensors import check_free_space
from latentkit.write.stream import write_all

if TYPE_CHECKING:
    from latentkit.posterior.affine import Affine
    from latentkit.sample.drawing import Drawn

EXAMPLES = """
latentkit sample sample_data/healthy-f16.safetensors -o out.safetensors --seed 7
latentkit sample sample_data/shards -o latents --carry labels
latentkit sample sample_data/video.safetensors -o mode.safetensors --mode
"""


class Dtype(StrEnum):
    float16 = "float16"
    bfloat16 = "bfloat16"
    float32 = "float32"
    float64 = "float64"


_PLACING = "Writing"
_DRAWING = "Drawing"
# What says nothing of latents that are there.
_OF_WRITING = "output", "overwrite", "resume", "carry", "samples_per_shard", "on_nonfinite", "dry_run"


@dataclass
class Drawing:
    """What is drawn."""

    seed: Annotated[
        int,
        typer.Option("--seed", metavar="N", min=0, max=2**64 - 1, help="Seed of the noise.", rich_help_panel=_DRAWING),
    ] = 0
    draws: Annotated[
        int | None,
        typer.Option("--draws", metavar="K", min=1, help="K draws, along a new first axis.", rich_help_panel=_DRAWING),
    ] = None
    mode: Annotated[bool, typer.Option("--mode", help="The mean, without noise.", rich_help_panel=_DRAWING)] = False
    temperature: Annotated[
        float, typer.Option("--temperature", metavar="T", help="Multiplies σ.", rich_help_panel=_DRAWING)
    ] = 1.0
    stream: Annotated[
        str | None,
        typer.Option(
            "--stream", metavar="TEXT", help="Name of a single input, for its noise.", rich_help_panel=_DRAWING
        ),
    ] = None
    relative_to: Annotated[
        str | None,
        typer.Option(
            "--relative-to", metavar="DIR", help="Inputs are named, for noise, from here.", rich_help_panel=_DRAWING
        ),
    ] = None
    on_nonfinite: Annotated[
        OnNonfinite,
        typer.Option(
            "--on-nonfinite", metavar="RULE", help="NaN and infinities: warn or error.", rich_help_panel=_DRAWING
        ),
    ] = OnNonfinite.warn


@dataclass
class Placing:
    """Where latents go, and in which form."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="A .safetensors file, or a folder; - for a pipe.",
            rich_help_panel=_PLACING,
        ),
    ] = None  # fmt: skip
    overwrite: Overwrite = False
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on with an interrupted run.", rich_help_panel=_PLACING),
    ] = False
    dtype: Annotated[
        Dtype | None,
        typer.Option(
            "--dtype", metavar="DTYPE", help="float16, bfloat16 or float32; by default the input's.",
            rich_help_panel=_PLACING,
        ),
    ] = None  # fmt: skip
    carry: Carry = field(default_factory=list)
    samples_per_shard: Annotated[
        int | None,
        typer.Option(
            "--samples-per-shard", metavar="N", min=1, help="Split or join into files of N samples, with an index.",
            rich_help_panel=_PLACING,
        ),
    ] = None  # fmt: skip
    verify: Annotated[
        str | None,
        typer.Option(
            "--verify", metavar="OUT", help="Write nothing: draw again, and compare with OUT.",
            rich_help_panel=_PLACING,
        ),
    ] = None  # fmt: skip


@dataclass
class Normalizing(Factors):
    """What maps drawn latents to those that a model trains on."""

    normalization: Annotated[
        str | None,
        typer.Option(
            "--normalization", metavar="FILE", help="JSON of mean and std, as stats writes; before factors.",
            rich_help_panel="Scaling",
        ),
    ] = None  # fmt: skip


def sample(
    files: Files,
    placing: Placing,
    drawing: Drawing,
    normalizing: Normalizing,
    reading: Reading,
    choosing: Choosing,
    computing: Computing,
    faults: Faults,
    messages: Messages,
    typed: Typed,
) -> None:
    """Draw latents, the same for a seed on any machine."""
    check_device_name(computing.device)
    clamp = computing.clamp()
    _check(drawing, placing, faults, typed)
    with listed(faults, overwrite=placing.overwrite or placing.resume, dry_run=choosing.dry_run) as failures:
        found = find_posteriors(
            files,
            reading.selection(),
            choosing.choice(),
            relative_to=drawing.relative_to,
            leave_out=placing.output,
            failures=failures,
        )
        if placing.verify is not None:
            options = {name: value for group in (drawing, placing, computing) for name, value in vars(group).items()}
            asked = {name: options[name] for name in typed if name in options}
            verify(found, placing.verify, asked, _affine_asked(normalizing), computing, messages)
            return
        refuse_equal_names(found.posteriors)
        recipe = recipe_of(
            found.posteriors,
            seed=drawing.seed,
            draws=drawing.draws,
            mode=drawing.mode,
            temperature=drawing.temperature,
            dtype=placing.dtype,
            scaling_factor=normalizing.scaling_factor,
            shift_factor=normalizing.shift_factor,
            normalization=normalizing.normalization,
            clamp=clamp,
            streams={} if drawing.stream is None else dict.fromkeys(found.posteriors, drawing.stream),
            failures=failures,
        )
        if not recipe.affine.is_identity and not normalizing.given and normalizing.normalization is None:
            (shift,), (scale,) = recipe.affine.shift, recipe.affine.scale
            note(messages, f"scaling factor {scale:g}, shift factor {shift:g}, by the metadata")
        found = found.without(failures)
        planned = _plan(found, placing, normalizing.normalization, drawing.stream, faults.errors, failures)
        found = found.without(failures)
        if is_stream(_output(placing)) and (len(planned[0].latents) != 1 or drawing.draws not in (None, 1)):
            raise RequestError("a pipe takes one input tensor and one draw; give -o a file or a folder")
        if is_stream(_output(placing)) and placing.resume:
            raise RequestError("--resume: a pipe begins anew each time; give -o a file or a folder")

        device = resolve_device(computing.device, messages)
        say_reading(found, "table" if choosing.dry_run else "safetensors", messages)
        warn_of_misreading(found, messages)
        if not drawing.mode and any(posterior.mean.dtype == "F64" for posterior in found.posteriors):
            note(messages, "float64 moments are rounded to float32 before drawing")
        output = _output(placing)
        sizes = [layout_of(one, recipe).size for one in planned]
        folder = os.path.dirname(planned[0].path)
        index = index_of(planned, sizes) if placing.samples_per_shard is not None else b""
        waiting = planned
        if placing.resume:
            waiting = incomplete(planned, recipe, overwrite=placing.overwrite)
            if index and is_written(os.path.join(output, INDEX_NAME), index, overwrite=placing.overwrite):
                index = b""
            note(messages, f"resume: {len(planned) - len(waiting):,} of {len(planned):,} files were complete")
            sizes = [layout_of(one, recipe).size for one in waiting]
        if choosing.dry_run:
            show_plan(found, folder, sizes)
            return

        from latentkit.sample.files import OutputFiles, draw_files, draw_stream

        finite = drawing.on_nonfinite is OnNonfinite.error
        if is_stream(output):
            with _pipe(output) as write:
                results = draw_stream(
                    planned[0], recipe, write, finite=finite, workers=computing.workers, device=device
                )
                _follow(results, found, messages, failures)
            return
        check_free_space(folder, sum(sizes))
        outputs = OutputFiles(waiting, recipe, overwrite=placing.overwrite, failures=failures)
        found = replace(found, spans=tuple(outputs.spans))
        results = draw_files(
            outputs, finite=finite, batch_size=computing.batch_size, workers=computing.workers, device=device
        )
        left_by = [one.path for one in planned] if placing.resume else ()
        root = os.path.dirname(output) or "." if planned[0].path == output else output
        with deferred(), at_work_in(root, left_by) as others:
            if others and placing.overwrite and root == output:
                warn(messages, f"another run is writing in {output}: of a file that both write, the last to come stays")
            try:
                with closing(results):
                    _follow(results, found, messages, failures)
            except BaseException as error:
                say_kept(error, len(planned) - len(waiting) + outputs.placed, len(planned), messages)
                raise
            if index:
                with placed(os.path.join(output, INDEX_NAME), overwrite=placing.overwrite) as descriptor:
                    write_all(descriptor, index)
        if outputs.placed:
            note(messages, f"wrote {output}: {count_of(outputs.placed, 'file')}, {count_of(found.samples, 'sample')}")


def _affine_asked(normalizing: Normalizing) -> "Affine | None":
    if not normalizing.given and normalizing.normalization is None:
        return None
    return affine_asked(normalizing.scaling_factor, normalizing.shift_factor, normalizing.normalization)


def _check(drawing: Drawing, placing: Placing, faults: Faults, typed: Typed) -> None:
    together = {"--samples-per-shard": placing.samples_per_shard, "--verify": placing.verify}
    if faults.keep_going and (names := [name for name, given in together.items() if given is not None]):
        raise RequestError(f"{names[0]} takes all inputs together, so none can be passed over: leave out --keep-going")
    if placing.verify is not None and (names := [typed[name] for name in _OF_WRITING if name in typed]):
        raise RequestError(f"--verify writes nothing: leave out {', '.join(names)}")
    if drawing.on_nonfinite is OnNonfinite.skip:
        raise RequestError(
            "--on-nonfinite skip: sample keeps every row, so that latents stay beside their labels; use error"
        )
    if drawing.stream is not None and not _is_text(drawing.stream):
        raise RequestError("--stream: its bytes are not UTF-8, which metadata must be")


def _is_text(name: str) -> bool:
    return name == name.encode(errors="replace").decode()


def _follow(results: "Iterator[tuple[Drawn, int]]", found: Found, messages: Messages, failures: Failures) -> None:
    """Drive the work, and say in the end what latents could not hold."""
    nonfinite = overflowed = clamped = 0
    last = None
    for drawn in track(results, found.nbytes, messages):
        # A sample that is cut in pieces is counted once.
        nonfinite += drawn.nonfinite if drawn.first != last else 0
        last = drawn.first or last
        overflowed += drawn.overflowed
        clamped += drawn.clamped
    found = found.without(failures)
    if clamped:
        share = clamped / sum(span.count * prod(span.posterior.axes.view[1:]) for span in found.spans)
        note(messages, f"{clamped:,} log-variances ({percent(share)}) were clamped")
    if nonfinite:
        warn(messages, f"{nonfinite:,} of {count_of(found.samples, 'sample')} have NaN or infinite latents")
    if overflowed:
        warn(messages, f"{count_of(overflowed, 'latent')} too large for the output's dtype became infinite")


def _output(placing: Placing) -> str:
    if not placing.output:
        raise RequestError("missing -o OUT: a .safetensors file, or a folder (or --verify OUT, to check one)")
    return placing.output


def _plan(
    found: Found,
    placing: Placing,
    normalization: str | None,
    stream: str | None,
    errors: str | None,
    failures: Failures,
) -> list[Output]:
    """The outputs; refuses what cannot be written before any work."""
    output = _output(placing)
    inputs = list(dict.fromkeys(posterior.file.path for posterior in found.posteriors))
    count = len(inputs) + found.failed
    if stream is not None and count > 1:
        raise RequestError(f"--stream names a single input, and there are {count}")
    as_file = is_stream(output) or not is_folder(output, [".safetensors"])
    paths = [errors]
    if as_file and found.failed:
        raise RequestError(f"{output}: one file, and there are {count} inputs; give a folder")
    if placing.samples_per_shard is None:
        planned = mirrored(found.spans, output, placing.carry, as_file=as_file, failures=failures)
    elif as_file:
        raise RequestError(f"{output}: --samples-per-shard writes several files; give a folder")
    else:
        planned = resharded(found.spans, output, placing.carry, placing.samples_per_shard)
        if other := of_another_set([one.path for one in planned]):
            raise RequestError(f"{other}: {OF_ANOTHER_SET}")
        paths.append(os.path.join(output, INDEX_NAME))
    read = [*found.read, *([normalization] if normalization else [])]
    overwrite = placing.overwrite or placing.resume
    check_outputs([*paths, *(one.path for one in planned)], overwrite=overwrite, read=read)
    return planned


@contextmanager
def _pipe(output: str) -> Iterator[Callable[[memoryview], None]]:
    with placed(output) as descriptor:
        if os.isatty(descriptor):
            raise RequestError(f"-o {output}: a terminal, and latents are not for reading; give -o a file, or a pipe")
        yield lambda data: write_all(descriptor, data)
