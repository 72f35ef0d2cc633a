"""The help of each command: examples first, a line an option; and a man page made of the same."""

import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from enum import Enum
from textwrap import wrap
from typing import Any, NamedTuple

from typer.core import TyperCommand, TyperGroup

from latentkit.errors import RequestError

#: Longer names of options have their help below them.
_NAME_WIDTH = 25
_WIDEST = 100

# What Typer adds, in fewer words.
_OF_TYPER = {
    "help": "Show this and exit.",
    "install_completion": "Install completion for this shell: bash, zsh or fish.",
    "show_completion": "Print that completion.",
}


class Section(NamedTuple):
    """A heading, and names beside what they mean."""

    heading: str
    entries: list[tuple[str, str]]


class Command(TyperCommand):
    """A command whose help is written here."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        del formatter
        show(self, ctx)


class Group(TyperGroup):
    """The commands; one that is not there is answered with the nearest."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        del formatter
        show(self, ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name = args[0]
        if name not in self.commands and not name.startswith("-") and not ctx.resilient_parsing:
            raise RequestError(f"there is no command {name!r}; {nearest(name, self.commands)}")
        return super().resolve_command(ctx, args)


def nearest(wanted: str, names: Iterable[str]) -> str:
    """What may have been meant, or what there is."""
    names = list(names)
    near = get_close_matches(wanted.lower(), names, n=2, cutoff=0.6) or [name for name in names if wanted in name][:2]
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}"


def examples(command: Any) -> list[str]:
    """The command lines that stand in front of a command's help."""
    return [line for line in (command.epilog or "").splitlines() if line.startswith("latentkit ")]


def sections(command: Any, ctx: Any) -> Iterator[Section]:
    """Commands, arguments and options, as they are grouped."""
    commands = getattr(command, "commands", {})
    if commands:
        yield Section("Commands", [(name, one.help.partition("\n")[0]) for name, one in commands.items()])
    groups: dict[str, list[tuple[str, str]]] = {}
    last = "Options" if commands else "Messages"
    for parameter in command.get_params(ctx):
        argument = parameter.param_type_name == "argument"
        panel = None if commands else getattr(parameter, "rich_help_panel", None)
        heading = "Arguments" if argument else panel or "Options"
        heading = last if "--help" in parameter.opts else heading
        help = _OF_TYPER.get(parameter.name, parameter.help) or ""
        groups.setdefault(heading, []).append((_name(parameter), help + _default(parameter)))
    # What is a command's own comes first, and --help last.
    for heading in sorted(groups, key=lambda heading: (heading == "Messages", heading not in ("Arguments", "Options"))):
        yield Section(heading, groups[heading])


def usage(command: Any, path: str) -> str:
    """``latentkit nll [OPTIONS] --latents LATENTS FILES...``"""
    if hasattr(command, "commands"):
        return f"{path} COMMAND [OPTIONS]"
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    needed = [_name(one) for one in command.params if one.required and one not in arguments]
    names = [one.metavar + ("..." if one.nargs == -1 else "") for one in arguments]
    return " ".join([path, "[OPTIONS]", *needed, *names])


def _name(parameter: Any) -> str:
    """``-o, --output FILE``"""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar)
    names = ", ".join(sorted(parameter.opts, key=len))
    return names if parameter.is_flag or not parameter.metavar else f"{names} {parameter.metavar}"


def _default(parameter: Any) -> str:
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    if default is None or isinstance(default, bool | list | tuple) or parameter.param_type_name == "argument":
        return ""
    return f" [{default:g}]" if isinstance(default, float) else f" [{default}]"


def show(command: Any, ctx: Any) -> None:
    """Print the help of ``command``."""
    from rich.text import Text

    from latentkit.cli.screen import console_of

    console = console_of(sys.stdout)
    width = min(console.width, _WIDEST)
    console.print(Text.assemble(("Usage: ", "bold"), usage(command, program(ctx))))
    console.print(command.help.partition("\n")[0], "", Text("Examples", "bold"), sep="\n")
    for line in examples(command):
        # A line that a shell takes for one, as it would be without the break.
        parts = wrap(line, max(width - 4, 20), subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
        broken = " \\\n  ".join(parts)
        console.print(Text(f"  {broken}", "green"), soft_wrap=True)
    for heading, entries in sections(command, ctx):
        console.print(Text(heading, "bold"))
        column = min(_NAME_WIDTH, max(len(name) for name, _ in entries), max(4, width - 24))
        for name, help in entries:
            lines = wrap(help, max(width - column - 4, 20), break_on_hyphens=False)
            if len(name) > column:
                lines.insert(0, "")
            first, *others = lines
            console.print(Text.assemble("  ", (f"{name:<{column}}", "cyan"), f"  {first}".rstrip()), soft_wrap=True)
            for line in others:
                console.print(" " * (column + 4) + line, soft_wrap=True)


def program(ctx: Any) -> str:
    """The command as it is typed: ``python -m`` is not what people copy."""
    return " ".join(["latentkit", *ctx.command_path.split()[-1:]]) if ctx.parent else "latentkit"
