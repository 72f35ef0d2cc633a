"""Pairing inputs with their partners: another posterior for each (``--against``), or latents (``--latents``)."""

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.posterior.affine import Affine, from_factors, from_json
from latentkit.read.choice import Posterior, Run, describe, state_error
from latentkit.read.header import Header, TensorInfo, container_of, read_header
from latentkit.read.inputs import INDEX_SUFFIX, SUFFIX, InputFile, find_inputs
from latentkit.read.metadata import RECIPE_ENTRY, factors_in, is_drawn, is_state

#: The index that lists files of latents sharded anew.
INDEX_NAME = "latents.safetensors.index.json"


def latents_key(posterior: Posterior, siblings: int) -> str:
    """The key of a posterior's latents: ``moments_flip`` gives ``latents_flip``.

    ``siblings`` is how many posteriors its file has: one alone gives ``latents`` whatever its key.
    """
    if siblings == 1 and not posterior.key.startswith("moments_"):
        return "latents"
    if posterior.key == "moments" or posterior.key.startswith("moments_"):
        return "latents" + posterior.key.removeprefix("moments")
    return f"latents.{posterior.key}"


def latents_name(name: str) -> str:
    """The name of the file of latents that mirrors an input of the given name: any container gives safetensors."""
    return f"{os.path.splitext(name)[0]}{SUFFIX}" if container_of(name) else name


@dataclass(frozen=True, slots=True)
class Latents:
    """The latents of one posterior: rows of one tensor, or of several when they were sharded anew.

    Tensors have the mean's shape, behind an axis of ``draws`` when ``drawn_often``.
    """

    runs: tuple[tuple[Run, Header, TensorInfo], ...]
    draws: int
    drawn_often: bool

    @property
    def header(self) -> Header:
        return self.runs[0][1]

    @property
    def identity(self) -> tuple[object, ...]:
        """Tells them from any others, in this run and the next: the files as they are now, and which rows."""
        return tuple((header.path, header.stamp, tensor.key, run) for run, header, tensor in self.runs)

    @property
    def tensor(self) -> TensorInfo:
        return self.runs[0][2]

    @property
    def where(self) -> str:
        """Its place, for a sentence."""
        return f"{self.header.path}: tensor {self.tensor.key!r}"


def pair_posteriors(
    posteriors: Sequence[Posterior],
    others: Sequence[Posterior],
    *,
    inputs: Sequence[Posterior] = (),
    failures: Failures | None = None,
    failed: tuple[int, int] = (0, 0),
) -> dict[Posterior, Posterior]:
    """The partner of each posterior: one with one whatever their names, else by name and key, or one for all.

    ``inputs`` are all that there are, where only some samples were chosen. ``failed`` counts the files that were passed
    over on either side: what is left of several is no single one. Unless ``failures`` take them, raises
    ``RequestError`` when a partner is missing, ``DataError`` when shapes differ.
    """
    failures = Failures() if failures is None else failures
    single = len(others) == 1 and not failed[1]
    if single and ((len(inputs or posteriors) == 1 and not failed[0]) or others[0].samples == 1):
        by_name = {(posterior.file.name, posterior.key): others[0] for posterior in posteriors}
    else:
        _refuse_equal_names(dict.fromkeys(posterior.file for posterior in posteriors))
        _refuse_equal_names(dict.fromkeys(other.file for other in others))
        by_name = {(other.file.name, other.key): other for other in others}
    pairs = {}
    for posterior in posteriors:
        with failures.passing_over(posterior.file.path):
            pairs[posterior] = _partner_of(posterior, by_name)
    return pairs


def _partner_of(posterior: Posterior, by_name: Mapping[tuple[str, str], Posterior]) -> Posterior:
    name = posterior.file.name, posterior.key
    if name not in by_name:
        raise RequestError(f"{posterior.label} has no partner: no {name[0]!r} with {name[1]!r} among the others")
    other = by_name[name]
    if posterior.axes.view[1:] != other.axes.view[1:] or other.samples not in (1, posterior.samples):
        raise DataError(
            f"{posterior.label} has means of shape {list(posterior.axes.shape)} and its partner in "
            f"{other.file.path} of {list(other.axes.shape)}: they need the same shape, or a partner of one sample",
            tensor=posterior.key,
        )
    return other


def pair_latents(
    posteriors: Sequence[Posterior],
    argument: str,
    key: str | None,
    *,
    inputs: Sequence[Posterior] = (),
    failures: Failures | None = None,
    failed: int = 0,
) -> dict[Posterior, Latents]:
    """The latents of each posterior: in the file ``argument``, in a folder that mirrors the inputs, or in shards.

    Shards, listed by an index, hold the latents of all ``inputs`` end to end, of which only some samples may have been
    chosen. ``failed`` counts inputs that were passed over. Unless ``failures`` take them, raises ``RequestError`` for a
    missing file or tensor, ``DataError`` for one of another shape; shards are right or wrong together.
    """
    failures = Failures() if failures is None else failures
    files, inputs = find_inputs([argument]), inputs or posteriors
    siblings = Counter(posterior.file for posterior in inputs)
    alone = len(files) == 1 and len(siblings) == 1 and not failed
    by_name = {file.name: file for file in files}
    index = os.path.join(argument, INDEX_NAME)
    if argument.endswith(INDEX_SUFFIX) and not alone:
        return _in_shards(inputs, _headers(files), key or "latents")
    if os.path.exists(index) and not alone and not all(latents_name(file.name) in by_name for file in siblings):
        return _in_shards(inputs, _headers(find_inputs([index])), key or "latents")
    if not alone:
        _refuse_equal_names(siblings)
        _refuse_equal_names(files)
    pairs = {}
    for posterior in posteriors:
        name = latents_name(posterior.file.name)
        with failures.passing_over(posterior.file.path):
            file = files[0] if alone else by_name.get(posterior.file.name) or by_name.get(name)
            if file is None:
                raise RequestError(f"{posterior.file.path}: no latents called {name!r} in {argument}")
            named = key or latents_key(posterior, siblings[posterior.file])
            pairs[posterior] = _latents_of(posterior, read_header(file.path), named, named=key is not None)
    return pairs


def latents_in(posteriors: Sequence[Posterior], header: Header, key: str) -> dict[Posterior, Latents]:
    """The latents of each posterior in one tensor, end to end where there are several; raises as ``pair_latents``."""
    if len(posteriors) > 1:
        rank = 1 + len(posteriors[0].axes.shape) - len(posteriors[0].axes.batch)
        return _in_shards(posteriors, [header], key, drawn_often=len(header.tensors[key].shape) > rank)
    return {posteriors[0]: _latents_of(posteriors[0], header, key, named=True)}


def affine_in(latents: Latents) -> Affine | None:
    """The affine in the metadata of latents; None where there is none, or it is a word of another program.

    Raises ``DataError`` where latentkit drew them and it cannot be undone.
    """
    text = latents.header.metadata.get("affine")
    try:
        return None if text is None else from_json(text, latents.where)
    except DataError:
        if is_drawn(latents.header):
            raise
        return None


def affine_of(posterior: Posterior, latents: Latents, flagged: Affine | None) -> Affine:
    """The affine to undo: that of the latents' metadata, or ``flagged``, or that of the moments', as ``sample`` has it.

    Raises ``RequestError`` where the first two do not agree.
    """
    where, recorded = latents.where, affine_in(latents)
    if flagged is not None and recorded is not None and flagged != recorded:
        raise RequestError(
            f"{where}: its metadata says the affine {recorded.to_json()}, not what the flags say; leave the flags out"
        )
    affine = recorded or flagged or from_factors(*factors_in(posterior.header))
    if affine.channels() not in (1, posterior.axes.channels):
        raise RequestError(
            f"{where}: its affine is for {affine.channels()} channels, its posterior has {posterior.axes.channels}"
        )
    return affine


def _refuse_equal_names(files: Iterable[InputFile]) -> None:
    """Two files of one name below their folders would have the same partner."""
    names: dict[str, InputFile] = {}
    for file in files:
        other = names.setdefault(file.name, file)
        if other.path != file.path:
            raise RequestError(
                f"{other.path} and {file.path} have the same name, {file.name!r}, below their folders, and partners "
                f"are found by name; give their common parent folder"
            )


def _headers(files: Iterable[InputFile]) -> list[Header]:
    return [read_header(file.path) for file in files]


def _in_shards(
    posteriors: Sequence[Posterior], headers: Sequence[Header], key: str, *, drawn_often: bool = False
) -> dict[Posterior, Latents]:
    """The latents of posteriors from shards that hold them end to end, in order."""
    shards = []
    for header in headers:
        if key not in header.tensors:
            raise RequestError(
                f"{header.path}: no tensor is called {key!r}; {describe(header)}; choose with --latents-key"
            )
        shards.append((header, header.tensors[key]))
    often = drawn_often or "draws" in shards[0][0].metadata
    draws = shards[0][1].shape[0] if often else 1
    for header, tensor in shards:
        alike = tensor.dtype == shards[0][1].dtype and (not often or tensor.shape[:1] == (draws,))
        if not tensor.is_float or not alike or (drawn_often or "draws" in header.metadata) != often:
            raise DataError(
                f"{header.path}: tensor {key!r} ({tensor.dtype} {list(tensor.shape)}) does not go end to end with "
                f"that of {headers[0].path} ({shards[0][1].dtype} {list(shards[0][1].shape)})"
            )
    rest = posteriors[0].axes.shape[len(posteriors[0].axes.batch) :]
    rows = [tensor.shape[often] if len(tensor.shape) > often else 0 for _, tensor in shards]
    if any(tensor.shape[often + 1 :] != rest for _, tensor in shards) or sum(rows) != sum(
        p.samples for p in posteriors
    ):
        raise DataError(
            f"{headers[0].path} and the other shards hold {sum(rows)} latents of shape "
            f"{list(shards[0][1].shape[often + 1 :])}; the inputs have {sum(p.samples for p in posteriors)} samples "
            f"of shape {list(rest)}"
        )
    pairs: dict[Posterior, Latents] = {}
    shard = row = 0
    for posterior in posteriors:
        runs, first = [], 0
        while first < posterior.samples:
            count = min(posterior.samples - first, rows[shard] - row)
            runs.append((Run(first, count, row, rows[shard]), *shards[shard]))
            first, row = first + count, row + count
            if row == rows[shard]:
                shard, row = shard + 1, 0
        pairs[posterior] = Latents(tuple(runs), draws, drawn_often=often)
    return pairs


def _latents_of(posterior: Posterior, header: Header, key: str, *, named: bool) -> Latents:
    if key in header.tensors:
        tensor = header.tensors[key]
    elif named:
        raise RequestError(f"{header.path}: no tensor is called {key!r}; {describe(header)}; choose with --latents-key")
    else:
        fitting = [
            tensor
            for tensor in header.tensors.values()
            if tensor.is_float and _draws(posterior, tensor, header) is not None
        ]
        if is_state(header):
            raise state_error(header.path)
        if len(fitting) != 1:
            raise RequestError(
                f"{header.path}: cannot tell which tensor holds latents of shape {list(posterior.axes.shape)}; "
                f"{describe(header)}; choose with --latents-key"
            )
        tensor = fitting[0]
    if not tensor.is_float:
        raise DataError(f"{header.path}: tensor {tensor.key!r} is {tensor.dtype}; latents are floating-point")
    draws = _draws(posterior, tensor, header)
    if draws is None:
        rest = posterior.axes.shape[len(posterior.axes.batch) :]
        some = "; latents of some samples go with those alone, which convert --indices or --limit writes"
        raise DataError(
            f"{header.path}: tensor {tensor.key!r} has shape {list(tensor.shape)}, and the latents of "
            f"{posterior.label} have {list(posterior.axes.shape)} (or one leading axis of draws more)"
            f"{some * (tensor.shape[-len(rest) :] == rest)}"
        )
    run = Run(0, posterior.samples, 0, posterior.samples)
    return Latents(((run, header, tensor),), max(draws, 1), drawn_often=draws > 0)


def _draws(posterior: Posterior, tensor: TensorInfo, header: Header) -> int | None:
    """How many draws the tensor holds, 0 where it has no axis for them, None where it does not fit at all."""
    shape = posterior.axes.shape
    if tensor.shape == shape and "draws" not in header.metadata:
        return 0
    if tensor.shape[1:] == shape and tensor.shape[0] > 0:
        return tensor.shape[0]
    return 0 if tensor.shape == shape and RECIPE_ENTRY not in header.metadata else None
