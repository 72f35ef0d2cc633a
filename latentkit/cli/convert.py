"""``latentkit convert``: any cache as safetensors shards or .npy, the same bytes, with what they mean."""

import os
from contextlib import closing
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from latentkit.cli.dry_run import show_plan
from latentkit.cli.faults import listed
from latentkit.cli.interrupts import deferred
from latentkit.cli.options import Carry, Choosing, Faults, Files, Messages, Overwrite, Reading, Workers
from latentkit.cli.rows import say_reading, warn_of_misreading
from latentkit.cli.screen import note, say_kept, track
from latentkit.convert.units import choose_rows, left_out, samples_of, units_of
from latentkit.errors import DataError, LatentkitError, RequestError
from latentkit.failures import Failures
from latentkit.posterior.layout import DEFAULT_LAYOUTS
from latentkit.read.plan import Found, find_posteriors, within
from latentkit.text import count_of
from latentkit.write.batch import Batch
from latentkit.write.complete import found_at, is_older, is_written
from latentkit.write.leftovers import at_work_in
from latentkit.write.places import OF_ANOTHER_SET, check_outputs, is_folder, of_another_set
from latentkit.write.placing import is_stream, placed
from latentkit.write.safetensors import check_free_space, shards_index
from latentkit.write.stream import write_all

if TYPE_CHECKING:
    from collections.abc import Iterable

    from latentkit.convert.outputs import Output, Place
    from latentkit.convert.units import Unit

EXAMPLES = """
latentkit convert sample_data/shards -o all.safetensors
latentkit convert sample_data/shards -o shards --samples-per-shard 100
latentkit convert sample_data/healthy-f16.safetensors -o moments.npy --no-labels
"""


class ArrayFormat(StrEnum):
    safetensors = "safetensors"
    npy = "npy"


_PLACING = "Writing"
# Keys of tensors that are left out, in a note.
_MOST_NAMED = 8


@dataclass
class Converting:
    """Where rows go, and what goes with them."""

    output: Annotated[
        str | None,
        typer.Option(
            "--output", "-o", metavar="OUT", help="A .safetensors or .npy file, or a folder.", rich_help_panel=_PLACING
        ),
    ] = None
    format: Annotated[
        ArrayFormat | None,
        typer.Option("--format", metavar="FORMAT", help="In a folder: safetensors or npy.", rich_help_panel=_PLACING),
    ] = None
    samples_per_shard: Annotated[
        int | None,
        typer.Option(
            "--samples-per-shard", metavar="N", min=1, help="Samples per file; by default as many as 1 GiB holds.",
            rich_help_panel=_PLACING,
        ),
    ] = None  # fmt: skip
    carry: Carry = field(default_factory=list)
    no_labels: Annotated[
        bool, typer.Option("--no-labels", help="Leave out the labels that the cache has.", rich_help_panel=_PLACING)
    ] = False
    relative_to: Annotated[
        str | None,
        typer.Option("--relative-to", metavar="DIR", help="Names are relative to it.", rich_help_panel=_PLACING),
    ] = None
    overwrite: Overwrite = False
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Make only what an interrupted run did not.", rich_help_panel=_PLACING),
    ] = False
    workers: Workers = None

    @property
    def place(self) -> "Place":
        from latentkit.convert.outputs import Place

        if not self.output or is_stream(self.output):
            raise RequestError("missing -o OUT: a .safetensors or .npy file, or a folder")
        if not is_folder(self.output, [f".{format}" for format in ArrayFormat]):
            suffix = os.path.splitext(self.output)[1]
            if self.samples_per_shard is not None:
                raise RequestError(f"{self.output}: --samples-per-shard writes several files; give a folder")
            if self.format not in (None, ArrayFormat(suffix[1:])):
                raise RequestError(f"{self.output}: its suffix says another format than --format {self.format}")
            return Place(self.output, suffix, as_file=True)
        format = self.format or ArrayFormat.safetensors
        return Place(self.output, f".{format}", as_file=False, samples_per_shard=self.samples_per_shard)


def convert(
    files: Files, converting: Converting, reading: Reading, choosing: Choosing, faults: Faults, messages: Messages
) -> None:
    """Any cache as safetensors or .npy: the same bytes, with labels, verified."""
    from latentkit.convert.labels import Labels, find_labels
    from latentkit.convert.outputs import plan_outputs

    place = converting.place
    with listed(faults, overwrite=converting.overwrite, dry_run=choosing.dry_run) as failures:
        found = find_posteriors(
            files,
            reading.selection(latents=True),
            relative_to=converting.relative_to,
            leave_out=place.path,
            failures=failures,
        )
        choice = choosing.choice()
        units = units_of(found.posteriors, converting.carry, labels=not converting.no_labels)
        labels = Labels({}) if converting.no_labels else find_labels(units)
        done: list[Output] = []
        failed = -1
        while len(failures.found) > failed:
            # Whether a file can be read is known only then: rows of one that cannot are left out, in a new plan.
            begins, failed, found = failed < 0, len(failures.found), found.without(failures)
            chosen = choose_rows([unit for unit in units if unit.rows.file.path not in failures], choice)
            spans = tuple(part for unit, span in chosen for part in samples_of(unit, span))
            used = tuple(dict.fromkeys(span.posterior for span in spans))
            found = replace(found, posteriors=used, spans=spans, read=(*found.read, *choice.lists))
            outputs = plan_outputs(chosen, labels, place)
            if begins:
                say_reading(found, "table" if choosing.dry_run else "safetensors", messages)
                warn_of_misreading(found, messages)
                _note_left_out((unit for unit, _ in chosen), messages)
                _note_unsaid((unit for unit, _ in chosen), place, messages)
            done = _write(outputs, done, found, place, converting, choosing, messages, failures)
        _note_twice(found, place, messages)


def _note_twice(found: Found, place: "Place", messages: Messages) -> None:
    files = (posterior.file for posterior in found.posteriors)
    for root in {file.root for file in files if file.searched and file.path.endswith(place.suffix)}:
        if within(place.path, root):
            note(messages, f"{place.path} lies within {root}: what searches that finds every sample twice")


def _note_left_out(units: "Iterable[Unit]", messages: Messages) -> None:
    if left := left_out(units):
        more = f" and {len(left) - _MOST_NAMED:,} more" if len(left) > _MOST_NAMED else ""
        note(messages, f"left out: {', '.join(left[:_MOST_NAMED])}{more}; --carry KEY copies them")


def _note_unsaid(units: "Iterable[Unit]", place: "Place", messages: Messages) -> None:
    """The flags that arrays are to be read with later, where they are not what is usual; pairs are not read so."""
    if place.suffix != ".npy":
        return
    single = place.samples_per_shard == 1
    for meaning, layout in sorted(
        {(unit.rows.parameterization, unit.layout) for unit in units if unit.rows.scale is None}
    ):
        flags = [] if meaning == "logvar" else [f"--parameterization {meaning}"]
        layout = layout.removeprefix("b") if single else layout
        flags += [] if layout in DEFAULT_LAYOUTS.values() else [f"--layout {layout}"]
        if flags:
            note(messages, f"an .npy does not say how it is read: {' '.join(flags)}")


def _write(
    outputs: "list[Output]",
    done: "list[Output]",
    found: Found,
    place: "Place",
    converting: Converting,
    choosing: Choosing,
    messages: Messages,
    failures: Failures,
) -> "list[Output]":
    """Write outputs but those ``done``; what is done and is none is removed. Returns all that are done then."""
    from latentkit.convert.files import write_outputs
    from latentkit.convert.outputs import index_name

    folder = os.path.dirname(place.path) or "." if place.as_file else place.path
    files = [output.path for output in outputs]
    index, path = b"", os.path.join(folder, index_name(outputs))
    if not place.as_file and place.suffix == ".safetensors":
        shards = [(output.path, output.keys) for output in outputs]
        index = shards_index(shards, sum(output.layout.size for output in outputs))
    overwrite, planned = converting.overwrite, {output.path: output for output in outputs}
    if not place.as_file and (other := of_another_set(files, [output.path for output in done])):
        raise _unlike(other, failures, OF_ANOTHER_SET)
    for output in [output for output in done if planned.get(output.path) != output]:
        os.unlink(output.path)
        done.remove(output)
    for output in done:
        del planned[output.path]
    waiting = list(planned.values())
    check_outputs([*planned, path if index else None], overwrite=overwrite or converting.resume, read=found.read)
    if converting.resume:
        waiting = [output for output in waiting if not _is_complete(output, failures, overwrite=overwrite)]
        if index and is_written(path, index, overwrite=overwrite):
            index = b""
        note(messages, f"resume: {len(outputs) - len(waiting):,} of {len(outputs):,} files were complete")
    sizes = [output.layout.size for output in waiting]
    if choosing.dry_run:
        show_plan(found, folder, sizes)
        return outputs
    check_free_space(folder, sum(sizes))
    batch, known = Batch(), len(failures.found)
    results = write_outputs(waiting, batch, failures, overwrite=overwrite, workers=converting.workers)
    with deferred(), at_work_in(folder, files if converting.resume else ()):
        try:
            with closing(results):
                done += filter(None, track(results, sum(sizes), messages))
        except BaseException as error:
            say_kept(error, len(outputs) - len(waiting) + batch.placed, len(outputs), messages)
            raise
        if len(failures.found) > known:
            return done
        if index:
            with placed(path, overwrite=overwrite) as descriptor:
                write_all(descriptor, index)
    if waiting:
        samples = f", {count_of(found.samples, 'sample')}" if len(waiting) == len(outputs) else ""
        note(messages, f"wrote {place.path}: {count_of(len(waiting), 'file')}{samples}, verified")
    return done


def _is_complete(output: "Output", failures: Failures, *, overwrite: bool) -> bool:
    """Whether it is there, as this run would write it; another one is made again with ``overwrite``."""
    header = output.layout.header
    try:
        there = found_at(output.path, len(header))
    except FileNotFoundError:
        return False
    if there == (output.layout.size, header) and not is_older(output.path, output.inputs):
        return True
    if not overwrite:
        raise _unlike(output.path, failures, "exists, and is not what this run would write; --overwrite replaces it")
    return False


def _unlike(path: str, failures: Failures, words: str) -> LatentkitError:
    """For a file that is there and that this run would not write, perhaps since an input cannot be read any more."""
    if not failures.found:
        return RequestError(f"{path}: {words}")
    return DataError(
        f"{path}: stays, and is not what the files that can be read give; mend the others and add --overwrite, or "
        "convert into another folder"
    )
