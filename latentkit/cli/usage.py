"""What is said of a command line that does not hold, in one sentence, whatever Typer would say."""

import os
from collections.abc import Callable
from enum import Enum
from typing import Any

from latentkit.cli.help_text import examples, nearest, program
from latentkit.errors import RequestError


def sentence_of_usage(error: Any) -> str:
    """What a usage error comes to. Click's classes of errors are told by their names: Typer has its own since 0.26."""
    context, kind, message = error.ctx, type(error).__name__, error.format_message()
    if kind == "BadOptionUsage":
        return f"{error.option_name} takes no value" if "not take" in message else f"{error.option_name} needs a value"
    if context is None:
        return str(message)
    parameter: Any = getattr(error, "param", None)
    more = f"; see {program(context)} --help"
    if kind == "NoSuchOption":
        return _no_option(context, error.option_name)
    if kind == "MissingParameter" and parameter.param_type_name == "argument":
        return f"{context.info_name} needs {parameter.metavar}, as in: {examples(context.command)[0]}"
    if kind == "MissingParameter":
        return f"{context.info_name} needs {parameter.opts[0]} {parameter.metavar}{more}"
    if "extra argument" in message:
        return f"{context.info_name} takes no further argument {message.rpartition('(')[2].rstrip(').')}{more}"
    return f"{message.rstrip('.')}{more}"


def _no_option(context: Any, option: str) -> str:
    command = context.command
    names = [name for one in command.get_params(context) for name in one.opts if name.startswith("--")]
    elsewhere = [
        name
        for name, other in (context.parent.command.commands.items() if context.parent else ())
        if any(option in one.opts for one in other.params)
    ]
    said = f"{context.info_name if context.parent else 'latentkit'} has no option {option}"
    if elsewhere:
        return f"{said}: it is one of {', '.join(elsewhere)}"
    return f"{said}{_guess(option, names)}" if option.startswith("--") else f"{said}; see {program(context)} --help"


def reader(
    kind: Any, option: str, variable: str | None, low: float | None = None, high: float | None = None
) -> Callable[[Any], Any]:
    """What reads the value of ``option``, a number or one of a few names, and says what is wrong with another."""

    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        where = variable if variable and os.environ.get(variable) == value else option
        if issubclass(kind, Enum):
            names = [one.value for one in kind]
            if value not in names:
                raise RequestError(f"{where} {value}: not one of {', '.join(names)}{_guess(value, names)}")
            return kind(value)
        try:
            number = kind(value)
        except ValueError:
            raise RequestError(f"{where} {value}: must be a {'whole ' if kind is int else ''}number") from None
        if (low is not None and number < low) or (high is not None and number > high):
            limits = f"at least {low}" if high is None else f"from {low} to {high}"
            raise RequestError(f"{where} {value}: must be {limits}")
        return number

    return read


def names_of(kind: type[Enum]) -> Callable[[], list[str]]:
    """What completes the value of an option that takes one of a few names."""

    def names() -> list[str]:
        return [str(one.value) for one in kind]

    return names


def _guess(value: str, names: list[str]) -> str:
    near = nearest(value, names)
    return f"; {near}" if near.startswith("did") else ""
