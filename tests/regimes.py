"""Posteriors where the arithmetic is easy and where it is hard, for the tests of accuracy."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from latentkit.posterior.parameterization import PARAMETERIZATIONS

DTYPES = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]

#: ``(samples, dimensions), dtype, generator`` -> means and log-variances in float64, before they are stored.
Regime = Callable[[tuple[int, int], torch.dtype, torch.Generator], tuple[Tensor, Tensor]]


def spread_of(mean_scale: float, logvar_scale: float, logvar_center: float = 0.0) -> Regime:
    def regime(shape: tuple[int, int], _dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(2, *shape, dtype=torch.float64, generator=generator)
        return mean_scale * noise[0], logvar_center + logvar_scale * noise[1]

    return regime


def far_means(farthest: dict[torch.dtype, float]) -> Regime:
    """Means of every size up to ``farthest``, or to the dtype's largest."""

    def regime(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, logvar = spread_of(1.0, 2.0)(shape, dtype, generator)
        exponent = math.log(farthest.get(dtype, torch.finfo(dtype).max))
        return mean.sign() * torch.exp(exponent * torch.rand(shape, dtype=torch.float64, generator=generator)), logvar

    return regime


def at_bound(bound: float) -> Regime:
    """At the bound, a step of the dtype beside it, and far beyond it."""

    def regime(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, _ = spread_of(1.0, 0.0)(shape, dtype, generator)
        steps = torch.tensor([0.0, 1e-7, -1e-7, 1e-2, -1e-2, 1.0, 2.0, 10.0, 1e4], dtype=torch.float64)
        return mean, bound * (1 + steps[torch.randint(len(steps), shape, generator=generator)])

    return regime


def one_hot_dimension(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    mean, logvar = spread_of(1e-3, 1e-3)(shape, dtype, generator)
    mean[:, 0], logvar[:, 0] = 30.0, -5.0
    return mean, logvar


REGIMES: dict[str, Regime] = {
    "typical": spread_of(1.0, 2.0, -2.0),
    "wide": spread_of(3.0, 12.0, -5.0),
    "near the prior 1e-1": spread_of(1e-1, 1e-1),
    "near the prior 3e-3": spread_of(3e-3, 3e-3),
    "near the prior 1e-5": spread_of(1e-5, 1e-5),
    "collapsed variance": spread_of(0.0, 3e-4),
    "lower bound": at_bound(-30.0),
    "upper bound": at_bound(20.0),
    "one hot dimension": one_hot_dimension,
}


def every_cell_of(regimes: dict[str, Regime]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator: the test is run for each of these regimes, each parameterization and each dtype."""

    def every_cell(test: Callable[..., None]) -> Callable[..., None]:
        for names, values in (("regime", regimes), ("parameterization", PARAMETERIZATIONS), ("dtype", DTYPES)):
            test = pytest.mark.parametrize(names, values, ids=lambda value: str(value).removeprefix("torch."))(test)
        return test

    return every_cell


def stored(mean: Tensor, logvar: Tensor, dtype: torch.dtype, parameterization: str) -> tuple[Tensor, Tensor]:
    """Mean and scale as an encoder would store them: rounded to the dtype, within its range."""
    std = torch.exp(0.5 * logvar)
    raw = {
        "logvar": logvar,
        "std": std,
        "var": torch.exp(logvar),
        "softplus": torch.where(std > 30, std, torch.log(torch.expm1((std - 1e-4).clamp(min=1e-300)))),
    }[parameterization]
    largest = torch.finfo(dtype).max
    return mean.clamp(-largest, largest).to(dtype), raw.clamp(-largest, largest).to(dtype)


def tolerance(dtype: torch.dtype) -> float:
    return 1e-12 if dtype == torch.float64 else 5e-7


class Worst:
    """The largest error of each cell, in units of what is allowed."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], tuple[float, str]] = {}

    def note(self, measure: str, dtype: torch.dtype, parameterization: str, regime: str, error: float) -> None:
        key = (measure, str(dtype).removeprefix("torch."), parameterization)
        self.cells[key] = max(self.cells.get(key, (0.0, "exact")), (error, regime))

    def table(self) -> str:
        rows = [f"\n{'measure':<10}{'dtype':<15}{'parameters':<12}{'worst error':<13}where"]
        rows += [f"{a:<10}{b:<15}{c:<12}{error:<13.1e}{where}" for (a, b, c), (error, where) in self.cells.items()]
        return "\n".join(rows)


def generator_for(*names: object) -> torch.Generator:
    return torch.Generator().manual_seed(sum(map(ord, repr(names))))


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """On small tensors torch's threads do little but wait for each other, for minutes on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
