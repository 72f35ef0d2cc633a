"""Blocks: every sample once and in order, pieces with fixed ends, the right bytes read."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import DTYPES, moments_of
from safetensors.torch import save_file
from torch import Tensor

from latentkit.compiled.tables import WIDE, values_of
from latentkit.errors import DataError
from latentkit.posterior.layout import split_axes
from latentkit.read import bytes as reading
from latentkit.read.blocks import BLOCK_ELEMENTS, Block, pieces_of, plan_blocks, read_block
from latentkit.read.bytes import Buffers, read_at, read_chunks
from latentkit.read.choice import Posterior, Selection, Span, choose
from latentkit.read.header import read_header
from latentkit.read.inputs import InputFile

Write = Callable[..., Path]


def posterior_in(path: Path, layout: str | None = None) -> Posterior:
    file = InputFile(str(path), path.name, str(path.parent), searched=False)
    (posterior,) = choose(file, read_header(str(path)), Selection(layout=layout))
    return posterior


def samples_of(blocks: Sequence[Block]) -> list[tuple[Posterior, int]]:
    """Every sample in the order it comes, counted at its last piece."""
    spans = [span for block in blocks if block.last for span in block.spans]
    return [(span.posterior, index) for span in spans for index in range(span.first, span.first + span.count)]


# ---- the plan -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [None, 1, 3, 64, 1000])
@pytest.mark.parametrize("apart", [False, True])
def test_every_sample_comes_once_and_in_order(write: Write, batch_size: int | None, apart: bool) -> None:
    paths = [write(f"{number}.safetensors", moments=moments_of(size)) for number, size in enumerate((5, 1, 7))]
    paths.append(write("other.safetensors", moments=moments_of(4, 3)))
    posteriors = [posterior_in(path) for path in paths]
    blocks = list(plan_blocks(posteriors, batch_size, apart=apart))
    assert samples_of(blocks) == [(one, index) for one in posteriors for index in range(one.samples)]
    assert [block.first_row for block in blocks] == [sum(b.samples for b in blocks[:n]) for n in range(len(blocks))]
    assert all(block.samples <= (batch_size or 1000) for block in blocks)
    assert all(len({span.posterior.axes.channels for span in block.spans}) == 1 for block in blocks)
    if apart:
        assert all(len(block.spans) == 1 for block in blocks)


def test_spans_may_be_parts_of_posteriors(write: Write) -> None:
    posterior = posterior_in(write("a.safetensors", moments=moments_of(9)))
    blocks = list(plan_blocks([Span(posterior, 6, 2), Span(posterior, 1, 3)], 4))
    assert [index for _, index in samples_of(blocks)] == [6, 7, 1, 2, 3]


def test_small_files_share_blocks(write: Write) -> None:
    posteriors = [posterior_in(write(f"{n}.safetensors", moments=moments_of(1))) for n in range(10)]
    assert len(list(plan_blocks(posteriors))) == 1


@pytest.mark.parametrize(
    "shape",
    [
        (1, 4, 512, 512),
        (1, 32, 256, 256),
        (1, 1000, 50, 50),
        (1, 3, 1100, 1100),
        (1, 1, 1_048_576),
        (1, 1, 1_048_577),
        (1, 1_048_577, 1),
        (1, 2, 524_289),
    ],
)
@pytest.mark.parametrize("layout", ["first", "last"])
def test_pieces_cover_a_sample_once_and_each_lies_in_one_stretch(shape: tuple[int, ...], layout: str) -> None:
    letters = "bcdefg"[: len(shape)]
    if layout == "last":
        letters, shape = "bdefg"[: len(shape) - 1] + "c", (shape[0], *shape[2:], shape[1])
    axes = split_axes(shape, letters)
    _, outer, channels, inner = axes.view
    end = 0
    for piece in pieces_of(axes):
        rows, width, length = piece.shape
        assert rows * width * length <= BLOCK_ELEMENTS
        assert piece.start(channels, inner) == end
        end += rows * width * length
        # One stretch: whatever is cut, all axes before it have one value.
        assert rows == 1 or (width, length) == (channels, inner)
        assert width == 1 or length == inner
    assert end == outer * channels * inner


def test_pieces_do_not_depend_on_the_batch_size(write: Write) -> None:
    posterior = posterior_in(write("a.safetensors", moments=moments_of(2, 2, 900, 900)))
    plans = [
        [(block.spans[0].first, block.piece, block.last) for block in plan_blocks([posterior], size)]
        for size in (None, 1, 64)
    ]
    assert plans[0] == plans[1] == plans[2]
    assert len(plans[0]) == 2 * 2 * 4


# ---- reading ------------------------------------------------------------------------------------------------------


def put_together(posterior: Posterior, batch_size: int | None, buffers: Buffers) -> tuple[Tensor, Tensor]:
    """Mean and scale of a whole posterior from its blocks."""
    shape = posterior.axes.view
    whole = torch.zeros(2, *shape, dtype=torch.float64)
    for block in plan_blocks([posterior], batch_size):
        (span,) = block.spans
        box = tuple(slice(*ends) for ends in (block.piece.outer, block.piece.channels, block.piece.inner))
        halves = read_block(block, buffers)
        for part, stored in zip(whole, (halves.mean, halves.scale), strict=True):
            numbers = halves.view(stored)
            values = numbers if halves.dtype in WIDE else values_of(halves.dtype)[numbers]
            part[(slice(span.first, span.first + span.count), *box)] = torch.from_numpy(values.astype(np.float64))
    return whole[0], whole[1]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "layout"), [((7, 4, 3, 5), "bchw"), ((7, 5, 4), "blc"), ((4, 7, 3), "chw"), ((3, 2, 4, 5), "btcw")]
)
def test_halves_are_read_from_any_layout_and_dtype(
    write: Write, dtype: str, shape: tuple[int, ...], layout: str
) -> None:
    moments = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(DTYPES[dtype])
    posterior = posterior_in(write("a.safetensors", moments=moments), layout)
    mean, scale = put_together(posterior, 2, Buffers())
    expected = moments.double().chunk(2, layout.index("c"))
    assert mean.equal(expected[0].reshape(mean.shape))
    assert scale.equal(expected[1].reshape(scale.shape))


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((2, 4, 800, 800), "bchw"), ((2, 530_000, 4), "blc"), ((1, 2, 1_150_000), "bcl"), ((2, 3, 800_000), "blc")],
)
def test_large_samples_are_read_in_pieces(write: Write, shape: tuple[int, ...], layout: str) -> None:
    moments = torch.randn(shape, generator=torch.Generator().manual_seed(0)).half()
    posterior = posterior_in(write("a.safetensors", moments=moments), layout)
    mean, scale = put_together(posterior, None, Buffers())
    expected = moments.double().chunk(2, layout.index("c"))
    assert mean.equal(expected[0].reshape(mean.shape))
    assert scale.equal(expected[1].reshape(scale.shape))


def test_a_pair_is_read_as_the_moments_it_was_split_from(write: Write) -> None:
    moments = moments_of(5)
    mean, logvar = (half.contiguous() for half in moments.chunk(2, 1))
    buffers = Buffers()
    together = put_together(posterior_in(write("a.safetensors", moments=moments)), 2, buffers)
    apart = put_together(posterior_in(write("b.safetensors", mean=mean, logvar=logvar)), 2, buffers)
    assert all(a.equal(b) for a, b in zip(together, apart, strict=True))


def test_chunks_are_the_bytes_of_any_stretch(write: Write) -> None:
    tensor = torch.randint(0, 256, (3 << 20,), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    header = read_header(str(write("a.safetensors", x=tensor)))
    read = b"".join(bytes(chunk) for chunk in read_chunks(header, header.tensors["x"], 1000, (2 << 20) + 77))
    assert read == bytes(tensor[1000 : (2 << 20) + 77].numpy())


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def touch(path: Path) -> None:
    import os

    os.utime(path, ns=(0, 0))


@pytest.mark.parametrize("change", [cut, touch, lambda path: path.write_bytes(b"")])
def test_a_changed_file_is_noticed_before_its_bytes_are_used(write: Write, change: Callable[[Path], None]) -> None:
    path = write("a.safetensors", x=torch.zeros(10))
    header = read_header(str(path))
    change(path)
    with pytest.raises(DataError, match=r"a\.safetensors: changed while it was being read"):
        read_at(header, header.tensors["x"], 0, np.empty(10, np.float32))


def test_an_error_of_the_disk_names_the_file_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno
    import os

    def fail(*_: object) -> int:
        raise OSError(errno.EIO, "Input/output error")

    header = read_header(str(write("a.safetensors", x=torch.zeros(10))))
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(DataError, match=r"a\.safetensors: Input/output error"):
        read_at(header, header.tensors["x"], 0, np.empty(10, np.float32))


def test_reads_cut_short_by_the_system_are_taken_up_again(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: whole(file, [buffers[0][:3]], offset))
    header = read_header(str(write("a.safetensors", x=torch.arange(10.0))))
    out = np.empty(10, np.float32)
    read_at(header, header.tensors["x"], 0, out)
    assert out.tolist() == list(range(10))


@pytest.mark.parametrize("change", ["touched", "shorter", "longer"])
def test_what_changes_during_the_last_read_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    path = tmp_path / "a.safetensors"
    save_file({"x": torch.arange(1000.0)}, path)
    header = read_header(str(path))
    read = reading._read_some

    def read_and_change(descriptor: int, offset: int, out: memoryview) -> int:
        count = read(descriptor, offset, out)
        if change == "touched":
            os.utime(path, ns=(0, header.stamp[1] + 1))
        else:
            os.truncate(path, header.stamp[0] + (1000 if change == "longer" else -1000))
        return count

    monkeypatch.setattr(reading, "_read_some", read_and_change)
    with pytest.raises(DataError, match=r"a\.safetensors: changed while it was being read"):
        read_at(header, header.tensors["x"], 0, np.empty(1000, np.float32))
