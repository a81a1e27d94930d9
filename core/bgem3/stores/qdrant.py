"""Qdrant: all three representations in one collection, on one machine or on many."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bgem3.embeddings import M3Embeddings
from bgem3.errors import InvalidInputError, StoreClosedError
from bgem3.index_settings import encode_passages, settings_of
from bgem3.intake import sized_slices, slices
from bgem3.stores.base import check_settings
from bgem3.stores.engine import (
    Candidates,
    check_lexical,
    key_of,
    run_over,
    write_batches,
)
from bgem3.stores.layouts import Layout
from bgem3.stores.qdrant_collection import CollectionOptions, QdrantCollection, Quantization, connect
from bgem3.stores.qdrant_filters import to_qdrant
from bgem3.stores.qdrant_points import named, size_of, to_embeddings, to_payload, to_vectors
from bgem3.stores.qdrant_queries import QueryBuilder
from bgem3.types import Chunk, FloatArray, Head, Hits, IndexSettings, SearchPlan, Stage, Where

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models

    from bgem3.encoder import M3Encoder

# Half of what the server takes in one REST request (32 MB): one chunk of the largest size still goes alone.
_BATCH_BYTES = 16 * 1024 * 1024
# Characters of one number in JSON; bytes of one in gRPC.
_JSON_FLOAT, _GRPC_FLOAT = 21, 4
_MOST_POINTS = 512
_PAGE = 1024


class QdrantStore:
    """Chunks in a Qdrant collection: dense, sparse and token vectors under names, text and metadata as payload.

    A search is one request, whatever the strategy: the engine finds the candidates, and scores each by
    every head. Payload fields are LangChain's (`page_content`, `metadata`). A chunk's token vectors
    are at most 1,048,575 numbers, 1,023 vectors of 1,024 (the server's limit): of a longer chunk,
    each `ceil(n / 1023)` neighbours become their normalised mean. Thread-safe.

    Args:
        path: Folder of Qdrant's local mode, or ":memory:". It compares with every vector: for tests
            and some thousand chunks.
        url: A server, e.g. "http://localhost:6333".
        client: A `QdrantClient` instead; `close` leaves it open.
        collection: Its name.
        api_key: Key of the server.
        prefer_grpc: Speak gRPC (port `grpc_port`), which sends vectors in a fifth of the bytes.
        grpc_port: Port of gRPC.
        timeout: Seconds that one request may take.
        hnsw_ef: Width of a dense search; higher finds more and takes longer. None: the collection's own.
        dense_name, sparse_name, multi_vector_name: Names of the vectors; "" is the unnamed one.
        layout: Names of the payload's fields, for a collection that another library filled.
        shard_number, replication_factor, write_consistency_factor: Of a new collection; None: the
            server's defaults.
        quantization: Of a new collection's dense and token vectors, kept in memory beside the
            originals: "none", "scalar" (int8) or "binary".
        on_disk: Of a new collection: dense vectors and sparse index on disk. Token vectors always are.
        token_datatype: Of a new collection's token vectors: "float32", "float16" or "uint8".
        range_keys: Metadata keys whose numbers a new collection indexes, for `$gt` and the like.

    Raises:
        InvalidInputError: not exactly one of `path`, `url` and `client`, or an unknown option.
        MissingExtraError: qdrant-client is not installed.
        StoreLockedError: another process has the folder open.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        url: str | None = None,
        client: QdrantClient | None = None,
        collection: str = "bgem3",
        api_key: str | None = None,
        prefer_grpc: bool = True,
        grpc_port: int = 6334,
        timeout: int = 60,
        hnsw_ef: int | None = None,
        dense_name: str = "dense",
        sparse_name: str = "sparse",
        multi_vector_name: str = "multi_vector",
        layout: Layout | None = None,
        shard_number: int | None = None,
        replication_factor: int | None = None,
        write_consistency_factor: int | None = None,
        quantization: Quantization = "none",
        on_disk: bool = False,
        token_datatype: Literal["float32", "float16", "uint8"] = "float16",
        range_keys: Sequence[str] = (),
    ) -> None:
        if [path, url, client].count(None) != 2:
            raise InvalidInputError(
                "QdrantStore: expected exactly one of path, url and client. Fix: QdrantStore(url='http://localhost:6333')"
            )
        self._options = CollectionOptions(
            shard_number=shard_number,
            replication_factor=replication_factor,
            write_consistency_factor=write_consistency_factor,
            quantization=quantization,
            on_disk=on_disk,
            token_datatype=token_datatype,
            range_keys=tuple(range_keys),
        )
        self._ef = hnsw_ef
        self._owns_client = client is None
        self._float_bytes = _GRPC_FLOAT if prefer_grpc else _JSON_FLOAT
        self._client = client or connect(path, url, api_key, prefer_grpc, grpc_port, timeout)
        # A collection that was adopted knows its own names better.
        names: dict[Head, str] = {"dense": dense_name, "sparse": sparse_name, "multi_vector": multi_vector_name}
        self._collection = QdrantCollection(self._client, collection, names, layout or Layout())
        self._settings: IndexSettings | None = None
        self._closed = False

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """See `Store.open`."""
        if self._closed:
            raise StoreClosedError("QdrantStore: closed. Fix: make a new one")
        if self._settings is None:
            if settings:
                check_lexical(settings, "QdrantStore")
            made_with = self._collection.open(settings, self._options)
            check_settings(made_with, settings or made_with)
            self._settings = made_with
        check_settings(self._settings, settings or self._settings)
        return self._settings

    def adopt(self, encoder: M3Encoder, *, show_progress: bool = False) -> QdrantStore:
        """Add the vectors that a collection of another program lacks, in place, and open it.

        That program, e.g. langchain-qdrant or LlamaIndex, reads it as before: texts, metadata and its own
        sparse vectors stay; dense vectors become the encoder's. The collection remembers the names of its
        vectors and fields, so that later `QdrantStore(...)` opens it as any other. A call that broke off, or was
        made before the other program added more, can be made again: only what lacks vectors is encoded.

        Args:
            encoder: Encodes the texts; what the index is opened with afterwards.
            show_progress: Show a bar over the chunks.

        Raises:
            StoreNotFoundError: there is no such collection.
            IndexMismatchError: its vectors, ids or fields cannot be ours; nothing was changed.
            StoreVersionError: the server is older than 1.18.
            StoreError: as the constructor and `open`.
        """
        from bgem3.stores.qdrant_adoption import adopt

        settings = settings_of(encoder, "m3")
        encode = partial(encode_passages, encoder, "m3")
        sizes = {"batch_bytes": _BATCH_BYTES, "float_bytes": self._float_bytes}
        adopt(self._collection, settings, encode, self._options, **sizes, show_progress=show_progress)
        self.open(settings)
        return self

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`; each chunk is whole, and an error in the middle says which ids were written.

        Raises:
            PartialWriteError: the server failed midway.
            StoreConnectionError, StoreAccessError, StoreError: it failed before anything was written.
        """
        self._check_open()
        size = partial(size_of, chunks, embeddings, float_bytes=self._float_bytes)
        write = partial(self._collection.call, self._client.upsert, self._collection.name, wait=True)
        write_batches(
            sized_slices(range(len(chunks)), size, _BATCH_BYTES, _MOST_POINTS),
            lambda batch: write(points=[self._point(chunks[i], embeddings, i) for i in batch]),
            lambda i: chunks[i].id,
        )

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `Store.get`."""
        found = {record.id: self._chunk(record) for record in self._retrieve(ids)}
        return [found[key] for key in map(key_of, ids) if key in found]

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """See `Store.dense_vectors`."""
        name = self._collection.names["dense"]
        return {
            self._chunk(record).id: np.array(named(record.vector)[name], dtype=np.float32)
            for record in self._retrieve(ids, [name])
            if name in named(record.vector)
        }

    def find(self, where: Where) -> list[str]:
        """See `Store.find`."""
        return [chunk.id for records in self._pages(where) for chunk in map(self._chunk, records)]

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """See `Store.unchanged`."""
        texts = {chunk.id: chunk.text for chunk in map(self._chunk, self._retrieve([chunk.id for chunk in chunks]))}
        return {chunk.id for chunk in chunks if texts.get(chunk.id) == chunk.text}

    def replace_metadata(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """See `Store.replace_metadata`."""
        from qdrant_client import models

        same = self.unchanged(chunks)
        operations = [
            models.OverwritePayloadOperation(
                overwrite_payload=models.SetPayload(
                    payload=to_payload(chunk, self._collection.layout), points=[key_of(chunk.id)]
                )
            )
            for chunk in chunks
            if chunk.id in same
        ]
        for part in slices(operations, _PAGE):
            self._collection.call(self._client.batch_update_points, self._collection.name, part, wait=True)
        return [chunk for chunk in chunks if chunk.id not in same]

    def scan(self, batch_size: int = 256) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """See `Store.scan`; chunks come in the order of their keys, token vectors as the server keeps them."""
        for records in self._pages(None, list(self._collection.names.values()), batch_size):
            yield [self._chunk(record) for record in records], self._embeddings(records)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Store.delete`."""
        from qdrant_client import models

        keys = [record.id for record in self._retrieve(ids, payload=False)]
        for part in slices(keys, _PAGE):
            selector = models.PointIdsList(points=part)
            self._collection.call(self._client.delete, self._collection.name, selector, wait=True)
        return len(keys)

    def count(self) -> int:
        """See `Store.count`."""
        self._check_open()
        return int(self._collection.call(self._client.count, self._collection.name, exact=True).count)

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """See `Store.search`; one request, two where the plan is exhaustive or explained.

        Of equal scores Qdrant chooses which come within `k` in a mode of one head, and within the depths of a cascade.
        """
        self._check_open()
        stages: list[Stage] = []
        counted = self._matching(plan, stages) if plan.exhaustive or (plan.explain and plan.where) else 0
        collection = self._collection
        builder = QueryBuilder(
            query, plan, collection.names, collection.n_shards, counted, self._ef, collection.is_local
        )
        requests = builder.build()
        start = time.perf_counter()
        answers = (
            collection.call(self._client.query_batch_points, collection.name, list(requests.values()))
            if requests
            else []
        )
        points = {head: answer.points for head, answer in zip(requests, answers, strict=True)}
        stages.append(Stage("request", max(map(len, points.values()), default=0), time.perf_counter() - start))
        return run_over(self._candidates(query, plan, points), query, plan, stages)

    def close(self) -> None:
        """Close the client, where this store made it. A second call does nothing."""
        if self._owns_client and not self._closed:
            self._client.close()
        self._closed = True

    def _candidates(
        self, query: M3Embeddings, plan: SearchPlan, points: dict[Head, list[models.ScoredPoint]]
    ) -> Candidates:
        scored = {head: {str(point.id): point.score for point in found} for head, found in points.items()}
        # One that has no dense or multi-vector score was changed while it was read.
        needed = [scores for head, scores in scored.items() if head != "sparse"]
        found = next(iter(points.values()), [])
        whole = (point for point in found if all(str(point.id) in scores for scores in needed))
        # In the order of ids, since ranks of equal scores are by row, and the engine's order changes from call to call.
        kept = sorted(whole, key=lambda point: self._chunk(point).id)
        scores: dict[Head, FloatArray] = {
            head: np.array([scored.get(head, {}).get(str(point.id), 0.0) for point in kept], dtype=np.float32)
            for head in plan.heads
            if head in points or head == "sparse"
        }
        if "multi_vector" in points:
            # Qdrant's MaxSim is the sum over query vectors, ours the mean.
            scores["multi_vector"] /= np.float32(len(query.multi_vector[0]))
        chunks = [self._chunk(point) for point in kept]

        def vectors(ids: list[str]) -> tuple[list[str], M3Embeddings]:
            records = self._retrieve(ids, list(self._collection.names.values()))
            return [self._chunk(record).id for record in records], self._embeddings(records)

        return Candidates(chunks, scores, vectors)

    def _matching(self, plan: SearchPlan, stages: list[Stage]) -> int:
        from qdrant_client import models

        start = time.perf_counter()
        chosen = None if plan.where is None else models.Filter.model_validate(to_qdrant(plan.where))
        options = {"count_filter": chosen, "exact": True}
        counted = int(self._collection.call(self._client.count, self._collection.name, **options).count)
        stages.append(Stage("filter", counted, time.perf_counter() - start))
        return counted

    def _point(self, chunk: Chunk, embeddings: M3Embeddings, i: int) -> models.PointStruct:
        from qdrant_client import models

        payload = to_payload(chunk, self._collection.layout)
        return models.PointStruct(
            id=key_of(chunk.id), vector=to_vectors(embeddings, i, self._collection.names), payload=payload
        )

    def _chunk(self, point: models.Record | models.ScoredPoint) -> Chunk:
        return self._collection.layout.read(point.payload or {}, str(point.id))

    def _embeddings(self, records: Sequence[models.Record]) -> M3Embeddings:
        assert self._settings is not None  # the store is open
        return to_embeddings(records, self._collection.names, self._settings)

    def _retrieve(
        self, ids: Sequence[str], vectors: list[str] | bool = False, *, payload: bool = True
    ) -> list[models.Record]:
        self._check_open()
        keys = list(dict.fromkeys(map(key_of, ids)))
        found: list[models.Record] = []
        for part in slices(keys, _PAGE):
            options = {"with_payload": payload, "with_vectors": vectors}
            found += self._collection.call(self._client.retrieve, self._collection.name, part, **options)
        return found

    def _pages(
        self, where: Where | None, vectors: list[str] | bool = False, size: int = _PAGE
    ) -> Iterator[list[models.Record]]:
        from qdrant_client import models

        self._check_open()
        chosen = None if where is None else models.Filter.model_validate(to_qdrant(where))
        offset: Any = None
        while True:
            options = {"scroll_filter": chosen, "limit": size, "offset": offset, "with_vectors": vectors}
            records, offset = self._collection.call(self._client.scroll, self._collection.name, **options)
            if records:
                yield records
            if offset is None:
                return

    def _check_open(self) -> None:
        if self._closed:
            raise StoreClosedError("QdrantStore: closed. Fix: make a new one")
        if self._settings is None:
            raise StoreClosedError("QdrantStore: not opened yet. Fix: pass it to HybridIndex")
