"""Statistics as arrays and back: what one process counted, for another to merge.

Cells that hold nothing are left out, so the arrays take some hundred KiB for any number of samples.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latentkit.stats.accumulate import Statistics
from latentkit.stats.centred import Arrays, fill, parts_of
from latentkit.stats.counts import COUNTED, Counts, Grid
from latentkit.stats.extrema import Extrema, Place

_DTYPES = ("float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2")
_PLACES = ("least_at", "greatest_at", "nonfinite_at")


def arrays_of(statistics: Statistics, number_of: Callable[[Place], int]) -> Arrays:
    """What was counted; ``number_of`` gives the number that stands for a place's file and tensor."""
    statistics.flush()
    arrays: Arrays = {}
    for dtype, counts in statistics.counts.items():
        name = str(dtype).removeprefix("torch.")
        arrays[f"{name}.cells"], arrays[f"{name}.counts"] = map(_narrow, _filled(counts.grid))
        arrays |= _parts(name, counts)
    extrema = statistics.extrema
    for kind in _PLACES:
        arrays[f"extrema.{kind}"] = place_rows(getattr(extrema, kind), number_of)
    return arrays | _ends(extrema)


def restore(statistics: Statistics, arrays: Mapping[str, NDArray[Any]], names: Sequence[tuple[str, str]]) -> None:
    """Put into empty ``statistics`` what ``arrays_of`` gave; ``names`` are the files and tensors by number.

    Raises ``ValueError`` or ``KeyError`` for arrays that are not such.
    """
    for name in _DTYPES:
        if any(key.startswith(f"{name}.") for key in arrays):
            counts = statistics.counts_for(getattr(torch, name))
            _fill(counts.grid, *(arrays[f"{name}.{part}"].astype(np.int64) for part in ("cells", "counts")))
            fill(_parts(name, counts), arrays)
    extrema = statistics.extrema
    fill(_ends(extrema), arrays)
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
    grid.reserve(int(np.bincount(cells // width, counts, rows).max(initial=0)))
    grid.counts.view(-1)[torch.from_numpy(cells)] = torch.from_numpy(counts).to(grid.counts.dtype)


def _parts(dtype: str, counts: Counts) -> Arrays:
    """The arrays of all facts that do not follow from the cells, to be read or written in place."""
    parts: Arrays = {}
    for half, facts in enumerate(counts.kept_facts()):
        name = f"{dtype}.{half}"
        parts |= {f"{name}.{count}": getattr(facts, count) for count in COUNTED}
        parts |= {f"{name}.moments.count": facts.moments.count}
        parts |= parts_of(f"{name}.moments.sums", facts.moments.sums)
        parts |= parts_of(f"{name}.moments.squares", facts.moments.squares)
        parts |= parts_of(f"{name}.remainder", facts.remainder)
        parts |= parts_of(f"{name}.variance", facts.variance)
    return parts


def _ends(extrema: Extrema) -> Arrays:
    """The arrays of the extremes, to be read or written in place."""
    return {"extrema.least": extrema.least, "extrema.greatest": extrema.greatest}


def _narrow(whole: NDArray[np.int64]) -> NDArray[Any]:
    """Whole numbers in 32 bits where they fit."""
    return whole.astype(np.int32) if whole.max(initial=0) < 2**31 else whole
