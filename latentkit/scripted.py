"""Functions that a thread runs without the interpreter.

Every call into torch takes the interpreter's lock back when it is done. Threads that work in a core's cache, where a
call lasts some 20 microseconds, spend more time on handing that lock over than on arithmetic. TorchScript runs a whole
function without it: the same operations in the same order, hence the same bits, and on two cores nearly twice as fast.
"""

import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from math import prod
from typing import Any, TypeVar, cast

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def scripted(function: Function) -> Function:
    """The function in TorchScript, or as it stands, with the same results, where there is none.

    TorchScript ends with Python 3.13, and reads the source, which not every installation has.
    """
    if sys.version_info >= (3, 14):
        return function
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            return cast(Function, torch.jit.script(function))
        except OSError:
            return function


def _same(x: torch.Tensor) -> torch.Tensor:
    return x


#: Elements that a function works on at once: few enough for a core's cache with all that is computed of them; as the
#: functions stand, more, as threads would wait for each other more than for memory.
PART_ELEMENTS = 1 << (18 if scripted(_same) is _same else 16)


def samples_at_once(samples: torch.Tensor) -> int:
    """How many samples, of the shape of ``samples`` (n, …), are worked on at once: ``PART_ELEMENTS``, or one."""
    return max(1, PART_ELEMENTS // prod(samples.shape[1:]))


def as_written() -> AbstractContextManager[None]:
    """In this thread, scripted functions run without being optimized first: that takes 30 ms, and wins nothing."""
    execution = torch.jit.optimized_execution(False)  # type: ignore[attr-defined]
    return cast(AbstractContextManager[None], execution)
