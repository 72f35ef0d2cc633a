"""``kl`` and ``nll`` with ``--by``: a row for each label, written, or drawn for a terminal."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from latentkit.cli.options import RowFormat, Writing
from latentkit.cli.screen import aligned, fitting_table, stdout_screen
from latentkit.measures.by_label import QUANTILES, LabelValues
from latentkit.text import count_of
from latentkit.write.placing import placed
from latentkit.write.tables import open_rows

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table as RichTable

    from latentkit.cli.nonfinite import Nonfinite
    from latentkit.cli.row_columns import Table
    from latentkit.cli.rows import RowOptions
    from latentkit.read.labels import Labels

# More have no room on a screen: those with the largest means do.
_MOST_SHOWN = 30
# Rows that are written at once.
_TOGETHER = 1 << 10
# Columns in the order in which they are left out where there is no room.
_LEFT_OUT = "q01", "q99", "q25", "q75", "min", "element", "q50", "sd", "max"


def put_labels(
    groups: list[LabelValues],
    labels: "Labels",
    table: "Table",
    format: RowFormat,
    options: "RowOptions",
    writing: Writing,
    keeper: "Nonfinite",
) -> int | None:
    """All labels in their order, or with ``--top`` those with the largest means; a terminal shows at most a screen.

    Returns how many rows were written; None where they are drawn.
    """
    ranked = sorted(groups, key=lambda group: math.inf if math.isnan(group.mean) else -group.mean)
    chosen = groups if options.top is None else ranked[: options.top]
    per_element = options.units.value != "bits-per-dim"
    if format in (RowFormat.table, RowFormat.markdown):
        some, which = chosen, []
        if len(chosen) > _MOST_SHOWN and format is RowFormat.table:
            some = ranked[:_MOST_SHOWN]
            which = [f"{_MOST_SHOWN} of {len(chosen):,}, those with the largest means; --format csv writes all"]
        screen = stdout_screen(markdown=format is RowFormat.markdown)
        finite = sum(group.count for group in groups)
        counts = f"{count_of(len(groups), 'label')}, {count_of(finite, 'finite value')}"
        title = f"{table.measure.upper()} by {labels.key}: {counts}"
        drawn = _drawn(screen.console, some, per_element=per_element)
        screen.put(f"{title} [{options.units.value}]", drawn, [*which, *table.found.readings])
        return None
    types = {
        name: "int64" if name in ("count", "nonfinite") else "double" for name in _columns([], per_element=per_element)
    }
    types["label"] = labels.type
    facts = {"measure": table.measure, "units": options.units.value, "by": labels.key, "read": table.found.readings}
    with placed(writing.place, overwrite=writing.overwrite) as descriptor:
        writer = open_rows(format, descriptor, types, header=not options.no_header, facts=facts)
        for at in range(0, len(chosen), _TOGETHER):
            writer.write(_columns(chosen[at : at + _TOGETHER], per_element=per_element))
        writer.end(keeper.facts)
    return len(chosen)


def _columns(groups: Sequence[LabelValues], *, per_element: bool) -> dict[str, list[Any]]:
    columns = {
        name: [getattr(group, name) for group in groups]
        for name in ("label", "count", "nonfinite", "mean", "sd", "min")
    }
    for place, percent in enumerate(QUANTILES):
        columns[f"q{percent:02}"] = [group.quantiles[place] for group in groups]
    columns["max"] = [group.max for group in groups]
    if per_element:
        columns["element"] = [group.element for group in groups]
    return columns


def _drawn(console: "Console", groups: Sequence[LabelValues], *, per_element: bool) -> "RichTable":
    columns = _columns(groups, per_element=per_element)
    cells: dict[str, Sequence[RenderableType]] = {"label": list(map(str, columns.pop("label")))}
    for name in ("count", "nonfinite"):
        if name == "count" or any(columns[name]):
            cells[name] = [f"{count:,}" for count in columns[name]]
        del columns[name]
    cells |= {_heading(name): aligned(figures) for name, figures in columns.items()}
    return fitting_table(console, cells, [_heading(name) for name in _LEFT_OUT])


def _heading(name: str) -> str:
    return f"{int(name[1:])} %" if name[0] == "q" else name
