"""What people see: consoles, notes, progress. Results go to stdout, everything else to stderr."""

import os
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from textwrap import fill
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import typer

from latentkit.cli.interrupts import check, deferred
from latentkit.cli.options import COLOR, Messages
from latentkit.text import harmless, number, sentence

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    #: A title, what stands below it, and a caption.
    Titled = tuple[str, RenderableType | None, str | None]

Item = TypeVar("Item")

#: Work shorter than this shows no progress.
_PATIENCE_SECONDS = 1.0
_LOG_LINE_SECONDS = 30.0
# Columns of what is not cut into lines.
_NO_LIMIT = 10_001


_NAME = "latentkit:"
#: What an error, a doubt and anything else is marked by.
ERROR, WARNING, NOTE = "red", "yellow", "cyan"


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` is to have colours: as --color says, NO_COLOR or FORCE_COLOR, or else on a terminal."""
    when = os.environ.get(COLOR)
    if when in ("always", "never"):
        return when == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (stream.isatty() and os.environ.get("TERM") != "dumb")


def complain(words: str, colour: str = ERROR) -> None:
    """Something for people, on stderr: one line, which a terminal gets broken between words.

    A stream that takes no more changes nothing.
    """
    text = f"{_NAME} {sentence(words)}"
    try:
        if sys.stderr.isatty():
            text = fill(text, _columns(sys.stderr), break_long_words=False, break_on_hyphens=False)
        if coloured(sys.stderr):
            text = typer.style(_NAME, fg=colour, bold=True) + text.removeprefix(_NAME)
        print(text, file=sys.stderr, flush=True)
    except OSError:
        drop(sys.stderr)


def _columns(stream: TextIO) -> int:
    """How wide the terminal is: as COLUMNS says, as it says itself, or 80, as rich has it for tables."""
    return int(os.environ.get("COLUMNS", 0)) or os.get_terminal_size(stream.fileno()).columns or 80


def drop(stream: TextIO) -> None:
    """Let what still waits for a stream go nowhere: it would fail once more at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def note(messages: Messages, words: str) -> None:
    """Something the user should know, on stderr."""
    if not messages.quiet:
        complain(words, NOTE)


def warn(messages: Messages, words: str) -> None:
    """Something that puts the result in doubt, on stderr."""
    if not messages.quiet:
        complain(words, WARNING)


def note_unreadable(places: Sequence[str], messages: Messages) -> None:
    """What a search of folders could not look into."""
    if places:
        more = f", and {len(places) - 1:,} more" if len(places) > 1 else ""
        note(messages, f"passed over what cannot be read: {places[0]}{more}")


def say_kept(error: BaseException, kept: int, files: int, messages: Messages) -> None:
    """How many outputs are complete where ``error`` ended the work early."""
    if isinstance(error, KeyboardInterrupt):
        warn(messages, f"interrupted: {kept:,} of {files:,} files kept")
    elif kept:
        warn(messages, f"stopped: {kept:,} of {files:,} files kept")


def detail(messages: Messages, words: str) -> None:
    """Something for those who asked with --verbose, on stderr."""
    if messages.verbose and not messages.quiet:
        complain(words, NOTE)


def console_of(stream: TextIO, **options: Any) -> "Console":
    """Draws on ``stream``, in colour where it takes any: as wide as the terminal, or as COLUMNS says, or 80."""
    from rich.console import Console

    colours = "standard" if coloured(stream) else None
    settings = {"color_system": colours, "no_color": False, "highlight": False, "markup": False, "emoji": False}
    return Console(file=stream, **settings | options)


@dataclass
class Screen:
    """Where tables are drawn: a terminal, or ``markdown`` for a page, which is not cut into lines."""

    console: "Console"
    markdown: bool = False

    def put(self, title: str, body: "RenderableType | None", caption: Sequence[str] = ()) -> None:
        """A table between its title and caption, which are as wide as the screen and not as the table."""
        from rich.table import Table
        from rich.text import Text

        title = harmless(title)
        self.console.print(Text(f"**{title}**" if self.markdown else title, style="bold"))
        if isinstance(body, Table) and self.markdown:
            _make_markdown(body)
        elif isinstance(body, Text) and self.markdown:
            body = Text(f"```\n{body.plain}\n```")
        if body is not None:
            self.console.print(body)
        if caption:
            self.console.print(remark(caption))
        self.console.print()


def stdout_screen(*, markdown: bool = False) -> Screen:
    """Standard output as a screen."""
    if markdown:
        return Screen(console_of(sys.stdout, width=_NO_LIMIT, color_system=None), markdown=True)
    return Screen(console_of(sys.stdout))


def _make_markdown(table: "Table") -> None:
    from rich import box

    table.box, table.show_edge, table.pad_edge, table.collapse_padding = box.MARKDOWN, True, True, False
    table.show_header = True
    table.padding = 0, 1
    for row in table.rows:
        row.end_section = False
    for column in table.columns:
        column.header = column.header or " "
        column._cells = [cell.replace("|", "\\|") if isinstance(cell, str) else cell for cell in column._cells]


def dense_table(*headings: str, left: Collection[str] = (), padding: int = 1) -> "Table":
    """A table with a rule under its headings and no other lines; columns stand right, but for those named ``left``."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, padding), show_edge=False)
    for heading in headings:
        is_left = heading in left
        table.add_column(
            harmless(heading), justify="left" if is_left else "right", overflow="fold", no_wrap=not is_left
        )
    return table


def fitting_table(
    console: "Console",
    columns: "Mapping[str, Sequence[RenderableType]]",
    leave_out: Sequence[str],
    left: Collection[str] = (),
    *,
    has_total: bool = False,
    padding: int = 1,
) -> "Table":
    """As many columns as the screen has room for, so that no number is cut: those of ``leave_out`` go, in this order.

    ``has_total``: the last row stands apart.
    """
    kept = dict(columns)
    for leaving in (None, *leave_out):
        if leaving is not None:
            kept.pop(leaving, None)
        table = dense_table(*kept, left=left, padding=padding)
        rows = list(zip(*kept.values(), strict=True))
        for number_of, cells in enumerate(rows):
            if has_total and number_of == len(rows) - 1:
                table.add_section()
            table.add_row(*cells)
        if fits(console, table):
            break
    return table


def fits(console: "Console", table: "Table") -> bool:
    """Whether nothing of it would be cut or broken."""
    return console.measure(table, options=console.options.update(width=1000)).maximum <= console.width


def remark(lines: Iterable[str]) -> "Text":
    """Lines to stand below a table, made harmless; unlike a caption they are as wide as the screen."""
    from rich.text import Text

    return Text("\n".join(map(harmless, lines)), style="dim")


def aligned(values: Iterable[float]) -> "Sequence[RenderableType]":
    """Numbers of a column that is flush right, padded so that their points stand below each other."""
    from rich.padding import Padding

    texts = list(map(number, values))
    # Powers stand flush right: their points are others.
    tails = [len(text) - text.index(".") if "." in text and "e" not in text else 0 for text in texts]
    widest = max(tails, default=0)
    # Spaces at the end of a text would be stripped.
    return [
        Padding(text, (0, 0 if "e" in text else widest - tail, 0, 0)) for text, tail in zip(texts, tails, strict=True)
    ]


def track(items: Iterable[tuple[Item, int]], total: int, messages: Messages) -> Iterator[Item]:
    """Pass items on, showing on stderr how many of ``total`` bytes are done; each comes with its bytes.

    A bar on a terminal, a line now and then in a log, nothing when the work is short or --quiet. Signals end the work
    between items.
    """
    with deferred():
        for item in _shown(items, total, messages):
            yield item
            check()


def _shown(items: Iterable[tuple[Item, int]], total: int, messages: Messages) -> Iterator[Item]:
    if messages.quiet:
        return (item for item, _ in items)
    if sys.stderr.isatty():
        _note_first_run(messages)
        return _with_bar(items, total)
    return _with_lines(items, total)


def _note_first_run(messages: Messages) -> None:
    """Why nothing is seen for some seconds; what computes has imported Numba by now."""
    if "latentkit.compiled.jit" not in sys.modules:
        return
    from latentkit.compiled.jit import compiles_first

    if compiles_first():
        note(messages, "first run on this machine: compiling for its processor, some seconds")


def _with_bar(items: Iterable[tuple[Item, int]], total: int) -> Iterator[Item]:
    start, done, progress, task = time.monotonic(), 0, None, None
    try:
        for item, nbytes in items:
            yield item
            done += nbytes
            if progress is not None and task is not None:
                progress.update(task, completed=done)
            elif time.monotonic() - start > _PATIENCE_SECONDS:
                progress = _progress()
                task = progress.add_task("", total=total, completed=done)
                progress.start()
    finally:
        if progress is not None:
            progress.stop()


def _progress() -> "Progress":
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn()
    return Progress(*columns, console=console_of(sys.stderr), transient=True)


def _with_lines(items: Iterable[tuple[Item, int]], total: int) -> Iterator[Item]:
    start = said = time.monotonic()
    done = 0
    for item, nbytes in items:
        yield item
        done += nbytes
        now = time.monotonic()
        if now - said > _LOG_LINE_SECONDS and done:
            said = now
            rate = done / (now - start)
            left = (total - done) / rate
            complain(f"{done / total:.0%} done, {rate / 2**20:,.0f} MiB/s, {left:,.0f} s left", NOTE)
