"""One pool of threads for the compiled loops of the index; numpy, numba and onnxruntime let others run meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

# Threads that read from disk at a time. 200 candidates, cold, reading alone: 84 ms with one, 63 with two, 39 with eight, 38 with sixteen.
READERS = 8


@cache
def thread_count() -> int:
    """Return how many threads work on one search, 1 to 8."""
    return min(8, os.cpu_count() or 1)


def run_all(work: Callable[[Item], None], items: Sequence[Item]) -> None:
    """Do the work for each item, several at once; an error in one is raised. Must not be called from `work`."""
    others = [_pool().submit(work, item) for item in items[1:]]
    try:
        for item in items[:1]:
            work(item)
    finally:
        wait(others)
    for one in others:
        one.result()


def map_shared(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the work's result for each item, in order; a thread that is done takes the next. Must not be called from `work`."""
    waiting = deque(enumerate(items))
    results: dict[int, Result] = {}

    def take(_: int) -> None:
        while True:
            try:
                i, item = waiting.popleft()
            except IndexError:
                return
            results[i] = work(item)

    count = len(waiting)
    run_all(take, range(min(thread_count(), count)))
    return [results[i] for i in range(count)]


def map_all(work: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the work's result for each item, in order, several at once; the work may call `run_all`."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(min(thread_count(), len(items)), thread_name_prefix="bgem3-search") as pool:
        return list(pool.map(work, items))


@cache
def _pool() -> ThreadPoolExecutor:
    # One less: who asks works too, and a thread more than processors would wait for one, some milliseconds long.
    return ThreadPoolExecutor(max(1, thread_count() - 1), thread_name_prefix="bgem3-index")


@cache
def reading_pool() -> ThreadPoolExecutor:
    """Return the threads that wait for the disk, which answers many requests at once sooner than one after another."""
    return ThreadPoolExecutor(READERS, thread_name_prefix="bgem3-read")


if hasattr(os, "register_at_fork"):
    # A child process has none of its parent's threads.
    os.register_at_fork(after_in_child=_pool.cache_clear)
    os.register_at_fork(after_in_child=reading_pool.cache_clear)
