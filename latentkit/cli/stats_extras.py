"""The terminal's view of what ``stats --with`` adds: a line for each figure, or with --full its tables."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from latentkit.cli.screen import aligned, dense_table, fits
from latentkit.stats.summary import ExtraFigures
from latentkit.text import count_of, fixed, harmless, number

if TYPE_CHECKING:
    from rich.console import Console

    from latentkit.cli.screen import Titled
    from latentkit.stats.correlation import Correlation
    from latentkit.stats.duplicates import Duplicates
    from latentkit.stats.extrema import Place
    from latentkit.stats.shape import ChannelShape, Shape
    from latentkit.stats.spectrum import Lag, Spectrum
    from latentkit.stats.summary import Summary

# Pairs of channels that have room on a line.
_PAIRS = 2
# The matrix of more channels has no room on a screen: the strongest pairs do.
_MOST_COLUMNS = 8
_MOST_ROWS = 12


def extra_lines(extras: ExtraFigures, other: "Summary | None" = None) -> "Iterator[tuple[str, str]]":
    """What matters most of what was asked for, by name, beside ``other`` where that has it."""
    there = other.extras if other else ExtraFigures()
    if extras.correlation is not None:
        strongest = [
            f"{fixed(pair.correlation, 2)} of {pair.channels[0]} and {pair.channels[1]}"
            for pair in extras.correlation.strongest
        ]
        pairs = ", ".join([*strongest[:_PAIRS], *(["…"] if len(strongest) > _PAIRS else [])])
        rank = _effective_rank(extras.correlation, there.correlation)
        yield "correlation", f"{pairs}; {rank}" if pairs else rank
    if extras.shape is not None:
        yield "skewness", _with_furthest(extras.shape, lambda each: each.skewness)
        yield "kurtosis", _with_furthest(extras.shape, lambda each: each.excess_kurtosis, " in excess")
    if extras.spectrum is not None and extras.spectrum.lag1:
        along = ", ".join(f"{fixed(lag.overall, 3)} along {lag.axis}" for lag in extras.spectrum.lag1)
        yield "neighbours", f"correlation {along}"
    if extras.spectrum is not None and extras.spectrum.frequencies:
        beside = f", {number(there.spectrum.high_frequency_power)} there" if there.spectrum else ""
        power = number(extras.spectrum.high_frequency_power)
        yield "power", f"{power} from 1/4 cycle per pixel up{beside} (white noise has 1)"
    if extras.duplicates is not None:
        copies, among = extras.duplicates.duplicate_count, extras.duplicates.samples_hashed
        yield "copies", f"{copies:,} among {count_of(among, 'sample')}"


def _effective_rank(correlation: "Correlation", there: "Correlation | None") -> str:
    beside = f", {number(there.effective_rank)} of {len(there.matrix)} there" if there else ""
    return f"effective rank {number(correlation.effective_rank)} of {len(correlation.matrix)}{beside}"


def _with_furthest(shape: "Shape", read: "Callable[[ChannelShape], float]", unit: str = "") -> str:
    known = [each for each in shape.channels if not math.isnan(read(each))]
    furthest = max(known, key=lambda each: abs(read(each)), default=None)
    where = f"; furthest from 0 {number(read(furthest))} of channel {furthest.channel}" if furthest else ""
    return number(read(shape.overall)) + unit + where


def extra_tables(
    console: "Console", extras: ExtraFigures, channels: Sequence[int], other: "Summary | None" = None
) -> "Iterator[Titled]":
    """What was asked for, of these channels where there is a row per channel; beside ``other`` where that has it."""
    there = other.extras if other else ExtraFigures()
    if extras.correlation is not None:
        yield _correlation(console, extras.correlation, there.correlation)
    if extras.shape is not None:
        yield _shape(extras.shape, channels)
    if extras.spectrum is not None and extras.spectrum.lag1:
        yield _lags(extras.spectrum.lag1, channels)
    if extras.spectrum is not None and extras.spectrum.frequencies:
        yield _power(extras.spectrum, there.spectrum)
    if extras.duplicates is not None:
        yield _copies(console, extras.duplicates)


def _correlation(console: "Console", correlation: "Correlation", there: "Correlation | None") -> "Titled":
    matrix = correlation.matrix
    table = dense_table("ch", *map(str, range(len(matrix))))
    for channel, row in enumerate(matrix[:_MOST_COLUMNS]):
        table.add_row(str(channel), *(fixed(value, 2) for value in row))
    if len(matrix) > _MOST_COLUMNS or not fits(console, table):
        table = dense_table("ch", "and", "correlation")
        for pair in correlation.strongest:
            table.add_row(*map(str, pair.channels), fixed(pair.correlation, 3))
    eigenvalues = ", ".join(number(value) for value in correlation.eigenvalues[:_MOST_COLUMNS])
    more = ", …" if len(correlation.eigenvalues) > _MOST_COLUMNS else ""
    return (
        f"Correlation of channels: {_effective_rank(correlation, there)}",
        table,
        f"eigenvalues of the covariance: {eigenvalues}{more}",
    )


def _shape(shape: "Shape", channels: Sequence[int]) -> "Titled":
    table = dense_table("ch", "skewness", "excess kurtosis")
    rows = [*(shape.channels[channel] for channel in channels), shape.overall]
    names = [*map(str, channels), "all"]
    columns = aligned(row.skewness for row in rows), aligned(row.excess_kurtosis for row in rows)
    for cells in zip(names, *columns, strict=True):
        table.add_row(*cells)
    return "Shape of the latents' distribution (a normal one has 0 and 0)", table, None


def _lags(lags: "Sequence[Lag]", channels: Sequence[int]) -> "Titled":
    table = dense_table("ch", *(f"along {lag.axis}" for lag in lags))
    for channel in channels:
        table.add_row(str(channel), *(fixed(lag.channels[channel], 3) for lag in lags))
    table.add_row("all", *(fixed(lag.overall, 3) for lag in lags))
    return "Correlation of latents one step apart", table, None


def _power(spectrum: "Spectrum", there: "Spectrum | None") -> "Titled":
    count = len(spectrum.frequencies)
    rows = min(count, _MOST_ROWS)
    shown = [place * (count - 1) // max(1, rows - 1) for place in range(rows)]
    powers = dict(zip(there.frequencies, there.overall, strict=True)) if there else {}
    table = dense_table("cycles per pixel", "power", *(["there"] if powers else []))
    columns = [aligned(spectrum.overall[place] for place in shown)]
    if powers:
        columns.append(aligned(powers.get(spectrum.frequencies[place], math.nan) for place in shown))
    for place, *cells in zip(shown, *columns, strict=True):
        table.add_row(f"{spectrum.frequencies[place]:.3f}", *cells)
    which = f"{rows} of {count} frequencies; -o FILE.json has all, and each channel's" if rows < count else None
    return "Power by spatial frequency, mean of the channels (white noise has 1)", table, which


def _copies(console: "Console", duplicates: "Duplicates") -> "Titled":
    title = f"Copies among {count_of(duplicates.samples_hashed, 'sample')}: {duplicates.duplicate_count:,}"
    if not duplicates.pairs:
        return title, None, None
    headings = "sample", "is a copy of"
    table = dense_table(*headings, left=headings)
    for pair in duplicates.pairs:
        table.add_row(_where(pair.sample), _where(pair.copy_of))
    if not fits(console, table):
        table = dense_table(*headings[:1], left=headings)
        for pair in duplicates.pairs:
            table.add_row(_where(pair.sample))
            table.add_row(f"is a copy of {_where(pair.copy_of)}", end_section=True)
    more = duplicates.duplicate_count - len(duplicates.pairs)
    caption = f"and {more:,} more" if more else None
    return f"{title}, in {count_of(duplicates.groups, 'group')}", table, caption


def _where(place: "Place") -> str:
    return harmless(f"{place.name}, {place.key}, {place.index}")
