"""Searches of several threads side by side, each over a connection of its own to the sidecar."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from threading import Condition
from typing import TypeVar

from bgem3.index.sidecar import Sidecar
from bgem3.index.threads import READERS
from bgem3.stores.chroma_search import ChromaSearcher

Result = TypeVar("Result")

# Connections, of two or three file descriptors each, after which a search gets by with one; and those kept for the next.
_MOST, _KEPT = 4 * READERS, 2 * READERS


class Readers:
    """The searches that run now, outside the store's lock.

    They begin under that lock; who changes what they read holds it and calls `wait` first.

    Args:
        connect: Opens the sidecar once more.
    """

    def __init__(self, connect: Callable[[], Sidecar]) -> None:
        self._connect = connect
        self._free: list[Sidecar] = []
        self._lent = self._running = 0
        self._ended = Condition()

    def run(
        self, reading: Callable[[], AbstractContextManager[ChromaSearcher]], read: Callable[[ChromaSearcher], Result]
    ) -> Result:
        """Read one state: taken while `reading` holds the store, read after it let go."""
        with ExitStack() as stack:
            with reading() as shared:
                own = stack.enter_context(self._one(shared))
            return read(own)

    def wait(self) -> None:
        """Wait until none runs; none begins while the store's lock is held."""
        with self._ended:
            self._ended.wait_for(lambda: not self._running)

    def close(self) -> None:
        """Wait, and close the connections."""
        self.wait()
        while self._free:
            self._free.pop().close()

    @contextmanager
    def _one(self, shared: ChromaSearcher) -> Iterator[ChromaSearcher]:
        shared.settle()
        with self._ended:
            self._running += 1
        own: list[Sidecar] = []
        try:
            with ExitStack() as states:
                while self._lend(own):
                    states.enter_context(own[-1].snapshot())
                    own[-1].generation()  # the first read decides which state it is
                yield replace(shared, sidecar=own[0], others=own[1:])
        finally:
            with self._ended:
                stuck = [one for one in own if one.database.in_transaction]
                free = self._free + [one for one in own if one not in stuck]
                self._free, spare = free[:_KEPT], free[_KEPT:] + stuck
                self._lent -= len(own)
                self._running -= 1
                self._ended.notify_all()
            for one in spare:
                one.close()

    def _lend(self, own: list[Sidecar]) -> bool:
        """Give a search one more connection; whether it may have it."""
        with self._ended:
            if own and (len(own) == READERS or not (self._free or self._lent < _MOST)):
                return False
            own.append(self._free.pop() if self._free else self._connect())
            self._lent += 1
            return True
