"""The figures that ``stats --with`` adds: blocks -> accumulators, one set of them a worker, merged at the end.

They are of whole samples. One with a value that is not finite is left out of all but the duplicates, and counted; so
is, of all, one that is too large to be held.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import groupby
from math import prod
from threading import Lock
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latentkit.posterior.parameterization import Clamp, scale_of
from latentkit.read.blocks import Block, Piece, read_latents, read_posterior
from latentkit.read.choice import Posterior
from latentkit.stats import Origin, Place
from latentkit.stats.centred import Arrays, Chunk, fill
from latentkit.stats.correlation import CorrelationSums
from latentkit.stats.duplicates import Names, SampleHashes
from latentkit.stats.shape import ShapeSums
from latentkit.stats.spectrum import SpectrumSums
from latentkit.stats.summary import ExtraFigures
from latentkit.workspace import Workspace

#: Elements of the mean in the largest sample that is held whole.
MOST_ELEMENTS = 5 << 20

# Elements of the mean taken at once: fewer cost calls, more leave the cache.
_TOGETHER = 1 << 18
# Large samples take memory that grows with them: one at a time.
_LARGE = Lock()


class _Sums(Protocol):
    """An accumulator of chunks."""

    def update(self, chunk: Chunk) -> None: ...
    def merge(self, other: Any) -> None: ...
    def figures(self) -> Any: ...
    def parts(self) -> Arrays: ...


_SUMS: dict[str, Callable[[int], _Sums]] = {
    "correlation": CorrelationSums,
    "shape": ShapeSums,
    "spectrum": SpectrumSums,
}

NAMES = (*_SUMS, "duplicates")


class Extras:
    """Accumulators of the figures of these names, for posteriors with C channels.

    Args:
        names: some of ``NAMES``; raises ``ValueError`` for others.
        channels, parameterization, clamp: as of ``Statistics``.

    One thread at a time; each worker has its own ``part``, and they are merged at the end.
    """

    def __init__(self, names: Collection[str], channels: int, parameterization: str, clamp: Clamp) -> None:
        if unknown := set(names) - set(NAMES):
            raise ValueError(f"no figures are called {', '.join(map(str, unknown))}; there are {', '.join(NAMES)}")
        self.names = sorted(names)
        self._of = channels, parameterization, clamp
        self._sums = {name: make(channels) for name, make in _SUMS.items() if name in names}
        self._hashes = SampleHashes() if "duplicates" in names else None
        # Samples that are not finite, and those too large.
        self._left_out: NDArray[np.int64] = np.zeros(2, np.int64)

    def part(self) -> "Extras":
        """An empty one for a worker; the hashes, which take memory, are shared."""
        part = Extras(self.names, *self._of)
        part._hashes = self._hashes
        return part

    def update(self, block: Block, mean: Tensor, raw: Tensor | None, workspace: Workspace) -> None:
        """Take a block, with the means and scales that were read for it (scale None: drawn latents).

        Of a sample that comes in pieces it takes the last, and reads the sample again, whole.
        """
        shape = block.spans[0].posterior.axes.view[1:]
        if block.piece.shape == shape:
            self._take(block, mean, raw, workspace)
        elif block.last and prod(shape) > MOST_ELEMENTS:
            self._left_out[1] += 1
        elif block.last:
            outer, channels, inner = ((0, size) for size in shape)
            whole = Block(block.spans, Piece(outer, channels, inner), block.first_row, last=True)
            memory = Workspace()
            with _LARGE:
                if raw is None:
                    self._take(whole, read_latents(whole, memory), None, memory)
                else:
                    self._take(whole, *read_posterior(whole, memory), memory)

    def _take(self, block: Block, mean: Tensor, raw: Tensor | None, workspace: Workspace) -> None:
        row = 0
        for free, spans in groupby(block.spans, key=lambda span: _free_axes(span.posterior)):
            first = row
            for span in spans:
                rows = slice(row, row + span.count)
                row = rows.stop
                if self._hashes is not None:
                    origin = Origin(span.posterior.file.path, span.posterior.key, span.first)
                    self._hashes.update(mean[rows], None if raw is None else raw[rows], origin)
            if self._sums:
                step = max(1, _TOGETHER // max(1, prod(mean.shape[1:])))
                for start in range(first, row, step):
                    rows = slice(start, min(start + step, row))
                    self._add(mean[rows], None if raw is None else raw[rows], *free, workspace)

    def _add(
        self, mean: Tensor, raw: Tensor | None, letters: str, sizes: tuple[int, ...], workspace: Workspace
    ) -> None:
        """Some whole samples of one shape."""
        deviations = _channels_first(mean, "extra mean", workspace)
        variance = None if raw is None else self._variance(_channels_first(raw, "extra scale", workspace))
        finite = _finite(deviations) if variance is None else _finite(deviations) & _finite(variance)
        if not finite.all():
            self._left_out[0] += int((~finite).sum())
            deviations, variance = deviations[:, finite], None if variance is None else variance[:, finite]
        if not deviations.numel():
            return
        center = deviations.flatten(1).mean(1)
        deviations.sub_(center.view(-1, 1, 1, 1))
        shape = *deviations.shape[:2], *sizes
        chunk = Chunk(
            center.numpy(), deviations.view(shape), None if variance is None else variance.view(shape), letters
        )
        for sums in self._sums.values():
            sums.update(chunk)

    def _variance(self, scale: Tensor) -> Tensor:
        """σ² after the clamp, of scale parameters in float64, which may be overwritten."""
        _, parameterization, clamp = self._of
        if parameterization == "logvar":
            return scale.clamp_(*clamp).exp_()
        return scale_of(scale, parameterization, clamp).var

    def merge(self, other: "Extras") -> None:
        """Take what another of the same names has counted."""
        self._left_out += other._left_out
        for name, sums in self._sums.items():
            sums.merge(other._sums[name])
        if self._hashes is not None and other._hashes is not None and self._hashes is not other._hashes:
            self._hashes.merge(other._hashes)

    def figures(self) -> ExtraFigures:
        """What it comes to."""
        found = {name: sums.figures() for name, sums in self._sums.items()}
        if self._hashes is not None:
            found["duplicates"] = self._hashes.figures()
        nonfinite, large = self._left_out.tolist()
        return ExtraFigures(**found, nonfinite_samples=nonfinite, large_samples=large)

    def arrays(self, number_of: Callable[[Place], int]) -> Arrays:
        """What was counted, for ``restore``; ``number_of`` gives the number that stands for a place's file."""
        arrays = {f"{name}.{part}": array for name, sums in self._sums.items() for part, array in sums.parts().items()}
        if self._hashes is not None:
            arrays |= {f"duplicates.{part}": array for part, array in self._hashes.arrays(number_of).items()}
        return arrays | {"left_out": self._left_out}

    def restore(self, arrays: Mapping[str, NDArray[Any]], names: Names) -> None:
        """Put into an empty one what ``arrays`` gave; ``names`` are the files and tensors by number.

        Raises ``ValueError`` or ``KeyError`` for arrays that are not such.
        """
        fill({"left_out": self._left_out}, arrays)
        for name, sums in self._sums.items():
            own = dict(_of_name(name, arrays))
            if isinstance(sums, SpectrumSums):
                sums.prepare(own)
            fill(sums.parts(), own)
        if self._hashes is not None:
            self._hashes.restore(dict(_of_name("duplicates", arrays)), names)


def _free_axes(posterior: Posterior) -> tuple[str, tuple[int, ...]]:
    """The letters and sizes of the axes but batch and channels."""
    axes = posterior.axes
    return posterior.layout.lstrip("b").replace("c", ""), axes.outer + axes.inner


def _channels_first(view: Tensor, name: str, workspace: Workspace) -> Tensor:
    """``(n, outer, channels, inner)`` as ``(channels, n, outer, inner)`` in float64, in the workspace."""
    swapped = view.permute(2, 0, 1, 3)
    return workspace.take(name, tuple(swapped.shape), torch.float64).copy_(swapped)


def _finite(values: Tensor) -> Tensor:
    """Whether all of a sample is, for each of n: of ``(channels, n, outer, inner)``."""
    # The sum is finite if they all are, and nearly always they are.
    if values.sum().isfinite():
        return torch.ones(values.shape[1], dtype=torch.bool)
    return values.isfinite().all(3).all(2).all(0)


def _of_name(name: str, arrays: Mapping[str, NDArray[Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    return ((key.removeprefix(f"{name}."), array) for key, array in arrays.items() if key.startswith(f"{name}."))
