"""Negative log-likelihood of latents under each sample's posterior."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import likelihood
from latentkit.compiled.scale import LOGVAR
from latentkit.compiled.tables import WIDE, bounds_for, likelihoods_of, values_of
from latentkit.failures import Failures
from latentkit.measures.operands import operand
from latentkit.measures.refuse import refuse_negative
from latentkit.posterior.affine import Affine
from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.read.blocks import Block, Halves, plan_blocks, read_block, read_values
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Posterior, Span
from latentkit.read.pairing import Latents
from latentkit.run import Progressing, Values, run, sample_values


def nll_values(
    spans: Iterable[Span | Posterior],
    latents: Mapping[Posterior, Latents],
    affines: Mapping[Posterior, Affine],
    clamp: Clamp = DEFAULT_CLAMP,
    *,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    failures: Failures | None = None,
) -> Progressing:
    """NLL in nats of every sample's latents, after their affine is undone, in the order of ``spans``.

    Values have shape ``(samples, draws)``. Raises as ``kl_values`` does.
    """

    measure: Callable[..., Values] = nll
    buffers_of: Callable[[], Buffers] = Buffers
    if device != "cpu":
        from latentkit import cuda

        measure, buffers_of = partial(cuda.nll, device=device), cuda.buffers_for(device)

    def work(block: Block, buffers: Buffers) -> Values:
        posterior = block.spans[0].posterior
        halves = read_block(block, buffers)
        of, affine = latents[posterior], affines[posterior]
        factors = ((), ()) if affine.is_identity else affine.of_channels(*block.piece.channels)
        columns = [
            measure(
                halves,
                posterior.parameterization,
                read_values(block, of.runs, draw, buffers),
                of.tensor.dtype,
                clamp,
                factors,
            )
            for draw in range(of.draws)
        ]
        values = np.concatenate(columns, axis=1)
        refuse_negative(values, block, halves)
        return values

    blocks = plan_blocks(spans, batch_size, apart=True)
    return sample_values(run(blocks, work, workers, buffers=buffers_of, failures=failures))


def nll(
    halves: Halves,
    parameterization: str,
    latents: NDArray[Any],
    latents_dtype: str,
    clamp: Clamp,
    factors: tuple[Sequence[float], Sequence[float]] = ((), ()),
) -> Values:
    """½ Σ (log 2π + l + (x − m)² e^(−l)) of each sample, ``(n, 1)``.

    x is ``latents / scale + shift`` in float64: ``latents`` are stored numbers, end to end, and ``factors`` shift and
    scale, a value per channel or one for all (none: as they are).
    """
    one = operand(halves, parameterization, clamp)
    if one.table is not None:
        table = likelihoods_of(halves.dtype, parameterization, clamp)
        one = one._replace(table=table, kind=LOGVAR)
    drawn = None if latents_dtype in WIDE else values_of(latents_dtype)
    shift, scale = (np.array(values, np.float64) for values in factors)
    out: Values = np.empty(len(one.starts))
    likelihood.nll_of(*one, latents, drawn, shift, scale, halves.dims[3], bounds_for(clamp), out)
    return out.reshape(-1, 1)
