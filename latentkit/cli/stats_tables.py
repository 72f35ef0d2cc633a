"""The terminal's view of ``stats``: details first, and last what stays on screen: scale to paste, and the findings."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from latentkit.cli.screen import aligned, count_of, harmless, number, remark, stdout_console
from latentkit.cli.stats_extras import extra_tables, left_out
from latentkit.comparison import differences, state_of
from latentkit.findings import Severity, largest_kl, verdict
from latentkit.normalization import for_all, for_each

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from latentkit.cli.stats import Result
    from latentkit.statistics import Group, Summary

_HEIGHT = 6
_BLOCKS = " ▁▂▃▄▅▆▇█"
# Beyond, a table shows the channels with least and most KL, unless --channels says which.
_MANY = 40
_EITHER_END = 8

_STYLES = {Severity.serious: "bold red", Severity.warning: "yellow", Severity.note: "dim"}


def draw(result: "Result") -> None:
    """Draw everything on stdout."""
    console, summary = stdout_console(), result.summary
    overall = summary.overall
    title = (
        f"{count_of(summary.samples, 'sample')}, {count_of(overall.count, 'latent element')}, "
        f"{count_of(summary.channels, 'channel')}"
    )
    _put(console, title, _overview(summary), "\n".join(result.readings))
    groups, which = _shown(result)
    if overall.clamp is not None:
        nearest = f"Distance of the nearest finite log-variance to a bound: {number(overall.clamp.margin)}"
        _put(console, f"Clamp of the log-variance to [{overall.clamp.low:g}, {overall.clamp.high:g}]", _clamp(summary))
        console.print(Text("Histogram of the log-variance, the clamp's bounds as walls", style="bold"))
        console.print(_histogram(summary), Text(nearest + "\n", style="dim"), sep="")
        clamped = [group for group in groups if _touches_clamp(group)]
        if clamped:
            _put(console, "Log-variances at the clamp and NaN, by channel", _clamp_by_channel(clamped))
        _put(console, "Log-variances by channel, raw", _logvars(groups))
    _put(console, *_channels(console, groups, overall), which)
    if overall.logvar is not None:
        _put(console, "What the usual formulas would lose in 16 bits: elements, and samples by KL", _hazards(result))
    _draw_extras(console, result, groups)
    _draw_normalization(console, result)
    if result.against is not None:
        _draw_comparison(console, result, *result.against)
    _draw_findings(console, result)


def _put(console: "Console", title: str, table: Table, caption: str | None = None) -> None:
    """A table between its title and caption, which are as wide as the screen and not as the table."""
    console.print(Text(title, style="bold"))
    console.print(table)
    if caption is not None:
        console.print(remark(caption.splitlines()))
    console.print()


def _table(padding: int = 1) -> Table:
    return Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, padding), show_edge=False)


def _overview(summary: "Summary") -> Table:
    overall = summary.overall
    table = _table()
    table.add_column("")
    for heading in ("finite", "min", "mean", "sd", "median", "max"):
        table.add_column(heading, justify="right")
    median = summary.quantile_levels.index(0.5)
    first = "mean" if overall.logvar is not None else "latents"
    for name, spread in ((first, overall.mean), ("log-variance l, raw", overall.logvar)):
        if spread is not None:
            figures = (spread.min, spread.mean, spread.sd, spread.quantiles[median], spread.max)
            table.add_row(name, f"{spread.finite:,}", *(number(figure) for figure in figures))
    if overall.kl is not None:
        table.add_row("KL a sample [nats]", "", "", number(overall.kl.sample))
        table.add_row("KL an element [nats]", "", "", number(overall.kl.element))
    table.add_row("aggregate's KL [nats]", "", "", number(overall.aggregate_kl))
    return table


def _clamp(summary: "Summary") -> Table:
    """Counts at the clamp; rows of zeros are left out."""
    overall = summary.overall
    assert overall.clamp is not None and overall.logvar is not None
    clamp, logvar, mean = overall.clamp, overall.logvar, overall.mean
    rows = (
        (f"below {clamp.low:g}, clamped", clamp.below),
        (f"exactly at {clamp.low:g}", clamp.at_low),
        (f"exactly at {clamp.high:g}", clamp.at_high),
        (f"above {clamp.high:g}, clamped", clamp.above),
        ("-inf (among those below)", logvar.minus_inf_count),
        ("+inf (among those above)", logvar.plus_inf_count),
        ("NaN", logvar.nan_count),
        ("mean is NaN", mean.nan_count),
        ("mean is infinite", mean.minus_inf_count + mean.plus_inf_count),
    )
    table = _table()
    table.add_column("log-variance")
    table.add_column("count", justify="right")
    table.add_column("fraction", justify="right")
    for name, count in rows:
        if count:
            table.add_row(name, f"{count:,}", number(count / overall.count))
    if not any(count for _, count in rows):
        table.add_row("at or beyond a bound, NaN, infinite", "0", "0")
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
    return Text("\n".join(lines) + "\n")


def _block(fill: float, at_least_a_little: bool) -> str:
    eighths = min(8, max(0, round(fill * 8)))
    return _BLOCKS[max(eighths, 1 if at_least_a_little else 0)]


def _shown(result: "Result") -> tuple[list["Group"], str | None]:
    """The channels to show, and a word on those that are not."""
    groups = result.summary.per_channel
    if result.channels is not None:
        return [groups[channel] for channel in result.channels], None
    if len(groups) <= _MANY:
        return groups, None
    ranked = sorted(groups, key=lambda group: group.drawn.sd if group.kl is None else group.kl.element)
    chosen = {group.channel for group in ranked[:_EITHER_END] + ranked[-_EITHER_END:]}
    what = "standard deviation" if groups[0].kl is None else "KL"
    return [group for group in groups if group.channel in chosen], (
        f"{len(chosen)} of {len(groups)} channels, those with least and most {what}; "
        f"--channels 0-{len(groups) - 1} shows all, -o FILE.csv writes them"
    )


def _touches_clamp(group: "Group") -> bool:
    clamp, logvar = group.clamp, group.logvar
    if clamp is None or logvar is None:
        return False
    return clamp.below + clamp.at_low + clamp.at_high + clamp.above + logvar.nan_count > 0


def _clamp_by_channel(groups: Sequence["Group"]) -> Table:
    table = _table()
    for heading in ("ch", "below", "at low", "at high", "above", "-inf", "+inf", "NaN"):
        table.add_column(heading, justify="right")
    for group in groups:
        clamp, logvar = group.clamp, group.logvar
        assert clamp is not None and logvar is not None
        counts = [clamp.below, clamp.at_low, clamp.at_high, clamp.above]
        counts += [logvar.minus_inf_count, logvar.plus_inf_count, logvar.nan_count]
        table.add_row(str(group.channel), *(f"{count:,}" for count in counts))
    return table


def _logvars(groups: Sequence["Group"]) -> Table:
    """The raw log-variances of each channel: extremes, mean and standard deviation."""
    table = _table()
    for heading in ("ch", "finite", "min", "mean", "sd", "max", "distance to a bound"):
        table.add_column(heading, justify="right")
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


def _channels(console: "Console", groups: Sequence["Group"], overall: "Group") -> tuple[str, Table]:
    """A row a channel, and one for all: the widest form that the screen has room for, so that no number is cut."""
    has_scale = overall.logvar is not None
    extremes, aggregate, share = {"l min", "l max"}, {"aggregate"}, {"share"}
    narrow = extremes | aggregate
    for padding, dropped in ((1, set()), (1, extremes), (1, narrow), (0, narrow), (0, narrow | share)):
        columns = _channel_columns([*groups, overall], has_scale=has_scale)
        table = _table(padding)
        kept = [heading for heading in columns if heading not in dropped]
        for heading in kept:
            table.add_column(heading, justify="left" if heading == "state" else "right", no_wrap=True)
        for number_of, cells in enumerate(zip(*(columns[heading] for heading in kept), strict=True)):
            if number_of == len(groups):
                table.add_section()
            table.add_row(*cells)
        if console.measure(table, options=console.options.update(width=1000)).maximum <= console.width:
            break
    return "Channels: means, log-variance l, latents drawn, KL an element" if has_scale else "Channels: latents", table


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
    columns["l min"] = [_short(spread.min) for spread in spreads]
    for name, place in (("l 1 %", 0), ("l 50 %", 3), ("l 99 %", -1)):
        columns[name] = [_short(spread.quantiles[place]) for spread in spreads]
    columns["l max"] = [_short(spread.max) for spread in spreads]
    columns["drawn sd"] = aligned(row.drawn.sd for row in rows)
    columns["KL"] = aligned(math.nan if row.kl is None else row.kl.element for row in rows)
    columns["aggregate"] = aligned(row.aggregate_kl for row in rows)
    columns["share"] = [_share(row) for row in rows]
    columns["state"] = [state_of(row) for row in rows]
    return columns


def _short(logvar: float) -> str:
    # Without the sign of a zero.
    return "–" if math.isnan(logvar) else f"{round(logvar, 2) + 0.0:.2f}"


def _share(group: "Group") -> str:
    return "–" if group.kl is None or math.isnan(group.kl.share) else f"{group.kl.share:.1%}"


def _hazards(result: "Result") -> Table:
    overall, sample_kl = result.summary.overall, result.sample_kl
    table = _table()
    table.add_column("dtype")
    columns: dict[str, Callable[[int], str]] = {}
    hazards = overall.hazards
    if overall.logvar is not None:
        columns["σ² infinite"] = lambda row: f"{hazards[row].var_over:,}"
        columns["σ² zero"] = lambda row: f"{hazards[row].var_under:,}"
        columns["σ infinite"] = lambda row: f"{hazards[row].std_over:,}"
        columns["σ zero"] = lambda row: f"{hazards[row].std_under:,}"
    columns["m² infinite"] = lambda row: f"{hazards[row].square_over:,}"
    if sample_kl is not None:
        columns["KL infinite"] = lambda row: f"{sample_kl.at_least(largest_kl(hazards[row].dtype)):,}"
    for heading in columns:
        table.add_column(heading, justify="right")
    for row, hazard in enumerate(hazards):
        table.add_row(hazard.dtype, *(cell(row) for cell in columns.values()))
    return table


def _draw_extras(console: "Console", result: "Result", groups: Sequence["Group"]) -> None:
    extras = result.summary.extras
    for title, table, caption in extra_tables(extras, [group.channel or 0 for group in groups]):
        _put(console, title, table, caption)
    if sentences := left_out(extras):
        console.print(remark(sentences))
        console.print()


def _draw_normalization(console: "Console", result: "Result") -> None:
    """Bare lines, so that they copy cleanly."""
    factors = result.factors
    if result.summary.samples < 2:
        return
    title = f"Normalization to a standard deviation of {factors.target_std:g}: config JSON and Python dict"
    console.print(Text(title, style="bold"))
    for title, block in (("one factor for all", for_all(factors)), ("or a mean and sd a channel", for_each(factors))):
        console.print(Text(f"# {title}", style="dim"))
        console.print(Text(block), soft_wrap=True)
    console.print()


def _draw_comparison(console: "Console", result: "Result", other: "Summary", readings: Sequence[str]) -> None:
    """Both side by side; what differs is told below, and bold."""
    groups, which = _shown(result)
    pairs = [(group, other.per_channel[group.channel or 0]) for group in groups]
    pairs.append((result.summary.overall, other.overall))
    found = differences(result.summary, other)
    flagged = {(difference.figure, difference.channel) for difference in found}
    table = _table()
    table.add_column("ch", justify="right")
    figures: list[tuple[str, str, Callable[[Group], float]]] = [
        ("mean", "mean", lambda group: group.drawn.shift_factor),
        ("sd", "sd", lambda group: group.drawn.sd),
    ]
    if all(overall.kl is not None for overall in pairs[-1]):
        figures.append(("KL", "kl_element", lambda group: group.kl.element if group.kl else math.nan))
    for heading, *_ in figures:
        table.add_column(heading, justify="right", no_wrap=True)
        table.add_column("there", justify="right", no_wrap=True)
    table.add_column("state")
    for pair in pairs:
        ours = pair[0]
        cells = []
        for _, name, read in figures:
            style = "bold yellow" if (name, ours.channel) in flagged else ""
            cells += [Text(number(read(group)), style=style) for group in pair]
        states = list(dict.fromkeys(state_of(group) for group in pair))
        if ours is result.summary.overall:
            table.add_section()
        table.add_row("all" if ours.channel is None else str(ours.channel), *cells, " → ".join(states))
    _put(console, f"Beside {count_of(other.samples, 'sample')} there", table, which or "\n".join(readings))
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
