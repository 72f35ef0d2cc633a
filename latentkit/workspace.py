"""Memory that a thread uses again for every block."""

from collections.abc import Callable, Hashable
from math import prod
from typing import Any, TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")

_MOST_VIEWS = 256


class Workspace:
    """Buffers that one thread uses again and again: fresh memory costs more than arithmetic.

    ``pinned``: page-locked, which a GPU copies from while the host goes on.
    """

    def __init__(self, *, pinned: bool = False) -> None:
        self._pinned = pinned
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}
        self._prepared: dict[Hashable, tuple[object, Any]] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor of this shape on the CPU, not initialized, on the memory that ``name`` had before."""
        # Making a view takes as long as a small operation, and holds the interpreter's lock.
        view = self._views.get((name, shape, dtype))
        if view is None:
            view = self._views[name, shape, dtype] = self._make(name, shape, dtype)
        return view

    def _make(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        nbytes = prod(shape) * dtype.itemsize
        buffer = self._buffers.get(name)
        grows = buffer is None or len(buffer) < nbytes
        if grows or len(self._views) >= _MOST_VIEWS:
            self._views.clear()
            self._prepared.clear()
        if buffer is None or grows:
            buffer = self._buffers[name] = torch.empty(nbytes, dtype=torch.uint8, pin_memory=self._pinned)
        return buffer[:nbytes].view(dtype).view(shape)

    def prepared(self, make: Callable[..., Made], *arguments: Any) -> Made:
        """``make(self, *arguments)``, made once for these very arguments: the views that a block's work needs.

        Tensors among the arguments count as equal only to themselves.
        """
        key = (make, *(id(argument) if isinstance(argument, Tensor) else argument for argument in arguments))
        entry = self._prepared.get(key)
        if entry is None:
            made = make(self, *arguments)
            if len(self._prepared) >= _MOST_VIEWS:
                self._prepared.clear()
            # The arguments are kept, so that no other tensor can take the place, and the id, of one of them.
            entry = self._prepared[key] = arguments, made
        return entry[1]
