"""Registering commands: option groups become options, errors become a sentence and an exit status."""

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from copy import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from typing import Annotated, Any, NoReturn, get_args, get_type_hints

import typer
from typer.models import OptionInfo

from latentkit.cli import interrupts
from latentkit.cli.completion import BY_NAME
from latentkit.cli.help_text import Command
from latentkit.cli.screen import NOTE, complain, drop
from latentkit.cli.usage import names_of, reader
from latentkit.errors import LatentkitError, RequestError

DATA_FAILED = 1
WRONG_REQUEST = 2
CONDITION_HELD = 3

#: Groups whose options take a default from LATENTKIT_NAME: how all is read, computed and shown, whatever the command.
FROM_ENVIRONMENT = ("Reading", "Computing", "Messages")


def add_command(app: typer.Typer, function: Callable[..., None], *, epilog: str) -> None:
    """Register ``function`` as a command of its name.

    A parameter annotated with a dataclass stands for that group of options, and ``typed`` for those that were typed;
    its docstring's first line is the help.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = groups.get(name)
        if name == "typed":
            continue
        parameters += _options_of(group) if group else [parameter.replace(annotation=hints[name])]

    def run(_context: typer.Context, **values: Any) -> None:
        arguments = dict(values)
        if "typed" in hints:
            arguments["typed"] = {option.name: option.opts[0] for option in _given(_context, "COMMANDLINE")}
        if values.get("verbose") and not values.get("quiet"):
            _say_defaults(_context)
        for name, group in groups.items():
            arguments[name] = group(**{option.name: arguments.pop(option.name) for option in fields(group)})
        _guarded(lambda: function(**arguments), debug=bool(values.get("debug")))

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [
            inspect.Parameter("_context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
            *(_prepared(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)) for parameter in parameters),
        ]
    )
    app.command(function.__name__, cls=Command, epilog=epilog, no_args_is_help=False)(run)


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            option.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_default(option),
            annotation=hints[option.name],
        )
        for option in fields(group)
    ]


def _prepared(parameter: inspect.Parameter) -> inspect.Parameter:
    """With what reads its values; options of some groups have a default in the environment, whatever the command."""
    annotation, option = get_args(parameter.annotation) or (None, None)
    if not isinstance(option, OptionInfo):
        return parameter
    option = copy(option)
    named = option.metavar and option.rich_help_panel in FROM_ENVIRONMENT
    variable = f"LATENTKIT_{parameter.name.upper()}" if named else None
    option.envvar = variable
    option.autocompletion = BY_NAME.get(parameter.name)
    kind = next((one for one in (annotation, *get_args(annotation)) if _is_read(one)), None)
    if kind is not None:
        # Typer takes an annotated option's first name for its default until it is registered.
        name = str(next(one for one in (option.default, *(option.param_decls or ())) if str(one).startswith("--")))
        option.parser = reader(kind, name, variable, option.min, option.max)
        option.min = option.max = None
        if issubclass(kind, Enum):
            option.autocompletion = names_of(kind)
    return parameter.replace(annotation=Annotated[annotation, option])


def _say_defaults(context: Any) -> None:
    """Which options have their values from the environment; how it looks is seen."""
    for option in _given(context, "ENVIRONMENT"):
        if option.name != "color":
            complain(f"{option.opts[0]} {os.environ[option.envvar]}, by {option.envvar}", NOTE)


def _given(context: Any, source: str) -> Iterator[Any]:
    """The options whose values come from ``source``."""
    return (one for one in context.command.params if context.get_parameter_source(one.name).name == source)


def _is_read(kind: Any) -> bool:
    return isinstance(kind, type) and (kind in (int, float) or issubclass(kind, Enum))


def _default(option: Field[Any]) -> Any:
    if option.default_factory is not MISSING:
        return option.default_factory()
    return inspect.Parameter.empty if option.default is MISSING else option.default


def _guarded(run: Callable[[], None], *, debug: bool) -> None:
    """Run a command; every error a user can cause ends in one sentence and the right exit status."""
    sentence, status = "", DATA_FAILED
    try:
        run()
        sys.stdout.flush()
    except BrokenPipeError:
        leave_quietly()
    except KeyboardInterrupt:
        raise typer.Exit(interrupts.status()) from None
    except (typer.Exit, typer.Abort):
        raise
    except Exception as error:
        if debug:
            import traceback

            traceback.print_exc()
        sentence = sentence_of(error)
        status = WRONG_REQUEST if isinstance(error, RequestError) else DATA_FAILED
    # The error is gone by now, and with it what the run held: its progress bar, and files half written.
    if sentence:
        complain(sentence)
        raise typer.Exit(status)


def leave_quietly() -> NoReturn:
    """The reader of the pipe went away, as ``head`` does: it has what it wanted."""
    drop(sys.stdout)
    raise SystemExit(0)


def output_failed(error: OSError) -> int:
    """Say why standard output took no more; returns the status."""
    drop(sys.stdout)
    complain(sentence_of(error))
    return DATA_FAILED


def flushed(status: int) -> int:
    """The status, or another where standard output, as it turns out now, has no room."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        if status == 0:
            return output_failed(error)
        drop(sys.stdout)  # it has been said
    return status


def sentence_of(error: BaseException) -> str:
    """What went wrong, in one sentence; what nobody foresaw is said to be a bug."""
    if isinstance(error, LatentkitError):
        return str(error)
    if isinstance(error, OSError):
        reason = error.strerror or str(error) or type(error).__name__
        return f"{error.filename}: {reason}" if error.filename is not None else reason
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --batch-size or fewer --workers"
    if isinstance(error, RuntimeError) and "new thread" in str(error):
        return "the system allows no more threads; try fewer --workers"
    if isinstance(error, ImportError):
        return f"a library that latentkit needs cannot be loaded: {error}"
    what = type(error).__name__ + (f": {error}" if str(error) else "")
    return f"a bug: {what}; please report it with what --debug shows"
