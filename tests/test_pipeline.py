"""The pipeline: how much waits for its turn, and in what parts values are handed on."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import moments_of
from torch import Tensor

from latentkit.measures import formulas as measures
from latentkit.measures.formulas import Arithmetic
from latentkit.read import blocks
from latentkit.read.blocks import Block, plan_blocks
from latentkit.read.choice import Selection
from latentkit.read.plan import Found, find_posteriors
from latentkit.run import kl_values, run
from latentkit.sample import files as sampling
from latentkit.sample.files import draw_stream
from latentkit.sample.outputs import mirrored
from latentkit.sample.recipe import Recipe
from latentkit.workspace import Workspace

Write = Callable[..., Path]


def found_in(path: Path) -> Found:
    return find_posteriors([str(path)], Selection())


def test_few_results_wait_where_there_is_one_for_each_sample(write: Write) -> None:
    path = write("a.safetensors", moments=torch.zeros(4_000_000, 2, dtype=torch.float16))
    computed: list[int] = []

    def work(block: Block, _: Workspace) -> int:
        computed.append(block.samples)
        return block.samples

    consumed = most = 0
    for _, samples in run(plan_blocks(found_in(path).posteriors, 20_000), work, 2):
        time.sleep(0.002)  # a slow consumer
        consumed += samples
        most = max(most, sum(computed) - consumed)
    assert consumed == 4_000_000
    assert most <= 3 * 2 * (20_000 + (1 << 16))


def test_latents_do_not_pile_up_before_a_slow_reader(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocks, "_most_elements", lambda *_: 64)
    found = found_in(write("a.safetensors", moments=moments_of(200, 4, 4, 4)))
    drawn = written = most = 0
    whole = sampling.draw_block

    def count(*arguments: object) -> object:
        nonlocal drawn
        drawn += 1
        return whole(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(sampling, "draw_block", count)
    (output,) = mirrored(found.spans, str(tmp_path / "out.safetensors"), [], as_file=True)

    def write_slowly(_: memoryview) -> None:
        nonlocal written, most
        time.sleep(0.002)
        written += 1
        most = max(most, drawn - written)

    for _ in draw_stream(output, Recipe(), write_slowly, workers=2):
        pass
    assert drawn == 200
    assert most <= 3 * 2


@pytest.mark.parametrize("per_channel", [False, True])
def test_long_spans_are_handed_on_in_parts(write: Write, per_channel: bool) -> None:
    moments = torch.zeros(70_000, 4, dtype=torch.float16)
    moments[:, 0] = torch.arange(70_000) % 2048
    results = list(
        kl_values(found_in(write("a.safetensors", moments=moments)).spans, Arithmetic(), per_channel=per_channel)
    )
    assert max(values.size for (_, values), _ in results) <= 1 << 15
    assert [span.first for (span, _), _ in results] == np.cumsum([0, *(s.count for (s, _), _ in results)])[:-1].tolist()
    assert sum(nbytes for _, nbytes in results) == moments.nbytes
    values = np.concatenate([values for (_, values), _ in results])
    np.testing.assert_allclose(values.sum(1), 0.5 * moments[:, 0].double().numpy() ** 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_done_again_in_float64_is_done_in_parts(
    write: Write, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype
) -> None:
    done: list[int] = []
    name = "exact_kl" if dtype == torch.float32 else "_float64"
    whole = getattr(measures, name)

    def count(mean: Tensor, *arguments: object) -> object:
        done.append(mean.numel())
        return whole(mean, *arguments)

    monkeypatch.setattr(measures, name, count)
    # All at the prior, where float32 does not do.
    path = write("a.safetensors", moments=torch.zeros(300, 4, 32, 32, dtype=dtype))
    assert all((values == 0).all() for (_, values), _ in kl_values(found_in(path).spans, Arithmetic(), workers=1))
    assert sum(done) == 300 * 2048
    assert max(done) <= measures._EXACT_ELEMENTS
