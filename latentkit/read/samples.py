"""Which samples of the inputs: all, the first few, every N-th, those a list names, or all but those."""

import csv
import io
import json
import os
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

from latentkit.errors import RequestError
from latentkit.read.choice import Posterior, Span
from latentkit.read.inputs import stdin_bytes

_COLUMNS = ("file", "tensor", "index")


@dataclass(frozen=True, slots=True)
class SampleChoice:
    """What the user says of samples: of those that ``indices`` name, or all, but for those that ``exclude`` names,
    every ``every``-th, at most ``limit``."""

    limit: int | None = None
    every: int = 1
    indices: str | None = None
    exclude: str | None = None

    @property
    def lists(self) -> list[str]:
        """The files that name samples."""
        return [source for source in (self.indices, self.exclude) if source is not None]


def choose_samples(
    posteriors: Sequence[Posterior],
    choice: SampleChoice | None,
    named: Mapping[tuple[str, str], tuple[Posterior, int]] | None = None,
) -> tuple[Span, ...]:
    """The spans to read, in order: of the inputs, or of the list. Counting goes through all inputs.

    ``named`` says, by file and tensor, what a list means where that is not the posteriors themselves: one of them, of
    which each sample stands for so many. Raises ``RequestError`` for a list that is not one, or that names a sample
    which is not there.
    """
    spans: Iterable[Span] = (Span(posterior, 0, posterior.samples) for posterior in posteriors)
    if choice is None:
        return tuple(spans)
    if choice.lists and named is None:
        named = {(posterior.file.path, posterior.key): (posterior, 1) for posterior in posteriors}
    if choice.indices is not None and named is not None:
        spans = _named(named, choice.indices)
    if choice.exclude is not None and named is not None:
        spans = _without(spans, _named(named, choice.exclude))
    if choice.every > 1:
        spans = _every(spans, choice.every)
    if choice.limit is not None:
        spans = _first(spans, choice.limit)
    return tuple(_joined(spans))


def _without(spans: Iterable[Span], excluded: Iterable[Span]) -> Iterator[Span]:
    """What is left of spans, without samples, each a span of one."""
    left_out: defaultdict[Posterior, set[int]] = defaultdict(set)
    for span in excluded:
        left_out[span.posterior].add(span.first)
    ordered = {posterior: sorted(samples) for posterior, samples in left_out.items()}
    for span in spans:
        samples, first, end = ordered.get(span.posterior, []), span.first, span.first + span.count
        for sample in samples[bisect_left(samples, first) : bisect_left(samples, end)]:
            if sample > first:
                yield Span(span.posterior, first, sample - first)
            first = sample + 1
        if first < end:
            yield Span(span.posterior, first, end - first)


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


def _named(named: Mapping[tuple[str, str], tuple[Posterior, int]], source: str) -> Iterator[Span]:
    """The samples of a table with the columns file, tensor and index, as ``kl --top`` prints it."""
    where = "standard input" if source == "-" else source
    by_place: dict[tuple[str, str], tuple[Posterior, int]] = {}
    try:
        for line, row in _rows(source):
            file, tensor, index = (row[name] for name in _COLUMNS)
            found, sample = named.get((file, tensor)), _index(str(index))
            if found is None:
                # The list may be of another run, that named the folder in another way.
                by_place = by_place or {(os.path.abspath(path), key): of for (path, key), of in named.items()}
                found = by_place.get((os.path.abspath(file), tensor))
            if found is None or not 0 <= sample < found[0].samples * found[1]:
                raise RequestError(
                    f"{where}, line {line}: no sample {str(index)[:40]} of {tensor!r} in {file!r} among the inputs"
                )
            posterior, each = found
            yield Span(posterior, sample // each, 1)
    except FileNotFoundError:
        raise RequestError(f"{source}: no such list of samples") from None
    except (KeyError, TypeError):
        raise RequestError(
            f"{where}: a list of samples has the columns {', '.join(_COLUMNS)}, as CSV or JSON lines"
        ) from None
    except (csv.Error, ValueError, RecursionError) as error:
        raise RequestError(
            f"{where}: not a list of samples as CSV or JSON lines, which kl -o FILE.csv writes ({error})"
        ) from error


# Characters of a line: a device has no end, and a name at most 16 MiB.
_LONGEST_LINE = 1 << 25


def _rows(source: str) -> Iterator[tuple[int, Any]]:
    """Each row with its line. Names are bytes: one that is no UTF-8 comes back as it was."""
    data = stdin_bytes("a list of samples, -") if source == "-" else open(source, "rb")  # noqa: SIM115
    with io.TextIOWrapper(data, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        lines = iter(partial(text.readline, _LONGEST_LINE), "")
        first = next(lines, "")
        lines = chain([first], lines)
        if first.startswith("{"):
            yield from ((number, json.loads(line)) for number, line in enumerate(lines, start=1) if line.strip())
            return
        rows = csv.DictReader(lines)
        if not set(_COLUMNS) <= set(rows.fieldnames or ()):
            raise KeyError
        for row in rows:
            yield rows.line_num, row


def _index(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) < 20 else -1
