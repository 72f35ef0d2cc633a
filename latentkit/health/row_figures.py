"""The figures of ``kl`` and ``nll`` that conditions may name: of all samples, whichever rows are shown."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from latentkit.health.conditions import LEVELS, Condition, parse

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from latentkit.read.choice import Span

    Measured = Iterator[tuple[Span, NDArray[np.float64]]]

_Read = Callable[["RowValues"], float]


class RowValues:
    """Takes the values of all samples as they go by, and gives their figures, exactly.

    8 bytes per value, beyond 16 MiB on disk. A sample with a value that is not finite leaves all figures but the counts
    undefined, unless ``skip``.
    """

    def __init__(self, *, skip: bool) -> None:
        from latentkit.measures.ranking import Spread

        self.samples = self.nonfinite = 0
        self.spread = Spread()
        self._skip = skip

    def watch(self, measured: "Measured") -> "Measured":
        """Pass on what comes."""
        import numpy as np

        for span, values in measured:
            is_finite = np.isfinite(values).all(axis=1)
            self.samples += span.count
            self.nonfinite += span.count - int(is_finite.sum())
            self.spread.add(values[is_finite].ravel())
            yield span, values

    def value(self, name: str) -> float:
        """The figure of this name, NaN where it is undefined."""
        _, read = ROW_FIGURES[name]
        if name not in _COUNTS and (not self.spread.count or (self.nonfinite and not self._skip)):
            return math.nan
        return read(self)

    def why_undefined(self) -> str:
        """What may have left a figure undefined."""
        if self.nonfinite:
            return f"{self.nonfinite:,} of {self.samples:,} samples hold NaN or an infinite mean"
        return "it takes two samples or more"


def _quantile(percent: int) -> _Read:
    return lambda values: values.spread.quantiles([percent / 100])[0]


_COUNTS = "samples", "nonfinite"

#: Every name with what it means, in the order of the guide's table.
ROW_FIGURES: dict[str, tuple[str, _Read]] = {
    "samples": ("samples", lambda values: values.samples),
    "nonfinite": ("samples that hold NaN or an infinite mean", lambda values: values.nonfinite),
    "mean": ("mean of the values", lambda values: values.spread.mean),
    "sd": ("standard deviation of the values (n − 1)", lambda values: values.spread.sd()),
    "min": ("least value", lambda values: values.spread.min),
    **{f"p{percent}": ("quantile of the values", _quantile(percent)) for percent in LEVELS},
    "max": ("greatest value", lambda values: values.spread.max),
}


def row_condition(text: str) -> Condition:
    """Read a condition on the figures of rows; raises ``RequestError``, see ``parse``."""
    return parse(text, ROW_FIGURES, "p99 > 1000")
