"""Layouts: letters for axes, the four-axis view, and what is refused."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latentkit import DiagonalGaussianDistribution
from latentkit.posterior.layout import check_layout, default_layout, layout_with_channel, split_axes


@pytest.mark.parametrize("layout", ["bc", "bchw", "bcthw", "bcl", "blc", "chw", "bbchw", "c", "bhwc"])
def test_a_layout_with_one_channel_axis_and_the_batch_in_front_is_accepted(layout: str) -> None:
    assert check_layout(layout) == layout


@pytest.mark.parametrize(
    ("layout", "problem"),
    [
        ("", "lower-case letters"),
        ("bhw", "exactly one c"),
        ("bcc", "exactly one c"),
        ("cb", "come first"),
        ("bbbc", "come first"),
        ("bchbw", "come first"),
        ("bchh", "stands twice"),
        ("BCHW", "lower-case letters"),
        ("bc1", "lower-case letters"),
        ("b c", "lower-case letters"),
        ("bcé", "lower-case letters"),
    ],
)
def test_what_is_no_layout_is_refused_with_its_fault_named(layout: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem) as error:
        check_layout(layout)
    assert repr(layout) in str(error.value)


@pytest.mark.parametrize(("rank", "layout"), [(1, None), (2, "bc"), (3, None), (4, "bchw"), (5, "bcthw"), (6, None)])
def test_only_ranks_that_have_one_reading_have_a_default(rank: int, layout: str | None) -> None:
    assert default_layout(rank) == layout


@pytest.mark.parametrize("rank", range(2, 9))
def test_channel_dim_names_the_channel_axis_from_either_end(rank: int) -> None:
    for axis in range(1, rank):
        layout = layout_with_channel(rank, axis)
        assert check_layout(layout) == layout_with_channel(rank, axis - rank)
        assert (len(layout), layout[0], layout.index("c")) == (rank, "b", axis)


@pytest.mark.parametrize("channel_dim", [0, 4, -4, -5])
def test_a_channel_dim_that_is_no_axis_behind_the_batch_is_refused(channel_dim: int) -> None:
    with pytest.raises(ValueError, match=rf"channel_dim must be in \[1, 3\] for 4 axes .* got {channel_dim}"):
        layout_with_channel(4, channel_dim)


@pytest.mark.parametrize(
    ("shape", "layout", "view"),
    [
        ((5, 8), "bc", (5, 1, 8, 1)),
        ((5, 8, 2, 3), "bchw", (5, 1, 8, 6)),
        ((5, 8, 4, 2, 3), "bcthw", (5, 1, 8, 24)),
        ((5, 7, 8), "blc", (5, 7, 8, 1)),
        ((8, 2, 3), "chw", (1, 1, 8, 6)),
        ((5, 2, 8, 2, 3), "bbchw", (10, 1, 8, 6)),
        ((5, 4, 8, 3), "btch", (5, 4, 8, 3)),
        ((0, 8, 2, 3), "bchw", (0, 1, 8, 6)),
    ],
)
def test_axes_sort_into_samples_outer_channels_inner(
    shape: tuple[int, ...], layout: str, view: tuple[int, int, int, int]
) -> None:
    axes = split_axes(shape, layout)
    assert axes.view == view
    assert axes.shape == shape
    assert axes.halved.view == (*view[:2], view[2] // 2, view[3])


def test_a_layout_of_another_rank_is_refused_with_both_named() -> None:
    with pytest.raises(ValueError, match=r"layout 'bchw' names 4 axes, and the shape \(5, 8, 2\) has 3"):
        split_axes((5, 8, 2), "bchw")


@pytest.mark.parametrize(
    ("layout", "shape", "samples"),
    [
        ("bc", (5, 8), (5,)),
        ("bchw", (5, 8, 2, 3), (5,)),
        ("bcthw", (5, 8, 2, 2, 3), (5,)),
        ("blc", (5, 7, 8), (5,)),
        ("bhwc", (5, 2, 3, 8), (5,)),
        ("chw", (8, 2, 3), ()),
        ("bbchw", (5, 2, 8, 2, 3), (5, 2)),
    ],
)
@pytest.mark.parametrize("deterministic", [False, True])
def test_the_class_sums_every_axis_but_the_batch(
    layout: str, shape: tuple[int, ...], samples: tuple[int, ...], deterministic: bool
) -> None:
    posterior = DiagonalGaussianDistribution(torch.randn(shape), deterministic, layout=layout)
    latents = tuple(size // 2 if letter == "c" else size for size, letter in zip(shape, layout, strict=True))
    assert posterior.mean.shape == posterior.sample().shape == latents
    assert posterior.kl().shape == posterior.kl(posterior).shape == posterior.nll(posterior.mode()).shape == samples


@pytest.mark.parametrize("rank", range(2, 8))
def test_the_class_splits_axis_one_at_any_rank_unless_told_otherwise(rank: int) -> None:
    parameters = torch.randn(2, 4, *[3] * (rank - 2))
    posterior = DiagonalGaussianDistribution(parameters)
    assert torch.equal(posterior.mean, parameters[:, :2])
    assert posterior.kl().shape == (2,)


@settings(deadline=None)
@given(st.permutations(range(4)), st.integers(0, 2**31))
def test_numbers_do_not_depend_on_where_the_axes_lie(order: list[int], seed: int) -> None:
    bchw = torch.randn(3, 4, 2, 5, generator=torch.Generator().manual_seed(seed))
    order.remove(0)
    layout = "b" + "".join("bchw"[axis] for axis in order)
    moved = bchw.permute(0, *order)
    for parameters in (moved, moved.contiguous()):
        posterior = DiagonalGaussianDistribution(parameters, layout=layout)
        expected = DiagonalGaussianDistribution(bchw)
        assert torch.equal(posterior.mean, expected.mean.permute(0, *order))
        torch.testing.assert_close(posterior.kl(), expected.kl())
        torch.testing.assert_close(posterior.nll(posterior.mean + 1), expected.nll(expected.mean + 1))
