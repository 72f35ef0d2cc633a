"""What outputs take over from inputs as it is."""

import fnmatch
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from latentkit.errors import DataError, RequestError
from latentkit.read.choice import Posterior, Span, describe
from latentkit.read.header import ELEMENT_BITS, Header, TensorInfo

#: Bytes of a tensor of an input: from the first to the second number.
Part = tuple[Header, TensorInfo, int, int]


@dataclass(frozen=True, slots=True)
class Copy:
    """A tensor carried over: bytes of tensors of the inputs, put end to end."""

    dtype: str
    shape: tuple[int, ...]
    parts: tuple[Part, ...]


def rows_of(span: Span, tensor: TensorInfo) -> Part:
    """The rows that belong to the span's samples, of a tensor that has one for each."""
    row = tensor.nbytes // span.posterior.samples
    return span.posterior.header, tensor, span.first * row, (span.first + span.count) * row


def carried(group: Sequence[Posterior], patterns: Sequence[str], taken: Collection[str]) -> list[TensorInfo]:
    """The tensors to copy through; a pattern never takes the moments, and none goes by a key that is ``taken``.

    Raises ``RequestError`` for a name of none, or one that cannot be copied.
    """
    header = group[0].header
    moments = {tensor.key for posterior in group for tensor in (posterior.mean, posterior.scale) if tensor}
    carried: dict[str, TensorInfo] = {}
    for pattern in patterns:
        keys = [pattern] if pattern in header.tensors else fnmatch.filter(header.tensors, pattern)
        keys = [key for key in keys if key == pattern or key not in moments]
        if not keys and "*" not in pattern:
            raise RequestError(f"{header.path}: no tensor is called {pattern!r} to carry; {describe(header)}")
        carried |= {key: header.tensors[key] for key in keys}
    for key in carried:
        if key in taken:
            raise RequestError(f"{header.path}: tensor {key!r} cannot be carried: the output's own goes by that key")
        if header.tensors[key].dtype not in ELEMENT_BITS:
            raise RequestError(f"{header.path}: {key!r} cannot be carried: it is {header.tensors[key].dtype}")
    return list(carried.values())


def check_rows(span: Span, tensor: TensorInfo) -> None:
    """Raise ``DataError`` where a tensor to be carried has no row for each sample."""
    samples = span.posterior.samples
    if tensor.shape[:1] != (samples,) or tensor.nbytes % samples:
        raise DataError(
            f"{span.posterior.file.path}: tensor {tensor.key!r} ({tensor.dtype} {list(tensor.shape)}) cannot be "
            f"carried row by row: it needs a row for each sample"
        )
