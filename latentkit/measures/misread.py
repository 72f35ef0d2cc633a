"""Whether log-variances can be such: a look at a few, before the work begins."""

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np

from latentkit.compiled.tables import WIDE, values_of
from latentkit.errors import LatentkitError
from latentkit.measures.refuse import refuse_negative
from latentkit.read.blocks import Block, Halves, plan_blocks, read_block
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

    Raises ``DataError`` where a preset's σ or variance is negative: nobody but the preset said that it is one. One
    block at each of a few places is read; what cannot be read the run itself will say.
    """
    by_preset = [span for span in spans if span.posterior.preset and span.posterior.parameterization in ("std", "var")]
    for block, halves in _looks(by_preset):
        refuse_negative(np.full(1, np.nan), block, halves)
    seen, least = 0, np.inf
    for _, halves in _looks([span for span in spans if span.posterior.parameterization == "logvar"]):
        stored = halves.view(halves.scale)
        values = stored if halves.dtype in WIDE else values_of(halves.dtype)[stored]
        if (values < 0).any():
            return None
        finite = values[np.isfinite(values)]
        seen, least = seen + finite.size, min(least, float(finite.min(initial=np.inf)))
    return no_logvars(least) if seen >= LEAST_POSITIVE else None


def _looks(spans: Sequence[Span]) -> Iterator[tuple[Block, Halves]]:
    buffers = Buffers()
    for at in sorted({len(spans) * place // _PLACES for place in range(_PLACES)} if spans else ()):
        block = next(plan_blocks([spans[at]]))
        with suppress(LatentkitError, OSError):
            yield block, read_block(block, buffers)
