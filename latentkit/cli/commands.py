"""Registering commands: option groups become options, errors become a sentence and an exit status."""

import inspect
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Any, NoReturn, get_type_hints

import typer

from latentkit.cli.screen import complain
from latentkit.errors import LatentkitError, RequestError

DATA_FAILED = 1
WRONG_REQUEST = 2
CONDITION_HELD = 3
INTERRUPTED = 130
TERMINATED = 143


def add_command(app: typer.Typer, function: Callable[..., None], *, epilog: str) -> None:
    """Register ``function`` as a command of its name.

    A parameter annotated with a dataclass stands for that group of options; its docstring's first line is the help.
    """
    hints = get_type_hints(function, include_extras=True)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if is_dataclass(hint)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        group = groups.get(name)
        parameters += _options_of(group) if group else [parameter.replace(annotation=hints[name])]

    def run(**values: Any) -> None:
        arguments = dict(values)
        for name, group in groups.items():
            arguments[name] = group(**{option.name: arguments.pop(option.name) for option in fields(group)})
        _guarded(lambda: function(**arguments), debug=bool(values.get("debug")))

    run.__doc__ = function.__doc__
    run.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in parameters]
    )
    app.command(function.__name__, epilog=epilog, no_args_is_help=False)(run)


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
        raise typer.Exit(INTERRUPTED) from None
    except (LatentkitError, OSError, MemoryError) as error:
        if debug:
            raise
        sentence = _sentence(error)
        status = WRONG_REQUEST if isinstance(error, RequestError) else DATA_FAILED
    # The error is gone by now, and with it what the run held: its progress bar, and files half written.
    if sentence:
        complain(sentence)
        raise typer.Exit(status)


def leave_quietly() -> NoReturn:
    """The reader of the pipe went away, as ``head`` does: it has what it wanted."""
    drop_output()
    raise SystemExit(0)


def drop_output() -> None:
    """Let what still waits for standard output go nowhere: it would fail once more at exit."""
    with suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def output_failed(error: OSError) -> int:
    """Say why standard output took no more; returns the status."""
    drop_output()
    complain(_sentence(error))
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
        drop_output()  # it has been said
    return status


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    if isinstance(error, MemoryError):
        return "out of memory; try a smaller --batch-size or fewer --workers"
    return str(error)
