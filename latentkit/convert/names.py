"""Names in metadata: from which file, and which row of it, each row of an output came."""

import json
from bisect import bisect_right
from functools import lru_cache
from itertools import accumulate

from latentkit.convert.units import Unit
from latentkit.read.choice import Span
from latentkit.read.header import Header

#: The metadata entry: a JSON list, of names of single rows, or of (name, first row, count of rows).
NAMES = "names"

Name = str | tuple[str, int, int]


def names_of(unit: Unit, span: Span) -> list[Name]:
    """Where the rows of a span are from; what was converted before says so itself."""
    earlier, ends = _names_in(unit.rows.header, unit.rows.samples)
    if not earlier:
        return [(unit.name, span.first, span.count) if unit.is_batched else unit.name]
    names: list[Name] = []
    first, end = span.first, span.first + span.count
    at = bisect_right(ends, first)
    while first < end:
        name, stop = earlier[at], min(end, ends[at])
        begin = ends[at] - rows_named(name)
        names.append(name if isinstance(name, str) else (name[0], name[1] + first - begin, stop - first))
        first, at = stop, at + 1
    return names


def rows_named(name: Name) -> int:
    return 1 if isinstance(name, str) else name[2]


@lru_cache(maxsize=4)
def _names_in(header: Header, rows: int) -> tuple[list[Name], list[int]]:
    """The names in a header's metadata, and the row that each ends at; nothing where they do not fit its rows."""
    try:
        entries = json.loads(header.metadata[NAMES])
        names = [entry if isinstance(entry, str) else _run(*entry) for entry in entries]
        ends = list(accumulate(map(rows_named, names)))
    except (KeyError, ValueError, TypeError, RecursionError):
        return [], []
    return (names, ends) if ends[-1:] == [rows] else ([], [])


def _run(name: object, first: object, count: object) -> Name:
    if not isinstance(name, str) or type(first) is not int or type(count) is not int or first < 0 or count < 1:
        raise ValueError("not a run of rows")
    return name, first, count
