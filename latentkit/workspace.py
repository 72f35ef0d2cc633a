"""Memory that a thread uses again for every block."""

from functools import cached_property
from math import prod

import torch
from torch import Tensor

from latentkit.noise import Scratch


class Workspace:
    """Buffers that one thread uses again and again: fresh memory costs more than arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}

    @cached_property
    def scratch(self) -> Scratch:
        """The thread's buffers for noise."""
        return Scratch()

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape on the CPU, not initialized, on the memory that ``name`` had before."""
        nbytes = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        if buffer is None or len(buffer) < nbytes:
            buffer = self._buffers[name] = torch.empty(nbytes, dtype=torch.uint8)
        return buffer[:nbytes].view(dtype).view(shape)
