"""The figures of a run, as frozen dataclasses of plain numbers (``dataclasses.asdict`` makes them JSON-able)."""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from latentkit.posterior.parameterization import Clamp
from latentkit.stats.cells import Cells, widening
from latentkit.stats.correlation import Correlation
from latentkit.stats.duplicates import Duplicates
from latentkit.stats.extrema import Extrema, Place
from latentkit.stats.facts import Facts
from latentkit.stats.quantity import HALF_PRECISIONS, Quantity
from latentkit.stats.shape import Shape
from latentkit.stats.spectrum import Spectrum

#: Percentages of the quantiles, by NumPy's ``inverted_cdf``: the least value with at least as many up to it.
QUANTILES = (1, 5, 25, 50, 75, 95, 99)

#: Burda, Grosse & Salakhutdinov, "Importance Weighted Autoencoders" (2016), section 5.1: a latent is active when the
#: variance of its posterior mean over the data is above this.
ACTIVE_VARIANCE = 0.01
#: A channel that is not active is called collapsed when its KL, in nats per element, is below this.
COLLAPSED_KL = 0.01

#: Bins of the log-variance histogram, and the share of elements at either end that may lie beyond them: a few far out
#: leave the others their room.
HISTOGRAM_BINS, _FAR_OUT = 50, 1e-3


@dataclass(frozen=True, slots=True)
class Spread:
    """Means, or log-variances before the clamp. All but the counts are of finite elements; NaN where there is none.

    ``sd`` is the population's, √(Σ(x − mean)² / n). ``quantiles`` belong to ``QUANTILES``.
    """

    finite: int
    nan_count: int
    negative_count: int
    minus_inf_count: int
    plus_inf_count: int
    mean: float
    sd: float
    min: float
    max: float
    min_at: Place | None
    max_at: Place | None
    nonfinite_at: Place | None
    quantiles: list[float]


@dataclass(frozen=True, slots=True)
class ClampCounts:
    """Elements at the clamp. ``below`` and ``above`` are strictly beyond a bound and count infinities.

    ``clamped_fraction`` is (below + above) / elements. ``margin_low`` and ``margin_high`` are the distances in nats
    of the extreme log-variances to the bounds, negative beyond them, and ``margin`` the lesser.
    """

    low: float
    high: float
    below: int
    at_low: int
    at_high: int
    above: int
    clamped_fraction: float
    margin_low: float
    margin_high: float
    margin: float


@dataclass(frozen=True, slots=True)
class Hazards:
    """Elements for which the usual formulas would overflow or vanish in a 16-bit dtype, after the clamp.

    ``var_*``: e^l; ``std_*``: e^(l/2); ``square_over``: m², whose infinity makes the sample's KL infinite. Where e^l
    vanishes, an NLL divides by zero.
    """

    dtype: str
    var_over: int
    var_under: int
    std_over: int
    std_under: int
    square_over: int


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL to the standard normal in nats, over finite means, and over log-variances that are finite or clamped.

    ``element`` is a mean, ``sample`` is ``total`` by the number of samples (over all channels it is, in a state, the
    mean of those whose KL is finite), ``share`` is that of ``element`` in the sum of all channels'.
    """

    element: float
    sample: float
    total: float
    share: float


@dataclass(frozen=True, slots=True)
class Normalization:
    """What makes latents z normal: (z − ``shift_factor``) · ``scaling_factor``.

    ``shift_factor`` is their mean and ``scaling_factor`` 1 / ``sd`` (NaN where sd is 0), sd the population's.
    """

    shift_factor: float
    scaling_factor: float
    sd: float


@dataclass(frozen=True, slots=True)
class Group:
    """All figures of one channel, or of all (``channel`` None).

    ``mean_variance`` is the variance of the means over samples and positions. ``drawn`` is of latents drawn from the
    posteriors, by the law of total variance (mean of the variances + variance of the means), ``means`` of the means
    alone. These, ``active`` and ``collapsed`` are NaN or None for fewer than two samples. What concerns the scale is
    None for drawn latents. ``aggregate_kl`` is KL(N(``drawn.shift_factor``, ``drawn.sd``²) ‖ N(0, 1)) in nats an
    element. ``histogram`` counts finite log-variances below, between and above ``histogram_edges``, which span most of
    them within the clamp. For all channels, ``active`` and ``collapsed`` are None.
    """

    channel: int | None
    count: int
    mean: Spread
    logvar: Spread | None
    clamp: ClampCounts | None
    hazards: list[Hazards]
    kl: Divergence | None
    mean_variance: float
    active: bool | None
    collapsed: bool | None
    drawn: Normalization
    means: Normalization
    aggregate_kl: float
    histogram: list[int]


@dataclass(frozen=True, slots=True)
class ExtraFigures:
    """What was asked for besides, by name; None where it was not.

    All are of whole samples. ``nonfinite_samples`` (a mean that is not finite, a scale that is NaN or negative) are
    left out of all but the duplicates, ``large_samples`` (of more elements than are held at once) of all.
    """

    correlation: Correlation | None = None
    shape: Shape | None = None
    spectrum: Spectrum | None = None
    duplicates: Duplicates | None = None
    nonfinite_samples: int = 0
    large_samples: int = 0


@dataclass(frozen=True, slots=True)
class Summary:
    """Figures over all elements and for each channel.

    ``exact_quantiles``: quantiles and histograms are exact. Otherwise (float32, float64, or 16 bits of more than 32
    channels) they are rounded towards zero by at most ``quantile_error`` of themselves, 2^-7 (0.8 %) up to 256
    channels, twice as much for each doubling of these and once more beyond 1,024, or by 2^-16 (``std``, ``var``:
    by twice the error in nats, ``softplus``: by up to 13 times); everything else is exact all the same. Histograms
    spread what is rounded evenly over where it may be.
    """

    samples: int
    channels: int
    parameterization: str
    clamp: Clamp
    quantile_levels: list[float]
    histogram_edges: list[float]
    exact_quantiles: bool
    quantile_error: float
    active_channels: int
    collapsed_channels: int
    overall: Group
    per_channel: list[Group]
    extras: ExtraFigures = ExtraFigures()


@dataclass(frozen=True)
class Half:
    """What was counted of the means, or of the scale parameters."""

    quantity: Quantity
    facts: Facts
    cells: Cells
    extrema: Extrema
    exact: bool

    @cached_property
    def finite(self) -> NDArray[np.int64]:
        """Elements of each channel that are finite."""
        return self.facts.finite

    @cached_property
    def known(self) -> NDArray[np.int64]:
        """Elements that have a clamped log-variance: the infinite too."""
        return self.facts.known

    @cached_property
    def ends(self) -> list[tuple[float, float]]:
        """The least and the greatest value of each channel."""
        least, greatest = (self.quantity.value(found).tolist() for found in (self.extrema.least, self.extrema.greatest))
        return list(zip(least, greatest, strict=True))

    @cached_property
    def numbers(self) -> list[float]:
        """What stands for each cell: one object each, for the quantiles of all channels."""
        numbers: list[float] = self.cells.values.tolist()
        return numbers

    def pooled(self) -> "Half":
        """All channels as one."""
        cells = Cells(self.cells.values, self.cells.counts.sum(axis=0, keepdims=True, dtype=np.int64))
        return Half(self.quantity, self.facts.pooled(), cells, self.extrema.pooled(), self.exact)


def summarize(mean: Half, scale: Half | None, samples: int, parameterization: str) -> Summary:
    """Read all figures out of the counts."""
    clamp = mean.quantity.clamp
    exact = mean.exact and (scale is None or scale.exact)
    pooled_mean, pooled_scale = mean.pooled(), scale.pooled() if scale else None
    edges = np.linspace(*_span(pooled_scale) if pooled_scale else clamp, HISTOGRAM_BINS + 1)
    channels = range(len(mean.facts.total))
    elements = (_kl_element(mean, scale, channel) for channel in channels) if scale else ()
    everything = math.fsum(element for element in elements if not math.isnan(element))
    groups = [_group(mean, scale, channel, samples, everything, edges) for channel in channels]
    return Summary(
        samples=samples,
        channels=len(groups),
        parameterization=parameterization,
        clamp=clamp,
        quantile_levels=[percent / 100 for percent in QUANTILES],
        histogram_edges=edges.tolist(),
        exact_quantiles=exact,
        quantile_error=0.0 if exact else 2.0 ** (widening(len(groups)) - 7),
        active_channels=sum(group.active is True for group in groups),
        collapsed_channels=sum(group.collapsed is True for group in groups),
        overall=_group(pooled_mean, pooled_scale, None, samples, everything, edges),
        per_channel=groups,
    )


def _group(
    mean: Half, scale: Half | None, channel: int | None, samples: int, everything: float, edges: NDArray[np.float64]
) -> Group:
    row = channel or 0
    facts = mean.facts
    variance = _defined(facts.variance[row], samples)
    center = _defined(facts.mean[row], samples)
    kl = _divergence(mean, scale, channel, samples, everything) if scale else None
    drawn_variance = variance
    if scale:
        drawn_variance += _ratio(scale.facts.variances[row], scale.known[row])
    logvar = _spread(scale, row) if scale else None
    active = None if channel is None or math.isnan(variance) else variance > ACTIVE_VARIANCE
    drawn = _normalization(center, drawn_variance)
    return Group(
        channel=channel,
        count=int(facts.total[row]),
        mean=_spread(mean, row),
        logvar=logvar,
        clamp=_clamp_counts(scale, row, logvar) if scale and logvar else None,
        hazards=[_hazards(mean, scale, row, number) for number in range(len(HALF_PRECISIONS))],
        kl=kl,
        mean_variance=variance,
        active=active,
        collapsed=None if active is None or kl is None else not active and kl.element < COLLAPSED_KL,
        drawn=drawn,
        means=_normalization(center, variance),
        aggregate_kl=_aggregate_kl(drawn),
        histogram=_histogram(scale, row, edges) if scale else [],
    )


def _normalization(mean: float, variance: float) -> Normalization:
    sd = math.sqrt(variance)
    return Normalization(mean, 1 / sd if sd else math.nan, sd)


def _aggregate_kl(latents: Normalization) -> float:
    """½ (μ² + s² − 1 − log s²): of a normal with the moments of the aggregate posterior, the latents of all samples.

    The KL of the aggregate posterior itself, the marginal KL of Hoffman & Johnson, "ELBO surgery" (2016), is this and
    its KL to that normal: never less.
    """
    excess = latents.sd * latents.sd - 1  # a power would raise where this is infinite
    if math.isnan(excess):
        return math.nan
    return 0.5 * (
        latents.shift_factor * latents.shift_factor + (excess - math.log1p(excess) if excess > -1 else math.inf)
    )


def _spread(half: Half, row: int) -> Spread:
    facts, extrema = half.facts, half.extrema
    least, greatest = half.ends[row]
    return Spread(
        finite=int(half.finite[row]),
        nan_count=int(facts.nan[row]),
        negative_count=int(facts.negative[row]),
        minus_inf_count=int(facts.minus_inf[row]),
        plus_inf_count=int(facts.plus_inf[row]),
        mean=float(facts.mean[row]),
        # Of a constant, what is left of its variance would be rounding.
        sd=0.0 if least == greatest else math.sqrt(facts.variance[row]),
        min=least if extrema.least_at[row] else math.nan,
        max=greatest if extrema.greatest_at[row] else math.nan,
        min_at=extrema.least_at[row],
        max_at=extrema.greatest_at[row],
        nonfinite_at=extrema.nonfinite_at[row],
        # The number that stands for a cell may lie beyond the extremes, which are exact.
        quantiles=[min(max(value, least), greatest) for value in _quantiles(half, row)],
    )


def _quantiles(half: Half, row: int) -> list[float]:
    cumulated = np.cumsum(half.cells.counts[row], dtype=np.int64)
    if len(cumulated) == 0 or cumulated[-1] == 0:
        return [math.nan] * len(QUANTILES)
    n = int(cumulated[-1])
    # In whole numbers: the element number ⌈n p / 100⌉, counted from one.
    ranks = [max(1, -(-n * percent // 100)) for percent in QUANTILES]
    return [half.numbers[cell] for cell in np.searchsorted(cumulated, ranks)]


def _span(scale: Half) -> tuple[float, float]:
    """What a histogram spans: the values within the clamp, and of those far out what is no further than most are."""
    cells, clamp = scale.cells, scale.quantity.clamp
    if not len(cells.values):
        return clamp
    cumulated = np.cumsum(cells.counts[0], dtype=np.int64)
    far = cumulated[-1] * np.array([_FAR_OUT, 1 - _FAR_OUT])
    first, last = cells.values[np.searchsorted(cumulated, far)]
    low, high = scale.ends[0]
    if first < last:
        low, high = max(low, 2 * first - last), min(high, 2 * last - first)
    low, high = np.clip([low, high], *clamp)
    # Edges so near to one another would be equal.
    is_one = high - low <= 1e-9 * max(1.0, -low, high)
    return (float(low) - 0.5, float(low) + 0.5) if is_one else (float(low), float(high))


def _histogram(scale: Half, row: int, edges: NDArray[np.float64]) -> list[int]:
    """Counts below the first edge, in [edge, next edge), from the last edge up (the last edge itself is inside).

    A cell is spread evenly over what it spans: were it counted where one number stands for it, bins of three cells
    would rise above those of two. At a bound of the clamp the counts are exact.
    """
    if not scale.finite[row]:
        return [0] * (len(edges) + 1)
    starts, ends = _extents(scale, row)
    counts = scale.cells.counts[row]
    cumulated = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    # Cells that begin below each edge; the last of them may go beyond it.
    begun = np.searchsorted(starts, edges)
    begun[-1] = np.searchsorted(starts, edges[-1], side="right")
    last = np.maximum(begun - 1, 0)
    width = np.where(starts < ends, ends - starts, 1)[last]
    beyond = counts[last] * (np.maximum(ends[last] - edges, 0) / width) * (begun > 0)
    below = np.rint(cumulated[begun] - beyond).astype(np.int64)
    facts, (low, high) = scale.facts, scale.quantity.clamp
    if edges[0] == low:
        below = np.maximum(below, facts.less[row, 0])
        below[0] = facts.less[row, 0]
    if edges[-1] == high:
        below = np.minimum(below, facts.at_most[row, 1])
        below[-1] = facts.at_most[row, 1]
    return [int(count) for count in np.diff(below, prepend=0, append=cumulated[-1])]


def _extents(half: Half, row: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the cells of a channel begin and end, ascending: from the value that stands for one, away from zero."""
    values, (least, greatest) = half.cells.values, half.ends[row]
    if half.exact:
        return values, values
    zero = float(half.quantity.value(np.zeros(1))[0])
    # No cell is wider than this, of log-variances or of what they are made of.
    width = 2.0 ** (widening(len(half.cells.counts)) - 7) * np.maximum(2, np.abs(values))
    starts = np.where(values < zero, np.maximum(values - width, np.append(-np.inf, values[:-1])), values)
    ends = np.where(values < zero, values, np.minimum(values + width, np.append(values[1:], np.inf)))
    return np.clip(starts, least, greatest), np.clip(ends, least, greatest)


def _clamp_counts(scale: Half, row: int, spread: Spread) -> ClampCounts:
    facts, (low, high) = scale.facts, scale.quantity.clamp
    finite = int(scale.finite[row])
    less, at_most = facts.less[row], facts.at_most[row]
    below = int(less[0] + facts.minus_inf[row])
    above = int(finite - at_most[1] + facts.plus_inf[row])
    margins = spread.min - low, high - spread.max
    return ClampCounts(
        low=low,
        high=high,
        below=below,
        at_low=int(at_most[0] - less[0]),
        at_high=int(at_most[1] - less[1]),
        above=above,
        clamped_fraction=_ratio(below + above, facts.total[row]),
        margin_low=margins[0],
        margin_high=margins[1],
        margin=min(margins),
    )


def _hazards(mean: Half, scale: Half | None, row: int, number: int) -> Hazards:
    """Thresholds stand in the order in which ``Quantity.thresholds`` lists them."""
    half, facts = HALF_PRECISIONS[number], mean.facts
    infinite = int(facts.minus_inf[row] + facts.plus_inf[row])
    low, high = facts.at_most[row, 2 * number], facts.less[row, 2 * number + 1]
    square_over = int(low + mean.finite[row] - high) + infinite
    if scale is None:
        return Hazards(half.dtype, 0, 0, 0, 0, square_over)
    k = 2 + 4 * number
    bounds = half.ln_over, half.ln_under, 2 * half.ln_over, 2 * half.ln_under
    var_over, std_over = (_from(scale, row, k + i, bounds[i]) for i in (0, 2))
    var_under, std_under = (_up_to(scale, row, k + i, bounds[i]) for i in (1, 3))
    return Hazards(half.dtype, var_over, var_under, std_over, std_under, square_over)


def _from(scale: Half, row: int, k: int, logvar: float) -> int:
    """Elements whose clamped log-variance is at least that of threshold k."""
    facts, (low, high) = scale.facts, scale.quantity.clamp
    if logvar > high:
        return 0
    if logvar <= low:
        return int(scale.known[row])
    return int(scale.finite[row] - facts.less[row, k] + facts.plus_inf[row])


def _up_to(scale: Half, row: int, k: int, logvar: float) -> int:
    """Elements whose clamped log-variance is at most that of threshold k."""
    facts, (low, high) = scale.facts, scale.quantity.clamp
    if logvar < low:
        return 0
    if logvar >= high:
        return int(scale.known[row])
    return int(facts.at_most[row, k] + facts.minus_inf[row])


def _divergence(mean: Half, scale: Half, channel: int | None, samples: int, everything: float) -> Divergence:
    """½ Σ (m² + h(l)): Kingma & Welling 2014, appendix B. A channel that has no finite mean at all has none."""
    row = channel or 0
    element = _kl_element(mean, scale, row)
    known = not math.isnan(element)
    total = 0.5 * float(mean.facts.squares[row] + scale.facts.remainders[row]) if known else math.nan
    share = _ratio(element, element if channel is None else everything)
    return Divergence(element, _ratio(total, samples), total, share)


def _kl_element(mean: Half, scale: Half, row: int) -> float:
    squares, remainders = mean.facts.squares[row], scale.facts.remainders[row]
    return 0.5 * (_ratio(squares, mean.finite[row]) + _ratio(remainders, scale.known[row]))


def _defined(figure: float, samples: int) -> float:
    return float(figure) if samples > 1 else math.nan


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
