"""The terminal's view of log-variances: how many are at the clamp, their histogram, and each channel's."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from latentkit.cli.screen import aligned, dense_table
from latentkit.health.document import plain
from latentkit.health.wording import clamp_rows
from latentkit.text import number

if TYPE_CHECKING:
    from rich.table import Table

    from latentkit.cli.screen import Titled
    from latentkit.stats.summary import Group, Summary

_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"


def logvar_tables(summary: "Summary", groups: Sequence["Group"]) -> "Iterator[Titled]":
    """All of them, then these channels; nothing for latents already drawn."""
    clamp = summary.overall.clamp
    if clamp is None:
        return
    yield f"Clamp of the log-variance to [{clamp.low:g}, {clamp.high:g}]", _clamp(summary), None
    nearest = f"Distance of the nearest finite log-variance to a bound: {number(clamp.margin)}"
    yield "Histogram of the log-variance; a wall is a bound of the clamp", _histogram(summary), nearest
    if clamped := [group for group in groups if _touches_clamp(group)]:
        yield "Log-variances at the clamp and NaN, by channel", _clamp_by_channel(clamped), None
    yield "Log-variances by channel, raw", _logvars(groups), None


def _clamp(summary: "Summary") -> "Table":
    """Counts at the clamp."""
    table = dense_table("log-variance", "count", "fraction", left=("log-variance",))
    rows = clamp_rows(plain(summary.overall))
    for name, count in rows.items():
        table.add_row(name, f"{count:,}", number(count / summary.overall.count))
    if not rows:
        table.add_row("at or beyond a bound, NaN, infinite", "0", "0")
    return table


def _histogram(summary: "Summary") -> Text:
    """Counts of log-variances as columns, between walls where the clamp's bounds are; what is beyond stands outside."""
    logvar, edges, histogram = summary.overall.logvar, summary.histogram_edges, summary.overall.histogram
    assert logvar is not None
    below, *inside, above = histogram
    peak = max(inside, default=0) or 1
    left, right = (
        "┃" if edge == bound else " " for edge, bound in zip((edges[0], edges[-1]), summary.clamp, strict=True)
    )
    lines = []
    for level in range(_HEIGHT, 0, -1):
        cells = "".join(_block(count * _HEIGHT / peak - (level - 1), count > 0 and level == 1) for count in inside)
        lines.append(f"{'':>9} {left}{cells}{right}")
    lines[-1] = f"{below + logvar.minus_inf_count:>9,} {lines[-1][10:]} {above + logvar.plus_inf_count:,}"
    lines.append(f"{'below':>9} {edges[0]:<+10.4g}{'':{max(0, len(inside) - 18)}}{edges[-1]:>+10.4g} above")
    return Text("\n".join(lines))


def _block(fill: float, at_least_a_little: bool) -> str:
    eighths = min(8, max(0, round(fill * 8)))
    return _BLOCKS[max(eighths, 1 if at_least_a_little else 0)]


def _touches_clamp(group: "Group") -> bool:
    clamp, logvar = group.clamp, group.logvar
    if clamp is None or logvar is None:
        return False
    return clamp.below + clamp.at_low + clamp.at_high + clamp.above + logvar.nan_count > 0


def _clamp_by_channel(groups: Sequence["Group"]) -> "Table":
    table = dense_table("ch", "below", "at low", "at high", "above", "-inf", "+inf", "NaN")
    for group in groups:
        clamp, logvar = group.clamp, group.logvar
        assert clamp is not None and logvar is not None
        counts = [clamp.below, clamp.at_low, clamp.at_high, clamp.above]
        counts += [logvar.minus_inf_count, logvar.plus_inf_count, logvar.nan_count]
        table.add_row(str(group.channel), *(f"{count:,}" for count in counts))
    return table


def _logvars(groups: Sequence["Group"]) -> "Table":
    """The raw log-variances of each channel: extremes, mean and standard deviation."""
    table = dense_table("ch", "finite", "min", "mean", "sd", "max", "distance to a bound")
    spreads = [group.logvar for group in groups if group.logvar is not None]
    columns = (
        [f"{spread.finite:,}" for spread in spreads],
        aligned(spread.min for spread in spreads),
        aligned(spread.mean for spread in spreads),
        aligned(spread.sd for spread in spreads),
        aligned(spread.max for spread in spreads),
        aligned(group.clamp.margin for group in groups if group.clamp is not None),
    )
    for group, *cells in zip(groups, *columns, strict=True):
        table.add_row(str(group.channel), *cells)
    return table
