"""The terminal's view of ``stats``: findings, then what fits one screen; ``--full`` shows the rest."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from latentkit.cli.screen import dense_table, fits, fitting_table, remark, stdout_screen
from latentkit.cli.stats_channels import channels_table
from latentkit.cli.stats_comparison import draw_comparison
from latentkit.cli.stats_extras import extra_lines, extra_tables
from latentkit.cli.stats_labels import labels_table
from latentkit.cli.stats_logvars import clamp_table, histogram
from latentkit.health.comparison import Difference, differences, in_words
from latentkit.health.document import plain
from latentkit.health.findings import Severity, verdict
from latentkit.health.normalization import for_all, for_each
from latentkit.health.outliers import kl_over
from latentkit.health.wording import left_out
from latentkit.text import count_of, harmless, number

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from latentkit.cli.screen import Screen
    from latentkit.health.examination import Result
    from latentkit.stats.summary import Group, Summary

# Lines of a screen, without the next prompt, and of them those of titles and blanks.
_LINES, _BETWEEN = 39, 9
# Beyond, a table shows the channels with least and most KL, unless --channels says which.
_MANY, _EITHER_END = 40, 8
# Lines that a comparison takes, and a row per label at the least.
_BESIDE, _LABELS = 15, 8
# Fewer channels than this at either end, and fewer differences, are not worth a table.
_FEWEST = 2
#: Lines of normalization for more channels are for a file.
_PASTED = 32

_STYLES = {Severity.serious: "bold red", Severity.warning: "yellow", Severity.note: "dim"}


def draw(
    result: "Result",
    channels: Sequence[int] | None,
    *,
    against: str | None = None,
    full: bool = False,
    markdown: bool = False,
) -> None:
    """Draw on stdout what fits a screen, or all; ``channels``: those asked for; ``against``: the other's name."""
    screen, summary, whole = stdout_screen(markdown=markdown), result.summary, full or markdown
    console = screen.console
    other = result.against.summary if result.against else None
    found = differences(summary, other) if other else []
    asked, left = [] if whole else list(extra_lines(summary.extras, other)), left_out(plain(summary.extras))
    rest = _LINES - _height(console, _overview(console, result)) - _height(console, _clamp_of(summary)) - _BETWEEN
    rest -= _height(console, _named(asked)) + bool(left) * _height(console, remark(left)) + 2 if asked else 0
    beside = _BESIDE if other else _LABELS if result.groups is not None else 0
    shown = _draw_findings(screen, result, found, against, None if whole else rest - beside)
    _draw_summary(screen, result)
    room = _MANY if whole else rest - shown - 6
    groups, which = _shown(summary, channels, room)
    if groups and (full or (other is None and result.groups is None)):
        screen.put(*channels_table(console, groups, summary.overall), [which] if which else [])
    if result.groups is not None and result.groups.labels:
        labels = labels_table(console, result.groups, len(result.groups.labels) if whole else room)
        screen.put(*labels[:2], [labels[2]] if labels[2] else [])
    if full:
        _draw_rest(screen, result)
    if asked:
        screen.put("More figures; --full shows all of them", _named(asked), left)
    else:
        groups = groups or _shown(summary, channels, 2 * _EITHER_END)[0]
        for table in extra_tables(console, summary.extras, [group.channel or 0 for group in groups], other):
            screen.put(*table[:2], [table[2]] if table[2] else [])
        if left:
            console.print(remark(left), "", sep="\n")
    if other is not None and against is not None:
        most = _MANY if whole else 0 if asked else 2 * _FEWEST
        groups, which = _shown(summary, channels, most)
        draw_comparison(screen, groups, which, result, against, found, most=most, full=full)
    if full:
        _draw_normalization(screen, result)
    else:
        _draw_scale(console, result)


def _named(lines: Sequence[tuple[str, str]]) -> Table:
    grid = Table.grid(padding=(0, 2, 0, 0))
    for name, words in lines:
        grid.add_row(name, words)
    return grid


def _clamp_of(summary: "Summary") -> "RenderableType":
    clamp = summary.overall.clamp
    return (clamp_table(summary, clamp)[1] if clamp else None) or ""


def _height(console: "Console", body: "RenderableType") -> int:
    return len(console.render_lines(body, pad=False))


def _draw_findings(
    screen: "Screen", result: "Result", found: Sequence[Difference], against: str | None, room: int | None
) -> int:
    """The verdict and the findings, without their sources where ``room`` is so many lines; returns the lines taken."""
    console, markdown = screen.console, screen.markdown
    words = verdict(result.findings, "" if against is None else in_words(found, harmless(against)))
    words = words[:1].upper() + words[1:]
    style = "bold" if result.findings or found else "bold green"
    console.print(Text(words + "\n" * markdown, style=style))
    used = 1
    for number_of, finding in enumerate(result.findings):
        source = (f" [{finding.source}]", "dim") if room is None else ""
        text = Text.assemble((f"{finding.severity}: ", _STYLES[finding.severity]), harmless(finding.sentence), source)
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row("-" if markdown else "•", text)
        height = _height(console, grid)
        if room is not None and number_of and used + height > room:
            console.print(remark([f"  and {len(result.findings) - number_of} more: --full"]))
            used += 1
            break
        console.print(grid)
        used += height
    console.print()
    return used + 1


def _draw_summary(screen: "Screen", result: "Result") -> None:
    """How much there is, the overview, and the counts at the clamp."""
    summary, overall = result.summary, result.summary.overall
    sizes = (
        f"{count_of(summary.samples, 'sample')}, {count_of(overall.count, 'latent element')}, "
        f"{count_of(summary.channels, 'channel')}"
    )
    readings = result.state.readings
    screen.put(
        sizes,
        _overview(screen.console, result),
        [*readings[:1], *([f"and {len(readings) - 1} more"] * (len(readings) > 1))],
    )
    if overall.clamp is not None:
        screen.put(*clamp_table(summary, overall.clamp))


def _overview(console: "Console", result: "Result") -> Table:
    """With a digit less where it would not fit, and then with fewer columns."""
    left = ("KL in nats",)
    table = fitting_table(console, _overview_columns(result, 4), (), left)
    if fits(console, table):
        return table
    return fitting_table(console, _overview_columns(result, 3), ("sd", "min", "median"), left)


def _overview_columns(result: "Result", digits: int) -> dict[str, "Sequence[RenderableType]"]:
    summary, overall = result.summary, result.summary.overall
    median = summary.quantile_levels.index(0.5)
    rows: list[tuple[str, Sequence[float]]] = []
    first = "mean" if overall.logvar is not None else "latents"
    for name, spread in ((first, overall.mean), ("log-variance", overall.logvar)):
        if spread is not None:
            rows.append((name, (spread.min, spread.mean, spread.sd, spread.quantiles[median], spread.max)))
    what, values = "mean square" if overall.kl is None else "KL", result.state.per_sample
    if values.count:
        least, most = values.lowest[0][0], values.highest[0][0]
        # Where values are counted in cells, what is rounded down may be less than the least.
        rows.append((f"{what} per sample", (least, values.mean, math.nan, max(values.quantile(0.5), least), most)))
    if overall.kl is not None:
        rows.append(("KL per element", (math.nan, overall.kl.element, math.nan, math.nan, math.nan)))
    rows.append(("aggregate's KL", (math.nan, overall.aggregate_kl, math.nan, math.nan, math.nan)))
    columns: dict[str, Sequence[RenderableType]] = {"KL in nats": [name for name, _ in rows]}
    for place, name in enumerate(("min", "mean", "sd", "median", "max")):
        figures = [row[place] for _, row in rows]
        columns[name] = ["" if figure != figure else number(figure, digits) for figure in figures]
    return columns


def _shown(summary: "Summary", channels: Sequence[int] | None, room: int) -> tuple[list["Group"], str | None]:
    """The channels to show, and a word on those that are not."""
    groups = summary.per_channel
    if channels is not None:
        return [groups[channel] for channel in channels], None
    if len(groups) <= room + 2:  # instead of a word on the others
        return groups, None
    either_end = min(room // 2, _EITHER_END)
    if either_end < _FEWEST:
        return [], None
    ranked = sorted(groups, key=lambda group: group.drawn.sd if group.kl is None else group.kl.element)
    chosen = {group.channel for group in ranked[:either_end] + ranked[-either_end:]}
    what = "standard deviation" if groups[0].kl is None else "KL"
    return [group for group in groups if group.channel in chosen], (
        f"{len(chosen)} of {len(groups)} channels, those with least and most {what}; "
        f"--channels 0-{len(groups) - 1} shows all"
    )


def _draw_rest(screen: "Screen", result: "Result") -> None:
    summary = result.summary
    if summary.overall.logvar is not None:
        title = "Histogram of the log-variance; a wall is a bound of the clamp"
        screen.put(title, histogram(summary, screen.console.width), result.state.readings[1:])
        if (hazards := _hazards(result)) is not None:
            screen.put("What the usual formulas would lose in 16 bits: elements, and samples by KL", hazards)


def _hazards(result: "Result") -> Table | None:
    """A row for each dtype and loss that occurs."""
    infinite_kl = kl_over(result.state.per_sample)
    table = dense_table("dtype", "what", "count", left=("dtype", "what"))
    for row in result.summary.overall.hazards:
        counts = {
            "σ² infinite": row.var_over,
            "σ² zero": row.var_under,
            "σ infinite": row.std_over,
            "σ zero": row.std_under,
            "m² infinite": row.square_over,
            "KL infinite (samples)": infinite_kl[row.dtype],
        }
        for what, count in counts.items():
            if count:
                table.add_row(row.dtype, what, f"{count:,}")
    return table if table.row_count else None


def _draw_scale(console: "Console", result: "Result") -> None:
    """The factors on one line, and where there is more."""
    factors = result.factors
    if result.summary.samples > 1:
        scale, shift = number(factors.scaling_factor, 6), number(factors.shift_factor, 6)
        console.print(Text.assemble(("Scale  ", "bold"), f"scaling_factor {scale}, shift_factor {shift}"))
    console.print(remark(["--full shows the rest; -o FILE.json or .csv writes it"]))


def _draw_normalization(screen: "Screen", result: "Result") -> None:
    """Bare lines, so that they copy cleanly."""
    factors, console = result.factors, screen.console
    if result.summary.samples < 2:
        return
    title = f"Normalization to a standard deviation of {factors.target_std:g}: config JSON and Python dict"
    console.print(Text(title, style="bold"))
    forms = {"one factor for all": for_all(factors)}
    if len(factors.latents_mean) <= _PASTED:
        forms["or a mean and sd per channel"] = for_each(factors)
    if screen.markdown:
        console.print("```python")
    for heading, block in forms.items():
        console.print(Text(f"# {heading}", style="dim"))
        console.print(Text(block), soft_wrap=True)
    if screen.markdown:
        console.print("```")
    if len(forms) == 1:
        console.print(remark([f"of {len(factors.latents_mean)} channels each: --save-normalization FILE.json"]))
