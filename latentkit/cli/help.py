"""``latentkit help``: a command's help, or a man page made of that of all."""

from collections.abc import Iterator
from typing import Annotated, Any

import typer

from latentkit.cli.help_text import examples, nearest, sections, show, usage
from latentkit.errors import RequestError

EXAMPLES = """
latentkit help kl
latentkit help
latentkit help --man > latentkit.1
"""


def help(
    context: typer.Context,
    command: Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="Whose help; without it: all.")] = None,
    man: Annotated[bool, typer.Option("--man", help="Print a man page of all commands, as troff.")] = False,
) -> None:
    """The help of a command, as its --help gives it, or a man page."""
    parent: Any = context.parent
    commands = parent.command.commands
    if man:
        print("\n".join(_man_page(parent)))
    elif command is None:
        show(parent.command, parent)
    elif command in commands:
        show(commands[command], type(parent)(commands[command], info_name=command, parent=parent))
    else:
        raise RequestError(f"there is no command {command!r}; {nearest(command, commands)}")


def _man_page(context: Any) -> Iterator[str]:
    group = context.command
    yield '.TH LATENTKIT 1 "" latentkit'
    yield from (".SH NAME", rf"latentkit \- {_troff(group.help)}")
    yield from (".SH SYNOPSIS", _troff(usage(group, "latentkit")))
    yield from _sections(group, context, ".SH")
    for name, command in group.commands.items():
        path = f"latentkit {name}"
        yield from (f'.SH "{path}"', _troff(command.help.partition("\n")[0]), ".PP", _troff(usage(command, path)))
        yield from (".PP", ".nf", *map(_troff, examples(command)), ".fi")
        yield from _sections(command, type(context)(command, info_name=name, parent=context), ".SS")


def _sections(command: Any, context: Any, macro: str) -> Iterator[str]:
    for heading, entries in sections(command, context):
        yield f'{macro} "{heading}"'
        for name, words in entries:
            yield from (".TP", rf"\fB{_troff(name)}\fR", _troff(words))


def _troff(text: str) -> str:
    """``text`` as troff prints it."""
    text = text.replace("\\", r"\e").replace("-", r"\-").replace("'", r"\(aq")
    text = "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)
    return rf"\&{text}" if text.startswith(".") else text
