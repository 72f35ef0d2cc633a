"""What outputs take over from inputs as it is."""

from dataclasses import dataclass

from latentkit.read.choice import Span
from latentkit.read.header import Header, TensorInfo

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
