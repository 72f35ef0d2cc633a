"""Summaries: exact quantiles in bounded memory, and the largest values by name."""

import gc
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from latentkit.measures.ranking import Spread, Top
from latentkit.posterior.layout import split_axes
from latentkit.read.choice import Posterior, Span
from latentkit.read.header import Header, TensorInfo
from latentkit.read.inputs import InputFile

floats = st.floats(allow_nan=False, allow_infinity=False, width=64)


def spread_of(*batches: NDArray[np.float64]) -> Spread:
    spread = Spread()
    for batch in batches:
        spread.add(batch)
    return spread


@pytest.fixture
def spilled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Values go to disk at once, and are read a few at a time."""
    monkeypatch.setattr("latentkit.measures.ranking._IN_MEMORY", 1)
    monkeypatch.setattr("latentkit.measures.ranking._CHUNK", 7)


# ---- spreads ------------------------------------------------------------------------------------------------------


@given(st.lists(floats, min_size=1, max_size=60), st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_quantiles_are_exact(values: list[float], fractions: list[float]) -> None:
    spread = spread_of(np.array(values))
    expected = [sorted(values)[max(0, math.ceil(fraction * len(values)) - 1)] for fraction in fractions]
    assert spread.quantiles(fractions) == expected


@pytest.mark.usefixtures("spilled")
def test_quantiles_of_values_on_disk_are_exact() -> None:
    values = np.random.default_rng(0).standard_normal(1000) * 10.0 ** np.arange(1000).clip(0, 300)
    spread = spread_of(values[:400], values[400:])
    fractions = [0, 0.01, 0.5, 0.99, 1]
    assert spread.quantiles(fractions) == np.quantile(values, fractions, method="inverted_cdf").tolist()


@pytest.mark.usefixtures("spilled")
def test_values_can_be_added_after_a_look() -> None:
    spread = spread_of(np.arange(10.0))
    assert spread.quantiles([1]) == [9]
    spread.add(np.arange(10.0, 20))
    assert spread.quantiles([0, 1]) == [0, 19]


@pytest.mark.usefixtures("spilled")
def test_values_on_disk_leave_no_open_file_behind() -> None:
    spread = spread_of(np.arange(1000.0))
    assert spread.count == 1000
    del spread
    gc.collect()


def test_mean_and_sd_are_those_of_numpy() -> None:
    values = np.random.default_rng(0).standard_normal(10_000) + 1e6
    spread = spread_of(*np.array_split(values, 7))
    assert spread.mean == pytest.approx(float(np.mean(values)), rel=1e-15)
    assert spread.sd() == pytest.approx(float(np.std(values, ddof=1)), rel=1e-12)


def test_what_is_not_finite_is_counted_and_left_out() -> None:
    spread = spread_of(np.array([1.0, math.nan, math.inf, 3.0, -math.inf]))
    assert (spread.count, spread.nonfinite, spread.mean, spread.min, spread.max) == (2, 3, 2, 1, 3)


def test_nothing_has_no_mean_and_one_value_no_sd() -> None:
    assert all(math.isnan(value) for value in (Spread().mean, Spread().sd(), *Spread().quantiles([0, 1])))
    assert math.isnan(spread_of(np.array([3.0])).sd())


def test_a_total_beyond_float64_is_infinite() -> None:
    spread = spread_of(np.full(4, 1e308), np.full(4, 1e308))
    assert spread.total == math.inf
    assert not math.isfinite(spread.sd())


@pytest.mark.usefixtures("spilled")
def test_a_histogram_counts_every_value_once() -> None:
    values = np.random.default_rng(0).standard_normal(1000)
    counts, edges = spread_of(values).histogram(12)
    np.testing.assert_array_equal(counts, np.histogram(values, 12)[0])
    assert (edges[0], edges[-1]) == (values.min(), values.max())


# ---- the largest --------------------------------------------------------------------------------------------------


def posterior_called(name: str) -> Posterior:
    file = InputFile(name, name, ".", searched=False)
    tensor = TensorInfo("moments", "F32", (1000, 2), 0, 0)
    header = Header(name, (0, 0), "", {}, {})
    return Posterior(file, header, tensor, None, "bc", split_axes((1000, 1), "bc"), "logvar", "")


def top_of(count: int, *batches: tuple[list[list[float]], Span]) -> list[tuple[float, str, int, int]]:
    top = Top(count)
    for values, span in batches:
        top.add(np.array(values), span)
    return [(row.value, row.posterior.file.path, row.index, row.column) for row in top.ranked()]


def test_the_largest_come_first_with_their_places() -> None:
    a, b = posterior_called("a"), posterior_called("b")
    batches = ([[1.0], [5.0]], Span(a, 10, 2)), ([[3.0], [7.0], [2.0]], Span(b, 0, 3))
    assert top_of(3, *batches) == [(7, "b", 1, 0), (5, "a", 11, 0), (3, "b", 0, 0)]


def test_columns_of_a_sample_are_ranked_apart() -> None:
    assert top_of(2, ([[1.0, 4.0], [3.0, 2.0]], Span(posterior_called("a"), 0, 2))) == [(4, "a", 0, 1), (3, "a", 1, 0)]


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_equal_values_stay_in_the_order_of_the_plan(batch: int) -> None:
    a = posterior_called("a")
    values = [[float(number % 3)] for number in range(21)]
    batches = [
        (values[first : first + batch], Span(a, first, len(values[first : first + batch])))
        for first in range(0, 21, batch)
    ]
    assert [index for _, _, index, _ in top_of(9, *batches)] == [2, 5, 8, 11, 14, 17, 20, 1, 4]


def test_nan_is_not_ranked_and_infinity_is() -> None:
    values = [[math.nan], [1.0], [math.inf], [-math.inf]]
    assert [value for value, *_ in top_of(9, (values, Span(posterior_called("a"), 0, 4)))] == [math.inf, 1, -math.inf]


@given(
    st.lists(st.lists(st.sampled_from([0.0, 1.0, 2.0, math.nan]), min_size=1, max_size=5), max_size=8),
    st.integers(1, 6),
)
def test_any_split_into_batches_ranks_alike(batches: list[list[float]], count: int) -> None:
    a, first, parts = posterior_called("a"), 0, []
    for batch in batches:
        parts.append(([[value] for value in batch], Span(a, first, len(batch))))
        first += len(batch)
    values = [value for batch in batches for value in batch]
    order = sorted(
        (index for index, value in enumerate(values) if not math.isnan(value)), key=lambda i: (-values[i], i)
    )
    assert [index for _, _, index, _ in top_of(count, *parts)] == order[:count]
