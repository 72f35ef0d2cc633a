"""Conditions on figures, ``NAME OP NUMBER``, for CI and training scripts: ``--fail-if 'clamped_fraction > 0.001'``.

Parsed by hand, never evaluated, and without torch, so that a typing error costs no run.
"""

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from latentkit.errors import RequestError

#: Percentages of the quantiles that conditions may name, as in ``kl.p99``: those of ``stats.summary.QUANTILES``.
LEVELS = (1, 5, 25, 50, 75, 95, 99)

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
    "==": operator.eq,
    "!=": operator.ne,
}
_SHAPE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*(>=|<=|==|!=|>|<)\s*([^\s%]+)\s*(%?)\s*")


@dataclass(frozen=True, slots=True)
class Condition:
    """``name`` compared with ``number``."""

    name: str
    comparison: str
    number: float

    def held(self, value: float) -> bool:
        """Whether it holds for ``value``. NaN holds any: a broken file must not turn a check green."""
        return math.isnan(value) or _COMPARISONS[self.comparison](value, self.number)

    def __str__(self) -> str:
        return f"{self.name} {self.comparison} {self.number:.15g}"


def parse(text: str, names: Iterable[str], such: str, more: Iterable[str] = ()) -> Condition:
    """Read a condition on one of these figures, or of ``more`` that are not listed; ``%`` makes hundredths of a number.

    Raises ``RequestError`` with what would be right: a condition ``such`` as this, the nearest names.
    """
    match = _SHAPE.fullmatch(text)
    number = _number(match[3]) / (100 if match[4] else 1) if match else math.nan
    if match is None or math.isnan(number):
        raise RequestError(
            f"--fail-if {text!r}: a condition is NAME OP NUMBER, with {' '.join(_COMPARISONS)} for OP, such as {such!r}"
        )
    names = list(names)
    known = [*names, *more]
    if match[1] not in known:
        wanted = match[1].lower()
        near = [name for name in names if wanted in name] or [name for name in known if wanted in name]
        near = near[:3] or difflib.get_close_matches(wanted, _of_shape(wanted, known) or names, n=3, cutoff=0.5)
        raise RequestError(
            f"--fail-if {text!r}: no figure is called {match[1]!r}; "
            + (f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(names)}")
        )
    return Condition(match[1], match[2], number)


def _of_shape(wanted: str, known: Iterable[str]) -> list[str]:
    """The names with as many parts as ``wanted``, and a number at the end if that has one."""
    return [
        name for name in known if (name.count("."), name[-1].isdigit()) == (wanted.count("."), wanted[-1].isdigit())
    ]


def held(conditions: Iterable[Condition], value_of: Callable[[str], float]) -> list[tuple[Condition, float]]:
    """The conditions that hold, each with the figure's value."""
    values = [(condition, value_of(condition.name)) for condition in conditions]
    return [(condition, value) for condition, value in values if condition.held(value)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan
