"""The same bits whatever the way: blocks, workers, order, strides; and for 16 and 8 bits on any processor."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import adapter
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regimes import DTYPES, generator_for, one_torch_thread, spread_of, stored
from safetensors.torch import save_file
from torch import Tensor

from latentkit.measures.kl import kl_values
from latentkit.measures.nll import nll_values
from latentkit.posterior.affine import IDENTITY, Affine
from latentkit.posterior.parameterization import PARAMETERIZATIONS
from latentkit.read.choice import Selection
from latentkit.read.pairing import pair_latents, pair_posteriors
from latentkit.read.plan import find_posteriors
from latentkit.run import Values

SOME = [torch.float64, torch.float32, torch.bfloat16]

#: Samples near the prior, typical, and beyond float32, so that some are done again in float64.
SPREADS = [spread_of(1e-20, 1e-20), spread_of(1e-3, 1e-3), spread_of(1.0, 2.0, -2.0), spread_of(1e25, 1.0)]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    with one_torch_thread():
        yield


def data(
    count: int, shape: tuple[int, ...], dtype: torch.dtype, parameterization: str = "logvar"
) -> tuple[Tensor, ...]:
    """Means and scales of ``count`` samples of ``shape``."""
    generator = generator_for(count, shape, dtype)
    size = count, int(np.prod(shape))
    each = [stored(*spread(size, dtype, generator), dtype, parameterization) for spread in SPREADS]
    return tuple(
        torch.stack([each[row % len(each)][half].double()[row] for row in range(count)]).to(dtype).view(count, *shape)
        for half in (0, 1)
    )


def kl_of(paths: Sequence[Path], against: Path | None = None, **options) -> dict[str, bytes]:
    """The KL of each sample by file, as bytes."""
    found = find_posteriors(list(map(str, paths)), Selection())
    if against:
        others = find_posteriors([str(against)], Selection()).posteriors
        options |= {"partners": pair_posteriors(found.posteriors, others), "symmetric": True}
    values: dict[str, bytes] = {}
    for (span, rows), _ in kl_values(found.spans, **options):
        name = Path(span.posterior.file.path).name
        values[name] = values.get(name, b"") + rows.tobytes()
    return values


# ---- on one machine -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SOME, ids=lambda dtype: str(dtype).removeprefix("torch."))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``whole``, its shards, its pair, another to compare with, latents; ``large``, with samples of several units, and
    ``huge``, of several pieces."""
    dtype, folder = request.param, tmp_path_factory.mktemp("bits")
    mean, raw = data(150, (4, 9, 7), dtype)
    whole = torch.cat([mean, raw], dim=1)
    save_file({"moments": whole}, folder / "whole.safetensors")
    for number, shard in enumerate(whole.split(31)):
        save_file({"moments": shard.contiguous()}, folder / f"shard-{number}.safetensors")
    save_file({"mean": mean, "logvar": raw}, folder / "pair.safetensors")
    save_file({"moments": whole.flip(0).contiguous()}, folder / "other.safetensors")
    save_file({"latents": mean + mean.flip(0)}, folder / "latents.safetensors")
    for name, size in (("large", (3, 300, 301)), ("huge", (3, 600, 601))):
        save_file({"moments": torch.cat(data(2, size, dtype), dim=1)}, folder / f"{name}.safetensors")
    return folder


WAYS = [(batch_size, workers) for batch_size in (1, 7, 64, None) for workers in (1, 2, 8)]


@pytest.mark.parametrize("per_channel", [False, True], ids=["whole", "per channel"])
def test_kl_has_the_same_bits_for_any_batch_size_and_workers(folder: Path, per_channel: bool) -> None:
    files = [folder / f"{name}.safetensors" for name in ("whole", "large", "huge")]
    for against in (None, folder / "other.safetensors"):
        given = files[:1] if against else files
        ways = [kl_of(given, against, per_channel=per_channel, batch_size=b, workers=w) for b, w in WAYS]
        assert all(way == ways[0] for way in ways)


@pytest.mark.parametrize("affine", [IDENTITY, Affine((0.1,), (0.18215,))], ids=["as drawn", "scaled"])
def test_nll_has_the_same_bits_for_any_batch_size_and_workers(folder: Path, affine: Affine) -> None:
    found = find_posteriors([str(folder / "whole.safetensors")], Selection())
    latents = pair_latents(found.posteriors, str(folder / "latents.safetensors"), None)
    affines = dict.fromkeys(found.posteriors, affine)
    ways = [
        b"".join(rows.tobytes() for (_, rows), _ in nll_values(found.spans, latents, affines, batch_size=b, workers=w))
        for b, w in WAYS
    ]
    assert all(way == ways[0] for way in ways)


def test_kl_has_the_same_bits_in_one_file_or_in_shards_of_any_order(folder: Path) -> None:
    whole = kl_of([folder / "whole.safetensors"])["whole.safetensors"]
    shards = sorted(folder.glob("shard-*"))
    for order in (shards, shards[::-1], shards[2:] + shards[:2]):
        by_file = kl_of(order)
        assert b"".join(by_file[shard.name] for shard in shards) == whole


def test_kl_has_the_same_bits_from_moments_or_from_a_pair(folder: Path) -> None:
    assert (
        kl_of([folder / "whole.safetensors"])["whole.safetensors"]
        == kl_of([folder / "pair.safetensors"])["pair.safetensors"]
    )


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 9),
    shape=st.tuples(st.integers(1, 5), st.integers(1, 7), st.integers(1, 70)),
    dtype=st.sampled_from(DTYPES),
    row=st.integers(0, 8),
)
def test_a_sample_has_the_same_bits_alone_in_a_batch_and_with_any_strides(
    count: int, shape: tuple[int, int, int], dtype: torch.dtype, row: int
) -> None:
    row %= count
    mean, raw = data(count, shape, dtype)
    moments = torch.cat([mean, raw], dim=2)
    channels = shape[1]
    strided = moments[:, :, :channels], moments[:, :, channels:]
    permuted = [half.permute(3, 2, 1, 0).contiguous().permute(3, 2, 1, 0) for half in (mean, raw)]
    latents = (mean.double() + 1).to(dtype)
    alone = measured(mean[row : row + 1], raw[row : row + 1], latents[row : row + 1])
    for way in ((mean, raw), strided, permuted):
        for values, expected in zip(measured(*way, latents), alone, strict=True):
            assert values[row : row + 1].tobytes() == expected.tobytes()


def measured(mean: Tensor, raw: Tensor, latents: Tensor) -> list[Values]:
    """All that the commands compute of a block, with one other posterior for all of its samples."""
    one = torch.ones_like(mean[:1])
    return [
        adapter.kl(mean, raw),
        adapter.kl(mean, raw, per_channel=True),
        adapter.kl_to_other((mean, raw, "logvar"), (one, one, "std"), symmetric=True),
        adapter.nll(mean, raw, latents),
        adapter.nll(mean, raw, latents.double() / 0.18215),
    ]


# ---- on any machine -----------------------------------------------------------------------------------------------


@cache
def fingerprint(count: int) -> tuple[str, ...]:
    """A hash of everything that is computed, by dtype and parameterization: all of it is promised."""
    return tuple(
        f"{dtype}, {parameterization}: {hashlib.sha256(promised_bytes(dtype, parameterization, count)).hexdigest()}"
        for dtype in DTYPES
        for parameterization in PARAMETERIZATIONS
    )


def promised_bytes(dtype: torch.dtype, parameterization: str, count: int) -> bytes:
    # Scales are values of every size, in an order that no library decides; means and latents are others of them.
    narrow = dtype if dtype.itemsize < 4 else torch.bfloat16
    values = adapter.every_value(narrow).double().nan_to_num(1.0, 1.0, 1.0)
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(values))
    values = values[torch.from_numpy(order)][:count]
    # Digits beyond those of 16 bits, where there is room for them.
    values = (values * (1 + 0.1 * torch.arange(len(values)) / len(values))).view(-1, 2, 4, 16)
    raw = (values.abs() if parameterization in ("std", "var") else values).to(dtype)
    mean, latents = values.flip(0, 3).to(dtype), values.flip(0).to(dtype)
    given, other = (mean, raw, parameterization), (values.flip(1, 3).to(dtype), raw.double().flip(2).to(dtype))
    measured = [
        adapter.kl(*given),
        adapter.kl(*given, per_channel=True),
        adapter.kl(torch.zeros_like(mean), *given[1:]),
        adapter.kl_to_other(given, (*other, parameterization)),
        adapter.kl_to_other(given, (*other, parameterization), per_channel=True, symmetric=True),
        adapter.nll(mean, raw, (mean.double() + 1).to(dtype), parameterization),
        adapter.nll(mean, raw, latents, parameterization),
        adapter.nll(mean, raw, latents.double() / 0.18215, parameterization),
    ]
    # Of NaN, processors choose the bits: that there is one is what counts.
    return b"".join(np.where(np.isnan(values), np.nan, values).tobytes() for values in measured)


@pytest.mark.parametrize(
    ("environment", "count"),
    [({"NUMBA_CPU_NAME": "generic"}, 1 << 16), ({"NUMBA_DISABLE_JIT": "1"}, 384)],
    ids=["a generic processor", "interpreted"],
)
def test_the_bits_are_the_same_on_any_processor(environment: dict[str, str], count: int) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(count)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == list(fingerprint(count))


if __name__ == "__main__":
    print(*fingerprint(int(sys.argv[1])), sep="\n")
