"""The terminal's view of channels: a row each, as wide as there is room."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.text import Text

from latentkit.cli.screen import aligned, fitting_table
from latentkit.health.comparison import state_of
from latentkit.text import fixed

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from latentkit.stats.summary import Group

_STATES = {"collapsed": "bold red", "inactive": "yellow"}

# Headings in the order in which they are left out where there is no room.
_LEFT_OUT = (
    "aggregate", "l sd", "l 1 %", "l 99 %", "at low", "at high", "l mean", "below", "above", "sd", "drawn sd", "l 50 %",
    "mean", "share",
)  # fmt: skip


def channels_table(console: "Console", groups: Sequence["Group"], overall: "Group") -> "tuple[str, Table]":
    """A row per channel, and one for all: as many columns as the screen has room for, so that no number is cut."""
    has_scale = overall.logvar is not None
    columns = _channel_columns([*groups, overall], has_scale=has_scale)
    table = fitting_table(console, columns, _LEFT_OUT, left=("state",), has_total=True)
    return "Channels: means, log-variance l, KL per element [nats]" if has_scale else "Channels: latents", table


def _channel_columns(rows: Sequence["Group"], *, has_scale: bool) -> "dict[str, Sequence[RenderableType]]":
    columns: dict[str, Sequence[RenderableType]] = {
        "ch": ["all" if row.channel is None else str(row.channel) for row in rows],
        "mean": aligned(row.mean.mean for row in rows),
        "sd": aligned(row.mean.sd for row in rows),
    }
    if not has_scale:
        columns["min"] = aligned(row.mean.min for row in rows)
        columns["max"] = aligned(row.mean.max for row in rows)
        columns["1 / sd"] = aligned(row.drawn.scaling_factor for row in rows)
        columns["aggregate"] = aligned(row.aggregate_kl for row in rows)
        return columns
    spreads = [row.logvar for row in rows if row.logvar is not None]
    columns["l min"] = [fixed(spread.min, 2) for spread in spreads]
    for name, place in (("l 1 %", 0), ("l 50 %", 3), ("l 99 %", -1)):
        columns[name] = [fixed(spread.quantiles[place], 2) for spread in spreads]
    columns["l max"] = [fixed(spread.max, 2) for spread in spreads]
    columns["l mean"] = [fixed(spread.mean, 2) for spread in spreads]
    columns["l sd"] = aligned(spread.sd for spread in spreads)
    columns["drawn sd"] = aligned(row.drawn.sd for row in rows)
    clamps = [row.clamp for row in rows if row.clamp is not None]
    counts = {
        "below": [clamp.below for clamp in clamps],
        "at low": [clamp.at_low for clamp in clamps],
        "at high": [clamp.at_high for clamp in clamps],
        "above": [clamp.above for clamp in clamps],
        "NaN": [spread.nan_count for spread in spreads],
    }
    columns |= {name: [f"{count:,}" for count in column] for name, column in counts.items() if any(column)}
    columns["KL"] = aligned(math.nan if row.kl is None else row.kl.element for row in rows)
    columns["aggregate"] = aligned(row.aggregate_kl for row in rows)
    columns["share"] = [_share(row) for row in rows]
    columns["state"] = [colored(state_of(row)) for row in rows]
    return columns


def colored(state: str) -> Text:
    """A channel's state, in a colour where it is no good one."""
    return Text(state, _STATES.get(state, ""))


def _share(group: "Group") -> str:
    return "–" if group.kl is None or math.isnan(group.kl.share) else f"{group.kl.share:.1%}"
