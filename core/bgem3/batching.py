"""Ways to fill the machine: batches by token budget, work beside work, one worker for concurrent callers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock
from typing import Generic, TypeVar, cast

import numpy as np

from bgem3.errors import BackendError
from bgem3.types import IntArray

Request = TypeVar("Request")
Result = TypeVar("Result")


# Attention works on sequences padded to the longest of their batch: how many places a token of the budget may cost.
_PADDING = 1.5


def token_batches(lengths: IntArray, budget: int) -> list[IntArray]:
    """Split sequences into batches of similar length.

    Args:
        lengths: Tokens of each sequence, `(n,)`.
        budget: Tokens a batch may have, and half as many again when padded to its longest sequence; a longer
            sequence makes a batch of its own.

    Returns:
        Positions of the sequences of each batch, longest first, over all batches too.
    """
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths[order])
    batches = []
    start = 0
    while start < len(order):
        before = ends[start - 1] if start else 0
        fitting = int(np.searchsorted(ends, before + budget, side="right")) - start
        padded = int(_PADDING * budget) // int(lengths[order[start]])
        count = max(1, min(fitting, padded))
        batches.append(order[start : start + count])
        start += count
    return batches


def in_flight(work: Callable[[Request], Result], items: Iterable[Request], count: int) -> Iterator[Result]:
    """Yield `work(item)` in the order of the items, up to `count` of them running at a time.

    Items are taken as they are needed. With `count` 1 everything runs in the caller's thread.
    """
    if count == 1:
        yield from map(work, items)
        return
    running: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(count, thread_name_prefix="bgem3-batch") as pool:
        try:
            for item in items:
                running.append(pool.submit(work, item))
                if len(running) == count:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()


def ahead(items: Iterable[Result]) -> Iterator[Result]:
    """Yield the items; the next one is made in another thread while the caller works on this one."""
    source = iter(items)
    done = object()
    with ThreadPoolExecutor(1, thread_name_prefix="bgem3-ahead") as pool:
        following = pool.submit(next, source, done)
        while (item := following.result()) is not done:
            following = pool.submit(next, source, done)
            yield cast("Result", item)


class Merger(Generic[Request, Result]):
    """Runs the requests of many callers in one thread, all that wait together in one call.

    No caller waits for a timer: whatever arrives while a call runs goes into the next one.

    Args:
        run: Takes the waiting requests and returns a result or an exception for each, in order.
    """

    def __init__(self, run: Callable[[Sequence[Request]], Sequence[Result | Exception]]) -> None:
        self._run = run
        self._waiting: deque[tuple[Request, Future[Result]]] = deque()
        self._lock = Lock()
        self._executor = ThreadPoolExecutor(max_workers=1, thread_name_prefix="bgem3")

    def submit(self, request: Request) -> Future[Result]:
        """Queue a request. Cancelling the future before it starts takes it out again.

        Raises:
            BackendError: it was closed.
        """
        future: Future[Result] = Future()
        with self._lock:
            try:
                self._executor.submit(self._drain)
            except RuntimeError as error:
                raise BackendError("encoder: closed. Fix: load it again, or close it after the last call") from error
            self._waiting.append((request, future))
        return future

    def close(self) -> None:
        """Finish what was submitted and end the thread."""
        self._executor.shutdown(wait=True)

    def _drain(self) -> None:
        with self._lock:
            taken, self._waiting = self._waiting, deque()
        live = [(request, future) for request, future in taken if future.set_running_or_notify_cancel()]
        if not live:
            return
        try:
            results = self._run([request for request, _ in live])
        except BaseException as error:  # whatever it is belongs to the callers, not to this thread
            for _, future in live:
                future.set_exception(error)
            return
        for (_, future), result in zip(live, results, strict=True):
            if isinstance(result, Exception):
                future.set_exception(result)
            else:
                future.set_result(result)
