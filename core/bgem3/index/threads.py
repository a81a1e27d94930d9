"""One pool of threads for the compiled loops of the index; numpy, numba and onnxruntime let others run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")


@cache
def thread_count() -> int:
    """Return how many threads work on one search, 1 to 8."""
    return min(8, os.cpu_count() or 1)


def run_all(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do the work for each item, several at once; an error in one is raised. Must not be called from `work`."""
    if len(items) == 1:
        work(items[0])
    else:
        list(_pool().map(work, items))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="bgem3-index")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
