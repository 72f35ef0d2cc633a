"""A page of the guide as rich draws it, so that nothing in it is cut."""

from rich.console import Console, ConsoleOptions, RenderResult
from rich.markdown import CodeBlock, Markdown, TableElement
from rich.padding import Padding
from rich.table import Table
from rich.text import Text


class _Code(CodeBlock):
    """Lines stay whole, to be copied."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console, options
        yield Text(str(self.text).rstrip(), "cyan", no_wrap=True, overflow="ignore")


class _Table(TableElement):
    """One that would break a word is a list, row by row."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        (table,) = super().__rich_console__(console, options)
        assert isinstance(table, Table)
        table.show_edge = False
        if self.header is None or self.header.row is None or self.body is None:
            yield table
            return
        headings, *rows = [[cell.content for cell in row.cells] for row in (self.header.row, *self.body.rows)]
        lines = ["".join(segment.text for segment in line) for line in console.render_lines(table, options)]
        if {word for row in (headings, *rows) for cell in row for word in cell.plain.split()} <= set(
            "\n".join(lines).split()
        ):
            yield table
            return
        for row in rows:
            yield Text()
            for place, (heading, cell) in enumerate(zip(headings, row, strict=True)):
                name = f"{heading.plain}: " if heading.plain else ""
                yield Padding(Text.assemble((name, "bold"), cell), (0, 0, 0, 2 * min(place, 1)))


class Page(Markdown):
    elements = Markdown.elements | {"fence": _Code, "code_block": _Code, "table_open": _Table}
