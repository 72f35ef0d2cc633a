"""Pairing inputs with their partners: another posterior for each (``--against``), or latents (``--latents``)."""

from collections.abc import Sequence
from dataclasses import dataclass

from latentkit.errors import DataError, RequestError
from latentkit.storage.choice import RECIPE_ENTRY, Posterior, describe
from latentkit.storage.header import Header, TensorInfo, read_header
from latentkit.storage.inputs import InputFile, find_inputs


@dataclass(frozen=True, slots=True)
class Latents:
    """The latents of one posterior: a tensor of the mean's shape, behind an axis of ``draws`` when ``drawn_often``."""

    header: Header
    tensor: TensorInfo
    draws: int
    drawn_often: bool


def latents_key(posterior: Posterior, siblings: int) -> str:
    """The key of a posterior's latents: ``moments_flip`` gives ``latents_flip``; see DESIGN of ``sample``.

    ``siblings`` is how many posteriors its file has: one alone gives ``latents`` whatever its key.
    """
    if siblings == 1 and not posterior.key.startswith("moments_"):
        return "latents"
    if posterior.key == "moments" or posterior.key.startswith("moments_"):
        return "latents" + posterior.key.removeprefix("moments")
    return f"latents.{posterior.key}"


def pair_posteriors(posteriors: Sequence[Posterior], others: Sequence[Posterior]) -> dict[Posterior, Posterior]:
    """The partner of each posterior: one with one whatever their names, else by name and key, or one for all.

    Raises ``RequestError`` when a partner is missing, ``DataError`` when shapes differ.
    """
    if len(others) == 1 and (len(posteriors) == 1 or others[0].samples == 1):
        pairs = dict.fromkeys(posteriors, others[0])
    else:
        by_name = {(other.file.name, other.key): other for other in others}
        pairs = {}
        for posterior in posteriors:
            name = posterior.file.name, posterior.key
            if name not in by_name:
                raise RequestError(
                    f"{posterior.label} has no partner: no {name[0]!r} with {name[1]!r} among the others"
                )
            pairs[posterior] = by_name[name]
    for posterior, other in pairs.items():
        same_rest = posterior.axes.view[1:] == other.axes.view[1:]
        if not same_rest or other.samples not in (1, posterior.samples):
            raise DataError(
                f"{posterior.label} has means of shape {list(posterior.axes.shape)} and its partner in "
                f"{other.file.path} of {list(other.axes.shape)}: they need the same shape, or a partner of one sample"
            )
    return pairs


def pair_latents(posteriors: Sequence[Posterior], argument: str, key: str | None) -> dict[Posterior, Latents]:
    """The latents of each posterior, in the file ``argument`` or in a folder that mirrors the inputs.

    Raises ``RequestError`` for a missing file or tensor, ``DataError`` for one of another shape.
    """
    files = find_inputs([argument])
    inputs = {posterior.file for posterior in posteriors}
    alone = len(files) == 1 and len(inputs) == 1
    by_name = {file.name: file for file in files}
    pairs = {}
    for posterior in posteriors:
        file = files[0] if alone else by_name.get(posterior.file.name)
        if file is None:
            raise RequestError(f"{posterior.file.path}: no latents called {posterior.file.name!r} in {argument}")
        siblings = sum(other.file == posterior.file for other in posteriors)
        pairs[posterior] = _latents_of(posterior, file, key or latents_key(posterior, siblings), named=key is not None)
    return pairs


def _latents_of(posterior: Posterior, file: InputFile, key: str, *, named: bool) -> Latents:
    header = read_header(file.path)
    if key in header.tensors:
        tensor = header.tensors[key]
    elif named:
        raise RequestError(f"{file.path}: no tensor is called {key!r}; {describe(header)}; choose with --latents-key")
    else:
        fitting = [
            tensor for tensor in header.tensors.values() if tensor.is_float and _draws(posterior, tensor, header)
        ]
        if len(fitting) != 1:
            raise RequestError(
                f"{file.path}: cannot tell which tensor holds latents of shape {list(posterior.axes.shape)}; "
                f"{describe(header)}; choose with --latents-key"
            )
        tensor = fitting[0]
    if not tensor.is_float:
        raise DataError(f"{file.path}: tensor {tensor.key!r} is {tensor.dtype}; latents are floating-point")
    draws = _draws(posterior, tensor, header)
    if draws is None:
        raise DataError(
            f"{file.path}: tensor {tensor.key!r} has shape {list(tensor.shape)}, and the latents of {posterior.label} "
            f"have {list(posterior.axes.shape)} (or one leading axis of draws more)"
        )
    return Latents(header, tensor, max(draws, 1), drawn_often=draws > 0)


def _draws(posterior: Posterior, tensor: TensorInfo, header: Header) -> int | None:
    """How many draws the tensor holds, 0 where it has no axis for them, None where it does not fit at all."""
    shape = posterior.axes.shape
    if tensor.shape == shape and "draws" not in header.metadata:
        return 0
    if tensor.shape[1:] == shape and tensor.shape[0] > 0:
        return tensor.shape[0]
    return 0 if tensor.shape == shape and RECIPE_ENTRY not in header.metadata else None
