"""The server's collections: opened when they are first asked for, closed when the server ends."""

from __future__ import annotations

import asyncio
import re
from threading import Lock

from bgem3.hybrid import HybridIndex
from bgem3.index_settings import settings_of
from bgem3.stores.base import Store
from bgem3.stores.memory import MemoryStore
from bgem3.stores.opening import collection_names, count_in_folder, drop_collection, open_store, place_of
from bgem3_server.engine import Engine
from bgem3_server.problems import ApiError, over_limit

# Chroma's own rule, a little narrower: a name is also part of a file name.
_NAME = re.compile(r"(?!.*\.\.)(?!([0-9]+\.){3}[0-9]+$)[a-zA-Z0-9][a-zA-Z0-9._-]{1,61}[a-zA-Z0-9]")

GONE = "The folder of the collections is not there any more, or another one is. Fix: put it back, or start the server again"


class Collections:
    """Indexes by name, over one folder or in memory.

    Args:
        engine: Holds the encoder.
        db: Folder of the collections; None: in memory, until the server ends.
        limit: How many there may be.
    """

    def __init__(self, engine: Engine, db: str | None, limit: int) -> None:
        self._engine = engine
        self._db = db
        self._limit = limit
        self._open: dict[str, HybridIndex] = {}
        self._lock = Lock()
        self._place = None if db is None else place_of(db)

    async def get(self, name: str, *, create: bool = False) -> HybridIndex:
        """Return a collection's index.

        Raises:
            ApiError: there is none of this name and `create` is false, there are too many, or the
                model is not loaded yet.
            StoreError: the store cannot be opened.
        """
        index = self._open.get(name)
        return await asyncio.to_thread(self._get, name, create) if index is None else index

    async def names(self) -> list[str]:
        """Return the names of all collections, sorted."""
        return await asyncio.to_thread(self._names)

    async def count(self, name: str) -> int:
        """Return how many documents a collection holds; one of a folder is not opened for it, which keeps 15 files open.

        Raises:
            ApiError, StoreError: as `get`.
        """
        return await asyncio.to_thread(self._count, name)

    async def gone(self) -> bool:
        """Whether the folder held collections and does not hold them now: it was moved, deleted, replaced or unmounted."""
        return await asyncio.to_thread(self._gone)

    async def drop(self, name: str) -> None:
        """Delete a collection, its documents and its files; requests that still use it are answered with 409.

        Raises:
            ApiError: there is none of this name.
            StoreError: another process writes to it, or the store refuses.
        """
        await asyncio.to_thread(self._drop, name)

    def close(self) -> None:
        """Close every index."""
        with self._lock:
            for index in self._open.values():
                index.close()
            self._open.clear()

    def _get(self, name: str, create: bool) -> HybridIndex:
        encoder = self._engine.encoder
        with self._lock:
            if name in self._open:
                return self._open[name]
            if self._gone():  # a folder made in its place would hide it
                raise ApiError(503, GONE)
            names = self._names()
            if name not in names:
                self._check_new(name, create, len(names))
            self._open[name] = HybridIndex(encoder, self._store(name))
            self._place = None if self._db is None else place_of(self._db)
            return self._open[name]

    def _count(self, name: str) -> int:
        with self._lock:
            if self._gone():
                raise ApiError(503, GONE)
            if self._db is not None and name not in self._open:
                counted = count_in_folder(self._db, name, settings_of(self._engine.encoder, "m3"))
                if counted is not None:
                    return counted
        return self._get(name, create=False).count()

    def _drop(self, name: str) -> None:
        with self._lock:
            if name not in self._names():
                raise _unknown(name)
            if index := self._open.pop(name, None):
                index.close()
            if self._db is not None:
                drop_collection(self._db, name)

    def _check_new(self, name: str, create: bool, count: int) -> None:
        if not create:
            raise _unknown(name)
        if not _NAME.fullmatch(name):
            raise ApiError(
                422,
                f"collection: got {name!r}, expected 3 to 63 of a-z, A-Z, 0-9, dot, dash, underscore, a letter or digit "
                "first and last, no two dots in a row, no IP address. Fix: another name",
            )
        if count >= self._limit:
            raise over_limit(422, "max_collections", self._limit, count + 1, "collections")

    def _store(self, name: str) -> Store:
        return MemoryStore() if self._db is None else open_store(self._db, name)

    def _gone(self) -> bool:
        return self._db is not None and self._place not in (None, place_of(self._db))

    def _names(self) -> list[str]:
        if self._db is None:
            return sorted(self._open)
        return collection_names(self._db)


def _unknown(name: str) -> ApiError:
    return ApiError(404, f"collection: none is called {name!r}. Fix: add documents to it first")
