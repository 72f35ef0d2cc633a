"""``--keep-going`` and ``--errors``: files that cannot be processed are passed over, and listed at the end."""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict

import typer

from latentkit.cli.commands import CONDITION_HELD, DATA_FAILED
from latentkit.cli.options import Faults
from latentkit.cli.screen import complain
from latentkit.errors import RequestError
from latentkit.failures import Failures
from latentkit.health.conditions import Condition
from latentkit.text import count_of
from latentkit.write.places import check_outputs
from latentkit.write.placing import placed
from latentkit.write.stream import write_all

# More of them are in the file.
_SHOWN = 20


@contextmanager
def listed(faults: Faults, *, overwrite: bool = False, dry_run: bool = False) -> Iterator[Failures]:
    """What the body's files fail with; then a line for each, the file of ``--errors``, and the status that says so."""
    failures = Failures(keep_going=faults.keep_going)
    if faults.errors is not None:
        if not faults.keep_going:
            raise RequestError("--errors lists what --keep-going passes over: give both")
        check_outputs([faults.errors], overwrite=overwrite)
    stopped: Exception | None = None
    try:
        yield failures
    except BrokenPipeError:
        raise
    except Exception as error:
        stopped = error
    for failure in list(failures.found.values())[:_SHOWN]:
        complain(failure.message)
    if len(failures.found) > _SHOWN:
        hint = "--errors FILE lists all" if faults.errors is None else f"{faults.errors} lists all"
        complain(f"and {count_of(len(failures.found) - _SHOWN, 'more file')}; {hint}")
    # What the request rules out leaves nothing behind; what fails on its way, or holds a condition, does.
    if faults.errors is not None and not dry_run and not isinstance(stopped, RequestError):
        # Bad inputs are known only now, where nothing else was there to be read.
        check_outputs([faults.errors], overwrite=overwrite, read=failures.found)
        _write(faults.errors, failures, overwrite=overwrite)
    if stopped is not None and not (failures.found and isinstance(stopped, typer.Exit)):
        raise stopped
    if failures.found:
        raise typer.Exit(DATA_FAILED)


def stop_if_held(broken: Iterable[tuple[Condition, float]], why_undefined: Callable[[str], str]) -> None:
    """Say which conditions hold, with the figure's value, and end with their status if one does."""
    broken = list(broken)
    for condition, value in broken:
        figure = f"is undefined ({why_undefined(condition.name)})" if value != value else f"is {value:.6g}"
        complain(f"--fail-if {str(condition)!r} holds: {condition.name} {figure}")
    if broken:
        raise typer.Exit(CONDITION_HELD)


def _write(path: str, failures: Failures, *, overwrite: bool) -> None:
    lines = "".join(json.dumps(asdict(failure), ensure_ascii=False) + "\n" for failure in failures.found.values())
    with placed(path, overwrite=overwrite) as descriptor:
        write_all(descriptor, lines.encode(errors="backslashreplace"))
