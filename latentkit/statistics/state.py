"""Statistics as arrays and back: what one process counted, for another to merge.

Cells that hold nothing are left out, so the arrays take some hundred KiB for any number of samples.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentkit.statistics.accumulate import Statistics
from latentkit.statistics.coarse import CoarseCounts
from latentkit.statistics.counts import Counts, Facts, Grid
from latentkit.statistics.exact import ExactCounts
from latentkit.statistics.extrema import Place

Arrays = dict[str, NDArray[Any]]

_DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_WHOLE = ("total", "nan", "negative", "minus_inf", "plus_inf", "less", "at_most")
_PLACES = ("least_at", "greatest_at", "nonfinite_at")


def arrays_of(statistics: Statistics, number_of: Callable[[Place], int]) -> Arrays:
    """What was counted; ``number_of`` gives the number that stands for a place's file and tensor."""
    statistics._flush()
    arrays: Arrays = {}
    for dtype, counts in statistics._counts.items():
        name = str(dtype).removeprefix("torch.")
        arrays[f"{name}.cells"], arrays[f"{name}.counts"] = map(_narrow, _filled(_grid(counts)))
        for half, facts in enumerate(_kept_facts(counts)):
            for part, array in _parts(facts):
                arrays[f"{name}.{half}.{part}"] = array
    extrema = statistics._extrema
    arrays["extrema.least"], arrays["extrema.greatest"] = extrema.least, extrema.greatest
    for kind in _PLACES:
        arrays[f"extrema.{kind}"] = place_rows(getattr(extrema, kind), number_of)
    return arrays


def restore(statistics: Statistics, arrays: Mapping[str, NDArray[Any]], names: Sequence[tuple[str, str]]) -> None:
    """Put into empty ``statistics`` what ``arrays_of`` gave; ``names`` are the files and tensors by number.

    Raises ``ValueError`` or ``KeyError`` for arrays that are not such.
    """
    for name in _DTYPES:
        if any(key.startswith(f"{name}.") for key in arrays):
            counts = statistics._counts_for(getattr(torch, name))
            _fill(_grid(counts), *(arrays[f"{name}.{part}"].astype(np.int64) for part in ("cells", "counts")))
            for half, facts in enumerate(_kept_facts(counts)):
                for part, array in _parts(facts):
                    array[...] = _like(array, arrays[f"{name}.{half}.{part}"])
    extrema = statistics._extrema
    extrema.least[...] = _like(extrema.least, arrays["extrema.least"])
    extrema.greatest[...] = _like(extrema.greatest, arrays["extrema.greatest"])
    for kind in _PLACES:
        places = places_of(arrays[f"extrema.{kind}"], names)
        if len(places) != len(extrema.least):
            raise ValueError(f"{kind} has {len(places)} rows instead of {len(extrema.least)}")
        setattr(extrema, kind, places)


def place_rows(places: Sequence[Place | None], number_of: Callable[[Place], int]) -> NDArray[np.int64]:
    """(number of file and tensor, index, position) a row; -1 for no place."""
    rows = [(-1, 0, 0) if place is None else (number_of(place), place.index, place.position) for place in places]
    return np.array(rows, np.int64).reshape(-1, 3)


def places_of(rows: NDArray[Any], names: Sequence[tuple[str, str]]) -> list[Place | None]:
    """The places of rows that ``place_rows`` made."""
    if rows.ndim != 2 or rows.shape[1] != 3 or (len(rows) and rows[:, 0].max() >= len(names)):
        raise ValueError("rows of places do not fit the names")
    places: list[Place | None] = []
    for number, index, position in rows.tolist():
        name, key = names[number] if number >= 0 else ("", "")
        places.append(Place(name, key, index, position) if number >= 0 else None)
    return places


def _grid(counts: Counts) -> Grid:
    assert isinstance(counts, (ExactCounts, CoarseCounts))
    return counts.grid


def _kept_facts(counts: Counts) -> list[Facts]:
    """Facts of the means and the scales that do not follow from the cells; none where all do."""
    if not isinstance(counts, CoarseCounts):
        return []
    counts._end_run()
    return counts._facts


def _filled(grid: Grid) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The cells that are not empty, counted through in row-major order, and what is in them."""
    flat = grid.counts.view(-1).numpy()
    cells = np.flatnonzero(flat)
    return cells.astype(np.int64), flat[cells].astype(np.int64)


def _fill(grid: Grid, cells: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
    rows, width = grid.counts.shape
    fits = cells.ndim == 1 and cells.shape == counts.shape
    if not fits or (len(cells) and (cells.min() < 0 or cells.max() >= rows * width or counts.min() < 1)):
        raise ValueError(f"counts of {len(cells)} cells do not fit a grid of {rows} by {width}")
    grid._reserve(int(np.bincount(cells // width, counts, rows).max(initial=0)))
    grid.counts.view(-1)[torch.from_numpy(cells)] = torch.from_numpy(counts).to(grid.counts.dtype)


def _parts(facts: Facts) -> Iterator[tuple[str, NDArray[Any]]]:
    """Every array of the facts, to be read or written in place."""
    for name in _WHOLE:
        yield name, getattr(facts, name)
    yield "moments.count", facts.moments.count
    sums = {"moments.sums": facts.moments.sums, "moments.squares": facts.moments.squares}
    for name, each in (sums | {"remainder": facts.remainder, "variance": facts.variance}).items():
        yield f"{name}.high", each.high
        yield f"{name}.low", each.low


def _narrow(whole: NDArray[np.int64]) -> NDArray[Any]:
    """Whole numbers in 32 bits where they fit."""
    return whole.astype(np.int32) if whole.max(initial=0) < 2**31 else whole


def _like(ours: NDArray[Any], theirs: NDArray[Any]) -> NDArray[Any]:
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise ValueError(f"expected {ours.dtype} {ours.shape}, got {theirs.dtype} {theirs.shape}")
    return theirs
