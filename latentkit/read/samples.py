"""Which samples of the inputs: all, the first few, every N-th, or those a list names."""

import csv
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from latentkit.errors import RequestError
from latentkit.read.choice import Posterior, Span


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """What the user says of samples: of those that ``indices`` name, or all, every ``every``-th, at most ``limit``."""

    limit: int | None = None
    every: int = 1
    indices: str | None = None


def choose_samples(posteriors: Sequence[Posterior], choice: SampleChoice | None) -> tuple[Span, ...]:
    """The spans to read, in order: of the inputs, or of the list. Counting goes through all inputs.

    Raises ``RequestError`` for a list that is not one, or that names a sample which is not there.
    """
    spans: Iterable[Span] = (Span(posterior, 0, posterior.samples) for posterior in posteriors)
    if choice is None:
        return tuple(spans)
    if choice.indices is not None:
        spans = _named(posteriors, choice.indices)
    if choice.every > 1:
        spans = _every(spans, choice.every)
    if choice.limit is not None:
        spans = _first(spans, choice.limit)
    return tuple(_joined(spans))


def _every(spans: Iterable[Span], step: int) -> Iterator[Span]:
    skip = 0
    for span in spans:
        for sample in range(span.first + skip, span.first + span.count, step):
            yield Span(span.posterior, sample, 1)
        skip = (skip - span.count) % step


def _first(spans: Iterable[Span], limit: int) -> Iterator[Span]:
    for span in spans:
        if limit == 0:
            return
        count = min(span.count, limit)
        limit -= count
        yield Span(span.posterior, span.first, count)


def _joined(spans: Iterable[Span]) -> Iterator[Span]:
    """Neighbours as one span."""
    last: Span | None = None
    for span in spans:
        if last is not None and last.posterior is span.posterior and last.first + last.count == span.first:
            last = Span(last.posterior, last.first, last.count + span.count)
            continue
        if last is not None:
            yield last
        last = span
    if last is not None:
        yield last


def _named(posteriors: Sequence[Posterior], source: str) -> Iterator[Span]:
    """The samples of a table with the columns file, tensor and index, as ``kl --top`` prints it."""
    by_name = {(posterior.file.path, posterior.key): posterior for posterior in posteriors}
    try:
        file = sys.stdin if source == "-" else open(source, newline="", encoding="utf-8")  # noqa: SIM115
    except FileNotFoundError:
        raise RequestError(f"{source}: no such list of samples") from None
    with file:
        rows = csv.DictReader(file)
        try:
            if not {"file", "tensor", "index"} <= set(rows.fieldnames or ()):
                raise RequestError(f"{source}: a list of samples is CSV with the columns file, tensor and index")
            for row in rows:
                posterior = by_name.get((row["file"], row["tensor"]))
                index = _index(row["index"])
                if posterior is None or not 0 <= index < posterior.samples:
                    raise RequestError(
                        f"{source}, line {rows.line_num}: no sample {str(row['index'])[:40]} of {row['tensor']!r} in "
                        f"{row['file']!r} among the inputs"
                    )
                yield Span(posterior, index, 1)
        except (csv.Error, UnicodeDecodeError) as error:
            raise RequestError(f"{source}: not a CSV list of samples ({error})") from error


def _index(text: str | None) -> int:
    return int(text) if text and text.isdecimal() and len(text) < 20 else -1
