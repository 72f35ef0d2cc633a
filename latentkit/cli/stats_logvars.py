"""The terminal's view of log-variances: how many are at the clamp, and their histogram."""

from typing import TYPE_CHECKING

from rich.text import Text

from latentkit.cli.screen import dense_table
from latentkit.health.document import plain
from latentkit.health.wording import clamp_rows
from latentkit.text import number, percent

if TYPE_CHECKING:
    from rich.table import Table

    from latentkit.stats.summary import ClampCounts, Summary

_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"
# Columns beside the bars, for what is beyond them.
_BESIDE = 26


def clamp_table(summary: "Summary", clamp: "ClampCounts") -> "tuple[str, Table | None]":
    """Title and table of what is at the clamp or not finite; where nothing is, the title says so."""
    title = f"Clamp of the log-variance to [{clamp.low:g}, {clamp.high:g}]"
    rows = clamp_rows(plain(summary.overall))
    if not rows:
        return (
            f"Clamp to [{clamp.low:g}, {clamp.high:g}]: nothing at a bound, the nearest is {number(clamp.margin)} away",
            None,
        )
    table = dense_table("", "count", "share", left=("",))
    table.show_header = False
    for name, count in rows.items():
        table.add_row(name, f"{count:,}", percent(count / summary.overall.count))
    return title, table


def histogram(summary: "Summary", width: int) -> Text:
    """Counts of log-variances as columns, between walls where the clamp's bounds are; what is beyond stands outside."""
    logvar, edges, counts = summary.overall.logvar, summary.histogram_edges, summary.overall.histogram
    assert logvar is not None
    below, *inside, above = counts
    if len(inside) + _BESIDE > width:
        inside = [sum(pair) for pair in zip(inside[::2], inside[1::2], strict=True)]
    peak = max(inside, default=0) or 1
    left, right = (
        "┃" if edge == bound else " " for edge, bound in zip((edges[0], edges[-1]), summary.clamp, strict=True)
    )
    less, more = f"{below + logvar.minus_inf_count:,}", f"{above + logvar.plus_inf_count:,}"
    before = max(len("below"), len(less))
    lines = []
    for level in range(_HEIGHT, 0, -1):
        cells = "".join(_block(count * _HEIGHT / peak - (level - 1), count > 0 and level == 1) for count in inside)
        lines.append(f"{less if level == 1 else '':>{before}} {left}{cells}{right}")
    lines[-1] += f" {more}"
    lines.append(
        f"{'below':>{before}}  {number(edges[0]):<10}{'':{max(0, len(inside) - 20)}}{number(edges[-1]):>10}  above"
    )
    return Text("\n".join(lines))


def _block(fill: float, at_least_a_little: bool) -> str:
    eighths = min(8, max(0, round(fill * 8)))
    return _BLOCKS[max(eighths, 1 if at_least_a_little else 0)]
