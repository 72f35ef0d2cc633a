"""How channels go together: covariance and correlation of the latents, and their effective rank."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from latentkit.compiled.products import POSITIONS, add_products
from latentkit.stats.centred import Chunk, Totals
from latentkit.stats.sums import Arrays, ExactSums, Floats, fill

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
    """Sums of products of deviations, for each two of C channels: 24 C² bytes."""

    def __init__(self, channels: int) -> None:
        self._channels = channels
        self._totals = Totals(channels)
        # Of the pairs i ≤ j: rows of the upper triangle.
        self._products = ExactSums(channels * (channels + 1) // 2)

    def update(self, chunk: Chunk) -> None:
        self._totals.update(chunk)
        samples, _, positions = chunk.shape
        self._products.reserve(samples * -(-positions // POSITIONS))
        for deviations in chunk.runs(POSITIONS):
            add_products(*self._products.arrays, deviations)

    def merge(self, other: "CorrelationSums") -> None:
        self._totals.merge(other._totals)
        self._products.merge(other._products)

    def move(self, by: Floats) -> None:
        self._products.add(self._gained(by)[None])
        self._totals.move(by)

    def _gained(self, by: Floats) -> Floats:
        """What the products gain when every deviation grows by this."""
        half = np.outer(by, self._totals.sums.total + self._totals.count / 2 * by)
        gained: Floats = (half + half.T)[np.triu_indices(self._channels)]
        return gained

    def figures(self, center: Floats) -> Correlation:  # noqa: ARG002 - the covariance is about the mean
        covariance: Floats = np.full((self._channels, self._channels), np.nan)
        if self._totals.samples > 1:
            rows, columns = np.triu_indices(self._channels)
            products = self._products.total + self._gained(-self._totals.mean)
            covariance[rows, columns] = covariance[columns, rows] = products / self._totals.count
            covariance += np.diag(self._totals.variances.total / self._totals.count)
        matrix = _correlation(covariance)
        eigenvalues = _eigenvalues(covariance)
        return Correlation(
            covariance.tolist(), matrix.tolist(), eigenvalues.tolist(), effective_rank(eigenvalues), _strongest(matrix)
        )

    def arrays(self) -> Arrays:
        return self._totals.parts("totals") | self._products.parts("products")

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        fill(self.arrays(), arrays)


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
