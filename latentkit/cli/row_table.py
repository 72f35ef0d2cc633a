"""The terminal's view of ``kl`` and ``nll``: a summary, a histogram and the largest values, not a million rows."""

from typing import TYPE_CHECKING

from latentkit.cli.options import RowFormat
from latentkit.cli.row_columns import elements_of, ranked_columns
from latentkit.cli.screen import aligned, fits, fitting_table, stdout_screen
from latentkit.text import count_of, harmless

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from rich.console import Console, RenderableType
    from rich.table import Table as RichTable

    from latentkit.cli.nonfinite import Nonfinite
    from latentkit.cli.row_columns import Measured, Table
    from latentkit.cli.rows import RowOptions
    from latentkit.measures.ranking import Ranked, Spread

_QUANTILES = (0.01, 0.25, 0.5, 0.75, 0.99)
_BINS = 12
_SHOWN = 5
_LEAST_BAR = 8


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
    unit, readings = options.units.value, table.found.readings
    largest, named = _largest(screen.console, list(top.ranked()), table, options)
    if options.top is not None:
        screen.put(f"Largest {table.measure.upper()} [{unit}]", largest, [*named, *readings])
        return
    per_element = element if unit != "bits-per-dim" else None
    title = f"{table.measure.upper()} of {count_of(whole.count, 'finite value')} [{unit}]"
    screen.put(title, _summary(screen.console, whole, per_element, table, keeper), readings)
    if whole.count > 1 and whole.min < whole.max:
        screen.put("Histogram", _histogram(screen.console, whole))
    screen.put(f"Largest {table.measure.upper()} [{unit}]", largest, named)


def _summary(
    console: "Console", whole: "Spread", element: "Spread | None", table: "Table", keeper: "Nonfinite"
) -> "RichTable":
    spreads = {f"per {table.axis or 'sample'}": whole} | ({"per element": element} if element else {})
    names = ["mean", "sd", "min", *(f"{100 * fraction:g} %" for fraction in _QUANTILES), "max"]
    columns: dict[str, Sequence[RenderableType]] = {"": names}
    for heading, spread in spreads.items():
        quantiles = spread.quantiles([0, *_QUANTILES, 1])
        columns[heading] = aligned([spread.mean, spread.sd(), *quantiles])
    if keeper.count:
        cells = "not finite", count_of(keeper.count, "sample"), ""
        columns = {heading: [*column, cell] for (heading, column), cell in zip(columns.items(), cells, strict=False)}
    return fitting_table(console, columns, ["per element"], left=("",), padding=2)


def _histogram(console: "Console", spread: "Spread") -> "RichTable":
    """With shorter bars where there is little room; then without the upper ends of the bins, and then without bars."""
    counts, edges = spread.histogram(_BINS)
    marks = aligned(edges.tolist())
    columns: dict[str, Sequence[RenderableType]] = {"from": marks[:-1], "to": marks[1:]}
    columns["count"] = [f"{count:,}" for count in counts.tolist()]
    widest = max(_LEAST_BAR, min(60, console.width - 50))
    for room in (widest, widest // 2, _LEAST_BAR):
        columns[""] = [bar(count / counts.max(), room) for count in counts.tolist()]
        if fits(console, fitting_table(console, columns, (), left=("",), padding=2)):
            break
    return fitting_table(console, columns, ["to", ""], left=("",), padding=2)


def _largest(
    console: "Console", ranked: "list[Ranked]", table: "Table", options: "RowOptions"
) -> "tuple[RichTable, list[str]]":
    """The rows, and in words what they have no room for: names, which the rows then have by number."""
    columns = {name: _cells(values) for name, values in ranked_columns(ranked, table, options.columns).items()}
    left, named = ("file", "tensor"), list[str]()
    for name in reversed(left):
        if fits(console, fitting_table(console, columns, (), left)):
            break
        numbers = {text: number for number, text in enumerate(dict.fromkeys(map(str, columns[name])), 1)}
        if len(numbers) == 1:
            named[:0] = [f"{name}: {text}" for text in numbers]
            del columns[name]
        else:
            named[:0] = [f"{name} {number}: {text}" for text, number in numbers.items()]
            columns[name] = [str(numbers[str(text)]) for text in columns[name]]
    return fitting_table(console, columns, options.columns[::-1], left), named


def bar(fraction: float, width: int) -> str:
    """A bar of eighths of a cell; anything above nothing shows at least one eighth."""
    eighths = max(round(fraction * width * 8), 1 if fraction > 0 else 0)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")


def _cells(values: "Sequence[Any]") -> "Sequence[RenderableType]":
    if all(isinstance(value, float) for value in values):
        return aligned(values)
    return [harmless(str(value)) for value in values]
