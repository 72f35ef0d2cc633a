"""``latentkit guide``: the documentation, at hand where there is no browser."""

import os
import sys
from typing import Annotated

import typer

from latentkit.cli.completion import topics
from latentkit.cli.help_text import nearest
from latentkit.cli.options import Messages
from latentkit.errors import RequestError

EXAMPLES = """
latentkit guide
latentkit guide reading
latentkit guide noise | less
"""


def guide(
    messages: Messages,
    topic: Annotated[
        str | None, typer.Argument(metavar="[TOPIC]", help="Page to show; without it: a list.", autocompletion=topics)
    ] = None,
) -> None:
    """The documentation, one page per topic."""
    from importlib.resources import files

    del messages
    pages = {page.name.removesuffix(".md"): page for page in files("latentkit").joinpath("guide").iterdir()}
    if topic is None:
        width = max(map(len, pages))
        for name in sorted(pages):
            title = pages[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            print(f"latentkit guide {name:<{width}} {title}")
        return
    if topic not in pages:
        raise RequestError(f"guide has no page {topic!r}; {nearest(topic, sorted(pages))}")
    text = pages[topic].read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        print(text, end="")
        return
    _show(text)


def _show(text: str) -> None:
    """A page on a terminal: in a pager where it is longer than that."""
    from contextlib import nullcontext

    from rich.theme import Theme

    from latentkit.cli.markdown import Page
    from latentkit.cli.screen import console_of

    # The library shows code on black, which is a bar on a light screen.
    console = console_of(sys.stdout, theme=Theme({"markdown.code": "cyan"}))
    long = text.count("\n") > console.height
    # less shows colours only when it is told to.
    os.environ.setdefault("LESS", "-R")
    with console.pager(styles=True) if long else nullcontext():
        console.print(Page(text), crop=False)
