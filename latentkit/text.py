"""Names, numbers and counts in words, as messages, tables and pages show them."""

#: What stands for a number that is undefined.
DASH = "–"


def harmless(text: str) -> str:
    """``text`` with control and bidirectional characters spelled out, which names from data may hold to trick."""
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape", "backslashreplace").decode() for char in text
    )


def number(value: float, digits: int = 4) -> str:
    """So many significant digits, and a dash for what is undefined."""
    if value != value:
        return DASH
    return "0" if value == 0 else f"{value:#.{digits}g}".rstrip(".")


def fixed(value: float, decimals: int) -> str:
    """So many decimals, thousands apart, no sign before a zero, and a dash for what is undefined."""
    return DASH if value != value else f"{round(value, decimals) + 0.0:,.{decimals}f}"


def count_of(count: int, noun: str) -> str:
    """``1 sample``, ``2,000 samples``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
