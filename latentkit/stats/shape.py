"""The shape of the latents' distribution: skewness and excess kurtosis."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled import centred
from latentkit.stats.centred import MEAN, SCALE, Chunk, Totals, filled
from latentkit.stats.sums import Arrays, ExactSums, Floats, fill


@dataclass(frozen=True, slots=True)
class ChannelShape:
    """Of one channel's latents, or of all (``channel`` None); both 0 for a normal distribution.

    NaN for fewer than two samples, and where there is no variance.
    """

    channel: int | None
    skewness: float
    excess_kurtosis: float


@dataclass(frozen=True, slots=True)
class Shape:
    """μ3 / μ2^(3/2) and μ4 / μ2² − 3 of the latents' central moments, the population's.

    Latents are a mixture of normals N(m, σ²). With d = m − μ, the central moments about their mean μ are
    μ2 = E[d² + σ²], μ3 = E[d³ + 3 d σ²], μ4 = E[d⁴ + 6 d² σ² + 3 σ⁴]: the moments of a normal about another point,
    averaged over posteriors.
    """

    channels: list[ChannelShape]
    overall: ChannelShape


class ShapeSums:
    """Sums of E(z − center)^k of the latents z, for k from 1 to 4, of each of C channels."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        # With the first power, and what variances add to the second.
        self._totals = Totals(channels)
        self._powers = ExactSums(3 * channels)

    def update(self, chunk: Chunk) -> None:
        self._totals.update(chunk)
        powers = chunk.by_channel(filled(centred.powers, 3), MEAN, SCALE)
        self._powers.add(powers.reshape(len(powers), -1))

    def merge(self, other: "ShapeSums") -> None:
        self._totals.merge(other._totals)
        self._powers.merge(other._powers)

    def move(self, by: Floats) -> None:
        gained = _gained(self._totals.count, self._moments(), by)
        self._powers.add(gained[1:].reshape(1, -1))
        self._totals.move(by)

    def _moments(self) -> Floats:
        """(4, C): of each power."""
        moments = np.concatenate([self._totals.sums.total, self._powers.total]).reshape(4, -1)
        moments[1] += self._totals.variances.total
        return moments

    def figures(self, center: Floats) -> Shape:
        count, mean = self._totals.count, self._totals.mean
        moments = self._moments()
        moments += _gained(count, moments, -mean)
        absolute = center + mean
        pooled = moments + _gained(count, moments, absolute - absolute.mean())
        if self._totals.samples < 2:
            count = 0
        channels = [_shape(channel, count, moments[:, channel]) for channel in range(self._channels)]
        return Shape(channels, _shape(None, count * self._channels, pooled.sum(1)))

    def arrays(self) -> Arrays:
        return self._totals.parts("totals") | self._powers.parts("powers")

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        fill(self.arrays(), arrays)


def _gained(count: int, moments: Floats, by: Floats) -> Floats:
    """(4, C): what sums of powers of so many deviations gain when each of these grows by this, (C,)."""
    first, second, third, _ = moments
    square = by * by
    return np.stack([
        count * by,
        2 * by * first + count * square,
        3 * by * second + 3 * square * first + count * square * by,
        4 * by * third + 6 * square * second + 4 * square * by * first + count * square * square,
    ])  # fmt: skip


def _shape(channel: int | None, count: int, moments: Floats) -> ChannelShape:
    """Of central moments: (4,)."""
    _, second, third, fourth = moments / (count or np.nan)
    variance = second if second > 0 else np.nan
    return ChannelShape(channel, float(third / variance**1.5), float(fourth / variance**2 - 3))
