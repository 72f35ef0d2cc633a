"""The pipeline: a plan of blocks -> results in plan order, computed on threads."""

import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from latentkit.storage.blocks import Block
from latentkit.workspace import Workspace

Result = TypeVar("Result")
Work = Callable[[Block, Workspace], Result]

# Blocks under way a worker: one in hand, and others ready for when a slow one holds up the order.
_AHEAD = 4


def default_workers() -> int:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def run(blocks: Iterator[Block], work: Work[Result], workers: int | None = None) -> Iterator[tuple[Block, Result]]:
    """Do ``work`` on every block, on ``workers`` threads, and yield the results in the order of the blocks.

    Each thread has its own workspace and one torch thread; what it returns must not lie in the workspace. Blocks
    are taken from the plan as results are consumed, so memory stays bounded.
    """
    workers = workers or default_workers()
    local = threading.local()
    torch_threads = torch.get_num_threads()

    def begin() -> None:
        local.workspace = Workspace()
        torch.set_grad_enabled(False)
        torch.set_num_threads(1)

    def do(block: Block) -> Result:
        return work(block, local.workspace)

    pool = ThreadPoolExecutor(workers, thread_name_prefix="latentkit", initializer=begin)
    pending: deque[tuple[Block, Future[Result]]] = deque()
    try:
        for block in blocks:
            pending.append((block, pool.submit(do, block)))
            if len(pending) >= _AHEAD * workers:
                done, future = pending.popleft()
                yield done, future.result()
        while pending:
            done, future = pending.popleft()
            yield done, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        # Torch hands the number last set to threads started later: give it back what the user had.
        torch.set_num_threads(torch_threads)
