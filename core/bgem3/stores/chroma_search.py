"""The parts of a search over Chroma and its sidecar; see `bgem3.stores.local.Primitives`."""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, field, replace
from queue import SimpleQueue
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import StoreCorruptError, StoreError, StoreWriteError
from bgem3.filters import parse_filter, to_sql
from bgem3.index.dense import LIMIT, DenseRows
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.index.sidecar import Sidecar, StoredRow, hash_text
from bgem3.index.threads import map_shared, reading_pool
from bgem3.metadata import unrounded
from bgem3.scoring import dense_row_scores, max_sim
from bgem3.stores.chroma_client import ChromaCollection
from bgem3.stores.layouts import passage_of
from bgem3.types import Chunk, FloatArray, Head, IndexSettings, IntArray, Where

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder

Result = TypeVar("Result")

_log = logging.getLogger(__name__)
# How often a read begins anew because another process changes what it found.
_ATTEMPTS = 50
# Rows whose sparse weights are read at a time.
_LOADED = 10_000
# Rows whose token vectors a thread reads and scores at a time.
_SCORED = 16
# Rows read first: where each takes so long, in seconds, they come from the disk, which is then asked for many at once.
_PROBED, _WAITED_S = 4, 1e-4
_TOKENS: tuple[Head, ...] = ("multi_vector",)
# Filters whose rows are kept, 8 bytes a row.
_FILTERS = 8


class NotKept:
    """The codec `none`: token vectors are not written, and those of candidates are encoded again.

    Args:
        collection: What an error names.

    Attributes:
        encoder: What encodes; None: nobody has given one.
        settings: What the collection was made with, whose lengths a chunk is read in.
    """

    name = "none"
    pools = False

    def __init__(self, collection: str) -> None:
        self.encoder: M3Encoder | None = None
        self.settings: IndexSettings
        self._collection = collection

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        """Return nothing for each text."""
        return [b""] * len(vectors)

    def read(self, chunks: Sequence[Chunk]) -> MultiVectors:
        """Return the token vectors of chunks.

        Raises:
            StoreError: there is no encoder.
        """
        if self.encoder is None:
            raise StoreError(
                f"collection {self._collection!r} keeps no token vectors (codec='none'). Fix: pass the store to HybridIndex"
            )
        texts = [passage_of(chunk) for chunk in chunks]
        return self.encoder.reading_as(self.settings).encode_passages(texts, heads=_TOKENS).multi_vector


def codec_of(name: str, dim: int, not_kept: NotKept) -> Codec | NotKept:
    """Return the codec of a name, as `get_codec`, or the one that keeps nothing.

    Raises:
        InvalidInputError: an unknown name.
    """
    return not_kept if name == NotKept.name else get_codec(name, dim)


@dataclass(slots=True, eq=False)
class ChromaSearcher:
    """One state of a collection, its sidecar and its lexical index; its store says which threads may use it."""

    sidecar: Sidecar
    collection: ChromaCollection
    lexical: LexicalIndex
    codec: Codec | NotKept
    # More connections in the same state, for threads that read beside each other.
    others: Sequence[Sidecar] = ()
    # By generation and filter; the copies of several threads share it.
    kept: dict[tuple[object, ...], IntArray] = field(default_factory=dict)
    # Dense vectors of all rows where those are few, else of the rows that Chroma's graph may lack; None: of none.
    vectors: DenseRows | None = None
    # The graph has every row up to this one; None: it has all, since this process writes.
    graph_row: int | None = None
    # The sidecar's copy of a vector that `vectors` should hold is damaged: only the graph tells what is near.
    damaged: bool = False
    # What `vectors` was made for: a generation, and the rows above which number.
    _made_for: tuple[int, int | None] | None = None

    def follow(self, vocab_size: int) -> None:
        """Bring the lexical index to the rows that the sidecar has."""
        known, live = self.lexical.rows(), self.sidecar.all_rows()
        self.lexical.remove(np.setdiff1d(known, live, assume_unique=True))
        new = np.setdiff1d(live, known, assume_unique=True)
        for rows in np.split(new, range(_LOADED, len(new), _LOADED)):
            self.lexical.add(rows, self._sparse_of(rows, vocab_size))

    def _sparse_of(self, rows: IntArray, vocab_size: int) -> csr_array:
        """Return the sparse weights of rows, none for damaged ones: the others can be found, and those be repaired."""
        try:
            return self.sidecar.sparse_of(rows, vocab_size)
        except StoreCorruptError as error:
            if isinstance(error.__cause__, sqlite3.Error):  # the file, not a chunk
                raise
            whole = np.isin(rows, self.sidecar.whole(rows))
            _log.warning(
                "%d damaged chunks are not found by their words (%s). Fix: bgem3 repair, which encodes them again",
                np.count_nonzero(~whole),
                error,
            )
            # Each row in its place, those that are not whole as empty ones.
            starts = np.concatenate([[0], np.cumsum(whole)])
            found = self.sidecar.sparse_of(rows[whole], vocab_size)
            return csr_array((found.data, found.indices, found.indptr[starts]), shape=(len(rows), vocab_size))

    def settle(self) -> None:
        """Bring what searches share to the sidecar's state, before they run side by side."""
        self.lexical.settle()
        wanted = self.sidecar.generation(), 0 if self._few() else self.graph_row
        if wanted != self._made_for:
            self.vectors, self._made_for = self._vectors_above(wanted[1]), wanted

    def behind(self) -> bool:
        """Whether the graph lacks more rows than are worth comparing one by one."""
        if self.graph_row is None or (self._few() and not self.damaged):
            return False
        return bool(np.count_nonzero(self.lexical.rows() > self.graph_row) > (0 if self.damaged else LIMIT))

    def _few(self) -> bool:
        return len(self.lexical) <= LIMIT

    def _vectors_above(self, row: int | None) -> DenseRows | None:
        settings, self.damaged = self.sidecar.settings, False
        if row is None or settings is None:
            return None
        live = self.lexical.rows()
        try:
            before = self.vectors or DenseRows.none(settings.dim)
            return before.follow(live[np.searchsorted(live, row, side="right") :], self.sidecar.dense)
        except StoreCorruptError:
            self.damaged = True  # and the others can be found
            return None

    def allowed(self, where: Where | None) -> IntArray | None:
        """Return the rows that a filter admits; those of the last few filters are kept until a chunk changes."""
        if where is None:
            return None
        sql, values = to_sql(parse_filter(where))
        generation = self.sidecar.generation()
        key = (generation, sql, *values)  # the kind of an operand is in the SQL, which tells 1 from True
        rows = self.kept.pop(key, None)
        if rows is None:
            rows = self.sidecar.matching_rows(sql, values)
        self.kept[key] = rows
        stale = [one for one in list(self.kept) if one[0] != generation]
        for one in stale or list(self.kept)[:-_FILTERS]:
            self.kept.pop(one, None)
        return rows

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return every row, or every allowed one."""
        return self.sidecar.all_rows() if allowed is None else allowed

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows and their scores, best first; exact where all vectors are here or a filter leaves few."""
        if self.vectors is not None and self._few():
            return self.vectors.top(vector, n, allowed)
        rows = self._nearest_of_all(vector, n) if allowed is None else self._nearest_allowed(vector, n, allowed)
        if self.vectors is not None:
            rows = np.union1d(rows, self.vectors.top(vector, n, allowed)[0])
        scores = self._dense_scores(vector, rows)
        order = np.lexsort((rows, -scores))[:n]
        return rows[order], scores[order]

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return at most `n` rows that share a token with the query, and their scores, best first."""
        return self.lexical.top(query, n, allowed)

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's score of each row, `(n,)` float32."""
        if head == "dense":
            return self._dense_scores(query.dense[0], rows)
        if head == "sparse":
            return self.lexical.scores(query.sparse, rows)
        return self._multi_vector_scores(query.multi_vector[0], rows)

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the sparse score of rows."""
        return self.lexical.parts(query, rows)

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return the token vectors of rows, as far as the codec kept them; nothing where it pools."""
        return [] if self.codec.pools else self._decoded(rows)

    def ids(self, rows: IntArray) -> list[str]:
        """Return the chunk ids of rows, in order."""
        return [stored.id for stored in self.sidecar.stored(rows)]

    def get(self, ids: Sequence[str], stored: Sequence[StoredRow] | None = None) -> dict[str, tuple[Chunk, int | None]]:
        """Return the chunks that exist, by id, with the row each points at; `stored`: their rows, where they are known."""
        written = {one.id: one.metadata for one in (self.stored(ids) if stored is None else stored)}
        return {
            id_: (replace(chunk, metadata=unrounded(chunk.metadata, written.get(id_, {}))), pointer)
            for id_, (chunk, pointer) in self.collection.get(ids).items()
        }

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return the chunks of rows, in order.

        Raises:
            StoreCorruptError: another program changed or removed a chunk in Chroma.
        """
        stored = self.sidecar.stored(rows)
        found = self.get([one.id for one in stored], stored)
        for one in stored:
            chunk, pointer = found.get(one.id, (None, None))
            # Another pointer: a process that writes right now has just replaced the chunk. None: an adopted chunk.
            if chunk is None or (pointer in (one.row, None) and hash_text(chunk.text) != one.text_hash):
                raise StoreCorruptError(
                    f"collection {self.collection.name!r}: {one.id!r} was {'changed' if chunk else 'removed'} by another "
                    f"program. Fix: add its text again, or delete(ids=[{one.id!r}])"
                )
        return [found[one.id][0] for one in stored]

    def embedded(self, rows: IntArray, vocab_size: int) -> tuple[list[Chunk], M3Embeddings]:
        """Return the chunks of rows with all three heads, in order; token vectors as the codec kept them.

        Raises:
            StoreCorruptError: a chunk or a row is not what was written.
        """
        stored = self.sidecar.stored(rows)
        dense = self.collection.dense([one.id for one in stored])
        # After the vectors: a text that is still that of its row tells that they are too, whoever writes right now.
        chunks = self.chunks(rows)
        for one, chunk in zip(stored, chunks, strict=True):
            if one.id not in dense or hash_text(chunk.text) != one.text_hash:
                raise StoreCorruptError(
                    f"collection {self.collection.name!r}: {one.id!r} has no vector in Chroma, or was replaced meanwhile. "
                    f"Fix: bgem3 repair, or call again where another process writes"
                )
        return chunks, M3Embeddings(
            dense=np.array([dense[chunk.id] for chunk in chunks], dtype=np.float32),
            sparse=self.sidecar.sparse_of(rows, vocab_size),
            multi_vector=MultiVectors.from_list(self._decoded(rows)),
        )

    def stored(self, ids: Sequence[str]) -> list[StoredRow]:
        """Return what the sidecar holds of the chunks that exist, in no particular order."""
        return self.sidecar.stored(np.array(list(self.sidecar.rows_of(ids).values()), dtype=np.int64))

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """Return the ids of the chunks whose text is stored, with a whole row, and in Chroma what it should be."""
        hashes = {chunk.id: hash_text(chunk.text) for chunk in chunks}
        same = [one for one in self.stored(list(hashes)) if hashes[one.id] == one.text_hash]
        whole = set(self.sidecar.whole(np.array([one.row for one in same], dtype=np.int64)))
        found = self.collection.get([one.id for one in same if one.row in whole])
        return {
            one.id
            for one in same
            if one.id in found
            and found[one.id][1] in (one.row, None)
            and hash_text(found[one.id][0].text) == one.text_hash
        }

    def _multi_vector_scores(self, query: FloatArray, rows: IntArray) -> FloatArray:
        if isinstance(self.codec, NotKept):
            scores: FloatArray = max_sim(MultiVectors.from_list([query]), self.codec.read(self.chunks(rows)))[0]
            return scores
        match = self.codec.matcher(query)
        connections: SimpleQueue[Sidecar] = SimpleQueue()
        for one in (self.sidecar, *self.others):
            connections.put(one)

        def read(part: IntArray) -> list[bytes]:
            sidecar = connections.get()
            try:
                return sidecar.multi_vectors(part)
            finally:
                connections.put(sidecar)

        if not len(rows):
            return np.empty(0, dtype=np.float32)
        start = time.perf_counter()
        first = read(rows[:_PROBED])
        waited = time.perf_counter() - start > _WAITED_S * len(first)
        rest = rows[_PROBED:]
        parts = np.split(rest, range(_SCORED, len(rest), _SCORED)) if len(rest) else []
        if not waited:
            return np.concatenate([match(first), *map_shared(lambda part: match(read(part)), parts)])
        reads = [reading_pool().submit(read, part) for part in parts]
        try:
            return np.concatenate([match(first), *map_shared(lambda blobs: match(blobs.result()), reads)])
        finally:
            wait(reads)  # a connection is of this state no longer than this search lasts

    def _decoded(self, rows: IntArray) -> list[FloatArray]:
        if isinstance(self.codec, NotKept):
            return list(self.codec.read(self.chunks(rows)))
        return [self.codec.decode(blob) for blob in self.sidecar.multi_vectors(rows)]

    def _dense_scores(self, vector: FloatArray, rows: IntArray) -> FloatArray:
        if self.vectors is not None and self._few():
            return self.vectors.scores(vector, rows)
        return dense_row_scores(vector, self.sidecar.dense(rows)) if len(rows) else np.empty(0, dtype=np.float32)

    def _nearest(self, vector: FloatArray, n: int) -> tuple[IntArray, bool]:
        """Return the rows of about the `n` nearest, and whether Chroma named so many, of which some may be gone."""
        ids = self.collection.nearest(vector, n)
        rows = self.sidecar.rows_of(ids)
        return np.array([rows[one] for one in ids if one in rows], dtype=np.int64), len(ids) >= n

    def _nearest_of_all(self, vector: FloatArray, n: int) -> IntArray:
        """Ask Chroma, for more where it names deleted chunks; compare with all where its graph lost the way to some."""
        depth = n
        while depth < len(self.lexical):
            rows, more = self._nearest(vector, depth)
            if len(rows) >= n:
                return rows
            if not more:
                break
            depth *= 4
        return self.sidecar.all_rows()

    def _nearest_allowed(self, vector: FloatArray, n: int, allowed: IntArray) -> IntArray:
        """Ask Chroma for more and more until enough are allowed; compare with all where that is less work."""
        # So many that `n` are almost surely allowed, were the filter as good as drawn by lot.
        depth = int((1.3 * n + 20) * len(self.lexical) / max(1, len(allowed)))
        while depth < len(allowed):
            rows, _ = self._nearest(vector, depth)
            kept = rows[np.isin(rows, allowed)]
            if len(kept) >= n:
                return kept
            depth *= 4
        return allowed


def retried(read: Callable[[], Result], changed_elsewhere: Callable[[], bool]) -> Result:
    """Read one state; again where a process that writes right now may have caused an error.

    It may have removed a chunk meanwhile, or given a new collection its width and not its first chunk yet, of which
    Chroma says "Nothing found on disk".
    """
    for _ in range(_ATTEMPTS):
        try:
            return read()
        except StoreWriteError:  # a full disk, whoever writes
            raise
        except StoreError:
            if not changed_elsewhere():
                raise
            time.sleep(0.02)
    return read()
