"""Statistical tests of the noise on a thousand million normals: prints the table that guide/noise.md shows.

    python tests/noise_statistics.py [NORMALS] [THREADS]

Every line is a figure whose expectation is known, with its distance from it in standard errors: a good source stays
within about 3 on 44 lines. test_noise.py runs the same on fewer normals.
"""

import math
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import adapter_sample
import torch
from scipy.special import kolmogorov
from scipy.stats import norm
from torch import Tensor

from latentkit.sample.streams import stream_key

BLOCK = 1 << 20
BINS = 4096  # equally probable, for chi-square
GRID = 1 << 16  # equally probable, for Kolmogorov-Smirnov and the bins
LAGS = (1, 2, 3, 4, 7, 8, 64, 1024, 4096)
STREAM = "train/shard-00000.safetensors\0moments"
#: What may be too like the first set, at equal positions: (seed, stream, draw).
NEIGHBOURS = {
    "next draw": (0, STREAM, 1),
    "next seed": (1, STREAM, 0),
    "other file": (0, STREAM.replace("0.", "1."), 0),
    "other tensor": (0, STREAM + "_flip", 0),
}

Row = tuple[str, float, float, float]  # name, measured, expected, standard errors


def normals(seed: int, stream: str, draw: int, position: int, count: int) -> Tensor:
    return torch.from_numpy(adapter_sample.normals(stream_key(seed, stream), draw, position, count)).double()


def sums(position: int, count: int) -> tuple[Counter[str], Tensor]:
    """Sums over one block, by name, and how many fell into each cell of the grid."""
    x = normals(0, STREAM, 0, position, count)
    square = x * x
    result = Counter({"x1": float(x.sum()), "x2": float(square.sum())})
    result["x3"], result["x4"] = float(torch.dot(square, x)), float(torch.dot(square, square))
    for k in range(1, 6):
        result[f"above {k}"], result[f"below -{k}"] = int((x > k).sum()), int((x < -k).sum())
    centred = square - 1

    def correlate(name: str, a: slice, b: slice) -> None:
        result[name] = float(torch.dot(x[a], x[b]))
        result[f"{name}, squares"] = float(torch.dot(centred[a], centred[b])) / 2
        result[f"{name}: pairs"] = len(x[a])

    for lag in LAGS:
        correlate(f"lag {lag}", slice(None, -lag), slice(lag, None))
    correlate("halves of a word", slice(None, None, 2), slice(1, None, 2))
    for name, (seed, stream, draw) in NEIGHBOURS.items():
        y = normals(seed, stream, draw, position, count)
        result[name] = float(torch.dot(x, y))
        result[f"{name}, squares"] = float(torch.dot(centred, y.square_().sub_(1))) / 2
        result[f"{name}: pairs"] = count
    cells = torch.special.ndtr(x).mul_(GRID).long().clamp_(0, GRID - 1)
    return result, torch.bincount(cells, minlength=GRID)


def measure(count: int, threads: int = 1) -> list[Row]:
    """The table for ``count`` normals, a multiple of 1,048,576."""
    total: Counter[str] = Counter()
    grid = torch.zeros(GRID, dtype=torch.int64)
    with ThreadPoolExecutor(threads) as pool:
        for part, cells in pool.map(lambda position: sums(position, BLOCK), range(0, count, BLOCK)):
            total.update(part)
            grid += cells
    return [*_moments(total, count), *_tails(total, count), *_fit(grid, count), *_correlations(total)]


def _moments(total: Counter[str], n: int) -> Iterator[Row]:
    for power, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        mean = total[f"x{power}"] / n
        yield f"mean of ε^{power}", mean, expected, (mean - expected) / math.sqrt(variance / n)


def _tails(total: Counter[str], n: int) -> Iterator[Row]:
    for k in range(1, 6):
        p = float(norm.sf(k))
        for name in (f"above {k}", f"below -{k}"):
            yield f"ε {name}", total[name], n * p, (total[name] - n * p) / math.sqrt(n * p * (1 - p))


def _fit(grid: Tensor, n: int) -> Iterator[Row]:
    bins = grid.view(BINS, -1).sum(1).double()
    chi2, freedom = float(((bins - n / BINS) ** 2).sum() / (n / BINS)), BINS - 1
    yield f"χ² over {BINS} bins", chi2, freedom, (chi2 - freedom) / math.sqrt(2 * freedom)
    steps = torch.arange(1, GRID + 1, dtype=torch.float64) / GRID
    distance = float((grid.cumsum(0) / n - steps).abs().max()) * math.sqrt(n)
    # The p-value, put on the scale of the other lines.
    yield "Kolmogorov-Smirnov D √n", distance, 0.8687, float(norm.isf(kolmogorov(distance)))


def _correlations(total: Counter[str]) -> Iterator[Row]:
    for name in [name.removesuffix(": pairs") for name in total if name.endswith(": pairs")]:
        n = total[f"{name}: pairs"]
        for kind in (name, f"{name}, squares"):
            yield f"correlation, {kind}", total[kind] / n, 0, total[kind] / math.sqrt(n)


if __name__ == "__main__":
    size = int(float(sys.argv[1])) if len(sys.argv) > 1 else 10**9
    size = -(-size // BLOCK) * BLOCK
    torch.set_num_threads(1)
    print(f"{size:,} normals\n\n| | measured | expected | standard errors |\n| --- | ---: | ---: | ---: |")
    for name, measured, expected, errors in measure(size, int(sys.argv[2]) if len(sys.argv) > 2 else 2):
        print(f"| {name} | {measured:.10g} | {expected:.10g} | {errors:+.2f} |")
