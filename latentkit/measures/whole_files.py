"""Values of whole files: what came of a file is held back until all of it could be read."""

import os
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from tempfile import SpooledTemporaryFile

import numpy as np

from latentkit.failures import Failures
from latentkit.read.choice import Span
from latentkit.read.plan import nothing_left
from latentkit.run import Values

# Values are held in memory up to this many bytes, then on disk.
_IN_MEMORY = 16 << 20


def of_whole_files(
    measured: Iterable[tuple[Span, Values]], spans: Sequence[Span], failures: Failures
) -> Iterator[tuple[Span, Values]]:
    """Pass on, in order, the values of files whose ``spans`` all came without ``failures`` taking the file.

    Raises ``DataError`` when there are none.
    """
    missing = Counter[str]()
    for span in spans:
        missing[span.posterior.file.path] += span.count
    with SpooledTemporaryFile(_IN_MEMORY) as spool:
        held = _Queue(spool)
        for span, values in measured:
            path = span.posterior.file.path
            missing[path] -= span.count
            if held.front is None and not missing[path]:
                yield span, values
                continue
            held.put(span, values)
            yield from _released(held, missing, failures)
        yield from _released(held, missing, failures)
    if all(missing.values()):
        raise nothing_left(failures)


def _released(held: "_Queue", missing: Counter[str], failures: Failures) -> Iterator[tuple[Span, Values]]:
    while (front := held.front) is not None and (front in failures or not missing[front]):
        item = held.take()
        if front not in failures:
            yield item


class _Queue:
    """Values that wait in ``spool``."""

    def __init__(self, spool: "SpooledTemporaryFile[bytes]") -> None:
        self._spool = spool
        self._begin = 0
        self._spans: deque[tuple[Span, int]] = deque()

    @property
    def front(self) -> str | None:
        """Whose values are the first."""
        return self._spans[0][0].posterior.file.path if self._spans else None

    def put(self, span: Span, values: Values) -> None:
        self._spool.seek(0, os.SEEK_END)
        self._spool.write(values.tobytes())
        self._spans.append((span, values.shape[1]))

    def take(self) -> tuple[Span, Values]:
        span, width = self._spans.popleft()
        self._spool.seek(self._begin)
        data = self._spool.read(8 * span.count * width)
        self._begin += len(data)
        if not self._spans:
            self._begin = 0
            self._spool.seek(0)
            self._spool.truncate()
        return span, np.frombuffer(data, np.float64).reshape(span.count, width)
