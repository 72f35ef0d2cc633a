"""The shape of the latents' distribution: skewness and excess kurtosis."""

from dataclasses import dataclass

import numpy as np
import torch

from latentkit.stats.centred import Arrays, Center, Chunk, parts_of
from latentkit.stats.moments import Floats, Sums

_QUIET = np.errstate(over="ignore", invalid="ignore", divide="ignore")


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
    """Sums of the second, third and fourth power of the latents' deviations, of each of C channels."""

    def __init__(self, channels: int) -> None:
        self._center = Center(channels)
        self._powers = Sums(3, channels)

    def update(self, chunk: Chunk) -> None:
        """Take whole samples."""
        one = ShapeSums(len(chunk.mean))
        one._center = Center.of(chunk)
        one._powers.add(_powers(chunk))
        self.merge(one)

    @_QUIET
    def merge(self, other: "ShapeSums") -> None:
        """Take what another has counted."""
        (count, ours), (their_count, theirs) = self._center.join(other._center)
        moved = _move(count, self._powers.total, ours) + _move(their_count, other._powers.total, theirs)
        self._powers.merge(other._powers)
        self._powers.add(moved)

    def figures(self) -> Shape:
        """What it comes to."""
        count, powers = self._center.count if self._center.samples > 1 else 0, self._powers.total
        channels = [_shape(channel, count, powers[:, channel]) for channel in range(powers.shape[1])]
        return Shape(channels, _shape(None, count * len(channels), self._pooled()))

    @_QUIET
    def _pooled(self) -> Floats:
        """The powers of all channels about the mean of all, (3,)."""
        mean, powers = self._center.mean, self._powers.total
        pooled: Floats = (powers + _move(self._center.count, powers, mean - mean.mean())).sum(1)
        return pooled

    def parts(self) -> Arrays:
        return {**self._center.parts(), **parts_of("powers", self._powers)}


def _powers(chunk: Chunk) -> Floats:
    """Σ E(z − mean)^k for k = 2, 3, 4: (3, C)."""
    dot, sums = torch.dot, []
    for channel, d in enumerate(chunk.deviations.flatten(1)):
        squares = d * d
        second, third, fourth = dot(d, d), dot(d, squares), dot(squares, squares)
        if chunk.variance is not None:
            v = chunk.variance[channel].flatten()
            second += v.sum()
            third += 3 * dot(d, v)
            fourth += 6 * dot(squares, v) + 3 * dot(v, v)
        sums.append([second, third, fourth])
    return np.array(sums, np.float64).T


def _move(count: int, powers: Floats, shift: Floats) -> Floats:
    """What is to be added to the powers of so many deviations, whose sum is 0, when each grows by ``shift``."""
    second, third, _ = powers
    square = shift * shift
    return np.stack([
        count * square,
        3 * shift * second + count * shift * square,
        4 * shift * third + 6 * square * second + count * square * square,
    ])  # fmt: skip


@_QUIET
def _shape(channel: int | None, count: int, powers: Floats) -> ChannelShape:
    second, third, fourth = powers / (count or np.nan)
    variance = second if second > 0 else np.nan
    return ChannelShape(channel, float(third / variance**1.5), float(fourth / variance**2 - 3))
