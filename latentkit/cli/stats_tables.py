"""The terminal's view of ``stats``."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentkit.cli.screen import aligned, count_of, harmless, number, stdout_console

if TYPE_CHECKING:
    from latentkit.statistics import Group, Summary

_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"


def draw_summary(summary: "Summary", readings: Sequence[str]) -> None:
    """Draw all tables on stdout."""
    console = stdout_console()
    console.print(_overview(summary, readings))
    if summary.overall.clamp is not None:
        console.print(_clamp(summary))
        console.print(_histogram(summary))
        console.print(_clamp_by_channel(summary))
    console.print(_channels(summary))
    console.print(_scale(summary))


def _table(title: str, caption: str | None = None) -> Table:
    return Table(
        title=title,
        caption=None if caption is None else Text(harmless(caption), style="dim"),
        title_justify="left",
        caption_justify="left",
        title_style="bold",
    )


def _overview(summary: "Summary", readings: Sequence[str]) -> Table:
    overall = summary.overall
    table = _table(
        f"{count_of(summary.samples, 'sample')}, {count_of(overall.count, 'latent element')}, "
        f"{count_of(summary.channels, 'channel')}",
        "\n".join(readings),
    )
    table.add_column("")
    for heading in ("count", "min", "mean", "sd", "median", "max"):
        table.add_column(heading, justify="right")
    for name, spread in (("mean", overall.mean), ("log-variance, raw", overall.logvar)):
        if spread is not None:
            median = spread.quantiles[summary.quantile_levels.index(0.5)]
            figures = (spread.min, spread.mean, spread.sd, median, spread.max)
            table.add_row(name, f"{spread.finite:,}", *(number(figure) for figure in figures))
    if overall.kl is not None:
        table.add_section()
        table.add_row("KL a sample [nats]", "", "", number(overall.kl.sample))
        table.add_row("KL an element [nats]", "", "", number(overall.kl.element))
    return table


def _clamp(summary: "Summary") -> Table:
    overall = summary.overall
    assert overall.clamp is not None and overall.logvar is not None
    clamp, logvar, mean = overall.clamp, overall.logvar, overall.mean
    table = _table(f"Clamp of the log-variance to [{clamp.low:g}, {clamp.high:g}]")
    table.add_column("log-variance")
    table.add_column("count", justify="right")
    table.add_column("fraction", justify="right")
    rows = (
        (f"below {clamp.low:g} (clamped)", clamp.below),
        (f"exactly at {clamp.low:g}", clamp.at_low),
        (f"exactly at {clamp.high:g}", clamp.at_high),
        (f"above {clamp.high:g} (clamped)", clamp.above),
        ("-inf (clamped)", logvar.minus_inf_count),
        ("+inf (clamped)", logvar.plus_inf_count),
        ("NaN", logvar.nan_count),
        ("mean is NaN", mean.nan_count),
        ("mean is infinite", mean.minus_inf_count + mean.plus_inf_count),
    )
    for name, count in rows:
        table.add_row(name, f"{count:,}", number(count / overall.count))
    table.add_section()
    table.add_row("distance to the nearest bound", number(clamp.margin), "")
    return table


def _histogram(summary: "Summary") -> Text:
    """Counts of log-variances as columns; the clamp's bounds stand as walls, with what is beyond them outside."""
    clamp = summary.overall.clamp
    assert clamp is not None
    inside = summary.overall.histogram[1:-1]
    peak = max(inside, default=0) or 1
    lines = []
    for level in range(_HEIGHT, 0, -1):
        cells = "".join(_block(count * _HEIGHT / peak - (level - 1), count > 0 and level == 1) for count in inside)
        lines.append(f"{'':>9} ┃{cells}┃")
    low, high = summary.clamp
    lines[-1] = f"{clamp.below:>9,} " + lines[-1][10:] + f" {clamp.above:,}"
    lines.append(f"{'below':>9} {low:<+10g}{'':{max(0, len(inside) - 18)}}{high:>+10g} above")
    return Text("Histogram of the log-variance, the clamp's bounds as walls\n" + "\n".join(lines) + "\n")


def _block(fill: float, at_least_a_little: bool) -> str:
    eighths = min(8, max(0, round(fill * 8)))
    return _BLOCKS[max(eighths, 1 if at_least_a_little else 0)]


def _clamp_by_channel(summary: "Summary") -> Table:
    table = _table("Clamp by channel: log-variances")
    for heading in ("ch", "below", "at low", "at high", "above", "-inf", "+inf", "NaN", "margin"):
        table.add_column(heading, justify="right")
    groups = summary.per_channel
    margins = aligned(group.clamp.margin for group in groups if group.clamp is not None)
    for group, margin in zip(groups, margins, strict=True):
        clamp, logvar = group.clamp, group.logvar
        assert clamp is not None and logvar is not None
        counts = [clamp.below, clamp.at_low, clamp.at_high, clamp.above]
        counts += [logvar.minus_inf_count, logvar.plus_inf_count, logvar.nan_count]
        table.add_row(str(group.channel), *(f"{count:,}" for count in counts), margin)
    return table


def _channels(summary: "Summary") -> Table:
    table = _table("Channels: mean, and raw log-variance l")
    means = [group.mean for group in summary.per_channel]
    columns = {"mean": [spread.mean for spread in means], "sd": [spread.sd for spread in means]}
    spreads = [group.logvar for group in summary.per_channel if group.logvar is not None]
    if spreads:
        columns |= {
            "l min": [spread.min for spread in spreads],
            "l mean": [spread.mean for spread in spreads],
            "l sd": [spread.sd for spread in spreads],
            "l max": [spread.max for spread in spreads],
        }
    table.add_column("ch", justify="right")
    for heading in columns:
        table.add_column(heading, justify="right")
    for group, *cells in zip(summary.per_channel, *(aligned(values) for values in columns.values()), strict=True):
        table.add_row(str(group.channel), *cells)
    return table


def _scale(summary: "Summary") -> Table:
    table = _table(
        "Channels: KL, and the latents drawn from them",
        "Latents' mean and sd by the law of total variance: shift_factor = mean, scaling_factor = 1 / sd.",
    )
    for heading in ("ch", "KL an element [nats]", "share", "mean", "sd", "1 / sd"):
        table.add_column(heading, justify="right")
    table.add_column("state")
    groups = [*summary.per_channel, summary.overall]
    columns = (
        aligned(math.nan if group.kl is None else group.kl.element for group in groups),
        ["–" if group.kl is None or math.isnan(group.kl.share) else f"{group.kl.share:.1%}" for group in groups],
        aligned(group.drawn.shift_factor for group in groups),
        aligned(group.drawn.sd for group in groups),
        aligned(group.drawn.scaling_factor for group in groups),
    )
    for group, *cells in zip(groups, *columns, strict=True):
        if group.channel is None:
            table.add_section()
        table.add_row("all" if group.channel is None else str(group.channel), *cells, _state(group))
    return table


def _state(group: "Group") -> str:
    if group.active is None:
        return ""
    return "collapsed" if group.collapsed else "active" if group.active else "not active"
