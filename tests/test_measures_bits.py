"""The same bits whatever the way: blocks, workers, order, strides; and for 16 and 8 bits on any processor."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from regimes import DTYPES, generator_for, one_torch_thread, spread_of, stored
from safetensors.torch import save_file
from torch import Tensor

from latentkit.measures.formulas import Arithmetic, kl_to_other, kl_to_prior, nll
from latentkit.posterior.affine import IDENTITY, Affine
from latentkit.posterior.parameterization import PARAMETERIZATIONS, scale_of
from latentkit.read.choice import Selection
from latentkit.read.pairing import pair_latents, pair_posteriors
from latentkit.read.plan import find_posteriors
from latentkit.run import kl_values, nll_values
from latentkit.sums import Values
from latentkit.tabulated import every_value, tables_of
from latentkit.workspace import Workspace

NARROW = DTYPES[2:]
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
    for (span, rows), _ in kl_values(found.spans, Arithmetic(), **options):
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
        b"".join(
            rows.tobytes()
            for (_, rows), _ in nll_values(found.spans, latents, affines, Arithmetic(), batch_size=b, workers=w)
        )
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
    arithmetic, workspace = Arithmetic(), Workspace()
    one = torch.ones_like(mean[:1])
    return [
        kl_to_prior(mean, raw, "logvar", arithmetic, workspace, per_channel=False),
        kl_to_prior(mean, raw, "logvar", arithmetic, workspace, per_channel=True),
        kl_to_other(mean, raw, "logvar", (one, one, "std"), arithmetic, workspace, per_channel=False, symmetric=True),
        nll(mean, raw, "logvar", latents, arithmetic, workspace),
        nll(mean, raw, "logvar", latents.double() / 0.18215, arithmetic, workspace),
    ]


# ---- on any machine, for 16 and 8 bits ----------------------------------------------------------------------------


@cache
def fingerprint() -> tuple[str, ...]:
    """A hash of everything that is promised to be the same, by dtype and parameterization."""
    return tuple(
        f"{dtype}, {parameterization}: {hashlib.sha256(promised_bytes(dtype, parameterization)).hexdigest()}"
        for dtype in NARROW
        for parameterization in PARAMETERIZATIONS
    )


def promised_bytes(dtype: torch.dtype, parameterization: str) -> bytes:
    # Scales are all values there are, in an order that no library decides; means and latents are others of them.
    values = every_value(dtype).double().nan_to_num(1.0, 1.0, 1.0)
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(values))
    values = values[torch.from_numpy(order)].view(-1, 2, 4, 16)
    raw = (values.abs() if parameterization in ("std", "var") else values).to(dtype)
    mean, latents = values.flip(0, 3).to(dtype), values.flip(0).to(dtype)
    other = values.flip(1, 3).to(dtype), raw.double().flip(2).to(dtype), parameterization
    given, arithmetic, workspace = (mean, raw, parameterization), Arithmetic(), Workspace()
    measured = [
        kl_to_prior(*given, arithmetic, workspace, per_channel=False),
        kl_to_prior(*given, arithmetic, workspace, per_channel=True),
        kl_to_prior(torch.zeros_like(mean), *given[1:], arithmetic, workspace, per_channel=False),
        nll(*given, (mean.double() + 1).to(dtype), arithmetic, workspace),
    ]
    if parameterization != "softplus":
        # Beyond tables of float32, softplus takes σ as the machine's exp and log give it.
        measured += [
            kl_to_other(*given, other, arithmetic, workspace, per_channel=False, symmetric=False),
            kl_to_other(*given, other, arithmetic, workspace, per_channel=True, symmetric=True),
            nll(*given, latents, arithmetic, workspace),
            nll(*given, latents.double() / 0.18215, arithmetic, workspace),
        ]
    return b"".join(values.tobytes() for values in measured)


def vector_features() -> str:
    """What this NumPy can switch off on this processor."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__[name])


CAPABILITIES = {
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2"},
    "avx512": {"ATEN_CPU_CAPABILITY": "avx512"},
    "old": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "NPY_DISABLE_CPU_FEATURES": ""},
}


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_16_and_8_bits_give_the_same_bits_on_any_vector_width(capability: str) -> None:
    """``old`` switches off what torch, MKL and NumPy have for newer processors."""
    environment = dict(CAPABILITIES[capability])
    if capability in ("avx2", "avx512") and capability.upper() not in supported():
        pytest.skip(f"this processor has no {capability}")
    if "NPY_DISABLE_CPU_FEATURES" in environment:
        environment["NPY_DISABLE_CPU_FEATURES"] = vector_features()
    command = [sys.executable, "-W", "ignore", __file__]
    ran = subprocess.run(
        command, env=os.environ | environment | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == list(fingerprint())


def supported() -> list[str]:
    order = ["DEFAULT", "AVX2", "AVX512"]
    best = torch.backends.cpu.get_cpu_capability()
    return order[: order.index(best) + 1] if best in order else []


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("dtype", NARROW, ids=lambda dtype: str(dtype).removeprefix("torch."))
def test_no_entry_of_a_table_lies_where_libraries_could_round_it_apart(
    dtype: torch.dtype, parameterization: str
) -> None:
    """Good libraries are within one unit of float64; every entry is at least 4 from where its rounding turns."""
    scale = scale_of(every_value(dtype).double(), parameterization)
    tables = tables_of(dtype, parameterization, (-30.0, 20.0))
    for exact, table in ((scale.logvar.abs(), tables.logvar.abs()), (1 / scale.var, tables.inverse_var)):
        assert units_to_a_turn(exact[exact > 1e-37].numpy(), 24, 1 / 2) >= 4
        assert table.dtype == torch.float32
    # The remainder near the prior is a series, of correctly rounded steps; elsewhere it takes e^l.
    far = scale.var[(scale.logvar <= -1) | (scale.logvar >= 2)]
    remainder = (scale.var - 1 - scale.logvar)[(scale.logvar <= -1) | (scale.logvar >= 2)]
    assert units_to_a_turn(remainder.numpy(), 24, 1 / 2) >= 4
    assert len(far)
    if parameterization != "softplus":
        for exact in (scale.std, scale.var):
            assert units_to_a_turn(exact[~exact.isnan()].numpy(), 28, 2 / 3) >= 4


def units_to_a_turn(values: Values, bits: int, turn: float) -> int:
    """How near the nearest of ``values`` comes to where rounding to ``bits`` turns, in units of its last place."""
    unit = 1 << 53 - bits
    whole = np.ldexp(np.frexp(values)[0], 53).astype(np.int64)
    return int(abs(whole % unit - unit * turn).min())


if __name__ == "__main__":
    print(*fingerprint(), sep="\n")
