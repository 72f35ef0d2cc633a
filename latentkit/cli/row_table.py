"""The terminal's view of ``kl`` and ``nll``: a summary, a histogram and the largest values, not a million rows."""

from typing import TYPE_CHECKING

from latentkit.cli.options import RowFormat
from latentkit.cli.row_columns import elements_of, ranked_columns
from latentkit.cli.screen import aligned, dense_table, stdout_screen
from latentkit.text import count_of, harmless

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rich.console import RenderableType
    from rich.table import Table as RichTable

    from latentkit.cli.nonfinite import Nonfinite
    from latentkit.cli.row_columns import Measured, Table
    from latentkit.cli.rows import RowOptions
    from latentkit.measures.ranking import Ranked, Spread

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_BINS = 12
_SHOWN = 5


def draw_rows(
    measured: "Measured", table: "Table", options: "RowOptions", format: RowFormat, keeper: "Nonfinite"
) -> None:
    """Draw the summary of all values on stdout; with ``--top`` the K largest alone."""
    from latentkit.measures.ranking import Spread, Top

    top = Top(options.top or _SHOWN)
    whole, element = Spread(), Spread()
    for span, values in measured:
        top.add(values, span)
        if options.top is None:
            whole.add(values.ravel())
            element.add(values.ravel() / elements_of(span.posterior, table.axis))
    screen = stdout_screen(markdown=format is RowFormat.markdown)
    largest = _largest(list(top.ranked()), table, options)
    unit = options.units.value
    if options.top is not None:
        screen.put(f"Largest {table.measure.upper()} [{unit}]", largest, table.found.readings)
        return
    per_element = element if unit != "bits-per-dim" else None
    title = f"{table.measure.upper()} of {whole.count:,} finite values [{unit}]"
    screen.put(title, _summary(whole, per_element, table, keeper), table.found.readings)
    if whole.count > 1 and whole.min < whole.max:
        screen.put("Histogram", _histogram(whole, max(8, min(60, screen.console.width - 50))))
    screen.put(f"Largest {table.measure.upper()} [{unit}]", largest)


def _summary(whole: "Spread", element: "Spread | None", table: "Table", keeper: "Nonfinite") -> "RichTable":
    spreads = {f"per {table.axis or 'sample'}": whole} | ({"per element": element} if element else {})
    grid = dense_table("", *spreads, left=("",), padding=2)
    names = ["mean", "sd", "min", *(f"{100 * fraction:g} %" for fraction in _QUANTILES), "max"]
    figures = [
        [spread.mean, spread.sd(), spread.quantiles([0])[0], *spread.quantiles(_QUANTILES), spread.quantiles([1])[0]]
        for spread in spreads.values()
    ]
    for name, *cells in zip(names, *(aligned(column) for column in figures), strict=True):
        grid.add_row(name, *cells)
    if keeper.count:
        grid.add_row("not finite", count_of(keeper.count, "sample"), *([""] * (len(spreads) - 1)))
    return grid


def _histogram(spread: "Spread", room: int) -> "RichTable":
    counts, edges = spread.histogram(_BINS)
    grid = dense_table("from", "to", "count", "", left=("",), padding=2)
    marks = aligned(edges.tolist())
    for count, low, high in zip(counts.tolist(), marks[:-1], marks[1:], strict=True):
        grid.add_row(low, high, f"{count:,}", bar(count / counts.max(), room))
    return grid


def bar(fraction: float, width: int) -> str:
    """A bar of eighths of a cell; anything above nothing shows at least one eighth."""
    eighths = max(round(fraction * width * 8), 1 if fraction > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _largest(ranked: "list[Ranked]", table: "Table", options: "RowOptions") -> "RichTable":
    columns = ranked_columns(ranked, table, options.columns)
    grid = dense_table(*columns, left=("file", "tensor"))
    for row in zip(*(_cells(values) for values in columns.values()), strict=True):
        grid.add_row(*row)
    return grid


def _cells(values: "Sequence[Any]") -> "Sequence[RenderableType]":
    if all(isinstance(value, float) for value in values):
        return aligned(values)
    return [harmless(str(value)) for value in values]
