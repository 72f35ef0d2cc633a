"""Histograms, bars and lines. Each is handed plain numbers, and its text for those who do not see it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from latentkit.report.markup import short
from latentkit.report.svg import ACCENT, MUTED, TEXT, WARM, drawn

#: Bars with a name each; where there are more, they are columns without.
MOST_BARS = 24


def histogram(
    edges: Sequence[float],
    counts: Sequence[int],
    marks: Sequence[tuple[float, str]],
    beyond: tuple[str, str],
    label: str,
    alt: str,
    *,
    is_log: bool,
) -> str:
    """Counts over bins of unequal width: areas are shares, on a logarithmic axis too.

    ``marks`` are lines with words, ``beyond`` says what is left and right of all bins, ``label`` what they are of.
    """

    def paint(axes: Axes) -> None:
        density = np.asarray(counts) / np.diff(np.log(edges) if is_log else edges)
        axes.stairs(density, edges, fill=True, color=ACCENT, linewidth=0)
        axes.set_ylim(0, 1.28 * density.max())
        if is_log:
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(numticks=6))
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.xaxis.set_minor_formatter(NullFormatter())
        for place, (at, words) in enumerate(marks):
            top = 0.98 - 0.08 * place
            axes.axvline(at, ymax=top, color=WARM if place else TEXT, linewidth=1, linestyle=(0, (3, 2)))
            is_left = axes.transAxes.inverted().transform(axes.transData.transform((at, 0)))[0] < 0.6
            axes.annotate(
                words, (at, top), (4 if is_left else -4, 0), ("data", "axes fraction"), textcoords="offset points",
                ha="left" if is_left else "right", va="top", fontsize=10,
            )  # fmt: skip
        for words, side in zip(beyond, ("left", "right"), strict=True):
            if words:
                axes.text(
                    side == "right", 0.06, words, transform=axes.transAxes, ha=side, fontsize=10, color=WARM
                )  # fmt: skip
        _quiet(axes, label)

    return drawn(440, 250, (10, 14, 8, 44), alt, paint)


def ranking(names: Sequence[int], values: Sequence[float], words: Sequence[str], unit: str, alt: str) -> str:
    """A bar a channel, in the order given. One with a word beside it has another colour too."""
    if len(values) > MOST_BARS:
        return _columns(names, values, words, unit, alt)

    def paint(axes: Axes) -> None:
        places = range(len(values))
        colours = [WARM if word else ACCENT for word in words]
        axes.barh(places, values, color=colours, height=0.66, linewidth=0)
        axes.set_ylim(len(values) - 0.4, -0.6)
        axes.set_xlim(0, (max(values, default=0) or 1) * 1.32)
        axes.set_yticks(places, [str(name) for name in names])
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        for place, (value, word) in enumerate(zip(values, words, strict=True)):
            axes.annotate(
                " ".join([short(value), word]).strip(), (value, place), (5, 0), textcoords="offset points", va="center"
            )
        axes.set_xlabel(unit)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))

    return drawn(440, max(120, 62 + 22 * len(values)), (30, 8, 6, 44), alt, paint)


def _columns(names: Sequence[int], values: Sequence[float], words: Sequence[str], unit: str, alt: str) -> str:
    def paint(axes: Axes) -> None:
        count = len(values)
        for colour, mark in ((ACCENT, False), (WARM, True)):
            heights = [value if bool(word) is mark else 0 for value, word in zip(values, words, strict=True)]
            axes.stairs(heights, np.arange(count + 1) + 0.5, fill=True, color=colour, linewidth=0)
        axes.set_xlim(0.5, count + 0.5)
        axes.set_ylim(0, max(values) * 1.12 or 1)
        axes.annotate(f"channel {names[0]}", (1, values[0]), (4, 3), textcoords="offset points", fontsize=10)
        axes.yaxis.set_major_locator(MaxNLocator(4))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        _above(axes, unit)
        axes.set_xlabel("channels by rank")
        marked = sum(map(bool, words))
        if marked:
            first = next(place for place, word in enumerate(words) if word)
            axes.annotate(
                f"{marked} {words[first]}", (count + 0.5, 0.5), xycoords=("data", "axes fraction"), ha="right",
                fontsize=10, color=WARM,
            )  # fmt: skip

    return drawn(440, 250, (48, 8, 30, 44), alt, paint)


def logvars(counts: Sequence[int], edges: Sequence[float], alt: str, *, is_small: bool) -> str:
    """Log-variances between the walls of the clamp, and what is beyond them outside."""
    width, height, margins = (205, 108, (6, 6, 16, 20)) if is_small else (440, 250, (6, 6, 22, 44))

    def paint(axes: Axes) -> None:
        low, high = edges[0], edges[-1]
        room = (high - low) * 0.1
        peak = max(counts) or 1
        # What is there is seen, however little.
        heights = [count and max(count / peak, 0.02) for count in counts]
        axes.stairs(heights[1:-1], edges, fill=True, color=ACCENT, linewidth=0)
        axes.bar(
            [low - room / 2, high + room / 2], [heights[0], heights[-1]], width=0.6 * room, color=WARM, linewidth=0
        )
        for count, at, side, word in (
            (counts[0], low - room, "left", "below"),
            (counts[-1], high + room, "right", "above"),
        ):
            if count:
                words = f"{count:,}" if is_small else f"{count:,} {word}"
                axes.annotate(
                    words, (at, 1.03), ha=side, va="bottom", fontsize=10, color=WARM, annotation_clip=False
                )  # fmt: skip
        axes.set_xlim(low - room, high + room)
        axes.set_ylim(0, 1.0)
        inner = [0] if is_small else list(MaxNLocator(6).tick_values(low, high))
        axes.set_xticks([low, *(tick for tick in inner if low + room < tick < high - room), high])
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.tick_params("x", labelsize=10 if is_small else 11)
        _quiet(axes, "" if is_small else "log-variance before the clamp")

    return drawn(width, height, margins, alt, paint)


def ranges(quantiles: Sequence[Sequence[float | None]], clamp: Sequence[float], alt: str) -> str:
    """For each channel a thin line from the 1st to the 99th percentile, a thick one over the middle half, the median.

    ``quantiles`` are at 1, 5, 25, 50, 75, 95 and 99 %. Bounds of the clamp are drawn where they are near.
    """

    def paint(axes: Axes) -> None:
        values = np.array([_floats(row) for row in quantiles])
        channels = np.arange(len(values))
        step = 384 / len(values)
        thick = min(10.0, 0.6 * step)
        axes.vlines(channels, values[:, 0], values[:, -1], color=ACCENT, linewidth=min(1.5, thick), alpha=0.6)
        axes.vlines(channels, values[:, 2], values[:, 4], color=ACCENT, linewidth=thick)
        half = min(0.45, (0.5 * thick + 4) / step)
        axes.hlines(values[:, 3], channels - half, channels + half, color=TEXT, linewidth=1.5)
        least, greatest = axes.get_ylim()
        for bound in clamp:
            if least - 2 < bound < greatest + 2:
                axes.axhline(bound, color=WARM, linewidth=1)
        axes.set_xlim(-0.7, len(values) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.set_xlabel("channel")
        _above(axes, "log-variance")

    return drawn(440, 250, (48, 8, 30, 44), alt, paint)


def spectrum(
    frequencies: Sequence[float], overall: Sequence[float | None], channels: Sequence[Sequence[float | None]], alt: str
) -> str:
    """Power over spatial frequency, both logarithmic: all channels pooled, and each as a thin line."""

    def paint(axes: Axes) -> None:
        for power in channels:
            axes.plot(
                frequencies, _floats(power), color=MUTED, linewidth=0.8, alpha=0.45 if len(channels) < 40 else 0.2
            )
        axes.plot(frequencies, _floats(overall), color=ACCENT, linewidth=2.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1/{1 / value:.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("cycles a pixel")
        _above(axes, "power")

    return drawn(440, 300, (48, 12, 30, 44), alt, paint)


def _tick(value: float, _: int | None) -> str:
    return short(value) if abs(value) < 1e5 else f"{value:.0e}".replace("e+0", "e").replace("e+", "e")


def _above(axes: Axes, label: str) -> None:
    """What the vertical axis is, where it needs no turning of heads."""
    axes.set_title(label, loc="left", fontsize=11, color=MUTED, pad=8, x=-0.1)


def _quiet(axes: Axes, label: str) -> None:
    """Only what the bars stand on."""
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
