"""Statistics as tests feed them: tensors (samples, outer, channels, inner) with their origin."""

from dataclasses import dataclass

from adapter import halves
from torch import Tensor

from latentkit.posterior.parameterization import DEFAULT_CLAMP, Clamp
from latentkit.stats import accumulate, extrema


@dataclass(frozen=True)
class Origin:
    """Where a block comes from; ``inner`` is the sample's whole extent behind the channels, None: the block has it."""

    name: str
    key: str
    first: int = 0
    outer_start: int = 0
    channel_start: int = 0
    inner_start: int = 0
    inner: int | None = None


class Statistics(accumulate.Statistics):
    """That of latentkit, fed with tensors."""

    def __init__(self, channels: int, parameterization: str = "logvar", clamp: Clamp = DEFAULT_CLAMP) -> None:
        super().__init__(channels, parameterization, clamp)

    def update(self, mean: Tensor, raw: Tensor | None, origin: Origin) -> None:  # type: ignore[override]
        if not len(mean):
            return
        inner = mean.shape[3] if origin.inner is None else origin.inner
        whole = extrema.Origin(
            origin.name, origin.key, origin.first, self.channels, inner, origin.outer_start, origin.channel_start,
            origin.inner_start,
        )  # fmt: skip
        super().update(halves(mean, raw), [(whole, len(mean))])
