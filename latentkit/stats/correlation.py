"""How channels go together: covariance and correlation of the latents, and their effective rank."""

from dataclasses import dataclass

import numpy as np

from latentkit.stats.centred import Arrays, Center, Chunk, parts_of
from latentkit.stats.moments import Floats, Sums

#: So many pairs of channels are named.
STRONGEST = 10


@dataclass(frozen=True, slots=True)
class Pair:
    """Two channels and their correlation."""

    channels: tuple[int, int]
    correlation: float


@dataclass(frozen=True, slots=True)
class Correlation:
    """Of the latents' C channels, over samples and positions; NaN where there are fewer than two samples.

    ``covariance`` is that of the posterior means, with the mean variance added on the diagonal (law of total
    covariance: the noise of different channels is independent). ``matrix`` is the correlation, NaN for a channel of no
    variance. ``eigenvalues`` are the covariance's, the greatest first. ``effective_rank`` is exp(−Σ p log p) of the
    eigenvalues divided by their sum (Roy & Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007, definition 1). ``strongest`` are the pairs of greatest correlation, whatever its sign.
    """

    covariance: list[list[float]]
    matrix: list[list[float]]
    eigenvalues: list[float]
    effective_rank: float
    strongest: list[Pair]


class CorrelationSums:
    """Sums of products of deviations, for each two of C channels: 16 C² bytes."""

    def __init__(self, channels: int) -> None:
        self._center = Center(channels)
        self._products = Sums(channels, channels)
        self._variances = Sums(channels)

    def update(self, chunk: Chunk) -> None:
        """Take whole samples."""
        one = CorrelationSums(len(chunk.mean))
        deviations = chunk.deviations.flatten(1)
        one._center = Center.of(chunk)
        one._products.add((deviations @ deviations.T).numpy())
        one._variances.add(chunk.sum_of_variances())
        self.merge(one)

    def merge(self, other: "CorrelationSums") -> None:
        """Take what another has counted."""
        moved = self._center.join(other._center)
        self._products.merge(other._products)
        for count, shift in moved:
            self._products.add(count * np.outer(shift, shift))
        self._variances.merge(other._variances)

    def figures(self) -> Correlation:
        """What it comes to."""
        covariance: Floats = np.full_like(self._products.high, np.nan)
        if self._center.samples > 1:
            covariance = (self._products.total + np.diag(self._variances.total)) / self._center.count
            covariance = (covariance + covariance.T) / 2
        matrix = _correlation(covariance)
        eigenvalues = _eigenvalues(covariance)
        return Correlation(
            covariance.tolist(), matrix.tolist(), eigenvalues.tolist(), effective_rank(eigenvalues), _strongest(matrix)
        )

    def parts(self) -> Arrays:
        return {
            **self._center.parts(),
            **parts_of("products", self._products),
            **parts_of("variances", self._variances),
        }


def effective_rank(eigenvalues: Floats) -> float:
    """exp of the entropy of eigenvalues, (C,), none negative; NaN where they are undefined or all zero."""
    total = float(eigenvalues.sum())
    if not total > 0:
        return float("nan")
    shares = eigenvalues[eigenvalues > 0] / total
    return float(np.exp(-(shares * np.log(shares)).sum()))


def _correlation(covariance: Floats) -> Floats:
    sd = np.sqrt(np.diag(covariance))
    sd[sd == 0] = np.nan
    matrix: Floats = np.clip(covariance / np.outer(sd, sd), -1, 1)
    np.fill_diagonal(matrix, np.where(np.isnan(sd), np.nan, 1.0))
    return matrix


def _eigenvalues(covariance: Floats) -> Floats:
    if not np.isfinite(covariance).all():
        return np.full(len(covariance), np.nan)
    # Rounding may leave a zero below zero.
    eigenvalues: Floats = np.maximum(np.linalg.eigvalsh(covariance)[::-1], 0)
    return eigenvalues


def _strongest(matrix: Floats) -> list[Pair]:
    rows, columns = np.triu_indices(len(matrix), 1)
    values = matrix[rows, columns]
    defined = np.flatnonzero(~np.isnan(values))
    # Of equal ones the first: the sort is stable.
    order = defined[np.argsort(-np.abs(values[defined]), kind="stable")][:STRONGEST]
    return [Pair((int(rows[at]), int(columns[at])), float(values[at])) for at in order]
