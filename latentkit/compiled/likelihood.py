"""NLL of latents under their posteriors: ½ Σ (log 2π + l + (x − m)² e^(−l))."""

import numpy as np

from latentkit.compiled.divergence import Shape, decoded, spread
from latentkit.compiled.jit import formula, loop
from latentkit.compiled.rows import PART, Floats, Ints, Stored, part_of, total
from latentkit.compiled.scale import logvars

LOG_2PI = 1.8378770664093453


@formula
def _undo(drawn: Floats, shift: Floats, factor: Floats, inner: int, first: int, count: int) -> None:
    """z / factor + shift of elements ``first`` on of a sample: one value per channel, or for all, or none."""
    if shift.size == 1:
        for j in range(count):
            drawn[j] = drawn[j] / factor[0] + shift[0]
    elif shift.size > 1:
        done, channel, within = 0, first // inner % shift.size, first % inner
        while done < count:
            some = min(inner - within, count - done)
            for j in range(done, done + some):
                drawn[j] = drawn[j] / factor[channel] + shift[channel]
            done, channel, within = done + some, (channel + 1) % shift.size, 0


@loop
def nll_of(
    mean: Stored, scale: Stored, starts: Ints, shape: Shape, values: Floats | None, table: Floats | None, kind: int,
    latents: Stored, latents_values: Floats | None, shift: Floats, factor: Floats, inner: int, bounds: Floats,
    out: Floats,
) -> None:  # fmt: skip
    """NLL in nats, row by row.

    Posteriors as in ``divergence.kl_to_other``, with the log-variance for a base where there is a ``table``.
    ``latents`` lie end to end in the order of the rows; ``latents / factor + shift`` is what was drawn, of one value a
    channel or one for all, and ``inner`` elements of a channel follow each other.
    """
    step, width, length = shape
    mean_buffer, scale_buffer = np.empty(PART, mean.dtype), np.empty(PART, scale.dtype)
    means, bases, inverse, drawn = np.empty(PART), np.empty(PART), np.empty(PART), np.empty(PART)
    for row in range(starts.size):
        value = 0.0
        for first in range(0, length, PART):
            count = min(PART, length - first)
            m = part_of(mean, starts[row], step, width, first, count, mean_buffer)
            decoded(m, values, means, count)
            s = part_of(scale, starts[row], step, width, first, count, scale_buffer)
            spread(s, table, kind, bounds, bases, inverse, count)
            if table is None:
                logvars(bases, kind, bounds[0], bounds[1], count)
            begin = row * length + first
            decoded(latents[begin : begin + count], latents_values, drawn, count)
            _undo(drawn, shift, factor, inner, first, count)
            for j in range(count):
                # Divided before it is squared: the square may exceed float64 where the quotient's square does not.
                deviation = (drawn[j] - means[j]) * inverse[j]
                drawn[j] = (0.5 * bases[j] + 0.5 * LOG_2PI) + 0.5 * deviation * deviation
            value += total(drawn, count)
        out[row] = value
