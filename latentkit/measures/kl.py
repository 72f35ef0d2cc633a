"""KL of each sample's posterior, to the standard normal or to another posterior."""

from collections.abc import Callable, Iterable, Mapping
from functools import partial

import numpy as np

from latentkit.compiled import divergence
from latentkit.compiled.scale import KINDS, LOGVAR, STD, VAR
from latentkit.compiled.tables import WIDE, bounds_for, half_remainders, half_squares, kind_of
from latentkit.failures import Failures
from latentkit.measures.operands import operand
from latentkit.measures.refuse import refuse_negative
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Block, Halves, plan_blocks, read_block
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior, Span
from latentkit.run import Progressing, Values, run, sample_values


def kl_values(
    spans: Iterable[Span | Posterior],
    clamp: Clamp = DEFAULT_CLAMP,
    *,
    partners: Mapping[Posterior, Posterior] | None = None,
    symmetric: bool = False,
    per_channel: bool = False,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    failures: Failures | None = None,
) -> Progressing:
    """KL of every sample in nats, to the standard normal or to its partner, in the order of ``spans``.

    Values have shape ``(samples, 1)``, or ``(samples, channels)`` per channel. ``symmetric``: the sum of both
    directions (Jeffreys). Unless ``failures`` take it, raises ``DataError`` for a file that changed, and for a
    negative standard deviation or variance.
    """

    to_prior: Callable[..., Values] = kl_to_prior
    to_other: Callable[..., Values] = kl_to_other
    buffers_of: Callable[[], Buffers] = Buffers
    if device != "cpu":
        from latentkit import cuda

        to_prior, to_other = (partial(each, device=device) for each in (cuda.kl_to_prior, cuda.kl_to_other))
        buffers_of = cuda.buffers_for(device)

    def work(block: Block, buffers: Buffers) -> Values:
        posterior = block.spans[0].posterior
        ours = read_block(block, buffers), posterior.parameterization
        if not partners:
            values = to_prior(*ours, clamp, per_channel=per_channel)
        else:
            partner = partners[posterior]
            theirs = read_block(facing(block, partner), buffers, "other"), partner.parameterization
            values = to_other(*ours, *theirs, clamp, per_channel=per_channel)
            if symmetric:
                values += to_other(*theirs, *ours, clamp, per_channel=per_channel)
        refuse_negative(values, block, ours[0])
        return values

    apart = bool(partners) or (failures is not None and failures.keep_going)
    blocks = plan_blocks(spans, batch_size, apart=apart)
    return sample_values(run(blocks, work, workers, buffers=buffers_of, failures=failures), per_channel=per_channel)


def facing(block: Block, partner: Posterior) -> Block:
    """The partner's block: the same samples, or its one sample for all of them."""
    span = block.spans[0]
    first = span.first if partner.samples > 1 else 0
    count = span.count if partner.samples > 1 else 1
    return Block((Span(partner, first, count),), block.piece, block.first_row, block.last)


def kl_to_prior(halves: Halves, parameterization: str, clamp: Clamp, *, per_channel: bool = False) -> Values:
    """½ Σ (m² + e^l − 1 − l) of each sample, ``(n, 1)``, or of each channel too, ``(n, channels)``: Kingma & Welling
    2014, appendix B.
    """
    starts, shape = halves.channels if per_channel else halves.samples
    out: Values = np.empty(len(starts))
    if halves.dtype in WIDE:
        kind = kind_of(halves.dtype, parameterization)
        divergence.kl_of_floats(halves.mean, halves.scale, starts, shape, kind, bounds_for(clamp), out)
    else:
        tables = half_squares(halves.dtype), half_remainders(halves.dtype, parameterization, clamp)
        divergence.kl_of_codes(halves.mean, halves.scale, starts, shape, *tables, out)
    return out.reshape(halves.dims[0], -1)


def kl_to_other(
    halves: Halves,
    parameterization: str,
    other: Halves,
    other_parameterization: str,
    clamp: Clamp,
    *,
    per_channel: bool = False,
) -> Values:
    """½ Σ ((m − m2)² e^(−l2) + h(l − l2)) of each sample; shapes as in ``kl_to_prior``.

    Either may have one sample, for all of the other.
    """
    n = max(halves.dims[0], other.dims[0])
    one = operand(halves, parameterization, clamp, per_channel=per_channel, samples=n)
    two = operand(other, other_parameterization, clamp, per_channel=per_channel, samples=n)
    kinds = {KINDS[parameterization], KINDS[other_parameterization]}
    # σ and softplus are both compared as σ; of different kinds both as variances.
    common = LOGVAR if kinds == {LOGVAR} else VAR if kinds & {LOGVAR, VAR} else STD
    out: Values = np.empty(len(one.starts))
    divergence.kl_to_other(*one, *two, common, bounds_for(clamp), out)
    return out.reshape(n, -1)
