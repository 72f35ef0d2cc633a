"""Tensors that hold one value a sample, such as labels: further columns of a table."""

from collections.abc import Sequence
from typing import Any

from latentkit.errors import DataError, RequestError
from latentkit.read.choice import Posterior, describe

_READABLE = {"F64", "F32", "F16", "BF16", "BOOL", "U8", "I8", "I16", "U16", "I32", "U32", "I64", "U64"}


def read_columns(posterior: Posterior, keys: Sequence[str], first: int, count: int) -> dict[str, list[Any]]:
    """The values of samples ``first`` to ``first + count`` from each tensor in ``keys``."""
    import numpy as np

    from latentkit.read.bytes import HELD_AS, read_at

    columns = {}
    for key in keys:
        tensor = posterior.header.tensors[key]
        values = np.empty(count, HELD_AS[tensor.dtype])
        read_at(posterior.header, tensor, first, values)
        if tensor.dtype in ("F16", "BF16"):
            from latentkit.compiled.tables import values_of

            values = values_of(tensor.dtype)[values]
        columns[key] = values.tolist()
    return columns


def column_types(posteriors: Sequence[Posterior], keys: Sequence[str]) -> dict[str, str]:
    """Arrow's name of a type that holds each tensor's values in every file."""
    return {key: _common_type({posterior.header.tensors[key].dtype for posterior in posteriors}) for key in keys}


def _common_type(dtypes: set[str]) -> str:
    if dtypes == {"BOOL"}:
        return "bool"
    if any(dtype.startswith(("F", "BF")) for dtype in dtypes):
        return "double"
    return "uint64" if dtypes == {"U64"} else "int64"


def check_columns(posteriors: Sequence[Posterior], keys: Sequence[str], taken: Sequence[str]) -> None:
    """Raise unless every file has each key, with one value a sample, and no key is a column's name already."""
    for key in keys:
        if key in taken:
            raise RequestError(f"--columns {key}: the table has a column {key!r} already")
        for posterior in posteriors:
            tensor = posterior.header.tensors.get(key)
            if tensor is None:
                raise RequestError(f"{posterior.file.path}: no tensor is called {key!r}; {describe(posterior.header)}")
            if tensor.elements != posterior.samples or tensor.dtype not in _READABLE:
                raise DataError(
                    f"{posterior.file.path}: tensor {key!r} ({tensor.dtype} {list(tensor.shape)}) does not hold one "
                    f"number for each of the {posterior.samples} samples of {posterior.key!r}"
                )
