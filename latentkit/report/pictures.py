"""Histograms, bars and lines. Each is handed plain numbers, and its text for those who do not see it."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from latentkit.report.markup import short
from latentkit.report.samples import Histogram
from latentkit.report.svg import ACCENT, MUTED, TEXT, WARM, drawn
from latentkit.stats.sums import Floats
from latentkit.text import count_of

#: Bars of a ranking; where there are more, the greatest and the least half as many.
MOST_BARS = 24

# Channels that have a line each; more make a band.
_MOST_LINES = 256
_WIDTH = 400
# Log-variances are drawn so much beyond the clamp, by its width.
_BEYOND = 0.2
# How wide a character is beside the longest bar of a ranking.
_CHARACTER = 0.03
# Where a logarithmic axis of bars begins at the least, by the greatest.
_DEEPEST = 1e-15
# So little of the highest bar is seen.
_LEAST_BAR = 0.012


def histogram(
    ours: Histogram,
    theirs: Histogram | None,
    marks: Sequence[tuple[float, str]],
    corners: tuple[Sequence[str], Sequence[str]],
    label: str,
    alt: str,
    *,
    is_small: bool = False,
) -> str:
    """Shares over bins: areas are shares, on a logarithmic axis too, which it is if one of them asks for it.

    ``theirs`` are drawn as a line, on the same scales. ``marks`` are lines with words, ``corners`` the lines of words
    at the left and the right end, ``label`` is what it is of; a small one has room for none of the three.
    """
    is_log = ours.is_log or bool(theirs and theirs.is_log)
    size, margins = ((200, 108), (8, 8, 6, 22)) if is_small else ((_WIDTH, 250), (44, 14, 30, 44))

    def paint(axes: Axes) -> None:
        heights, edges, width = _shares(ours, is_log, None)
        peak = heights.max()
        axes.stairs(np.where(heights > 0, np.maximum(heights, _LEAST_BAR * peak), 0), edges, fill=True, color=ACCENT)
        if theirs:
            outline, others, _ = _shares(theirs, is_log, width)
            if outline.max() > 100:  # of bars that are far narrower; no share is more than all
                outline, others, _ = _shares(theirs, is_log, None)
            axes.stairs(outline, others, color=TEXT, linewidth=1.2)
            peak = max(peak, outline.max())
        most = (1.04 if is_small else 1.28) * (peak or 1)
        axes.set_ylim(0, most)
        axes.set_xscale("log" if is_log else "linear")
        axes.xaxis.set_major_locator(LogLocator(numticks=6) if is_log else MaxNLocator(3 if is_small else 5))
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if is_small:
            axes.set_yticks([])
            axes.spines["left"].set_visible(False)
            axes.tick_params("x", labelsize=10)
            return
        axes.set_yticks([at for at in MaxNLocator(4).tick_values(0, most) if at <= min(most, 100)])
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        for place, (at, words) in enumerate(marks):
            top = 0.98 - 0.08 * place
            axes.axvline(at, ymax=top, color=WARM if place else TEXT, linewidth=1, linestyle=(0, (3, 2)))
            is_left = axes.transAxes.inverted().transform(axes.transData.transform((at, 0)))[0] < 0.6
            axes.annotate(
                words, (at, top), (4 if is_left else -4, 0), ("data", "axes fraction"), textcoords="offset points",
                ha="left" if is_left else "right", va="top", fontsize=10,
            )  # fmt: skip
        top = 0.98 - 0.08 * len(marks)
        for lines, side in zip(corners, ("left", "right"), strict=True):
            axes.text(
                side == "right", top, "\n".join(lines), transform=axes.transAxes, ha=side, va="top", fontsize=10,
                color=MUTED,
            )  # fmt: skip
        axes.set_xlabel(label)
        _above(axes, "share [%]")

    return drawn(*size, margins, alt, paint)


def _shares(bars: Histogram, is_log: bool, width: float | None) -> tuple[Floats, Floats, float]:
    """Heights in per cent of a bar of this width, by default the mean one of these; edges; and the width."""
    edges = np.asarray(bars.edges, float)
    if is_log:
        # What is not above zero has no place on such an axis.
        edges = np.maximum(edges, edges[edges > 0].min(initial=np.inf) * 0.999 if edges[0] <= 0 else 0)
    widths = np.diff(np.log(edges) if is_log else edges)
    width = width or float(widths.mean())
    total = bars.below + sum(bars.counts) + bars.above
    return 100 * np.asarray(bars.counts) / (total or 1) * width / widths, edges, width


def ranking(
    names: Sequence[int],
    values: Sequence[float],
    others: Sequence[float | None],
    words: Sequence[str],
    unit: str,
    alt: str,
) -> str:
    """A bar per channel, in the order given. One with a word beside it has another colour too, and ``others`` are
    marked across the bars. Of many channels, the first and the last. The axis is logarithmic where the greatest would
    leave nothing to be seen of most of those without a word.
    """
    half = MOST_BARS // 2
    is_cut = len(values) > MOST_BARS
    shown = [*range(half), *range(len(values) - half, len(values))] if is_cut else range(len(values))
    known = [*values, *(value for value in others if value is not None)]
    greatest = max(known) or 1
    plain = [value for value, word in zip(values, words, strict=True) if not word]
    is_log = bool(plain) and 0 < np.median(plain) < _LEAST_BAR * greatest and 1e-200 < greatest < 1e200
    start = max(10 ** np.floor(np.log10(min(filter(None, known)))), _DEEPEST * greatest) if is_log else 0.0

    def along(value: float, room: float = 0.0) -> float:
        """Where on the axis, of which the greatest is 1; what is ``room`` further."""
        if not is_log:
            return value + room * greatest
        return float(max(value, start) * (greatest / start) ** room)

    def paint(axes: Axes) -> None:
        places = [place + (is_cut and place >= half) for place in range(len(shown))]
        colours = [WARM if words[row] else ACCENT for row in shown]
        axes.set_xscale("log" if is_log else "linear")
        lengths = [along(values[row]) - start for row in shown]
        axes.barh(places, lengths, left=start, color=colours, height=0.66, linewidth=0)
        axes.set_ylim(places[-1] + 0.6, -0.6)
        axes.set_xlim(start, along(greatest, 0.36))
        axes.set_yticks(places, [str(names[row]) for row in shown])
        axes.tick_params("y", length=0)
        axes.spines["left"].set_visible(False)
        for place, row in zip(places, shown, strict=True):
            value, other = values[row], others[row]
            if other is not None:
                axes.vlines(along(other), place - 0.42, place + 0.42, color=TEXT, linewidth=2)
            # Beyond the mark, where that would stand in the words.
            label = " ".join([short(value), words[row]]).strip()
            is_near = other is not None and value <= other < along(value, 0.04 + _CHARACTER * len(label))
            at = along(other if is_near and other else value), place
            axes.annotate(label, at, (5, 0), textcoords="offset points", va="center")
        if is_cut:
            axes.text(start, half, f"{len(values) - MOST_BARS:,} channels between", va="center", color=MUTED)
        axes.set_xlabel(f"{unit}, logarithmic" if is_log else unit)
        axes.xaxis.set_major_locator(LogLocator(numticks=4) if is_log else MaxNLocator(4))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(_tick))
        _above(axes, "channel")

    return drawn(_WIDTH, max(120, 80 + 22 * (len(shown) + is_cut)), (44, 26, 26, 44), alt, paint)


def ranges(
    ours: Sequence[Sequence[float | None]],
    theirs: Sequence[Sequence[float | None]],
    clamp: Sequence[float],
    alt: str,
) -> str:
    """For each channel a thin line from the 1st to the 99th percentile, a thick one over the middle half, the median.

    Quantiles are at 1, 5, 25, 50, 75, 95 and 99 %; ``theirs`` stand to the right of ours, or are empty. Bounds of the
    clamp are drawn where they are near. What is far beyond them is cut off and said, if some channel is within.
    """
    room = _BEYOND * (clamp[1] - clamp[0])
    lowest, highest = clamp[0] - room, clamp[1] + room
    if not any(lowest < row[3] < highest for row in ours if row[3] is not None):
        lowest, highest = -np.inf, np.inf

    def paint(axes: Axes) -> None:
        step = 342 / len(ours) / (2 if theirs else 1)
        thick = min(10.0, 0.6 * step)
        half = min(0.45, (0.5 * thick + 4) / step) / (2 if theirs else 1)
        for quantiles, colour, shift in ((ours, ACCENT, -0.2), (theirs, MUTED, 0.2)):
            values = np.array([_floats(row) for row in quantiles]).reshape(-1, 7).clip(lowest, highest)
            channels = np.arange(len(values)) + (shift if theirs else 0)
            if len(ours) > _MOST_LINES:
                for low, high, alpha in ((0, -1, 0.3), (2, 4, 0.6)):
                    axes.fill_between(channels, values[:, low], values[:, high], color=colour, alpha=alpha, linewidth=0)
                axes.plot(channels, values[:, 3], color=TEXT if colour == ACCENT else colour, linewidth=1)
                continue
            axes.vlines(channels, values[:, 0], values[:, -1], color=colour, linewidth=min(1.5, thick), alpha=0.6)
            axes.vlines(channels, values[:, 2], values[:, 4], color=colour, linewidth=thick)
            axes.hlines(values[:, 3], channels - half, channels + half, color=TEXT, linewidth=1.5)
        below = [end for row in ours if (end := row[0]) is not None and end < lowest]
        above = [end for row in ours if (end := row[-1]) is not None and end > highest]
        far = [f"{count_of(len(below), 'channel')} as far as {short(min(below))} ↓"] if below else []
        far += [f"{count_of(len(above), 'channel')} as far as {short(max(above))} ↑"] if above else []
        axes.set_title("\n".join(far), loc="right", fontsize=10, color=WARM)
        least, greatest = axes.get_ylim()
        for bound in clamp:
            if least - 2 < bound < greatest + 2:
                axes.axhline(bound, color=WARM, linewidth=1)
        axes.set_xlim(-0.7, len(ours) - 0.3)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.set_xlabel("channel")
        _above(axes, "log-variance")

    return drawn(_WIDTH, 250, (44, 14, 30, 44), alt, paint)


def spectrum(
    frequencies: Sequence[float],
    overall: Sequence[float | None],
    channels: Sequence[Sequence[float | None]],
    theirs: Sequence[float | None],
    alt: str,
) -> str:
    """Power over spatial frequency, both logarithmic: all channels pooled, and each as a thin line; theirs dashed."""

    def paint(axes: Axes) -> None:
        for power in channels:
            axes.plot(
                frequencies, _floats(power), color=MUTED, linewidth=0.8, alpha=0.45 if len(channels) < 40 else 0.2
            )
        axes.plot(frequencies, _floats(overall), color=ACCENT, linewidth=2.2)
        if theirs:
            axes.plot(frequencies, _floats(theirs), color=TEXT, linewidth=1.5, linestyle="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.xaxis.set_major_locator(FixedLocator([1 / 64, 1 / 32, 1 / 16, 1 / 8, 1 / 4, 1 / 2]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"1/{1 / value:.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        least, greatest = axes.get_ylim()
        # Within a power of ten there would be one tick, or none.
        axes.yaxis.set_major_locator(MaxNLocator(5) if greatest < 10 * least else LogLocator(numticks=6))
        axes.yaxis.set_major_formatter(FuncFormatter(_tick))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("cycles per pixel")
        _above(axes, "power")

    return drawn(_WIDTH, 280, (44, 14, 30, 44), alt, paint)


def _tick(value: float, _: int | None) -> str:
    if value == 0 or 1e-4 <= abs(value) < 1e7:
        return short(value)
    mantissa, power = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(power)}".replace("-", "−")


def _above(axes: Axes, label: str) -> None:
    """What the vertical axis is, where it needs no turning of heads."""
    axes.set_title(label, loc="left", fontsize=11, color=MUTED, pad=8, x=-0.1)


def _floats(values: Sequence[float | None]) -> list[float]:
    return [np.nan if value is None else value for value in values]
