"""Labels: a tensor of one value per sample, by which samples are grouped."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.read.choice import Posterior, Span
from latentkit.read.columns import check_columns, read_column
from latentkit.read.plan import Found

#: So many different values are labels, more are not: ImageNet-21k has 21,841.
MOST_LABELS = 1 << 15

# Values read at once, at least, as spans are short where samples are picked; and those looked at together.
_AHEAD, _TOGETHER = 1 << 12, 1 << 18

Column = NDArray[Any]


class Labels:
    """The different values of tensor ``key``, ascending, NaN last; a sample's label goes by its number among them."""

    def __init__(self, key: str, values: Column) -> None:
        self.key = key
        self.values = values
        self._stored = _Stored(key)

    def __len__(self) -> int:
        return len(self.values)

    @property
    def type(self) -> str:
        """Arrow's name of the type that holds them."""
        if self.values.dtype == np.uint64:
            return "uint64"
        return {"b": "bool", "f": "double"}.get(self.values.dtype.kind, "int64")

    def numbers(self, span: Span) -> NDArray[np.intp]:
        """The number of each of the span's samples, (samples,). Raises ``DataError`` for a file that changed."""
        return np.searchsorted(self.values, self._stored.of(span))


def find_labels(found: Found, key: str, failures: Failures) -> Labels:
    """The labels that the samples found have in tensor ``key`` of their files.

    A file without such a tensor, or that cannot be read, goes to ``failures``. Raises ``RequestError`` where there are
    more than ``MOST_LABELS``.
    """
    check_columns(found.posteriors, [key], (), failures, option="--by")
    stored, count = _Stored(key), 0
    waiting: list[Column] = [np.zeros(0, np.bool_)]
    for span in found.without(failures).spans:
        for first in range(span.first, span.first + span.count, _TOGETHER):
            part = Span(span.posterior, first, min(_TOGETHER, span.first + span.count - first))
            with failures.passing_over(span.posterior.file.path):
                waiting.append(stored.of(part))
                count += part.count
            if count > _TOGETHER:
                waiting, count = [_distinct(key, waiting)], 0
    return Labels(key, _distinct(key, waiting))


def _distinct(key: str, parts: list[Column]) -> Column:
    values = np.unique(np.concatenate(parts))
    if len(values) > MOST_LABELS:
        raise RequestError(
            f"--by {key}: there are more than {MOST_LABELS:,} different values, so they are no labels; kl --columns "
            f"{key} writes each sample's beside its KL"
        )
    return values


class _Stored:
    """The values of tensor ``key``, read ahead."""

    def __init__(self, key: str) -> None:
        self._key = key
        # Whose values are at hand, and from which sample on: set at once, as threads share it.
        self._held: tuple[Posterior | None, int, Column] = (None, 0, np.zeros(0))

    def of(self, span: Span) -> Column:
        """Those of the span's samples, (samples,); of floats no zero has a sign."""
        posterior, first, values = self._held
        if posterior is not span.posterior or not first <= span.first <= first + len(values) - span.count:
            posterior, first = span.posterior, span.first
            values = read_column(posterior, self._key, first, max(span.count, min(_AHEAD, posterior.samples - first)))
            values = values + values.dtype.type(0) if values.dtype.kind == "f" else values
            self._held = posterior, first, values
        return values[span.first - first : span.first - first + span.count]
