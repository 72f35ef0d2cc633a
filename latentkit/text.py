"""Names, numbers and counts in words, as messages, tables and pages show them."""

import math
import re
from collections.abc import Iterable

#: What stands for a number that is undefined.
DASH = "–"

# A sentence of more characters is made shorter: its names to so many, and then whatever it is made of.
_LONG, _NAME, _LONGEST = 300, 80, 600


def harmless(text: str) -> str:
    """``text`` with control and bidirectional characters spelled out, which names from data may hold to trick."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def sentence(text: str) -> str:
    """``text`` harmless, and of a few hundred characters however long the names in it are."""
    text = harmless(text)
    if len(text) > _LONG:
        text = re.sub(r"\S+", lambda name: _shortened(name[0], _NAME), text)
    return _shortened(text, _LONGEST)


def _shortened(text: str, length: int) -> str:
    """``text`` without its middle, where it is longer."""
    half = (length - 1) // 2
    return text if len(text) <= length else f"{text[:half]}…{text[-half:]}"


def number(value: float, digits: int = 4) -> str:
    """So many significant digits, ``14,436`` and ``0.0000123``; powers from 1e8 up and below 1e-6; a dash for NaN."""
    if value != value:
        return DASH
    if value == 0 or value in (math.inf, -math.inf):
        return f"{value:g}".lstrip("-") if value == 0 else f"{value:g}"
    if not 1e-6 <= abs(value) < 1e8:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}"
    decimals = digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2])
    return f"{value:,.{max(0, decimals)}f}"


def fixed(value: float, decimals: int) -> str:
    """So many decimals, thousands apart, no sign before a zero, and a dash for what is undefined."""
    return DASH if value != value else f"{round(value, decimals) + 0.0:,.{decimals}f}"


def percent(share: float) -> str:
    """Two significant digits: ``6.2 %``."""
    return f"{number(100 * share, 2)} %"


def count_of(count: int, noun: str) -> str:
    """``1 sample``, ``2,000 samples``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def near(wanted: str, names: Iterable[str]) -> str:
    """The name that may have been meant, in brackets to stand behind one that is not there, or nothing."""
    from difflib import get_close_matches

    found = get_close_matches(wanted, list(names), n=1, cutoff=0.7)
    return f" (did you mean {found[0]}?)" if found else ""
