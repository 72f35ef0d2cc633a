"""The least and the greatest number of each channel, the first that has no finite value, and where they stand."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float64]


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
    """Where a block comes from: its first sample and, for a piece of a sample, where in it the block begins.

    ``inner`` is the sample's whole extent behind the channel axis; None if the block has it all.
    """

    name: str
    key: str
    first: int = 0
    outer_start: int = 0
    channel_start: int = 0
    inner_start: int = 0
    inner: int | None = None

    @property
    def begins_samples(self) -> bool:
        """Whether the block holds the first element of its samples."""
        return not (self.outer_start or self.channel_start or self.inner_start)


@dataclass(frozen=True, slots=True)
class Segment:
    """Columns ``start`` to ``stop`` of gathered rows: n samples × outer × inner of one origin.

    There is a row for the means of each channel, and behind them a row for the scale of each.
    """

    start: int
    shape: tuple[int, int, int]
    origin: Origin
    channels: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def place(self, row: int, column: int) -> Place:
        _, outer, inner = self.shape
        sample, rest = divmod(column - self.start, outer * inner)
        o, i = divmod(rest, inner)
        origin = self.origin
        line = (origin.outer_start + o) * self.channels + row % self.channels
        whole = inner if origin.inner is None else origin.inner
        return Place(origin.name, origin.key, origin.first + sample, line * whole + origin.inner_start + i)


def first_place(
    segments: Sequence[Segment], row: int, matches: Callable[[], NDArray[np.bool_]], before: Place | None
) -> Place | None:
    """The first place at which a row matches, or ``before`` if that is earlier.

    ``matches`` gives a value for every column, and is not asked where no segment can come first: where equal extremes
    abound (a constant channel), that is nearly always.
    """
    candidates = [
        segment
        for segment in segments
        if segment.stop > segment.start and (before is None or segment.place(row, segment.start) < before)
    ]
    if not candidates:
        return before
    best, found = before, matches()
    for segment in candidates:
        column = segment.start + int(found[segment.start : segment.stop].argmax())
        if found[column]:
            best = earlier(best, segment.place(row, column))
    return best


class Extrema:
    """Of each row: the least and the greatest stored number among the finite, with their places."""

    def __init__(self, rows: int) -> None:
        self.least: Floats = np.full(rows, np.inf)
        self.greatest: Floats = np.full(rows, -np.inf)
        self.least_at: list[Place | None] = [None] * rows
        self.greatest_at: list[Place | None] = [None] * rows
        self.nonfinite_at: list[Place | None] = [None] * rows

    def inside(self, rows: slice, least: Floats, greatest: Floats) -> bool:
        """Whether a block with these extremes (NaN where it has one) changes nothing, as nearly all do."""
        return bool(((least > self.least[rows]) & (greatest < self.greatest[rows])).all())

    def add(self, row: int, least: Floats, greatest: Floats, numbers: Tensor, segments: list[Segment]) -> None:
        """Take the extremes of a block's ``numbers``, for each row from ``row`` on (NaN: none there)."""
        here = slice(row, row + len(least))
        lower, higher = least <= self.least[here], greatest >= self.greatest[here]
        if lower.any():
            self._replace(row, lower, least, self.least, self.least_at, numbers, segments)
        if higher.any():
            self._replace(row, higher, greatest, self.greatest, self.greatest_at, numbers, segments)

    def _replace(
        self,
        first: int,
        concerned: NDArray[np.bool_],
        extremes: Floats,
        ours: Floats,
        places: list[Place | None],
        numbers: Tensor,
        segments: list[Segment],
    ) -> None:
        for row in np.flatnonzero(concerned).tolist():
            value, at = extremes[row], first + row

            def equal(row: int = row, value: float = value) -> NDArray[np.bool_]:
                return (numbers[row].double() == value).numpy()

            places[at] = first_place(segments, at, equal, places[at] if value == ours[at] else None)
            ours[at] = value

    def merge(self, other: "Extrema") -> None:
        """Take what is further out, or as far and earlier."""
        for row in range(len(self.least)):
            for values, theirs, places, their_places, sign in (
                (self.least, other.least, self.least_at, other.least_at, 1),
                (self.greatest, other.greatest, self.greatest_at, other.greatest_at, -1),
            ):
                if sign * theirs[row] < sign * values[row]:
                    values[row], places[row] = theirs[row], their_places[row]
                elif theirs[row] == values[row]:
                    places[row] = earlier(places[row], their_places[row])
            self.nonfinite_at[row] = earlier(self.nonfinite_at[row], other.nonfinite_at[row])

    def of(self, rows: range) -> "Extrema":
        """Some rows alone."""
        some = Extrema(len(rows))
        some.least, some.greatest = self.least[rows.start : rows.stop], self.greatest[rows.start : rows.stop]
        some.least_at, some.greatest_at = (
            [places[row] for row in rows] for places in (self.least_at, self.greatest_at)
        )
        some.nonfinite_at = [self.nonfinite_at[row] for row in rows]
        return some

    def pooled(self) -> "Extrema":
        """All rows as one."""
        pool = Extrema(1)
        for row in range(len(self.least)):
            pool.merge(self.of(range(row, row + 1)))
        return pool


def earlier(one: Place | None, other: Place | None) -> Place | None:
    """The first of two places, None standing for no place."""
    if one is None or other is None:
        return one or other
    return min(one, other)
