"""One pool of threads for the compiled loops of the index; numpy, numba and onnxruntime let others run meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def thread_count() -> int:
    """Return how many threads work on one search, 1 to 8."""
    return min(8, os.cpu_count() or 1)


def run_all(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do the work for each item, several at once; an error in one is raised. Must not be called from `work`."""
    # This thread works too: one more thread than processors would wait for a processor, some milliseconds long.
    others = [_pool().submit(work, item) for item in items[1:]]
    try:
        for item in items[:1]:
            work(item)
    finally:
        wait(others)
    for one in others:
        one.result()


def map_all(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the work's result for each item, in order, several at once; the work may call `run_all`."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(thread_count(), len(items)), thread_name_prefix="bgem3-search") as pool:
        return list(pool.map(work, items))


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(thread_count(), thread_name_prefix="bgem3-index")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
