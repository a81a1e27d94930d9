"""Chroma, with a sidecar for what an embedded Chroma cannot keep."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING

import numpy as np
from filelock import FileLock, Timeout
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreWriteError,
)
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.index.sidecar import Pending, Sidecar, hash_text
from bgem3.stores.base import check_settings
from bgem3.stores.chroma_client import ChromaCollection, check_keys
from bgem3.stores.filters import parse_filter, to_sql
from bgem3.stores.local import run_plan
from bgem3.types import Chunk, FloatArray, Head, Hits, IndexSettings, IntArray, SearchPlan, Where

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

# How often a search begins anew because another process changes what it found.
_ATTEMPTS = 50


class ChromaStore:
    """Chunks on disk: texts, metadata and dense vectors in Chroma, the rest in a sidecar file.

    Chroma is the truth: a chunk exists when Chroma has it. One process may write at a time, others
    may read. Thread-safe.

    Args:
        path: Folder of an embedded Chroma; made when it is not there.
        collection: Its name, 3 to 512 characters of a-z, A-Z, 0-9, dot, dash and underscore.
        client: A Chroma client instead of `path`, e.g. `chromadb.HttpClient(...)`.
        sidecar: Folder of the sidecar file; needed with `client`, beside Chroma's files otherwise.
        codec: How token vectors are kept: float32, float16, int8, int4, int2 or binary. At dim 1,024
            and 200 tokens a chunk that is 819, 410, 206, 103, 52 and 26 kB. Fixed when the
            collection is made.

    Raises:
        InvalidInputError: both or neither of `path` and `client`, or an unknown codec.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        collection: str = "bgem3",
        client: ClientAPI | None = None,
        sidecar: str | Path | None = None,
        codec: str = "binary",
    ) -> None:
        if (path is None) == (client is None):
            raise InvalidInputError("ChromaStore: expected exactly one of path and client. Fix: ChromaStore('./db')")
        if sidecar is None and path is None:
            raise InvalidInputError("sidecar: a client needs a folder for the sidecar. Fix: sidecar='./side'")
        get_codec(codec, 1)
        self._path = Path(path) if path is not None else None
        self._folder = Path(sidecar if sidecar is not None else str(path))
        self._name = collection
        self._client = client
        self._codec_name = codec
        self._lock = RLock()
        self._opened = self._closed = False

    def open(self, settings: IndexSettings) -> IndexSettings:
        """See `Store.open`."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("ChromaStore: closed. Fix: make a new one over the same folder")
            if not self._opened:
                self._open(settings)
            check_settings(self._settings, settings)
            return self._settings

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`."""
        if not chunks:
            return
        check_keys(chunks)
        with self._writing():
            blobs = self._codec.encode(embeddings.multi_vector)
            stale = self._stale_keys(chunks)
            pending = self._sidecar.begin_upsert(chunks, embeddings, blobs)
            rows = [one.new_row for one in pending if one.new_row is not None]
            self._change(pending, lambda: self._collection.upsert(chunks, rows, embeddings.dense, stale))
            self._lexical.remove(_old_rows(pending))
            self._lexical.add(np.array(rows, dtype=np.int64), embeddings.sparse)

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `Store.get`."""
        with self._reading():
            found = self._collection.get(list(dict.fromkeys(ids)))
            return [found[one][0] for one in ids if one in found]

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """See `Store.dense_vectors`."""
        with self._reading():
            rows = self._sidecar.rows_of(ids)
            if not rows:
                return {}
            vectors = self._sidecar.dense(np.array(list(rows.values()), dtype=np.int64))
            return dict(zip(rows, vectors, strict=True))

    def find(self, where: Where) -> list[str]:
        """See `Store.find`."""
        with self._reading():
            return self.ids(self.all_rows(self.allowed(where)))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Store.delete`."""
        with self._writing():
            pending = self._sidecar.begin_delete(ids)
            if pending:
                self._change(pending, lambda: self._collection.delete([one.id for one in pending]))
                self._lexical.remove(_old_rows(pending))
            return len(pending)

    def count(self) -> int:
        """See `Store.count`."""
        with self._reading():
            return self._sidecar.count()

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """See `Store.search`."""
        for attempt in range(_ATTEMPTS):
            try:
                with self._reading():
                    return run_plan(self, query, plan)
            except StoreCorruptError:
                # A process that writes right now may have removed a chunk from Chroma since the search began.
                if attempt == _ATTEMPTS - 1 or not self._changed_elsewhere():
                    raise
                time.sleep(0.02)
        raise AssertionError("the last attempt returns or raises")

    def _changed_elsewhere(self) -> bool:
        with self._lock:
            self._check_open()
            self._settle_after_crash()
            return bool(self._sidecar.pending()) or self._sidecar.generation() != self._generation

    def close(self) -> None:
        """Close the sidecar, give the writer's lock back and close the client this store made."""
        with self._lock:
            if self._opened and not self._closed:
                self._sidecar.close()
                self._writer.release()
                self._collection.close()
            self._closed = True

    # The parts of a search; see `Primitives`.

    def allowed(self, where: Where | None) -> IntArray | None:
        """Return the rows that a filter admits."""
        return None if where is None else self._sidecar.matching_rows(*to_sql(parse_filter(where)))

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return every row, or every allowed one."""
        return self._sidecar.all_rows() if allowed is None else allowed

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows and their scores, best first; exact where a filter leaves few."""
        rows = self._nearest(vector, n) if allowed is None else self._nearest_allowed(vector, n, allowed)
        scores = self._dense_scores(vector, rows)
        order = np.lexsort((rows, -scores))[:n]
        return rows[order], scores[order]

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows that share a token with the query, and their scores, best first."""
        return self._lexical.top(query, n, allowed)

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's score of each row, `(n,)` float32."""
        if head == "dense":
            return self._dense_scores(query.dense[0], rows)
        if head == "sparse":
            return self._lexical.scores(query.sparse, rows)
        return self._codec.scores(query.multi_vector[0], self._sidecar.multi_vectors(rows))

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the sparse score of rows."""
        return self._lexical.parts(query, rows)

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return the token vectors of rows, as far as the codec kept them."""
        return [self._codec.decode(blob) for blob in self._sidecar.multi_vectors(rows)]

    def ids(self, rows: IntArray) -> list[str]:
        """Return the chunk ids of rows, in order."""
        return [stored.id for stored in self._sidecar.stored(rows)]

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return the chunks of rows, in order.

        Raises:
            StoreCorruptError: another program changed or removed a chunk in Chroma.
        """
        stored = self._sidecar.stored(rows)
        found = self._collection.get([one.id for one in stored])
        for one in stored:
            chunk, pointer = found.get(one.id, (None, None))
            # Another pointer: a process that writes right now has just replaced the chunk.
            if chunk is None or (pointer == one.row and hash_text(chunk.text) != one.text_hash):
                raise StoreCorruptError(
                    f"collection {self._name!r}: {one.id!r} was {'changed' if chunk else 'removed'} by another "
                    f"program. Fix: add its text again, or delete(ids=[{one.id!r}])"
                )
        return [found[one.id][0] for one in stored]

    def _dense_scores(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        if not len(rows):
            return np.empty(0, dtype=np.float32)
        products: FloatArray = self._sidecar.dense(rows) @ vector
        return products

    def _nearest(self, vector: FloatArray, n: int) -> IntArray:
        n = min(n, self._collection.count())
        ids = self._collection.nearest(vector, n) if n else []
        rows = self._sidecar.rows_of(ids)
        return np.array([rows[one] for one in ids if one in rows], dtype=np.int64)

    def _nearest_allowed(self, vector: FloatArray, n: int, allowed: IntArray) -> IntArray:
        """Ask Chroma for more and more until enough are allowed; compare with all where that is less work."""
        depth = 2 * n * (1 + self._collection.count() // max(1, len(allowed)))
        while depth < len(allowed):
            rows = self._nearest(vector, depth)
            kept = rows[np.isin(rows, allowed)]
            if len(kept) >= n:
                return kept
            depth *= 4
        return allowed

    def _stale_keys(self, chunks: Sequence[Chunk]) -> dict[str, list[str]]:
        """Return the metadata keys that chunks have now."""
        rows = np.array(list(self._sidecar.rows_of([chunk.id for chunk in chunks]).values()), dtype=np.int64)
        return {stored.id: list(stored.metadata) for stored in self._sidecar.stored(rows)}

    def _change(self, pending: Sequence[Pending], change: Callable[[], None]) -> None:
        """Change Chroma, then settle; after an error each chunk is wholly changed or wholly as it was."""
        try:
            with self._collection.errors(StoreWriteError):
                change()
        except BaseException:
            # What cannot be settled now, e.g. because the disk is full, is before the next write.
            with suppress(StoreError):
                self._reconnect()
                self._settle(pending)
            raise
        self._sidecar.settle(pending, {one.id: one.new_row for one in pending if one.new_row is not None})

    def _settle(self, pending: Sequence[Pending]) -> None:
        """Ask Chroma what became of chunks whose writing was begun."""
        found = self._collection.get([one.id for one in pending])
        self._sidecar.settle(pending, {id_: row for id_, (_, row) in found.items() if row is not None})

    def _open(self, settings: IndexSettings) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreWriteError(f"{self._folder}: cannot be made ({error}). Fix: choose a writable path") from error
        stem = self._folder / f"bgem3-{self._name}"
        self._writer = FileLock(f"{stem}.lock", thread_local=False)
        self._sidecar = Sidecar(Path(f"{stem}.sqlite3"), codec=self._codec_name)
        try:
            if self._sidecar.settings is None:
                self._sidecar.save_settings(settings)
            self._settings = self._sidecar.settings or settings
            check_settings(self._settings, settings)
            self._codec: Codec = get_codec(self._sidecar.codec, settings.multi_dim)
            self._collection = self._connect()
            self._settle_after_crash()
            self._load()
        except BaseException:
            self._sidecar.close()
            raise
        self._opened = True

    def _connect(self) -> ChromaCollection:
        collection = ChromaCollection(self._name, self._sidecar.uuid, path=self._path, client=self._client)
        if self._sidecar.count() and not collection.count():
            collection.close()
            raise IndexMismatchError(
                f"collection {self._name!r} is empty, {self._sidecar.path} is not: Chroma's files are gone. "
                f"Fix: restore them, or delete the sidecar and add the texts again"
            )
        return collection

    def _settle_after_crash(self) -> None:
        """Settle what a crash left, unless another process is writing it right now."""
        if not self._sidecar.pending():
            return
        try:
            with self._writer.acquire(timeout=0):
                self._settle(self._sidecar.pending())
        except Timeout:
            return

    def _load(self) -> None:
        """Build the lexical index from the sidecar."""
        self._generation = self._sidecar.generation()
        self._lexical = LexicalIndex(self._settings.lexical)
        for rows, sparse in self._sidecar.sparse(self._settings.vocab_size):
            self._lexical.add(rows, sparse)

    def _refresh(self) -> None:
        """See what another process committed: Chroma's client keeps stale vectors until it is opened again."""
        if self._sidecar.generation() != self._generation:
            self._reconnect()
            self._load()

    def _reconnect(self) -> None:
        """Open Chroma again: its client keeps vectors that went, and can hang after a disk was full."""
        self._collection.close()
        self._collection = self._connect()

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("ChromaStore: closed. Fix: make a new one over the same folder")
        if not self._opened:
            raise StoreClosedError("ChromaStore: not opened yet. Fix: pass it to HybridIndex")

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with self._lock:
            self._check_open()
            with self._sidecar.snapshot():
                self._refresh()
                yield

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the writer's lock, from the first write until the store is closed."""
        with self._lock:
            self._check_open()
            if not self._writer.is_locked:
                self._take_lock()
            if pending := self._sidecar.pending():
                self._settle(pending)
            self._refresh()
            yield
            # Last, so that a write that was interrupted before makes the next call load everything again.
            self._generation = self._sidecar.generation()

    def _take_lock(self) -> None:
        try:
            self._writer.acquire(timeout=0)
        except Timeout as error:
            raise StoreLockedError(
                f"{self._folder}: another process is writing to collection {self._name!r}. "
                f"Fix: close it there, or write through one process"
            ) from error
        except OSError as error:
            raise StoreWriteError(f"{self._folder}: cannot be written ({error}). Fix: make it writable") from error


def _old_rows(pending: Sequence[Pending]) -> IntArray:
    return np.array([one.old_row for one in pending if one.old_row is not None], dtype=np.int64)
