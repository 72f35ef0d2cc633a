"""States of ``stats``: merged parts are what one run over all gives, and no file is trusted."""

import os
import random
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted import statistics_of
from damaged_state import assert_refused, contents_of
from safetensors.torch import save_file

from latentkit.errors import DataError, RequestError
from latentkit.read.choice import Selection
from latentkit.read.plan import find_posteriors
from latentkit.stats.sample_values import SampleValues
from latentkit.stats.state import State, from_file, merged, to_pieces
from latentkit.stats.sums import ExactSums, fill
from tests.conftest import DTYPES, SAMPLE_DATA, Cli, moments_of

SHARDS = [SAMPLE_DATA / f"shards/moments-0000{number}-of-00004.safetensors" for number in (1, 2, 3, 4)]


def to_bytes(state: State) -> bytes:
    return b"".join(to_pieces(state))


def state_of(*paths: Path, parameterization: str | None = None) -> State:
    found = find_posteriors(list(map(str, paths)), Selection(parameterization=parameterization))
    per_sample = SampleValues()
    return State(statistics_of(found.spans, (-30.0, 20.0), per_sample=per_sample), per_sample, found.readings)


def alike(one: Any, other: Any, where: str = "") -> None:
    """Counts, extrema and quantiles are equal; moments and what follows from them to 1e-12."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for name in one:
            alike(one[name], other[name], f"{where}.{name}")
    elif isinstance(one, list):
        assert len(one) == len(other)
        for entries in zip(one, other, strict=True):
            alike(*entries, where)
    elif isinstance(one, float) and not any(
        exact in where for exact in ("min", "max", "quantiles", "clamp", "highest")
    ):
        assert one == pytest.approx(other, rel=1e-11, abs=1e-12), where
    else:
        assert one == other, where


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "F8_E5M2"])
def test_a_state_reads_back_as_it_was(tmp_path: Path, dtype: str) -> None:
    moments = moments_of(40, 3)
    moments[3, 1, 0, 0], moments[4, 4, 1, 1], moments[5, 5, 0, 0] = torch.nan, torch.inf, -40
    save_file({"moments": moments.to(DTYPES[dtype])}, tmp_path / "a.safetensors")
    state = state_of(tmp_path / "a.safetensors")
    (tmp_path / "a.state").write_bytes(to_bytes(state))
    back = from_file(str(tmp_path / "a.state"))
    assert repr(back.statistics.summary()) == repr(state.statistics.summary())
    assert to_bytes(back) == to_bytes(state)
    assert back.readings == state.readings


def test_merged_states_are_what_one_run_gives(cli: Cli) -> None:
    names = []
    for number, path in enumerate(SHARDS):
        names.append(f"{number}.state")
        assert cli("stats", path, "--state", names[-1]).status == 0
    whole = cli("stats", *SHARDS).json
    random.Random(0).shuffle(names)
    parts = cli("stats", "--merge", *names, "--state", "all.state")
    assert parts.status == 0, parts.err
    alike(parts.json, whole)
    alike(cli("stats", "--merge", "all.state").json, whole)


def test_other_dtypes_and_many_channels_merge(tmp_path: Path) -> None:
    paths = []
    for number, (dtype, count) in enumerate((("F32", 10), ("BF16", 11), ("F16", 1))):
        paths.append(tmp_path / f"{number}.safetensors")
        save_file({"moments": moments_of(count, 40, dtype=dtype, seed=number)}, paths[-1])
        (tmp_path / f"{number}.state").write_bytes(to_bytes(state_of(paths[-1])))
    together = merged([str(path.with_suffix(".state")) for path in paths]).statistics.summary()
    whole = state_of(*paths).statistics.summary()
    assert together.samples == whole.samples == 22
    assert together.overall.logvar and whole.overall.logvar
    assert together.overall.logvar.quantiles == whole.overall.logvar.quantiles
    assert together.overall.drawn.sd == pytest.approx(whole.overall.drawn.sd, rel=1e-12)
    assert [group.mean.max_at for group in together.per_channel] == [group.mean.max_at for group in whole.per_channel]


def test_states_of_latents_merge(cli: Cli) -> None:
    path, read = SAMPLE_DATA / "latents.safetensors", ("--parameterization", "none")
    for number, drawn in enumerate(SHARDS[:2]):
        assert cli("sample", drawn, "-o", f"{number}.safetensors", "--seed", number).status == 0
    paths = [path, "0.safetensors", "1.safetensors"]
    for number, each in enumerate(paths):
        assert cli("stats", each, *read, "--state", f"{number}.state").status == 0
    parts = cli("stats", "--merge", "2.state", "0.state", "1.state").json
    alike(parts, cli("stats", paths[2], *paths[:2], *read).json)
    assert parts["sample_mean_square"]["finite"] == 512 + 322 + 322


def test_a_state_is_small_and_grows_far_less_than_the_samples(tmp_path: Path) -> None:
    sizes = []
    for count in (4000, 16000):
        save_file({"moments": moments_of(count, 4, 4, 4, dtype="F16")}, tmp_path / "a.safetensors")
        sizes.append(len(to_bytes(state_of(tmp_path / "a.safetensors"))))
    assert sizes[1] < 2 * sizes[0] < 2 << 20


def test_what_does_not_fit_is_refused_with_both_names(cli: Cli, tmp_path: Path) -> None:
    assert cli("stats", SHARDS[0], "--state", "a.state").status == 0
    assert cli("stats", SHARDS[1], "--state", "b.state", "--clamp-min", -20).status == 0
    assert cli("stats", SAMPLE_DATA / "tokens.safetensors", "--layout", "blc", "--state", "c.state").status == 0
    outcome = cli("stats", "--merge", "a.state", "b.state")
    assert outcome.status == 2 and "a.state and b.state cannot be merged: their clamp" in outcome.complaint
    assert "their channels are 4 and 8" in cli("stats", "--merge", "a.state", "c.state").complaint
    for options in (
        ("--key", "moments"),
        ("--limit", 3),
        ("--clamp-max", 10),
        ("--against", "b.state"),
        ("--dry-run",),
    ):
        assert cli("stats", "--merge", "a.state", *options).status == 2
    assert cli("stats", "--merge", SHARDS[0]).status == 1
    assert "not a state of stats" in cli("stats", "--merge", SHARDS[0]).complaint
    assert cli("stats", SHARDS[0], "--state", "a.state").status == 2
    with pytest.raises(RequestError):
        merged([str(tmp_path / "a.state"), str(tmp_path / "b.state")])


def test_conditions_and_findings_hold_for_merged_states(cli: Cli) -> None:
    assert cli("stats", SAMPLE_DATA / "collapsed.safetensors", "--state", "a.state").status == 0
    outcome = cli("stats", "--merge", "a.state", "--fail-if", "collapsed_channels > 2")
    assert outcome.status == 3 and outcome.json["findings"][0]["kind"] == "collapsed"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state with every kind of count: by pattern and by cell, and what is not finite."""
    folder = tmp_path_factory.mktemp("good")
    for dtype in ("F16", "F32"):
        moments = moments_of(6, 2, 2, 2, dtype="F32")
        moments[3, 1, 0, 0], moments[4, 1, 1, 1] = torch.nan, torch.inf
        save_file({"moments": moments.to(DTYPES[dtype])}, folder / f"{dtype}.safetensors")
    (folder / "good.state").write_bytes(to_bytes(state_of(*sorted(folder.iterdir()))))
    return folder / "good.state"


def test_a_state_that_contradicts_itself_is_a_sentence(good: Path, tmp_path: Path) -> None:
    tensors, facts = contents_of(good)
    damaged = partial(assert_refused, tmp_path)
    for name, tensor in tensors.items():
        damaged({key: other for key, other in tensors.items() if key != name}, facts)
        if name.endswith(("cells", "_at", ".tops", ".tallies")):
            damaged(tensors | {name: tensor + 10**9}, facts)
        if name.endswith(("limbs", "least", "beneath", "cells", "counts", "highest", "_at")):
            damaged(tensors | {name: tensor[:-1].clone()}, facts)
        if name.endswith((".counts", "beneath", "tallies")):
            damaged(tensors | {name: tensor + 1}, facts)
        if name.endswith(("counts", "beneath", "tallies")):
            damaged(tensors | {name: -tensor}, facts)
            damaged(tensors | {name: tensor.to(torch.int64) + (1 << 62)}, facts)
        if not name.endswith(".odd"):
            damaged(tensors | {name: torch.zeros(3, dtype=torch.float8_e5m2)}, facts)
    damaged(tensors | {"kl.total.tops": tensors["kl.total.tops"] + 1}, facts)
    for name, value in (("version", 4), ("version", 6), ("channels", 0), ("channels", 5), ("channels", 1 << 20),
                        ("channels", True), ("samples", -1), ("samples", 11), ("samples", 10**40), ("samples", 12.0),
                        ("nonfinite_samples", -1), ("nonfinite_samples", 10**40), ("clamp", [1]), ("clamp", [3, 2]),
                        ("parameterization", "x"), ("readings", 3)):  # fmt: skip
        damaged(tensors, facts | {name: value})
    for name in facts:
        damaged(tensors, {key: value for key, value in facts.items() if key != name})


def test_no_flipped_bit_of_a_state_is_taken_for_right(good: Path, tmp_path: Path) -> None:
    data, rng, bad = good.read_bytes(), random.Random(0), tmp_path / "bad.state"
    header = 8 + int.from_bytes(data[:8], "little")
    places = [*range(8), *rng.sample(range(8, header), 300), *rng.sample(range(header, len(data)), 700)]
    for place in places:
        bad.write_bytes(data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :])
        with pytest.raises(DataError, match=r"bad\.state"):
            from_file(str(bad))
    for end in (0, 7, header, len(data) - 1):
        bad.write_bytes(data[:end])
        with pytest.raises(DataError, match=r"bad\.state"):
            from_file(str(bad))


def test_a_state_of_another_version_says_what_to_do(good: Path, tmp_path: Path) -> None:
    (tmp_path / "old.state").write_bytes(good.read_bytes().replace(b'\\"version\\": 5', b'\\"version\\": 3'))
    with pytest.raises(DataError, match="version is 3, and this latentkit reads 5; make it again"):
        from_file(str(tmp_path / "old.state"))


def test_a_sparse_state_and_one_that_is_no_file_cost_nothing(cli: Cli, good: Path, tmp_path: Path) -> None:
    header = b'{"__metadata__":{"latentkit_state":"{}"},"x":{"dtype":"U8","shape":[SIZE],"data_offsets":[0,SIZE]}}'
    header = header.replace(b"SIZE", b"%d" % 10**11)
    with (tmp_path / "sparse.state").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 10**11)
    os.mkfifo(tmp_path / "fifo.state")
    for name, words in (("sparse", "none is so large"), ("fifo", "not a regular file")):
        outcome = cli("stats", "--merge", good, f"{name}.state")
        assert outcome.status == 1 and words in outcome.complaint and f"{name}.state" in outcome.complaint


def test_sums_of_many_terms_have_room_when_states_are_merged() -> None:
    """Limbs are carried before they are written: sixteen sums as full as they get would not fit in 64 bits."""
    sums = ExactSums(1)
    sums.add(np.full((1, 1), 2.0**31 - 1))
    limbs, _, _ = sums.arrays
    limbs *= 1 << 29  # as if added so many times
    sums.reserve(1 << 29)
    whole = ExactSums(1)
    for _ in range(16):
        part = ExactSums(1)
        fill(part.parts("x"), sums.parts("x"))
        whole.merge(part)
    assert whole.total[0] == 2.0**33 * (2.0**31 - 1)
