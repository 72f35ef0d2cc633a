"""How much a thread works on at once."""

from math import prod

import torch

#: Elements, at most: more leave the cache, with fewer threads wait for the interpreter.
PART_ELEMENTS = 1 << 18


def samples_at_once(samples: torch.Tensor) -> int:
    """How many samples, of the shape of ``samples`` (n, …), are worked on at once: ``PART_ELEMENTS``, or one."""
    return max(1, PART_ELEMENTS // prod(samples.shape[1:]))
