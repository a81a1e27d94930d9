"""Everything in memory: for tests, notebooks, and collections that live as long as the process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from threading import RLock

import numpy as np
from scipy.sparse import csr_array, vstack

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import StoreClosedError, StoreNotFoundError
from bgem3.filters import matches, parse_filter
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import get_codec
from bgem3.intake import slices
from bgem3.metadata import copied
from bgem3.scoring import dense_row_scores
from bgem3.stores.base import check_settings
from bgem3.stores.local import run_plan
from bgem3.types import Chunk, FloatArray, Head, Hits, IndexSettings, IntArray, SearchPlan, Where

# Rows that were replaced or deleted are cleared out when they outnumber both this and the rest.
_MAX_DEAD = 1024


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    chunk: Chunk
    sparse: csr_array
    tokens: bytes


class MemoryStore:
    """Keeps chunks in memory, exact: every search compares with every dense vector. Thread-safe.

    Args:
        codec: How token vectors are kept: float32, float16, int8, int4, int2 or binary.

    Raises:
        InvalidInputError: an unknown codec.
    """

    def __init__(self, *, codec: str = "float32") -> None:
        self._codec = get_codec(codec, 1)
        self._settings: IndexSettings | None = None
        self._closed = False
        self._lock = RLock()
        self._reset()

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """See `Store.open`."""
        with self._lock:
            self._check_open()
            if self._settings is None:
                if settings is None:
                    raise StoreNotFoundError("MemoryStore: new, so it holds nothing. Fix: pass it to HybridIndex first")
                self._settings = settings
                self._codec = get_codec(self._codec.name, settings.multi_dim)
                self._reset()
            check_settings(self._settings, settings or self._settings)
            return self._settings

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`."""
        if not chunks:
            return
        blobs = self._codec.encode(embeddings.multi_vector)
        rows = [_Row(chunk, embeddings.sparse[[i]], blobs[i]) for i, chunk in enumerate(chunks)]
        with self._lock:
            self._check_open()
            self._remove([chunk.id for chunk in chunks])
            self._append(rows, embeddings.dense, embeddings.sparse)
            self._clear_out()

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """See `Store.unchanged`."""
        with self._lock:
            self._check_open()
            return {chunk.id for chunk in chunks if self._holds(chunk)}

    def replace_metadata(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """See `Store.replace_metadata`."""
        with self._lock:
            self._check_open()
            for chunk in filter(self._holds, chunks):
                row = self._by_id[chunk.id]
                self._rows[row] = replace(self._rows[row], chunk=chunk)
            return [chunk for chunk in chunks if not self._holds(chunk)]

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `Store.get`."""
        with self._lock:
            self._check_open()
            return self.chunks(np.array([self._by_id[one] for one in ids if one in self._by_id], dtype=np.int64))

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """See `Store.dense_vectors`."""
        with self._lock:
            self._check_open()
            return {one: self._dense[self._by_id[one]].copy() for one in ids if one in self._by_id}

    def find(self, where: Where) -> list[str]:
        """See `Store.find`."""
        with self._lock:
            self._check_open()
            permitted = self.allowed(where)
            return self.ids(self.all_rows(permitted))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Store.delete`."""
        with self._lock:
            self._check_open()
            gone = self._remove(ids)
            self._clear_out()
            return gone

    def count(self) -> int:
        """See `Store.count`."""
        with self._lock:
            self._check_open()
            return len(self._by_id)

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """See `Store.search`."""
        with self._lock:
            self._check_open()
            return run_plan(self, query, plan)

    def scan(self, batch_size: int = 256) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """See `Store.scan`."""
        with self._lock:
            self._check_open()
            ids = list(self._by_id)
        for part in slices(ids, batch_size):
            with self._lock:
                self._check_open()
                numbers = [self._by_id[one] for one in part if one in self._by_id]
                batch = self._embedded(numbers)
            if numbers:
                yield batch

    def export(self) -> tuple[list[Chunk], M3Embeddings]:
        """Return every chunk and its heads, in the order added; token vectors as the codec kept them."""
        with self._lock:
            self._check_open()
            return self._embedded(self.all_rows(None).tolist())

    def _embedded(self, numbers: Sequence[int]) -> tuple[list[Chunk], M3Embeddings]:
        rows, all_numbers = [self._rows[number] for number in numbers], np.array(numbers, dtype=np.int64)
        width, dim = (self._settings.vocab_size, self._settings.multi_dim) if self._settings else (0, 0)
        sparse = [row.sparse for row in rows] or [csr_array(np.empty((0, width), dtype=np.float32))]
        return self.chunks(all_numbers), M3Embeddings(
            dense=self._dense[all_numbers],
            sparse=vstack(sparse, format="csr"),
            multi_vector=MultiVectors.from_list([self._codec.decode(row.tokens) for row in rows], dim),
        )

    def _holds(self, chunk: Chunk) -> bool:
        row = self._by_id.get(chunk.id)
        return row is not None and self._rows[row].chunk.text == chunk.text

    def close(self) -> None:
        """Let everything go. A second call does nothing."""
        with self._lock:
            self._closed = True
            self._reset()

    # The parts of a search; see `Primitives`.

    def allowed(self, where: Where | None) -> IntArray | None:
        """Return the rows that a filter admits."""
        if where is None:
            return None
        condition = parse_filter(where)
        rows = [row for row in self._by_id.values() if matches(condition, self._rows[row].chunk.metadata)]
        return np.sort(np.array(rows, dtype=np.int64))

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return every row, or every allowed one."""
        if allowed is not None:
            return allowed
        return np.sort(np.fromiter(self._by_id.values(), dtype=np.int64, count=len(self._by_id)))

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows and their scores, best first."""
        rows = self.all_rows(allowed)
        scores = dense_row_scores(vector, self._dense[rows])
        if len(rows) > n:
            threshold = np.partition(scores, len(rows) - n)[len(rows) - n]
            rows, scores = rows[scores >= threshold], scores[scores >= threshold]
        best = np.lexsort((rows, -scores))[:n]
        return rows[best], scores[best]

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows that share a token with the query, and their scores, best first."""
        return self._lexical.top(query, n, allowed)

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's score of each row, `(n,)` float32."""
        if head == "dense":
            return dense_row_scores(query.dense[0], self._dense[rows])
        if head == "sparse":
            return self._lexical.scores(query.sparse, rows)
        return self._codec.scores(query.multi_vector[0], [self._rows[row].tokens for row in rows.tolist()])

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the sparse score of rows."""
        return self._lexical.parts(query, rows)

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return the token vectors of rows, as far as the codec kept them; nothing where it pools."""
        return [] if self._codec.pools else [self._codec.decode(self._rows[row].tokens) for row in rows.tolist()]

    def ids(self, rows: IntArray) -> list[str]:
        """Return the chunk ids of rows, in order."""
        return [self._rows[row].chunk.id for row in rows.tolist()]

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return the chunks of rows, in order; their metadata is a copy, which the caller may change."""
        chunks = [self._rows[row].chunk for row in rows.tolist()]
        return [replace(chunk, metadata=copied(chunk.metadata)) for chunk in chunks]

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("MemoryStore: closed. Fix: make a new one; its chunks are gone")

    def _reset(self) -> None:
        self._rows: dict[int, _Row] = {}
        self._by_id: dict[str, int] = {}
        self._next = 0
        self._dense: FloatArray = np.empty((0, self._settings.dim if self._settings else 0), dtype=np.float32)
        self._lexical = LexicalIndex(self._settings.lexical if self._settings else "m3")

    def _append(self, rows: Sequence[_Row], dense: FloatArray, sparse: csr_array) -> None:
        start, stop = self._next, self._next + len(rows)
        if stop > len(self._dense):
            grown = np.empty((max(stop, 2 * len(self._dense), 256), dense.shape[1]), dtype=np.float32)
            grown[:start] = self._dense[:start]
            self._dense = grown
        self._dense[start:stop] = dense
        self._lexical.add(np.arange(start, stop), sparse)
        for number, row in enumerate(rows, start):
            self._rows[number] = row
            self._by_id[row.chunk.id] = number
        self._next = stop

    def _remove(self, ids: Sequence[str]) -> int:
        gone = [self._by_id.pop(one) for one in dict.fromkeys(ids) if one in self._by_id]
        for row in gone:
            del self._rows[row]
        self._lexical.remove(np.array(gone, dtype=np.int64))
        return len(gone)

    def _clear_out(self) -> None:
        dead = self._next - len(self._rows)
        if dead <= max(_MAX_DEAD, len(self._rows)):
            return
        numbers = sorted(self._rows)
        rows, dense = [self._rows[n] for n in numbers], self._dense[numbers]
        self._reset()
        if rows:
            self._append(rows, dense, vstack([row.sparse for row in rows], format="csr"))
