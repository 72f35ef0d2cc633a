"""The least and the greatest number of each channel, the first that has no finite value, and where they stand."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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
    """Columns ``start`` to ``stop`` of gathered rows, a row a channel: n samples × outer × inner of one origin."""

    start: int
    shape: tuple[int, int, int]
    origin: Origin
    channels: int

    @property
    def stop(self) -> int:
        return self.start + math.prod(self.shape)

    def place(self, channel: int, column: int) -> Place:
        _, outer, inner = self.shape
        sample, rest = divmod(column - self.start, outer * inner)
        o, i = divmod(rest, inner)
        origin = self.origin
        row = (origin.outer_start + o) * self.channels + channel
        whole = inner if origin.inner is None else origin.inner
        return Place(origin.name, origin.key, origin.first + sample, row * whole + origin.inner_start + i)


def first_place(
    segments: list[Segment], channel: int, matches: Callable[[slice], NDArray[np.bool_]], before: Place | None
) -> Place | None:
    """The first place at which a channel's row matches, or ``before`` if that is earlier.

    ``matches`` looks at some columns. Segments that cannot come first are not searched: where equal extremes
    abound (a constant channel), that is nearly all.
    """
    best = before
    for segment in segments:
        if segment.stop == segment.start or (best is not None and best <= segment.place(channel, segment.start)):
            continue
        found = matches(slice(segment.start, segment.stop))
        column = int(found.argmax())
        if found[column]:
            place = segment.place(channel, segment.start + column)
            best = place if best is None else min(best, place)
    return best


class Extrema:
    """Per channel: the least and the greatest stored number among the finite, with their places."""

    def __init__(self, channels: int) -> None:
        self.least: Floats = np.full(channels, np.inf)
        self.greatest: Floats = np.full(channels, -np.inf)
        self.least_at: list[Place | None] = [None] * channels
        self.greatest_at: list[Place | None] = [None] * channels
        self.nonfinite_at: list[Place | None] = [None] * channels

    def add(
        self,
        channel: int,
        least: Floats,
        greatest: Floats,
        rows: Callable[[int, slice], Floats],
        segments: list[Segment],
    ) -> None:
        """Take the extremes of a block, a number for each channel from ``channel`` on (NaN: none there).

        ``rows`` gives stored numbers of a row at some columns, and is asked only where a place is looked for.
        """
        here = slice(channel, channel + len(least))
        for extremes, ours, places in (
            (least, self.least, self.least_at),
            (greatest, self.greatest, self.greatest_at),
        ):
            better = extremes < ours[here] if ours is self.least else extremes > ours[here]
            for row in np.flatnonzero(better | (extremes == ours[here])).tolist():
                value, at = float(extremes[row]), channel + row

                def equal(columns: slice, row: int = row, value: float = value) -> NDArray[np.bool_]:
                    return np.equal(rows(row, columns), value)

                places[at] = first_place(segments, at, equal, None if better[row] else places[at])
            ours[here] = np.where(better, extremes, ours[here])

    def merge(self, other: "Extrema") -> None:
        for channel in range(len(self.least)):
            for values, theirs, places, their_places, sign in (
                (self.least, other.least, self.least_at, other.least_at, 1),
                (self.greatest, other.greatest, self.greatest_at, other.greatest_at, -1),
            ):
                if sign * theirs[channel] < sign * values[channel]:
                    values[channel], places[channel] = theirs[channel], their_places[channel]
                elif theirs[channel] == values[channel]:
                    places[channel] = earlier(places[channel], their_places[channel])
            self.nonfinite_at[channel] = earlier(self.nonfinite_at[channel], other.nonfinite_at[channel])

    def pooled(self) -> "Extrema":
        """All channels as one."""
        pool = Extrema(1)
        for channel in range(len(self.least)):
            one = Extrema(1)
            one.least[0], one.greatest[0] = self.least[channel], self.greatest[channel]
            one.least_at, one.greatest_at = [self.least_at[channel]], [self.greatest_at[channel]]
            one.nonfinite_at = [self.nonfinite_at[channel]]
            pool.merge(one)
        return pool


def earlier(one: Place | None, other: Place | None) -> Place | None:
    """The first of two places, None standing for no place."""
    if one is None or other is None:
        return one or other
    return min(one, other)
