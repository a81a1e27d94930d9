"""Chroma, with a sidecar for what an embedded Chroma cannot keep."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.errors import InvalidInputError, StoreClosedError, StoreError, StoreWriteError
from bgem3.index.files import CollectionFiles
from bgem3.index.lexical import LexicalIndex
from bgem3.index.sidecar import Pending, Sidecar, hash_text, new_rows, old_rows
from bgem3.index.snapshot import Snapshot
from bgem3.index_settings import check_lengths, encode_passages, settings_of
from bgem3.stores.base import check_settings
from bgem3.stores.chroma_embedded import check_not_forked, folder_of, require_chroma, require_collection
from bgem3.stores.chroma_graph import Graph
from bgem3.stores.chroma_opening import Opener, agree, check_folders, check_name, prepare, settle
from bgem3.stores.chroma_readers import Readers
from bgem3.stores.chroma_search import ChromaSearcher, NotKept, codec_of, retried
from bgem3.stores.layouts import passage_of
from bgem3.stores.local import run_plan
from bgem3.stores.writer_lock import WriterLock
from bgem3.types import Chunk, FloatArray, Hits, IndexSettings, Lexical, SearchPlan, Where

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

    from bgem3.encoder import M3Encoder

Result = TypeVar("Result")

# So many new rows are worth writing to the snapshot: when closing, and while adding.
_SAVED_AT_END, _SAVED_BETWEEN = 4_000, 40_000


class ChromaStore:
    """Chunks on disk: texts, metadata and dense vectors in Chroma, the rest in a sidecar file.

    Chroma is the truth: a chunk exists when Chroma has it. One process may write at a time, others
    may read. Thread-safe.

    Args:
        path: Folder of an embedded Chroma; made when it is not there.
        collection: Its name, 3 to 200 characters of a-z, A-Z, 0-9, dot, dash and underscore.
        client: A Chroma client instead of `path`, e.g. `chromadb.HttpClient(...)`.
        sidecar: Folder of the sidecar file; needed with `client`, beside Chroma's files otherwise.
        codec: How token vectors are kept: float32, float16, int8, int4, int2, binary (`get_codec`), at dim 1,024 and 200 tokens
            819, 410, 206, 103, 52, 26 kB; `none`: the encoder reads each candidate again. Fixed when the collection is made.

    Raises:
        InvalidInputError: both or neither of `path` and `client`, no path, a bad name, or an unknown codec.
        MissingExtraError: the package chromadb is not installed.
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
        check_folders(path=path, sidecar=sidecar)
        check_name(collection)
        self._not_kept = NotKept(collection)
        codec_of(codec, 1, self._not_kept)
        require_chroma()
        # Resolved: Chroma keeps its clients by the path as it was written, whatever folder that meant then.
        self._path = Path(path).resolve() if path is not None else None
        self._files = CollectionFiles(Path(sidecar if sidecar is not None else str(path)).resolve(), collection)
        self._name, self._client, self._codec_name = collection, client, codec
        self._lock = RLock()
        self._adopts = self._opened = self._closed = self._lost = False
        self._process = os.getpid()

    @classmethod
    def adopt(
        cls,
        path: str | Path | None = None,
        *,
        encoder: M3Encoder,
        collection: str,
        client: ClientAPI | None = None,
        sidecar: str | Path | None = None,
        codec: str = "binary",
        lexical: Lexical = "m3",
        passage: Callable[[Chunk], str] | None = None,
        show_progress: bool = False,
    ) -> ChromaStore:
        """Add what a collection of another program, langchain-chroma or LlamaIndex, lacks, and return a store over it.

        Texts, ids and metadata stay as they are, so that program reads it as before; dense vectors are
        replaced where the encoder's differ. A call that broke off, or was made before the other program
        wrote again, can be made again: what was added is not encoded again.

        Args:
            path: Folder of an embedded Chroma.
            encoder: Encodes the texts; what the index is opened with afterwards.
            collection: Its name.
            client: As the constructor.
            sidecar: As the constructor.
            codec: As the constructor.
            lexical: As `HybridIndex`.
            passage: The text to encode of a chunk; None: its text, and of a LlamaIndex node what LlamaIndex embeds.
            show_progress: Show a bar over the chunks.

        Raises:
            StoreNotFoundError: there is no such collection.
            IndexMismatchError: it has vectors of another width, belongs to another sidecar, or to another encoder.
            StoreError: as the constructor and `open`.
        """
        from bgem3.stores.chroma_upkeep import backfill

        store = cls(path, collection=collection, client=client, sidecar=sidecar, codec=codec)
        store._adopts = True
        wanted = settings_of(encoder, lexical)
        try:
            check_lengths(store.open(wanted), wanted)
            encode = partial(encode_passages, encoder, lexical)
            backfill(store, encode, passage=passage or passage_of, show_progress=show_progress)
        except BaseException:
            store.close()
            raise
        return store

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """See `Store.open`."""
        with self._lock:
            if self._closed:
                raise StoreClosedError("ChromaStore: closed. Fix: make a new one over the same folder")
            if not self._opened:
                self._open(settings)
            check_settings(self._settings, settings or self._settings)
            return self._settings

    def use_encoder(self, encoder: M3Encoder) -> None:
        """Take what reads candidates again, where the codec keeps no token vectors."""
        self._not_kept.encoder = encoder

    @property
    def settings(self) -> IndexSettings:
        """What the index was made with."""
        self._check_open()
        return self._settings

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`."""
        if not chunks:
            return
        self._check_open()
        blobs = self._codec.encode(embeddings.multi_vector)
        with self.writing():
            stale = self._collection.stale_keys(chunks)
            pending = self._sidecar.begin_upsert(chunks, embeddings, blobs)
            rows = new_rows(pending).tolist()
            write = partial(self._collection.upsert, chunks, rows, embeddings.dense, stale)
            self._change(pending, write, embeddings.sparse)

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """See `Store.unchanged`."""
        with self.reading(graph=False):
            return self._searcher.unchanged(chunks)

    def replace_metadata(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """See `Store.replace_metadata`."""
        with self.writing():
            stored = {one.id: one for one in self._searcher.stored([chunk.id for chunk in chunks])}
            known = [c for c in chunks if c.id in stored and stored[c.id].text_hash == hash_text(c.text)]
            if changed := [chunk for chunk in known if chunk.metadata != stored[chunk.id].metadata]:
                stale = self._collection.stale_keys(changed)
                pending = self._sidecar.begin_replace_metadata(changed)
                rows = new_rows(pending)
                write = partial(self._collection.replace_metadata, changed, rows.tolist(), stale)
                self._change(pending, write, self._sidecar.sparse_of(rows, self._settings.vocab_size))
            left = {chunk.id for chunk in known}
            return [chunk for chunk in chunks if chunk.id not in left]

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `Store.get`."""
        with self.reading(graph=False):
            found = self._searcher.get(list(dict.fromkeys(ids)))
            return [found[one][0] for one in ids if one in found]

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """See `Store.dense_vectors`."""
        with self.reading(graph=False):
            rows = self._sidecar.rows_of(ids)
            numbers = np.array(list(rows.values()), dtype=np.int64)
            return dict(zip(rows, self._sidecar.dense(numbers), strict=True)) if rows else {}

    def find(self, where: Where) -> list[str]:
        """See `Store.find`."""
        with self.reading(graph=False):
            return self._searcher.ids(self._searcher.all_rows(self._searcher.allowed(where)))

    def delete(self, ids: Sequence[str]) -> int:
        """See `Store.delete`."""
        with self.writing():
            pending = self._sidecar.begin_delete(ids)
            if pending:
                self._change(pending, partial(self._collection.delete, [one.id for one in pending]))
            return len(pending)

    def count(self) -> int:
        """See `Store.count`."""
        with self.reading(graph=False) as parts:
            return parts.sidecar.count()

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """See `Store.search`."""
        return self._read(lambda searcher: run_plan(searcher, query, plan))

    def scan(self, batch_size: int = 256) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """See `Store.scan`."""
        row = 0
        while batch := self._read(partial(self._scan_after, row, batch_size), graph=True):
            row, chunks, embeddings = batch
            yield chunks, embeddings

    def _scan_after(self, row: int, n: int, searcher: ChromaSearcher) -> tuple[int, list[Chunk], M3Embeddings] | None:
        rows = searcher.sidecar.rows_after(row, n)
        return (int(rows[-1]), *searcher.embedded(rows, self._settings.vocab_size)) if len(rows) else None

    def _read(self, read: Callable[[ChromaSearcher], Result], *, graph: bool = False) -> Result:
        """Read one state beside other threads; again where another process changed it meanwhile."""
        return retried(partial(self._readers.run, partial(self.reading, graph=graph), read), self._changed_elsewhere)

    def reload(self) -> None:
        """Read the lexical index again, after rows were put in beside `upsert`."""
        with self._lock:
            self._follow()

    def _changed_elsewhere(self) -> bool:
        with self._lock:
            self._check_open()
            self._settle_after_crash()
            return bool(self._sidecar.pending() or self._sidecar.generation() != self._generation)

    def close(self) -> None:
        """Close the sidecar, give the writer's lock back and close the client this store made."""
        with self._lock:
            if self._opened and not self._closed and self._process == os.getpid():
                self._readers.close()
                if self._writer.held:
                    self.snapshot.keep_up(self._searcher.lexical.segments(), _SAVED_AT_END)
                    self._lost = self._lost or not self._collection.save()
                self._collection.close()
                if self._writer.held and not self._lost:
                    self._graph.settle()
                self._sidecar.close()
                self._writer.release()
            self._closed = True

    def _change(self, pending: Sequence[Pending], change: Callable[[], None], sparse: csr_array | None = None) -> None:
        """Change Chroma, then settle; after an error each chunk is wholly changed or wholly as it was."""
        try:
            with self._collection.errors(StoreWriteError):
                change()
        except BaseException:
            # What cannot be settled now, e.g. because the disk is full, is before the next call.
            self._lost = True
            with suppress(StoreError):
                self._reconnect()
            raise
        self._sidecar.settle(pending, {one.id: one.new_row for one in pending if one.new_row is not None})
        self._searcher.lexical.remove(old_rows(pending))
        if sparse is not None:
            self._searcher.lexical.add(new_rows(pending), sparse)

    def _open(self, settings: IndexSettings | None) -> None:
        path = self._files.sidecar
        if self._adopts:
            require_collection(self._name, path=self._path, client=self._client)
        prepare(path, exists=settings is None)
        self._writer = WriterLock(self._files.lock, self._name)
        with ExitStack() as after_error:
            self._sidecar = after_error.enter_context(closing(Sidecar(path, codec=self._codec_name)))
            self._settings = self._not_kept.settings = agree(self._sidecar, settings)
            self._codec = codec_of(self._sidecar.codec, self._settings.multi_dim, self._not_kept)
            folder = self._path or folder_of(self._client)
            self._graph = Graph(folder, self._name, lock=self._files.graph_lock, sidecar=self._sidecar)
            guards = self._sidecar, self._writer, self._graph
            self._opener = Opener(self._name, *guards, self._path, self._client, adopt=self._adopts)
            self._graph_generation, row = self._sidecar.generation(), self._sidecar.last_row()
            self._collection = after_error.enter_context(closing(self._opener.open()))
            self._settle_after_crash()
            self._opener.tell_of_others()
            self._readers = Readers(partial(Sidecar, path, codec=self._codec_name))
            self._load(row)
            after_error.pop_all()
        self._opened = True

    def _settle_after_crash(self) -> None:
        """Settle what a crash left, unless another process is writing it right now."""
        if self._sidecar.pending():
            with self._writer.tried() as taken:
                if taken:
                    settle(self._sidecar, self._collection)

    def _load(self, graph_row: int) -> None:
        """Map the lexical index from its snapshot."""
        weighting = self._settings.lexical
        self.snapshot = Snapshot(self._files.lexical, owner=self._sidecar.uuid, weighting=weighting)
        lexical = LexicalIndex(weighting, self.snapshot.restore(self._sidecar.highest()))
        self._searcher = ChromaSearcher(self._sidecar, self._collection, lexical, self._codec, graph_row=graph_row)
        self._follow()

    def _follow(self) -> None:
        """Bring the lexical index to the rows that the sidecar has."""
        self._readers.wait()
        self._generation = self._sidecar.generation()
        self._searcher.follow(self._settings.vocab_size)

    def _refresh(self, *, graph: bool) -> None:
        """See what another process committed; Chroma's client keeps its graph as it was until it is opened again."""
        if (generation := self._sidecar.generation()) != self._generation:
            self._follow()
        if generation != self._graph_generation and (graph or self._searcher.behind()):
            with self.released():
                pass

    @contextmanager
    def released(self, *, mends: bool = False) -> Iterator[Path | None]:
        """Let go of Chroma's files within, and tell their folder; None where a server has them."""
        self._readers.wait()
        generation, row = self._sidecar.generation(), self._sidecar.last_row()
        self._collection.close()
        self._lost = True  # until it is open again, which a full disk can prevent
        try:
            yield self._path
        finally:
            self._collection = self._opener.open() if mends else self._opener.reopen()
            self._searcher.collection, self._graph_generation = self._collection, generation
            if self._collection.fresh:
                self._searcher.graph_row = row
            self._lost = False

    def _reconnect(self) -> None:
        """Open Chroma again after a disk was full or a writer died: mend its graph, settle what was begun."""
        with self.released(mends=True):
            pass
        self._lost = True  # until it is settled
        self._settle_after_crash()
        self._lost = False

    def _check_open(self) -> None:
        check_not_forked(self._process)
        if self._closed:
            raise StoreClosedError("ChromaStore: closed. Fix: make a new one over the same folder")
        if not self._opened:
            raise StoreClosedError("ChromaStore: not opened yet. Fix: pass it to HybridIndex")
        self._sidecar.database.check_there()

    @contextmanager
    def reading(self, *, graph: bool = True) -> Iterator[ChromaSearcher]:
        """Hold one state of the parts, for those that look into them; `graph`: with every vector in Chroma's graph."""
        with self._lock:
            self._check_open()
            if self._lost or self._opener.torn():
                self._reconnect()
            with self._sidecar.snapshot():
                self._refresh(graph=graph)
                yield self._searcher

    @contextmanager
    def writing(self) -> Iterator[ChromaSearcher]:
        """Hold the parts for a change, and the writer's lock until the store is closed.

        Raises:
            StoreLockedError: another process writes.
        """
        with self._lock:
            self._check_open()
            self._writer.take()
            self._readers.wait()
            if self._lost:
                self._reconnect()
            settle(self._sidecar, self._collection)
            self._refresh(graph=True)
            if self._collection.outgrown(self._sidecar.last_row()):
                self._reconnect()
            self._searcher.graph_row = None
            yield self._searcher
            # Last, so that a write that was interrupted before makes the next call load everything again.
            self._generation = self._graph_generation = self._sidecar.generation()
            self.snapshot.keep_up(self._searcher.lexical.segments(), _SAVED_BETWEEN)
