"""``latentkit guide``: the documentation, at hand where there is no browser."""

import sys
from typing import Annotated

import typer

from latentkit.cli.options import Messages
from latentkit.errors import RequestError

EXAMPLES = """
latentkit guide
latentkit guide reading
latentkit guide noise | less
"""


def guide(
    messages: Messages,
    topic: Annotated[str | None, typer.Argument(metavar="[TOPIC]", help="Page to show; without it: a list.")] = None,
) -> None:
    """The documentation, one page a topic."""
    from importlib.resources import files

    del messages
    pages = {page.name.removesuffix(".md"): page for page in files("latentkit").joinpath("guide").iterdir()}
    if topic is None:
        for name in sorted(pages):
            title = pages[name].read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            print(f"latentkit guide {name:<10} {title}")
        return
    if topic not in pages:
        raise RequestError(f"guide has no page {topic!r}; it has {', '.join(sorted(pages))}")
    text = pages[topic].read_text(encoding="utf-8")
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.console import Console
    from rich.markdown import Markdown

    Console().print(Markdown(text))
