"""What no measure accepts: a negative standard deviation or variance."""

import numpy as np

from latentkit.compiled.tables import WIDE, values_of
from latentkit.errors import DataError
from latentkit.read.blocks import Block, Halves
from latentkit.run import Values, locate


def refuse_negative(values: Values, block: Block, halves: Halves) -> None:
    """A negative σ or variance gives NaN; say so, rather than count it among the NaN of the data."""
    parameterization = block.spans[0].posterior.parameterization
    if parameterization not in ("std", "var") or not np.isnan(values).any():
        return
    stored = halves.view(halves.scale)
    negative = (stored if halves.dtype in WIDE else values_of(halves.dtype)[stored]) < 0
    rows = np.flatnonzero(negative.any(axis=(1, 2, 3)))
    if len(rows):
        posterior, index = locate(block, int(rows[0]))
        what = "standard deviation" if parameterization == "std" else "variance"
        raise DataError(
            f"{posterior.label}, sample {index} has a negative {what}; is its second half a log-variance "
            f"(--parameterization logvar)?",
            tensor=posterior.key,
            index=index,
        )
