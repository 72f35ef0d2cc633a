"""Heat maps: channels by figures, and channels by channels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path
from numpy.typing import NDArray

from latentkit.report.markup import short
from latentkit.report.svg import ACCENT, MUTED, WARM, drawn

#: Channels for which figures are written into the cells.
MOST_WRITTEN = 16

# Steps of opacity between 0 and 1.
_LEVELS = 12
# What lies further from the middle, by the median deviation, is far out.
_FAR_OUT = 50


def heat_map(names: Sequence[str], rows: Sequence[Sequence[float | None]], is_signed: Sequence[bool], alt: str) -> str:
    """A row per figure, a column per channel; each row has its own scale, from its least to its greatest.

    Signed rows have another colour below zero. Cells of None stay empty.
    """
    channels = len(rows[0])
    is_written = channels <= MOST_WRITTEN
    left, right, width, row_height = 140, 116, 930, 30 if is_written else 24
    cell = (width - left - right) / channels
    height = row_height * len(rows) + 8 + 40

    def paint(axes: Axes) -> None:
        values = np.array([[np.nan if value is None else value for value in row] for row in rows], float)
        levels = np.array([_of_row(row, signed) for row, signed in zip(values, is_signed, strict=True)])
        gap = 2 if channels <= 64 else 0
        _cells(axes, levels, (cell, row_height), gap, 0.5 if is_written else 0.95)
        axes.set_yticks((np.arange(len(rows)) + 0.5) * row_height, names)
        axes.set_xticks(*_channel_ticks(channels, cell))
        axes.set_xlabel("channel")
        _bare(axes)
        for place, row in enumerate(values):
            known = row[np.isfinite(row)]
            middle = (place + 0.5) * row_height
            if len(known):
                words = " … ".join(_brief(end) for end in (known.min(), known.max()))
                axes.annotate(
                    words, (channels * cell, middle), (8, 0), textcoords="offset points", va="center", fontsize=10,
                    color=MUTED, annotation_clip=False,
                )  # fmt: skip
            for channel, value in enumerate(row if is_written else ()):
                place_of = (channel + 0.5) * cell, middle
                axes.text(*place_of, _brief(value), ha="center", va="center", fontsize=9.5)

    return drawn(width, height, (left, right, 8, 40), alt, paint)


def correlations(matrix: Sequence[Sequence[float | None]], alt: str) -> str:
    """A correlation matrix with its scale above; blue is positive, orange negative, empty is near 0."""
    channels = len(matrix)
    side = 400.0
    cell = side / channels

    def paint(axes: Axes) -> None:
        values = np.array([[np.nan if value is None else value for value in row] for row in matrix], float)
        is_written = channels <= MOST_WRITTEN
        strongest = 0.5 if is_written else 0.95
        _cells(axes, values, (cell, cell), 1.5 if channels <= 32 else 0, strongest)
        for row, column in np.argwhere(np.isfinite(values)) if is_written else ():
            axes.text(
                (column + 0.5) * cell, (row + 0.5) * cell, _two_decimals(values[row, column]), ha="center", va="center",
                fontsize=11 if channels <= 8 else 7,
            )  # fmt: skip
        ticks, names = _channel_ticks(channels, cell)
        axes.set_xticks(ticks, names)
        axes.set_yticks(ticks, names)
        axes.set_xlabel("channel")
        axes.tick_params(length=0)
        axes.spines[["top", "right"]].set_visible(True)
        scale = axes.inset_axes((0.25, 1.025, 0.5, 0.025))
        _cells(scale, np.linspace(-1, 1, 2 * _LEVELS + 1)[None], (side / (4 * _LEVELS + 2), side / 40), 0, strongest)
        scale.set_xticks(np.array([0.5, _LEVELS + 0.5, 2 * _LEVELS + 0.5]) * side / (4 * _LEVELS + 2), ["−1", "0", "1"])
        scale.set_yticks([])
        scale.tick_params(length=0, labelsize=10, top=True, labeltop=True, bottom=False, labelbottom=False)
        scale.spines[:].set_visible(True)
        scale.patch.set_visible(False)

    return drawn(side + 40, side + 86, (32, 8, 46, 40), alt, paint)


def _two_decimals(value: float) -> str:
    return f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _channel_ticks(channels: int, cell: float) -> tuple[list[float], list[str]]:
    """Where numbers of channels have room to stand."""
    step = next((step for step in (1, 2, 4, 8, 16, 32, 64, 128) if step * cell >= 22), 256)
    numbers = range(0, channels, step)
    return [(name + 0.5) * cell for name in numbers], [str(name) for name in numbers]


def _of_row(row: NDArray[np.float64], is_signed: bool) -> NDArray[np.float64]:
    """Between -1 and 1 if signed, else from just above 0 to 1; one far out leaves the others their shades."""
    known = row[np.isfinite(row)]
    if not len(known):
        return row
    middle = 0.0 if is_signed else float(np.median(known))
    reach = _FAR_OUT * float(np.median(np.abs(known - middle))) or np.inf
    inside = known[np.abs(known - middle) <= reach]
    beside = 0.5 * (inside.max() - inside.min()) if len(inside) < len(known) else np.inf
    row, known = (each.clip(inside.min() - beside, inside.max() + beside) for each in (row, known))
    if is_signed:
        return row / (np.abs(known).max() or 1.0)
    spread = known.max() - known.min()
    return np.asarray(1 / _LEVELS + (1 - 1 / _LEVELS) * (row - known.min()) / (spread or 1.0))


def _brief(value: float) -> str:
    """Few enough characters for a narrow cell."""
    if 0 < abs(value) < 1e-3 or abs(value) >= 1e5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("-", "−")
    return short(value, 1 if abs(value) < 0.01 else 2 if abs(value) < 0.1 else 3)


def _cells(axes: Axes, values: NDArray[np.float64], size: tuple[float, float], gap: float, strongest: float) -> None:
    """Cells of ``values`` from -1 to 1 in steps of opacity: strokes, which take half the bytes of rectangles.

    Equal neighbours in a row are one stroke, unless there is a gap between them.
    """
    width, height = size
    rows, columns = values.shape
    axes.set_xlim(0, columns * width)
    axes.set_ylim(rows * height, 0)
    levels = np.nan_to_num(np.round(np.clip(values, -1, 1) * _LEVELS)).astype(int)
    for level in sorted(set(levels.ravel().tolist()) - {0}):
        strokes: list[tuple[float, float]] = []
        for row, first, last in _runs(levels == level, is_joined=not gap):
            y = (row + 0.5) * height
            strokes += [(first * width + gap / 2, y), (last * width - gap / 2, y)]
        codes: Any = np.tile([Path.MOVETO, Path.LINETO], len(strokes) // 2)
        patch = PathPatch(
            Path(np.array(strokes), codes), fill=False, linewidth=height - gap, capstyle="butt",
            edgecolor=ACCENT if level > 0 else WARM, alpha=strongest * abs(level) / _LEVELS, antialiased=bool(gap),
        )  # fmt: skip
        axes.add_patch(patch)


def _runs(mask: NDArray[np.bool_], *, is_joined: bool) -> list[tuple[int, int, int]]:
    """Row, first column, and column after the last, of every run of true cells."""
    if not is_joined:
        return [(int(row), int(column), int(column) + 1) for row, column in np.argwhere(mask)]
    steps = np.diff(np.pad(mask, ((0, 0), (1, 1))).astype(int), axis=1)
    starts, ends = np.argwhere(steps == 1), np.argwhere(steps == -1)
    return [(int(row), int(first), int(last)) for (row, first), (_, last) in zip(starts, ends, strict=True)]
