"""Whether log-variances can be such: a look at a few, before the work begins."""

from collections.abc import Sequence

import numpy as np

from latentkit.compiled.tables import WIDE, values_of
from latentkit.errors import LatentkitError
from latentkit.read.blocks import plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Span

#: Log-variances that are none below 0 are no evidence of a wrong reading when they are fewer.
LEAST_POSITIVE = 100
# Looked at where none was below 0 so far: as many places of the inputs, evenly apart.
_PLACES = 16


def no_logvars(least: float) -> str:
    """That the least of many log-variances is not below 0."""
    return (
        f"no log-variance is below 0 (the least is {least:.4g}), so each posterior is at least as wide as the prior: "
        f"are they standard deviations (--parameterization std) or variances (var)?"
    )


def doubtful_logvars(spans: Sequence[Span]) -> str | None:
    """A sentence where log-variances look like something else, None where one is below 0 as it should be.

    One block at each of a few places is read. What cannot be read the run itself will say.
    """
    spans = [span for span in spans if span.posterior.parameterization == "logvar"]
    buffers, seen, least = Buffers(), 0, np.inf
    for at in sorted({len(spans) * place // _PLACES for place in range(_PLACES)} if spans else ()):
        block = next(plan_blocks([spans[at]]))
        try:
            halves = read_block(block, buffers)
        except (LatentkitError, OSError):
            return None
        stored = halves.view(halves.scale)
        values = stored if halves.dtype in WIDE else values_of(halves.dtype)[stored]
        if (values < 0).any():
            return None
        finite = values[np.isfinite(values)]
        seen, least = seen + finite.size, min(least, float(finite.min(initial=np.inf)))
    return no_logvars(least) if seen >= LEAST_POSITIVE else None
