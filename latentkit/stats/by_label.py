"""Figures per label: which classes have collapsed, have much KL, or have latents of another scale.

A label's figures are those that its samples alone have: values of samples as ``measures.by_label`` gives them, and of
elements ``Facts`` as the whole has, a row for each label's channel.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.counting import count_floats
from latentkit.compiled.tables import WIDE, bounds_for, values_of
from latentkit.errors import RequestError
from latentkit.measures.by_label import LabelValues, ValuesByLabel
from latentkit.posterior.parameterization import Clamp
from latentkit.read.blocks import Block, Halves
from latentkit.read.labels import Labels
from latentkit.stats.facts import Facts
from latentkit.stats.quantity import Quantity
from latentkit.stats.summary import ACTIVE_VARIANCE, COLLAPSED_KL
from latentkit.stats.sums import Floats, Ints

#: So many channels of all labels together are counted; each takes 0.6 KiB for each worker.
MOST_ROWS = 1 << 15


@dataclass(frozen=True, slots=True)
class ChannelsOfLabel:
    """Figures of each channel, (C,)."""

    kl_element: list[float] | None
    latents_mean: list[float]
    latents_sd: list[float]


@dataclass(frozen=True, slots=True)
class LabelGroup:
    """The figures of one label's samples, as ``Summary`` has them of all.

    ``values`` are of its samples' KL, or of latents already drawn of their mean square. ``nonfinite_count`` are
    elements that are in no figure: NaN, and infinite means. What concerns the scale is None for drawn latents; what
    takes two samples is NaN, or 0 channels, for one.
    """

    values: LabelValues
    nonfinite_count: int
    kl_element: float | None
    clamped_fraction: float | None
    active_channels: int
    collapsed_channels: int | None
    latents_mean: float
    latents_sd: float
    scaling_factor: float
    channels: ChannelsOfLabel


@dataclass(frozen=True, slots=True)
class Groups:
    """The figures of each label in tensor ``key``, ascending."""

    key: str
    labels: list[LabelGroup]


class ByLabel:
    """What there is to know of each label's samples, of posteriors with C channels; other arguments as of ``Facts``.

    ``values`` are to be given the samples' KL, or mean square, by one thread; for the elements each worker has its own
    ``part``, and they are merged at the end. Raises ``RequestError`` where labels and channels are too many.
    """

    def __init__(self, labels: Labels, channels: int, parameterization: str, clamp: Clamp) -> None:
        if len(labels) * channels > MOST_ROWS:
            raise RequestError(
                f"--by {labels.key}: {len(labels):,} labels of {channels:,} channels each are more than the "
                f"{MOST_ROWS:,} that stats counts apart; choose samples with --indices, or take kl --by {labels.key}"
            )
        self._of = labels, channels, parameterization, clamp
        self.values = ValuesByLabel(labels)
        self._quantities = [Quantity(None, clamp)]
        if parameterization != "none":
            self._quantities.append(Quantity(parameterization, clamp))
        # Of the thresholds only the clamp's bounds are asked for.
        self._thresholds = [quantity.thresholds[: 2 * half] for half, quantity in enumerate(self._quantities)]
        self._facts = [Facts(len(labels) * channels, len(thresholds)) for thresholds in self._thresholds]
        self._ends = np.empty((channels, 2))

    @property
    def nbytes(self) -> int:
        """Memory that a part takes."""
        return sum(
            array.nbytes for facts in self._facts for array in (facts.tallies, facts.beneath, *facts.sums.arrays)
        )

    def part(self) -> "ByLabel":
        """An empty one for a worker."""
        return ByLabel(*self._of)

    def update(self, block: Block, halves: Halves) -> None:
        """Take a block, with what was read for it. Raises ``DataError`` for labels that changed."""
        labels, channels, *_ = self._of
        rows = np.concatenate([labels.numbers(span) for span in block.spans]) * channels + block.piece.channels[0]
        samples, outer, channels, inner = halves.dims
        values = None if halves.dtype in WIDE else values_of(halves.dtype)
        for half, quantity in enumerate(self._quantities):
            facts, stored = self._facts[half], (halves.mean, halves.scale)[half]
            facts.sums.reserve(9 * samples * (1 + outer * inner // 1024))
            count_floats(
                stored, values, halves.dims, halves.run_step, quantity.kind, bounds_for(quantity.clamp),
                self._thresholds[half], None, None, rows, facts.tallies, facts.beneath, *facts.sums.arrays,
                self._ends[:channels],
            )  # fmt: skip

    def merge(self, other: "ByLabel") -> None:
        """Take the elements that another has counted."""
        for ours, theirs in zip(self._facts, other._facts, strict=True):
            ours.merge(theirs)

    def figures(self) -> Groups:
        """All labels of which there is a sample."""
        return Groups(self._of[0].key, list(self._groups()))

    def _groups(self) -> Iterator[LabelGroup]:
        labels, channels, *_ = self._of
        mean, *others = self._facts
        scale = others[0].with_infinities(self._quantities[1]) if others else None
        whole_mean = mean.pooled(len(labels))
        whole_scale = None if scale is None else scale.pooled(len(labels))
        each, whole = _figures(mean, scale), _figures(whole_mean, whole_scale)
        nonfinite, clamped = _counts(whole_mean, whole_scale)
        for number, values in self.values.figures():
            here = slice(number * channels, (number + 1) * channels)
            # One sample has a KL, and no spread.
            has_two = values.count + values.nonfinite > 1
            center, sd = (float(figures[number]) if has_two else math.nan for figures in (whole.mean, whole.sd))
            is_collapsed = each.is_collapsed[here] & has_two
            yield LabelGroup(
                values=values,
                nonfinite_count=int(nonfinite[number]),
                kl_element=None if scale is None else float(whole.kl_element[number]),
                clamped_fraction=None if scale is None else float(clamped[number]),
                active_channels=int((each.is_active[here] & has_two).sum()),
                collapsed_channels=None if scale is None else int(is_collapsed.sum()),
                latents_mean=center,
                latents_sd=sd,
                scaling_factor=1 / sd if sd else math.nan,
                channels=ChannelsOfLabel(
                    kl_element=None if scale is None else each.kl_element[here].tolist(),
                    latents_mean=(each.mean[here] if has_two else np.full(channels, math.nan)).tolist(),
                    latents_sd=(each.sd[here] if has_two else np.full(channels, math.nan)).tolist(),
                ),
            )


class _Figures(NamedTuple):
    """Figures of rows of facts, as ``summary`` has them, (rows,); of the latents that would be drawn."""

    kl_element: Floats
    mean: Floats
    sd: Floats
    is_active: NDArray[np.bool_]
    is_collapsed: NDArray[np.bool_]


@np.errstate(divide="ignore", invalid="ignore")
def _figures(mean: Facts, scale: Facts | None) -> _Figures:
    center, variance, drawn = mean.mean, mean.variance, mean.variance
    kl: Floats = np.full(len(center), np.nan)
    if scale is not None:
        drawn = variance + scale.variances / scale.known
        kl = 0.5 * (mean.squares / mean.finite + scale.remainders / scale.known)
    is_collapsed = (variance <= ACTIVE_VARIANCE) & (kl < COLLAPSED_KL)
    return _Figures(kl, center, np.sqrt(drawn), variance > ACTIVE_VARIANCE, is_collapsed)


def _counts(mean: Facts, scale: Facts | None) -> tuple[Ints, Floats]:
    """Elements without a figure, and the share of those at the clamp."""
    nonfinite = mean.nan + mean.minus_inf + mean.plus_inf
    if scale is None:
        return nonfinite, np.full(len(nonfinite), np.nan)
    below = scale.less[:, 0] + scale.minus_inf
    above = scale.finite - scale.at_most[:, 1] + scale.plus_inf
    with np.errstate(invalid="ignore"):
        return nonfinite + scale.nan, (below + above) / scale.total
