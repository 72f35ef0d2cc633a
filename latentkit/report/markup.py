"""Pieces of HTML: text made harmless, numbers, tables, pictures with their data."""

import html
from collections.abc import Callable, Mapping, Sequence

from latentkit import text as plain
from latentkit.text import DASH

#: What a cell of a table holds; None is what is undefined.
Cell = str | int | float | None

#: Columns of equal length, by their headings.
Columns = Mapping[str, Sequence[Cell]]

# Rows of a table: a browser has to lay out all of them.
_MOST_ROWS = 1024
# Decimals by which a figure may fall short of the longest of its column; page.css has a class for each.
_MOST_PADDING = 9


def text(words: str) -> str:
    """``words`` as HTML shows them: markup escaped, and control and bidirectional characters spelled out."""
    return html.escape(plain.harmless(words))


def number(value: float | None, digits: int = 4) -> str:
    """So many significant digits, thousands up to ten million in full, and a dash for what is undefined."""
    if value is None:
        return DASH
    return _signed(f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else plain.number(value, digits))


def short(value: float | None, digits: int = 3) -> str:
    """As ``number``, without the zeros at its end."""
    shown = number(value, digits)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown


def fixed(decimals: int) -> Callable[[float], str]:
    """Numbers with so many decimals."""
    return lambda value: _signed(plain.fixed(value, decimals))


def table(
    caption: str,
    columns: Columns,
    *,
    ids: str = "",
    has_total: bool = False,
    show: Mapping[str, Callable[[float], str]] | None = None,
) -> str:
    """A table in an area that scrolls by itself; the first column heads the rows.

    Texts stand left, figures right with their points below each other. ``ids`` begins the rows' ids, which end in
    their heading; ``has_total``: the last row sums up the others; ``show`` writes the numbers of
    some columns.
    """
    show = show or {}
    count = max(map(len, columns.values()), default=0)
    if count > _MOST_ROWS:
        kept = [*range(_MOST_ROWS), *([count - 1] if has_total else [])]
        columns = {name: [cells[row] for row in kept] for name, cells in columns.items()}
        caption += f": the first {_MOST_ROWS:,} of {count - has_total:,}; latentkit stats -o FILE.json has all"
    headings = "".join(f'<th scope="col"{_side(cells)}>{text(name)}</th>' for name, cells in columns.items())
    cells = list(zip(*(_shown(column, show.get(name, number)) for name, column in columns.items()), strict=True))
    rows = []
    for head, *others in cells:
        name, words = head
        mark = f' id="{ids}{words}"' if ids else ""
        rows.append(
            f'<tr{mark}><th scope="row"{name}>{words}</th>' + "".join(f"<td{c}>{w}</td>" for c, w in others) + "</tr>"
        )
    foot = f"<tfoot>{rows.pop()}</tfoot>" if has_total else ""
    body = "\n".join(rows)
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{text(caption)}"><table>'
        f"<caption>{text(caption)}</caption><thead><tr>{headings}</tr></thead>\n<tbody>{body}</tbody>{foot}</table></div>"
    )


def _side(cells: Sequence[Cell]) -> str:
    return ' class="w"' if any(isinstance(cell, str) for cell in cells) else ""


def _shown(cells: Sequence[Cell], show: Callable[[float], str]) -> list[tuple[str, str]]:
    """Each cell's class and words."""
    if any(isinstance(cell, str) for cell in cells):
        return [(' class="w"', text(str(cell))) for cell in cells]
    words = [f"{cell:,}".replace("-", "−") if isinstance(cell, int) else show(_float(cell)) for cell in cells]
    decimals = [len(word.partition(".")[2]) if "e" not in word else None for word in words]
    widest = max((count for count in decimals if count is not None), default=0)
    padding = [
        0 if count is None or word == DASH else widest - count for count, word in zip(decimals, words, strict=True)
    ]
    return [
        (f' class="p{min(pad, _MOST_PADDING)}"' if pad else "", word)
        for pad, word in zip(padding, words, strict=True)
    ]  # fmt: skip


def figure(picture: str, caption: str, below: str = "", *, is_wide: bool = False) -> str:
    """A picture with its caption and what is ``below``, such as its data.

    A wide one scrolls by itself where there is little room.
    """
    if is_wide:
        picture = f'<div class="scroll" tabindex="0" role="group" aria-label="{text(caption)}">{picture}</div>'
    kind = ' class="wide"' if is_wide else ""
    return f"<figure{kind}>{picture}<figcaption>{text(caption)}</figcaption>{below}</figure>"


def to_open(summary: str, inside: str) -> str:
    """What is shown when it is asked for."""
    return f"<details><summary>{text(summary)}</summary>{inside}</details>"


def data_of(listed: str) -> str:
    """A picture's data, as a table to be opened."""
    return to_open("Data of this picture", listed)


def section(title: str, *parts: str) -> str:
    """A section with its heading; empty when there is nothing in it."""
    inside = "\n".join(part for part in parts if part)
    name = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{text(title)}</h2>\n{inside}</section>' if inside else ""


def _float(value: Cell) -> float:
    return float("nan") if value is None else float(value)


def _signed(shown: str) -> str:
    return shown.replace("-", "−")
