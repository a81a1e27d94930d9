"""The part of the Chroma store that talks to Chroma: one collection, pointers in its metadata."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from warnings import catch_warnings, simplefilter

import numpy as np

from bgem3.errors import (
    BGEM3Error,
    IndexMismatchError,
    InvalidMetadataError,
    StoreAccessError,
    StoreConnectionError,
    StoreError,
    StoreWriteError,
)
from bgem3.stores.chroma_embedded import FREE, OWNER, POINTER, connect, disconnect, says_full
from bgem3.stores.chroma_graph import Graph
from bgem3.types import Chunk, FloatArray

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_log = logging.getLogger(__name__)
# Recall at 100 against exhaustive search: 0.997, 0.933 with the defaults. See docs/decisions/chroma-hnsw.md.
_HNSW = {"space": "ip", "ef_construction": 200, "max_neighbors": 32, "ef_search": 256}
# Below Chroma's own limit of 5,461, so that a batch of wide vectors stays small.
_BATCH = 1000
# Most values of one chunk's metadata, and most items of its lists: Chroma puts either down in one SQL statement of 32,766
# parameters, six each. A record that needs more is taken into its log and never leaves it: every later call fails.
_MOST_VALUES = 5_000
# Chroma writes the whole graph at each save, so a save may be due once for this share of the rows and not sooner.
_SAVES_PER_GRAPH = 100
# Records that closing leaves to the next opening, which takes some milliseconds for each.
_LEFT_UNSAVED = 250
# How long closing waits for Chroma to load its graph; some seconds for a million chunks.
_PATIENCE_S = 120.0
# Begins the ids of chunks that never are.
_NOBODY = "_bgem3_nobody_"


class ChromaCollection:
    """One collection whose chunks point at sidecar rows.

    Args:
        name: The collection's name.
        marks: Written into a new collection; `OWNER`, the sidecar's uuid, is checked in an old one.
        graph: Guards the files that each change may rewrite.
        path: Folder of an embedded Chroma, or None with `client`.
        client: A Chroma client, which stays open on `close`.
        adopt: Take a collection that another program made, and mark it.

    Attributes:
        fresh: Whether it shows what other processes wrote before it was opened: an embedded client of the caller's may
            have loaded its graph long ago.

    Raises:
        MissingExtraError: chromadb is not installed.
        IndexMismatchError: the collection belongs to another sidecar or program.
        StoreError: Chroma cannot be opened.
    """

    def __init__(
        self,
        name: str,
        marks: Mapping[str, str],
        graph: Graph,
        *,
        path: Path | None,
        client: ClientAPI | None,
        adopt: bool = False,
    ) -> None:
        self.name = name
        self._graph = graph
        self._loading: Future[None] | None = None
        self._owns_client = client is None
        with ExitStack() as after_error:
            with self.errors(StoreError):
                self._client, self.fresh = (
                    (client, not client.get_settings().is_persistent) if client else connect(path)
                )
                after_error.callback(self.close)
                self._collection = self._client.get_or_create_collection(
                    name, metadata={**marks}, configuration=cast(Any, {"hnsw": _HNSW}), embedding_function=None
                )
                # Not more than Chroma takes between two times it saves the graph: see `Graph.changing`.
                described = self._collection.configuration_json.get("hnsw") or {}
                self._saved_every = int(described.get("sync_threshold") or _BATCH)
                self._batch = min(_BATCH, self._client.get_max_batch_size(), self._saved_every)
            found = self.owner
            if adopt and found is None:
                self._mark(marks)
            elif found != marks[OWNER]:
                raise IndexMismatchError(
                    f"collection {name!r} belongs to "
                    + (
                        "another sidecar. Fix: the sidecar folder it was made with, another collection name, or "
                        "bgem3 repair if the file was lost"
                        if found
                        else "another program. Fix: ChromaStore.adopt to add what it lacks, or another collection name"
                    )
                )
            after_error.pop_all()

    def load(self, alone: ExitStack) -> None:
        """Begin to load the graph, 3 s for a million chunks; what asks Chroma waits for that.

        Args:
            alone: Holds the graph's lock since before the collection was opened, and gives it back afterwards: what
                Chroma read of the collection then must be true of the graph.
        """

        def work() -> None:
            with alone:
                # Any request makes Chroma load it; `count` would keep every other thread waiting meanwhile.
                self._collection.get(ids=[_NOBODY], include=[])

        pool = ThreadPoolExecutor(1, thread_name_prefix="bgem3-chroma")
        self._loading = pool.submit(work)
        pool.shutdown(wait=False)

    def loaded(self) -> None:
        """Wait until the graph is loaded.

        Raises:
            StoreError: Chroma cannot load it.
        """
        with self.errors(StoreError):
            pass

    @property
    def owner(self) -> str | None:
        """The uuid of the sidecar that the collection belongs to, None where another program made it."""
        found = (self._collection.metadata or {}).get(OWNER)
        return None if found is None else str(found)

    def _mark(self, marks: Mapping[str, str]) -> None:
        """Write the marks beside the metadata that is there."""
        # The space of the index stands in the configuration too; Chroma refuses to see it here again.
        kept = {k: v for k, v in (self._collection.metadata or {}).items() if not k.startswith("hnsw:")}
        with self.errors(StoreWriteError):
            self._collection.modify(metadata={**kept, **marks})
            self._collection.modify(configuration=cast(Any, {"hnsw": {"ef_search": _HNSW["ef_search"]}}))

    def ids(self) -> list[str]:
        """Return the ids of all chunks."""
        with self.errors(StoreError):
            return list(self._collection.get(include=[])["ids"])

    def count(self) -> int:
        """Return the number of chunks."""
        with self.errors(StoreError):
            return int(self._collection.count())

    def nearest(self, vector: FloatArray, n: int) -> list[str]:
        """Return the ids of about the `n` chunks nearest to a `(dim,)` vector, best first."""
        with self.errors(StoreError):
            found = self._collection.query(query_embeddings=cast(Any, [vector]), n_results=n, include=["distances"])
        return list(found["ids"][0])

    def get(self, ids: Sequence[str]) -> dict[str, tuple[Chunk, int | None]]:
        """Return the chunks that exist, by id, with the sidecar row each points at."""
        found: dict[str, tuple[Chunk, int | None]] = {}
        for part in self._parts(len(ids)):
            with self.errors(StoreError):
                got = self._collection.get(ids=list(ids[part]), include=["documents", "metadatas"])
            texts, metadatas = got["documents"] or [], got["metadatas"] or []
            for id_, text, metadata in zip(got["ids"], texts, metadatas, strict=True):
                values: dict[str, Any] = dict(metadata or {})
                pointer = values.pop(POINTER, None)
                found[id_] = (Chunk(id_, text or "", values), pointer)
        return found

    def stale_keys(self, chunks: Sequence[Chunk]) -> dict[str, list[str]]:
        """Return the metadata keys that chunks have now, by id, before they are replaced by these.

        Raises:
            InvalidMetadataError: one of these has more metadata than Chroma can keep.
        """
        for chunk in chunks:
            _check_size(chunk)
        return {id_: list(chunk.metadata) for id_, (chunk, _) in self.get([chunk.id for chunk in chunks]).items()}

    def dense(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Return the dense vector, `(dim,)` float32, of each chunk that has one, by id."""
        found: dict[str, FloatArray] = {}
        for part in self._parts(len(ids)):
            found |= self._dense(list(ids[part]))
        return found

    def _dense(self, ids: list[str]) -> dict[str, FloatArray]:
        try:
            with self.errors(StoreError):
                got = self._collection.get(ids=ids, include=["embeddings"])
        except StoreError as error:
            if "finding id" not in str(error):
                raise
            half = len(ids) // 2  # Chroma names no chunk that the graph lost
            return self._dense(ids[:half]) | self._dense(ids[half:]) if half else {}
        return dict(zip(got["ids"], np.asarray(got["embeddings"], dtype=np.float32), strict=True))

    def upsert(
        self,
        chunks: Sequence[Chunk],
        rows: Sequence[int],
        dense: FloatArray,
        stale_keys: Mapping[str, Sequence[str]],
    ) -> None:
        """Add or replace chunks and point them at their rows.

        Args:
            chunks: Unique ids.
            rows: Sidecar row of each.
            dense: `(n, dim)` float32.
            stale_keys: Metadata keys that a chunk has now, by id: Chroma merges metadata, and
                drops a key that is set to None.
        """
        metadatas = _metadatas(chunks, rows, stale_keys)
        self._change(
            len(chunks),
            lambda part: self._collection.upsert(
                ids=[chunk.id for chunk in chunks[part]],
                documents=[chunk.text for chunk in chunks[part]],
                metadatas=cast(Any, metadatas[part]),
                embeddings=cast(Any, dense[part]),
            ),
        )

    def replace_metadata(
        self, chunks: Sequence[Chunk], rows: Sequence[int], stale_keys: Mapping[str, Sequence[str]]
    ) -> None:
        """Give chunks other metadata and point them at other rows; arguments as for `upsert`."""
        metadatas = _metadatas(chunks, rows, stale_keys)
        ids = [chunk.id for chunk in chunks]
        self._change(
            len(chunks), lambda part: self._collection.update(ids=ids[part], metadatas=cast(Any, metadatas[part]))
        )

    def put_dense(self, ids: Sequence[str], dense: FloatArray) -> None:
        """Give chunks that exist dense vectors, `(n, dim)` float32, and leave everything else as it is."""
        with self.errors(StoreWriteError):
            # `update` passes over a chunk that the graph lost.
            self._change(
                len(ids),
                lambda part: self._collection.upsert(ids=list(ids[part]), embeddings=cast(Any, dense[part])),
            )

    def delete(self, ids: Sequence[str]) -> None:
        """Delete chunks."""
        self._change(len(ids), lambda part: self._collection.delete(ids=list(ids[part])))

    def outgrown(self, rows: int) -> bool:
        """Have Chroma save the graph less often where it grew; whether that waits for the next opening."""
        wanted = rows // _SAVES_PER_GRAPH
        if not (self._graph.embedded and self._owns_client) or wanted < 2 * self._saved_every:
            return False
        with self.errors(StoreWriteError), catch_warnings():
            # of the embedding function that a collection of ours does without
            simplefilter("ignore", DeprecationWarning)
            self._collection.modify(configuration=cast(Any, {"hnsw": {"sync_threshold": wanted}}))
        return True

    def damage(self) -> str | None:
        """Return what is wrong with the database of an embedded Chroma, or None. Reads all of it."""
        return self._graph.damage()

    def vectors_kept(self) -> int:
        """Return for how many vectors the files of an embedded graph have room, deleted ones among them; else 0."""
        return self._graph.vectors()

    def give_up(self) -> bool:
        """Have the next opening make the graph again; False where a server has it."""
        if self._graph.embedded:
            self._graph.distrust()
        return self._graph.embedded

    def save(self) -> bool:
        """Have Chroma save the graph if its log holds more than a few records; see docs/decisions/chroma-saves.md.

        Returns:
            False where that failed, on a full disk say: nothing is lost, and the next opening mends what it left.
        """
        try:
            unsaved = self._graph.unsaved() if self._graph.embedded else 0
            if unsaved > _LEFT_UNSAVED:
                # Chroma counts records, those too that change nothing, and saves when there are enough.
                nobody = [f"{_NOBODY}{i}" for i in range(self._saved_every - unsaved)]
                nothing = cast(Any, [{POINTER: 0}] * len(nobody))
                with self.errors(StoreWriteError):
                    self._change(
                        len(nobody), lambda part: self._collection.update(ids=nobody[part], metadatas=nothing[part])
                    )
        except StoreError as error:
            _log.warning("%s", error)
            return False
        return True

    def close(self) -> None:
        """Close the client, if it was made here; one that does not finish loading the graph is left as it is."""
        if self._loading is not None and wait([self._loading], timeout=_PATIENCE_S).not_done:
            _log.warning("collection %r: Chroma has not loaded its graph within %.0f s", self.name, _PATIENCE_S)
            return
        if self._owns_client:
            disconnect(self._client)

    @contextmanager
    def errors(self, kind: type[StoreError]) -> Iterator[None]:
        """Wait until the graph is loaded; turn whatever Chroma raises, then or within, into one of our errors."""
        try:
            if self._loading is not None:
                self._loading.result()
            yield
        except BGEM3Error:
            raise
        except Exception as error:  # chromadb raises its own, ValueError, httpx's and Rust's, with no common base
            kind = StoreWriteError if says_full(error) else kind
            raise _server_error(error, self.name) or kind(
                f"collection {self.name!r}: Chroma refused ({type(error).__name__}: {error}){_fix(error)}"
            ) from error

    def _change(self, n: int, change: Callable[[slice], object]) -> None:
        self.loaded()
        for part in self._parts(n):
            with self._graph.changing():
                change(part)

    def _parts(self, n: int) -> Iterator[slice]:
        return (slice(start, start + self._batch) for start in range(0, n, self._batch))


# What Chroma says of a database that is damaged, or torn because it was copied while something wrote.
_DAMAGED = ("malformed", "not a database", "Failed to apply logs", "Failed to pull logs", "Inconsistent hash")


def says_graph(error: Exception) -> bool:
    """Whether an error, Chroma's or ours, is about a graph whose files cannot be read."""
    return "hnsw" in str(error) or "Error getting embedding" in str(error)


def _fix(error: Exception) -> str:
    if says_full(error):
        return FREE
    if says_graph(error):
        return ". Fix: bgem3 repair, which makes the graph again"
    if any(words in str(error) for words in _DAMAGED):
        return (
            ". Fix: restore a backup of the folder: the texts are in Chroma's database alone; where this is a copy that was "
            "made beside a writer, copy it again while nothing writes"
        )
    return ""


def _server_error(error: BaseException | None, name: str) -> StoreError | None:
    """Return our error for one of a Chroma server's connection or key, whatever chromadb wrapped it in."""
    while error is not None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            return StoreAccessError(
                f"collection {name!r}: the server refused the key ({status}). Fix: headers of chromadb.HttpClient"
            )
        if type(error).__module__.startswith(("httpx", "httpcore")) and status is None:
            return StoreConnectionError(
                f"collection {name!r}: the server cannot be reached ({type(error).__name__}: {error}). Fix: start it"
            )
        error = error.__cause__ or error.__context__
    return None


def _check_size(chunk: Chunk) -> None:
    items = sum(len(value) for value in chunk.metadata.values() if isinstance(value, list))
    if max(len(chunk.metadata), items) > _MOST_VALUES:
        raise InvalidMetadataError(
            f"metadata of {chunk.id[:60]!r}: Chroma keeps at most {_MOST_VALUES:,} values and {_MOST_VALUES:,} list items "
            f"a chunk, got {len(chunk.metadata):,} and {items:,}. Fix: shorten it"
        )


def _metadatas(
    chunks: Sequence[Chunk], rows: Sequence[int], stale_keys: Mapping[str, Sequence[str]]
) -> list[dict[str, object]]:
    return [
        {**dict.fromkeys(stale_keys.get(chunk.id, ())), **chunk.metadata, POINTER: row}
        for chunk, row in zip(chunks, rows, strict=True)
    ]
