"""Layouts: the axes of a tensor as letters (``bchw``), and the four-axis view everything computes on.

Any layout is read as ``(samples, outer, channels, inner)``: the free axes before the channels are ``outer``,
those behind are ``inner``. A view of that shape costs no copy, and one code path serves images, video and tokens.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

#: Ranks whose layout is not in doubt: batch first, channels second.
DEFAULT_LAYOUTS = {2: "bc", 4: "bchw", 5: "bcthw"}


@dataclass(frozen=True)
class Axes:
    """A tensor's shape, sorted by the role of its axes."""

    batch: tuple[int, ...]
    outer: tuple[int, ...]
    channels: int
    inner: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's own shape."""
        return (*self.batch, *self.outer, self.channels, *self.inner)

    @cached_property
    def view(self) -> tuple[int, int, int, int]:
        """``(samples, outer, channels, inner)``."""
        return prod(self.batch), prod(self.outer), self.channels, prod(self.inner)

    @cached_property
    def halved(self) -> "Axes":
        """The axes of the mean, whose channels are the first half of these."""
        return Axes(self.batch, self.outer, self.channels // 2, self.inner)


def check_layout(layout: str) -> str:
    """Return ``layout``; raise ``ValueError`` if it is not one.

    A layout has distinct letters but for a leading ``bb`` (two batch axes, counted through in row-major order),
    exactly one ``c``, and ``b`` only in front.
    """
    rest = layout.removeprefix("b").removeprefix("b")
    if not layout.isascii() or not layout.isalpha() or not layout.islower():
        problem = "it may hold lower-case letters only"
    elif rest.count("c") != 1:
        problem = "it needs exactly one c, the channel axis"
    elif "b" in rest:
        problem = "the batch axes (b, or bb for two) come first"
    elif len(set(rest)) != len(rest):
        problem = "a letter stands twice"
    else:
        return layout
    raise ValueError(f"{layout!r} is not a layout: {problem} (bchw, bcthw, blc, chw and bbchw are layouts)")


def default_layout(rank: int) -> str | None:
    """The layout of a tensor of this rank when none is named, or None where two readings are possible."""
    return DEFAULT_LAYOUTS.get(rank)


def layout_with_channel(rank: int, channel_dim: int) -> str:
    """The layout of a batch-first tensor of ``rank`` axes whose channels are axis ``channel_dim``."""
    axis = channel_dim + rank if channel_dim < 0 else channel_dim
    if rank < 2:
        raise ValueError(f"expected a tensor with a batch and a channel axis, got {rank} axes")
    if not 1 <= axis < rank:
        raise ValueError(
            f"channel_dim must be in [1, {rank - 1}] for {rank} axes (axis 0 is the batch), got {channel_dim}"
        )
    free = iter("adefghijklmnopqrstuvwxyz")
    return "b" + "".join("c" if position == axis else next(free) for position in range(1, rank))


def split_axes(shape: tuple[int, ...], layout: str) -> Axes:
    """Sort the axes of ``shape`` by ``layout``; raises ``ValueError`` when their numbers differ."""
    if len(shape) != len(layout):
        raise ValueError(f"layout {layout!r} names {len(layout)} axes, and the shape {shape} has {len(shape)}")
    channel = layout.index("c")
    batch = len(layout) - len(layout.lstrip("b"))
    return Axes(tuple(shape[:batch]), tuple(shape[batch:channel]), shape[channel], tuple(shape[channel + 1 :]))
