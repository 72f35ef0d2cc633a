"""The pipeline: how much waits for its turn, and in what parts values are handed on."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from latentkit.measures.kl import kl_values
from latentkit.read.blocks import Block, plan_blocks
from latentkit.read.bytes import Buffers
from latentkit.read.choice import Selection
from latentkit.read.plan import Found, find_posteriors
from latentkit.run import run

Write = Callable[..., Path]


def found_in(path: Path) -> Found:
    return find_posteriors([str(path)], Selection())


def test_few_results_wait_where_there_is_one_for_each_sample(write: Write) -> None:
    path = write("a.safetensors", moments=torch.zeros(4_000_000, 2, dtype=torch.float16))
    computed: list[int] = []

    def work(block: Block, _: Buffers) -> int:
        computed.append(block.samples)
        return block.samples

    consumed = most = 0
    for _, samples in run(plan_blocks(found_in(path).posteriors, 20_000), work, 2):
        time.sleep(0.002)  # a slow consumer
        consumed += samples
        most = max(most, sum(computed) - consumed)
    assert consumed == 4_000_000
    assert most <= 3 * 2 * (20_000 + (1 << 16))


@pytest.mark.parametrize("per_channel", [False, True])
def test_long_spans_are_handed_on_in_parts(write: Write, per_channel: bool) -> None:
    moments = torch.zeros(70_000, 4, dtype=torch.float16)
    moments[:, 0] = torch.arange(70_000) % 2048
    results = list(kl_values(found_in(write("a.safetensors", moments=moments)).spans, per_channel=per_channel))
    assert max(values.size for (_, values), _ in results) <= 1 << 15
    assert [span.first for (span, _), _ in results] == np.cumsum([0, *(s.count for (s, _), _ in results)])[:-1].tolist()
    assert sum(nbytes for _, nbytes in results) == moments.nbytes
    values = np.concatenate([values for (_, values), _ in results])
    np.testing.assert_allclose(values.sum(1), 0.5 * moments[:, 0].double().numpy() ** 2)
