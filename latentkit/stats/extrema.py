"""The least and the greatest number of each channel, the first that has no finite value, and where they stand."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.stats.sums import Arrays, Floats, fill

#: Files and tensors, by the numbers that stand for them in a state.
Names = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where an element stands: ordered by file name, key, index and position.

    ``position`` is the row-major position in its sample's latents (outer axes, channels, inner axes).
    """

    name: str
    key: str
    index: int
    position: int


@dataclass(frozen=True, slots=True)
class Origin:
    """Where samples of a block come from: the first of them and, for a piece of a sample, where in it the piece begins.

    ``channels`` and ``inner`` are those of the whole sample.
    """

    name: str
    key: str
    first: int
    channels: int
    inner: int
    outer_start: int = 0
    channel_start: int = 0
    inner_start: int = 0

    @property
    def begins_samples(self) -> bool:
        """Whether the block holds the first element of its samples."""
        return not (self.outer_start or self.channel_start or self.inner_start)

    def place(self, sample: int, outer: int, channel: int, inner: int) -> Place:
        """Of an element of the block, counted from the origin's first sample and the piece's first entries."""
        line = (self.outer_start + outer) * self.channels + self.channel_start + channel
        return Place(self.name, self.key, self.first + sample, line * self.inner + self.inner_start + inner)


_PLACES = ("least_at", "greatest_at", "nonfinite_at")

#: A block's origins, with so many samples of each, in order.
Origins = Sequence[tuple[Origin, int]]


class Extrema:
    """Of each row: the least and the greatest stored number among the finite, with their places.

    Rows 0 to C are the means of each channel, rows C to 2C their scales.
    """

    def __init__(self, rows: int) -> None:
        self.least: Floats = np.full(rows, np.inf)
        self.greatest: Floats = np.full(rows, -np.inf)
        self.least_at: list[Place | None] = [None] * rows
        self.greatest_at: list[Place | None] = [None] * rows
        self.nonfinite_at: list[Place | None] = [None] * rows

    def update(
        self, first_row: int, ends: Floats, has_others: NDArray[np.bool_], numbers: "Numbers", origins: Origins
    ) -> None:
        """Take a block: for each of its channels the least and greatest of what is finite, (c, 2), and whether there
        are others; ``numbers`` says where they stand.
        """
        here = slice(first_row, first_row + len(ends))
        lower, higher = ends[:, 0] <= self.least[here], ends[:, 1] >= self.greatest[here]
        changes = lower | higher | has_others
        if not changes.any():
            return
        for channel in np.flatnonzero(changes).tolist():
            row, (least, greatest) = first_row + channel, ends[channel].tolist()
            if least <= greatest:  # there is a finite one
                if least <= self.least[row]:
                    before = self.least_at[row] if least == self.least[row] else None
                    self.least[row] = least
                    self.least_at[row] = numbers.first(channel, least, before, origins)
                if greatest >= self.greatest[row]:
                    before = self.greatest_at[row] if greatest == self.greatest[row] else None
                    self.greatest[row] = greatest
                    self.greatest_at[row] = numbers.first(channel, greatest, before, origins)
            if has_others[channel]:
                self.nonfinite_at[row] = numbers.first(channel, None, self.nonfinite_at[row], origins)

    def merge(self, other: "Extrema") -> None:
        """Take what is further out, or as far and earlier."""
        for row in range(len(self.least)):
            if other.least[row] <= self.least[row]:
                before = self.least_at[row] if other.least[row] == self.least[row] else None
                self.least[row], self.least_at[row] = other.least[row], earlier(before, other.least_at[row])
            if other.greatest[row] >= self.greatest[row]:
                before = self.greatest_at[row] if other.greatest[row] == self.greatest[row] else None
                self.greatest[row], self.greatest_at[row] = other.greatest[row], earlier(before, other.greatest_at[row])
            self.nonfinite_at[row] = earlier(self.nonfinite_at[row], other.nonfinite_at[row])

    def arrays(self, number_of: Callable[[Place], int]) -> Arrays:
        """What was found; ``number_of`` gives the number that stands for a place's file and tensor."""
        places = {kind: place_rows(getattr(self, kind), number_of) for kind in _PLACES}
        return {"least": self.least, "greatest": self.greatest, **places}

    def restore(self, arrays: Arrays, names: Names) -> None:
        """Put into an empty one what ``arrays`` gave; raises ``ValueError`` or ``KeyError`` for what is not such."""
        fill({"least": self.least, "greatest": self.greatest}, arrays)
        for kind in _PLACES:
            places = places_of(arrays[kind], names)
            if len(places) != len(self.least):
                raise ValueError(f"{kind} has {len(places)} rows instead of {len(self.least)}")
            setattr(self, kind, places)
        none = (self.least == np.inf) & (self.greatest == -np.inf)
        finite = np.isfinite(self.least) & (self.least <= self.greatest) & np.isfinite(self.greatest)
        if not np.array_equal(finite, ~none) or any(
            (place is None) == is_known
            for places in (self.least_at, self.greatest_at)
            for place, is_known in zip(places, finite.tolist(), strict=True)
        ):
            raise ValueError("its extremes contradict each other")

    def of(self, rows: range) -> "Extrema":
        """Some rows alone."""
        some = Extrema(len(rows))
        some.least, some.greatest = self.least[rows.start : rows.stop], self.greatest[rows.start : rows.stop]
        some.least_at, some.greatest_at = (
            self.least_at[rows.start : rows.stop],
            self.greatest_at[rows.start : rows.stop],
        )
        some.nonfinite_at = self.nonfinite_at[rows.start : rows.stop]
        return some

    def pooled(self) -> "Extrema":
        """All rows as one."""
        pool = Extrema(1)
        for row in range(len(self.least)):
            pool.merge(self.of(range(row, row + 1)))
        return pool


@dataclass(frozen=True, slots=True)
class Numbers:
    """The numbers of a block, looked at again to find where one stands: it takes a pass, and is seldom done.

    ``view`` is (samples, outer, channels, inner) as stored, ``decoded`` makes float64 of it, and ``others`` says which
    of these have no finite value.
    """

    view: NDArray[Any]
    decoded: Callable[[NDArray[Any]], Floats]
    others: Callable[[Floats], NDArray[np.bool_]]

    def first(self, channel: int, value: float | None, before: Place | None, origins: Origins) -> Place | None:
        """The first place of a value, or (None) of one that is not finite; or ``before`` where that is earlier.

        Where equal extremes abound (a constant channel), nearly always nothing in the block can come first.
        """
        if before is not None and before <= min(origin.place(0, 0, channel, 0) for origin, _ in origins):
            return before
        numbers = self.decoded(self.view[:, :, channel, :])
        matches = self.others(numbers) if value is None else numbers == value
        return earlier(before, _first_of(matches, channel, origins))


def _first_of(matches: NDArray[np.bool_], channel: int, origins: Iterable[tuple[Origin, int]]) -> Place | None:
    first, row = None, 0
    for origin, count in origins:
        some = matches[row : row + count]
        at = int(some.argmax()) if some.size else 0
        if some.size and some.reshape(-1)[at]:
            sample, outer, inner = np.unravel_index(at, some.shape)
            first = earlier(first, origin.place(int(sample), int(outer), channel, int(inner)))
        row += count
    return first


def earlier(one: Place | None, other: Place | None) -> Place | None:
    """The first of two places, None standing for no place."""
    if one is None or other is None:
        return one or other
    return min(one, other)


def place_rows(places: Sequence[Place | None], number_of: Callable[[Place], int]) -> NDArray[np.int64]:
    """(number of file and tensor, index, position) a row; -1 for no place."""
    rows = [(-1, 0, 0) if place is None else (number_of(place), place.index, place.position) for place in places]
    return np.array(rows, np.int64).reshape(-1, 3)


def places_of(rows: NDArray[Any], names: Names) -> list[Place | None]:
    """The places of rows that ``place_rows`` made."""
    if (
        rows.ndim != 2
        or rows.shape[1] != 3
        or (len(rows) and rows[:, 0].max() >= len(names))
        or rows.min(initial=0) < -1
    ):
        raise ValueError("rows of places do not fit the names")
    places: list[Place | None] = []
    for number, index, position in rows.tolist():
        name, key = names[number] if number >= 0 else ("", "")
        places.append(Place(name, key, index, position) if number >= 0 else None)
    return places
