"""Tensors that hold one value per sample, such as labels: further columns of a table."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.read.choice import Posterior, describe
from latentkit.text import near

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Arrow's name of the type that holds each dtype's values: an integer stays one.
_TYPES = {
    "F64": "double", "F32": "double", "F16": "double", "BF16": "double", "BOOL": "bool", "U8": "int64", "I8": "int64",
    "I16": "int64", "U16": "int64", "I32": "int64", "U32": "int64", "I64": "int64", "U64": "uint64",
}  # fmt: skip


def read_columns(posterior: Posterior, keys: Sequence[str], first: int, count: int) -> dict[str, list[Any]]:
    """The values of samples ``first`` to ``first + count`` from each tensor in ``keys``."""
    return {key: read_column(posterior, key, first, count).tolist() for key in keys}


def read_column(posterior: Posterior, key: str, first: int, count: int) -> "NDArray[Any]":
    """Those of one tensor, 16-bit floats as float64; an image and its mirror (two batch axes) may share one."""
    import numpy as np

    from latentkit.read.bytes import HELD_AS, read_at

    tensor = posterior.header.tensors[key]
    each = posterior.samples // tensor.elements
    row, end = first // each, (first + count - 1) // each + 1
    values: NDArray[Any] = np.empty(end - row, HELD_AS[tensor.dtype])
    read_at(posterior.header, tensor, row, values)
    if each > 1:
        values = values[np.arange(first, first + count) // each - row]
    if tensor.dtype in ("F16", "BF16"):
        from latentkit.compiled.tables import values_of

        values = values_of(tensor.dtype)[values]
    return values


def column_types(posteriors: Sequence[Posterior], keys: Sequence[str]) -> dict[str, str]:
    """Arrow's name of the type that each tensor's values have; ``check_columns`` saw that all files have the same."""
    return {key: _TYPES[posteriors[0].header.tensors[key].dtype] for key in keys}


def check_columns(
    posteriors: Sequence[Posterior],
    keys: Sequence[str],
    taken: Sequence[str],
    failures: Failures,
    option: str = "--columns",
) -> None:
    """Raise unless every file has each key, of one type and one value per sample, and none is a column's name already.

    A file that has not goes to ``failures``; ``option`` is what asks for them.
    """
    for key in keys:
        if key in taken:
            raise RequestError(f"{option} {key}: the table has a column {key!r} already")
        first = posteriors[0]
        for posterior in posteriors:
            with failures.passing_over(posterior.file.path):
                if first.file.path in failures:
                    first = posterior
                _check_column(key, posterior, first, option)


def _elsewhere(posterior: Posterior) -> str:
    """What to do about labels that its tool keeps beside the file."""
    labels = posterior.preset.labels if posterior.preset else "none"
    beside = labels not in ("none", "the tensor labels")
    return f"; of labels in {labels} latentkit convert makes a tensor" if beside else ""


def _check_column(key: str, posterior: Posterior, first: Posterior, option: str) -> None:
    tensor = posterior.header.tensors.get(key)
    if tensor is None:
        raise RequestError(
            f"{posterior.file.path}: no tensor is called {key!r}{near(key, posterior.header.tensors)}; "
            f"{describe(posterior.header)}{_elsewhere(posterior)}"
        )
    if tensor.dtype not in _TYPES:
        raise DataError(
            f"{posterior.file.path}: tensor {key!r} is {tensor.dtype}, and {option} takes whole numbers, booleans and "
            f"floats of 16 bits or more",
            tensor=key,
        )
    if tensor.elements not in (posterior.samples, *posterior.axes.batch[:1]):
        raise DataError(
            f"{posterior.file.path}: tensor {key!r} ({tensor.dtype} {list(tensor.shape)}) does not hold one "
            f"number for each of the {posterior.samples} samples of {posterior.key!r}",
            tensor=key,
        )
    like = first.header.tensors[key]
    if _TYPES[tensor.dtype] != _TYPES[like.dtype]:
        raise RequestError(
            f"{option} {key}: {like.dtype} in {first.file.path} and {tensor.dtype} in {posterior.file.path} have no "
            f"common type; read such files apart",
            tensor=key,
        )
