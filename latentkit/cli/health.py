"""What ``stats`` and ``report`` share: inputs found and counted, or states merged; what that comes to, judged."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

from latentkit.cli.device import resolve_device
from latentkit.cli.faults import stop_if_held
from latentkit.cli.options import Choosing, Computing, Faults, Messages, Reading, Typed, Writing
from latentkit.cli.screen import note, track, warn
from latentkit.cli.stats_options import Asking, Checking
from latentkit.device import check_device_name
from latentkit.errors import DataError, RequestError
from latentkit.failures import Failures
from latentkit.health.conditions import Condition, held
from latentkit.health.examination import Other, Result, blank_state, check_held, figures_of, found_alike, judged
from latentkit.health.figures import BESIDE, check_asked, check_compared, value_of, why_undefined
from latentkit.health.kept import is_kept, kept
from latentkit.health.normalization import check_target_std, document
from latentkit.posterior.affine import from_factors
from latentkit.posterior.parameterization import Clamp
from latentkit.read.plan import Found
from latentkit.stats import MOST_CHANNELS
from latentkit.text import count_of
from latentkit.write.placing import Pieces, is_stream, place_together, placed
from latentkit.write.stream import write_all

if TYPE_CHECKING:
    from latentkit.read.labels import Labels
    from latentkit.stats.state import State
    from latentkit.stats.summary import Summary


def check_options(checking: Checking, computing: Computing) -> list[Condition]:
    """Refuse what options alone show to be wrong; returns the conditions."""
    check_device_name(computing.device)
    computing.clamp()
    conditions = checking.conditions()
    if checking.against is None:
        check_compared(conditions)
    from_factors(checking.scaling_factor, checking.shift_factor)
    check_target_std(checking.target_std)
    return conditions


def find(
    files: list[str], reading: Reading, choosing: Choosing, against: str | None, failures: Failures
) -> tuple[Found, Found | None]:
    """What is to be counted, and what that is set beside, unless it was counted before."""
    selection, choice = reading.selection(latents=True), choosing.choice()
    found = found_alike(files, selection, choice, failures)
    if against is None or is_kept(against):
        return found, None
    # Lists are of the samples of FILES.
    return found, found_alike([against], selection, replace(choice, indices=None, exclude=None), failures)


def examine(
    found: Found,
    other: Found | None,
    extras: list[str],
    checking: Checking,
    computing: Computing,
    messages: Messages,
    failures: Failures,
    labels: "Labels | None" = None,
    *,
    keep_state: bool = False,
    most: int = MOST_CHANNELS,
) -> Result:
    """Count and judge; ``extras`` names the figures asked for besides, and ``labels`` have figures of their own.

    ``keep_state``: it is wanted whole, and not for its figures alone. Of ``most`` channels figures are held at once.
    """
    compared = [name for name in extras if name in BESIDE]
    beside = None if other else _kept(checking, computing.clamp(), compared, messages)
    theirs = other.posteriors[0].axes.channels if other else beside.summary.channels if beside else 0
    check_held(found.posteriors[0].axes.channels, theirs, most)
    state, summary = _count(found, extras, computing, messages, failures, labels)
    if not keep_state:
        state.statistics.clear()  # of thousands of channels as large as the figures
    if other is not None:
        beside = _judge(*_count(other, compared, computing, messages, failures), None, checking).as_other()
    return _judge(state, summary, beside, checking)


def _kept(checking: Checking, clamp: Clamp, extras: Iterable[str], messages: Messages) -> Other | None:
    """What an earlier run kept of the other, if that is what there is of it."""
    if checking.against is None:
        return None
    other = kept(checking.against, clamp, **_factors(checking))
    for name in extras:
        if getattr(other.summary.extras, name) is None:
            note(messages, f"{checking.against} was made without --with {name}: that is not compared")
    return other


def _count(
    found: Found,
    extras: list[str],
    computing: Computing,
    messages: Messages,
    failures: Failures,
    labels: "Labels | None" = None,
) -> "tuple[State, Summary]":
    """What is there, and its figures; again without the files that failed meanwhile, as some of them was counted."""
    while True:
        before = len(failures.found)
        state = _count_once(found, extras, computing, messages, failures, labels)
        if len(failures.found) == before:
            break
        del state  # memory for the next
        found = found.without(failures)
        note(
            messages, f"counting again, without {count_of(len(failures.found) - before, 'file')} that failed meanwhile"
        )
    return state, figures_of(state, found.posteriors[0])


def _count_once(
    found: Found,
    extras: list[str],
    computing: Computing,
    messages: Messages,
    failures: Failures,
    labels: "Labels | None",
) -> "State":
    state = blank_state(found, computing.clamp(), extras, failures, labels)

    from latentkit.stats.counting import count

    results = count(
        found.spans,
        state.statistics,
        per_sample=state.per_sample,
        extras=state.extras,
        by=state.by,
        batch_size=computing.batch_size,
        workers=computing.workers,
        failures=failures,
    )
    for _ in track(results, found.nbytes, messages):
        pass
    return state


def merge(
    paths: list[str],
    conditions: Sequence[Condition],
    checking: Checking,
    messages: Messages,
    most: int = MOST_CHANNELS,
) -> Result:
    """What the states at ``paths`` come to together."""
    from latentkit.stats.state import merged

    state = merged(paths)
    if state.statistics.samples == 0:
        raise DataError(f"{paths[0]}: there are no samples in it")
    check_asked(conditions, state.extra_names)
    compared = [name for name in state.extra_names if name in BESIDE]
    beside = _kept(checking, state.statistics.clamp, compared, messages)
    check_held(state.statistics.channels, beside.summary.channels if beside else 0, most)
    return _judge(state, state.summary(), beside, checking)


def check_merge(checking: Checking, typed: Typed) -> None:
    """Options that say how to read tensors say nothing of states, and are refused."""
    names = [option.name for group in (Reading, Choosing, Asking, Faults) for option in fields(group)]
    if refused := [typed[name] for name in (*names, "clamp_min", "clamp_max") if name in typed]:
        raise RequestError(
            "--merge reads states, all of them, in which tensors, samples, clamp and --with are settled: leave out "
            + ", ".join(refused)
        )
    if checking.against is not None and not is_kept(checking.against):
        raise RequestError(f"--against {checking.against}: with --merge it takes what stats wrote, JSON or a state")


def _judge(state: "State", summary: "Summary", against: Other | None, checking: Checking) -> Result:
    return judged(state, summary, against, **_factors(checking))


def _factors(checking: Checking) -> dict[str, Any]:
    names = "scaling_factor", "shift_factor", "target_std"
    return {name: getattr(checking, name) for name in names}


def note_device(name: str, messages: Messages) -> None:
    """Say that another device is not used, if there is one."""
    if resolve_device(name, messages) != "cpu":
        note(messages, f"counting is done on the host: --device {name} is not used")


def note_nonfinite(summary: "Summary", messages: Messages) -> None:
    """Say that not every value is in the figures."""
    mean, scale = summary.overall.mean, summary.overall.logvar
    nonfinite = mean.nan_count + mean.plus_inf_count + mean.minus_inf_count
    nonfinite += scale.nan_count if scale is not None else 0
    if nonfinite:
        words = (
            "value is NaN or an infinite mean: it is"
            if nonfinite == 1
            else "values are NaN, or infinite means: they are"
        )
        warn(messages, f"{nonfinite:,} {words} counted and left out of the figures")


def write(outputs: Mapping[str, Pieces], result: Result, checking: Checking, writing: Writing) -> None:
    """Write ``outputs``, pieces under a path, and the normalization if asked to: files together, or none of them.

    Raises ``DataError`` in the end where there is no normalization to save.
    """
    impossible: DataError | None = None
    if checking.save_normalization is not None:
        try:
            outputs = {**outputs, checking.save_normalization: [document(result.summary, result.factors).encode()]}
        except DataError as error:
            impossible = error
    gone: BrokenPipeError | None = None
    for path in filter(is_stream, outputs):
        try:
            with placed(path) as descriptor:
                for piece in outputs[path]:
                    write_all(descriptor, piece)
        except BrokenPipeError as error:
            # Its reader went away; the files are wanted still.
            gone = error
    files = {path: pieces for path, pieces in outputs.items() if not is_stream(path)}
    place_together(files, overwrite=writing.overwrite)
    if impossible is not None:
        raise impossible
    if gone is not None:
        raise gone


def say_written(outputs: Iterable[str], result: Result, checking: Checking, messages: Messages) -> None:
    """One line for each file."""
    for path in outputs:
        if not is_stream(path):
            note(messages, f"wrote {path}: {result.verdict}")
    if checking.save_normalization is not None and not is_stream(checking.save_normalization):
        note(messages, f"wrote {checking.save_normalization}: scale and shift of latents")


def finish(result: Result, conditions: Sequence[Condition]) -> None:
    """Say which conditions hold, and end with their status if one does."""
    both = result, result.against
    stop_if_held(held(conditions, lambda name: value_of(name, *both)), lambda name: why_undefined(name, *both))
