"""The terminal's view of ``stats --against``: both side by side, and what differs."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.styled import Styled
from rich.text import Text

from latentkit.cli.screen import aligned, dense_table, fits
from latentkit.cli.stats_channels import colored
from latentkit.health.comparison import Difference, state_of
from latentkit.text import count_of

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from latentkit.cli.screen import Screen
    from latentkit.health.examination import Result
    from latentkit.stats.summary import Group, Summary

# Name of a difference, and how its figure is read.
_COMPARED: dict[str, tuple[str, "Callable[[Group], float]"]] = {
    "mean": ("mean", lambda group: group.drawn.shift_factor),
    "sd": ("sd", lambda group: group.drawn.sd),
    "KL": ("kl_element", lambda group: math.nan if group.kl is None else group.kl.element),
}


def draw_comparison(
    screen: "Screen",
    groups: Sequence["Group"],
    which: str | None,
    result: "Result",
    name: str,
    found: Sequence[Difference],
    *,
    most: int,
    full: bool,
) -> None:
    """Their channels side by side, and the first ``most`` of what was ``found`` to differ from the other, ``name``."""
    assert result.against is not None
    other, readings = result.against.summary, result.against.readings
    if other.channels != result.summary.channels:
        groups, which = [], f"all of {result.summary.channels} channels, and all of {other.channels} there"
    title = f"Beside {count_of(other.samples, 'sample')} of {name}"
    has_kl = result.summary.overall.kl is not None and other.overall.kl is not None
    headings = [heading for heading in _COMPARED if has_kl or heading != "KL"]
    table = _comparison(headings, groups, result.summary, other, found)
    while len(headings) > 1 and not fits(screen.console, table):
        headings = headings[1:]
        table = _comparison(headings, groups, result.summary, other, found)
    captions = [which] if which else readings
    if found and not most:
        captions = [*filter(None, [which]), f"{count_of(len(found), 'difference')}: --full"]
    screen.put(title, table, captions)
    console, bullet = screen.console, "-" if screen.markdown else "•"
    for difference in found[:most]:
        console.print(Text(f"{bullet} {difference.sentence}"))
    if len(found) > most > 0:
        console.print(Text(f"{bullet} and {len(found) - most} more: {'-o FILE.json lists them' if full else '--full'}"))
    if found and most:
        console.print()


def _comparison(
    headings: Sequence[str],
    groups: Sequence["Group"],
    summary: "Summary",
    other: "Summary",
    found: Sequence[Difference],
) -> "Table":
    """Both side by side; what differs is bold."""
    pairs = [(group, other.per_channel[group.channel or 0]) for group in groups]
    pairs.append((summary.overall, other.overall))
    flagged = {(difference.figure, difference.channel) for difference in found}
    table = dense_table("ch", *(each for heading in headings for each in (heading, "there")), "state", left=("state",))
    columns: list[Sequence[RenderableType]] = []
    for name, read in (_COMPARED[heading] for heading in headings):
        styles = ["bold yellow" if (name, ours.channel) in flagged else "" for ours, _ in pairs]
        for side in zip(*pairs, strict=True):
            cells = aligned(map(read, side))
            columns.append([Styled(cell, style) for cell, style in zip(cells, styles, strict=True)])
    for (ours, theirs), *row in zip(pairs, *columns, strict=True):
        if ours.channel is None:
            table.add_section()
        states = dict.fromkeys((state_of(ours), state_of(theirs)))
        table.add_row(
            "all" if ours.channel is None else str(ours.channel), *row, Text(" → ").join(map(colored, states))
        )
    return table
