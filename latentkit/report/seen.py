"""Figures seen as the JSON document of ``stats`` has them, without a copy: of thousands of channels that is large."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from latentkit.health.document import plain
from latentkit.stats.extrema import Place


class _Seen(Mapping[str, Any]):
    """A dataclass as a mapping."""

    __slots__ = ("_figures",)

    def __init__(self, figures: Any) -> None:
        self._figures = figures

    def __getitem__(self, name: str) -> Any:
        return seen(getattr(self._figures, name))

    def __iter__(self) -> Iterator[str]:
        return (field.name for field in fields(self._figures))

    def __len__(self) -> int:
        return len(fields(self._figures))


def seen(value: Any) -> Any:
    """``value`` with its dataclasses as mappings, and None for NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if is_dataclass(value) and not isinstance(value, Place):  # which has other names there
        return _Seen(value)
    if isinstance(value, dict):
        return {name: seen(item) for name, item in value.items()}
    return [seen(item) for item in value] if isinstance(value, (list, tuple)) else plain(value)
