"""The terminal's view of ``stats``: details first, and last what stays on screen: scale to paste, and the findings."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.styled import Styled
from rich.table import Table
from rich.text import Text

from latentkit.cli.screen import aligned, dense_table, remark, stdout_console
from latentkit.cli.stats_extras import extra_tables
from latentkit.cli.stats_logvars import logvar_tables
from latentkit.health.comparison import differences, state_of
from latentkit.health.document import plain
from latentkit.health.findings import Severity, verdict
from latentkit.health.normalization import for_all, for_each
from latentkit.health.outliers import kl_over
from latentkit.health.wording import left_out
from latentkit.text import count_of, fixed, harmless, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from latentkit.health.examination import Result
    from latentkit.stats.summary import Group, Summary

# Beyond, a table shows the channels with least and most KL, unless --channels says which.
_MANY = 40
_EITHER_END = 8

_STYLES = {Severity.serious: "bold red", Severity.warning: "yellow", Severity.note: "dim"}


def draw(result: "Result", channels: Sequence[int] | None) -> None:
    """Draw everything on stdout; ``channels``: those asked for."""
    console, summary = stdout_console(), result.summary
    overall = summary.overall
    title = (
        f"{count_of(summary.samples, 'sample')}, {count_of(overall.count, 'latent element')}, "
        f"{count_of(summary.channels, 'channel')}"
    )
    groups, which = _shown(summary, channels)
    _put(console, title, _overview(result), "\n".join(result.state.readings))
    for part in logvar_tables(summary, groups):
        _put(console, *part)
    _put(console, *_channels(console, groups, overall), which)
    if overall.logvar is not None:
        _put(console, "What the usual formulas would lose in 16 bits: elements, and samples by KL", _hazards(result))
    for part in extra_tables(summary.extras, [group.channel or 0 for group in groups]):
        _put(console, *part)
    if sentences := left_out(plain(summary.extras)):
        console.print(remark(sentences))
        console.print()
    if summary.samples > 1:
        _draw_normalization(console, result)
    if result.against is not None:
        other, readings = result.against
        title = f"Beside {count_of(other.samples, 'sample')} there"
        _put(console, title, _comparison(groups, summary, other), which or "\n".join(readings))
        _draw_differences(console, summary, other)
    _draw_findings(console, result)


def _put(console: "Console", title: str, body: "RenderableType | None", caption: str | None = None) -> None:
    """A table between its title and caption, which are as wide as the screen and not as the table."""
    console.print(Text(title, style="bold"))
    if body is not None:
        console.print(body)
    if caption is not None:
        console.print(remark(caption.splitlines()))
    console.print()


def _overview(result: "Result") -> Table:
    summary, overall = result.summary, result.summary.overall
    table = dense_table("", "finite", "min", "mean", "sd", "median", "max", left=("",))
    median = summary.quantile_levels.index(0.5)
    first = "mean" if overall.logvar is not None else "latents"
    for name, spread in ((first, overall.mean), ("log-variance l, raw", overall.logvar)):
        if spread is not None:
            figures = (spread.min, spread.mean, spread.sd, spread.quantiles[median], spread.max)
            table.add_row(name, f"{spread.finite:,}", *(number(figure) for figure in figures))
    if overall.kl is not None:
        table.add_row("KL a sample [nats]", *_of_samples(result, number(overall.kl.sample)))
        table.add_row("KL an element [nats]", "", "", number(overall.kl.element))
    else:
        table.add_row("mean square a sample", *_of_samples(result, ""))
    table.add_row("aggregate's KL [nats]", "", "", number(overall.aggregate_kl))
    return table


def _of_samples(result: "Result", mean: str) -> tuple[str, ...]:
    """The columns of the overview for the values of samples."""
    values = result.state.per_sample
    if not values.count:
        return "", "", mean
    least, greatest = values.lowest[0][0], values.highest[0][0]
    # Where values are counted in cells, what is rounded down may be less than the least.
    median = max(values.quantile(0.5), least)
    return f"{values.count:,}", number(least), mean, "", number(median), number(greatest)


def _shown(summary: "Summary", channels: Sequence[int] | None) -> tuple[list["Group"], str | None]:
    """The channels to show, and a word on those that are not."""
    groups = summary.per_channel
    if channels is not None:
        return [groups[channel] for channel in channels], None
    if len(groups) <= _MANY:
        return groups, None
    ranked = sorted(groups, key=lambda group: group.drawn.sd if group.kl is None else group.kl.element)
    chosen = {group.channel for group in ranked[:_EITHER_END] + ranked[-_EITHER_END:]}
    what = "standard deviation" if groups[0].kl is None else "KL"
    return [group for group in groups if group.channel in chosen], (
        f"{len(chosen)} of {len(groups)} channels, those with least and most {what}; "
        f"--channels 0-{len(groups) - 1} shows all, -o FILE.csv writes them"
    )


def _channels(console: "Console", groups: Sequence["Group"], overall: "Group") -> tuple[str, Table]:
    """A row a channel, and one for all: the widest form that the screen has room for, so that no number is cut."""
    has_scale = overall.logvar is not None
    extremes, aggregate, share = {"l min", "l max"}, {"aggregate"}, {"share"}
    narrow = extremes | aggregate
    for padding, dropped in ((1, set()), (1, extremes), (1, narrow), (0, narrow), (0, narrow | share)):
        columns = _channel_columns([*groups, overall], has_scale=has_scale)
        kept = [heading for heading in columns if heading not in dropped]
        table = dense_table(*kept, left=("state",), padding=padding)
        for number_of, cells in enumerate(zip(*(columns[heading] for heading in kept), strict=True)):
            if number_of == len(groups):
                table.add_section()
            table.add_row(*cells)
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    return (
        "Channels: means, log-variance l, latents drawn, KL an element in nats" if has_scale else "Channels: latents",
        table,
    )


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
    columns["drawn sd"] = aligned(row.drawn.sd for row in rows)
    columns["KL"] = aligned(math.nan if row.kl is None else row.kl.element for row in rows)
    columns["aggregate"] = aligned(row.aggregate_kl for row in rows)
    columns["share"] = [_share(row) for row in rows]
    columns["state"] = [state_of(row) for row in rows]
    return columns


def _share(group: "Group") -> str:
    return "–" if group.kl is None or math.isnan(group.kl.share) else f"{group.kl.share:.1%}"


def _hazards(result: "Result") -> Table:
    infinite_kl = kl_over(result.state.per_sample)
    table = dense_table(
        "dtype", "σ² infinite", "σ² zero", "σ infinite", "σ zero", "m² infinite", "KL infinite", left=("dtype",)
    )
    for row in result.summary.overall.hazards:
        counts = row.var_over, row.var_under, row.std_over, row.std_under, row.square_over, infinite_kl[row.dtype]
        table.add_row(row.dtype, *(f"{count:,}" for count in counts))
    return table


def _draw_normalization(console: "Console", result: "Result") -> None:
    """Bare lines, so that they copy cleanly."""
    factors = result.factors
    title = f"Normalization to a standard deviation of {factors.target_std:g}: config JSON and Python dict"
    console.print(Text(title, style="bold"))
    for title, block in (("one factor for all", for_all(factors)), ("or a mean and sd a channel", for_each(factors))):
        console.print(Text(f"# {title}", style="dim"))
        console.print(Text(block), soft_wrap=True)
    console.print()


#: Name of a difference, and how its figure is read.
_COMPARED: dict[str, tuple[str, "Callable[[Group], float]"]] = {
    "mean": ("mean", lambda group: group.drawn.shift_factor),
    "sd": ("sd", lambda group: group.drawn.sd),
    "KL": ("kl_element", lambda group: math.nan if group.kl is None else group.kl.element),
}


def _comparison(groups: Sequence["Group"], summary: "Summary", other: "Summary") -> Table:
    """Both side by side; what differs is bold."""
    pairs = [(group, other.per_channel[group.channel or 0]) for group in groups]
    pairs.append((summary.overall, other.overall))
    flagged = {(difference.figure, difference.channel) for difference in differences(summary, other)}
    has_kl = summary.overall.kl is not None and other.overall.kl is not None
    headings = [heading for heading in _COMPARED if has_kl or heading != "KL"]
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
        table.add_row("all" if ours.channel is None else str(ours.channel), *row, " → ".join(states))
    return table


def _draw_differences(console: "Console", summary: "Summary", other: "Summary") -> None:
    found = differences(summary, other)
    console.print(Text(f"{count_of(len(found), 'difference')} of more than a tenth", style="bold"))
    for difference in found[:_MANY]:
        console.print(Text(f"• {difference.sentence}"))
    if len(found) > _MANY:
        console.print(Text(f"• and {len(found) - _MANY} more: -o FILE.json lists them"))
    console.print()


def _draw_findings(console: "Console", result: "Result") -> None:
    console.print(Text(verdict(result.findings).capitalize(), style="bold" if result.findings else "bold green"))
    for finding in result.findings:
        text = Text.assemble(
            (f"{finding.severity}: ", _STYLES[finding.severity]),
            harmless(finding.sentence),
            (f" [{finding.source}]", "dim"),
        )
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row("•", text)
        console.print(grid)
