"""Milvus: dense and sparse vectors searched by the engine, token vectors in one of three ways."""

from __future__ import annotations

import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import InvalidInputError, StoreClosedError, StoreError
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.intake import sized_slices, slices
from bgem3.scoring import dense_row_scores, max_sim
from bgem3.stores import milvus_rows
from bgem3.stores.base import check_settings
from bgem3.stores.engine import (
    Candidates,
    check_lexical,
    key_of,
    run_over,
    sparse_row,
    write_batches,
)
from bgem3.stores.milvus_collection import (
    BLOBS,
    DENSE,
    ID,
    METADATA,
    SPARSE,
    STRUCT,
    TEXT,
    VECTOR,
    MilvusCollection,
    TokenVectors,
    connect,
)
from bgem3.stores.milvus_filters import KEY, keys_in, to_milvus
from bgem3.types import Chunk, FloatArray, Head, Hits, IndexSettings, IntArray, SearchPlan, Stage, Where, check_choice

if TYPE_CHECKING:
    from pymilvus import MilvusClient

# The server takes 64 MB in one request.
_BATCH_BYTES = 32 * 1024 * 1024
_MOST_ROWS = 512
_PAGE = 1024
# Most results of one search. Source: Milvus docs, "Milvus Limits".
_MOST_HITS = 16_384
_CHUNK = [ID, TEXT, METADATA]


class MilvusStore:
    """Chunks in a Milvus collection: the engine finds candidates by dense and sparse, then all heads score them.

    Texts and metadata have at most 65,535 bytes. Of metadata strings over 4,096 bytes
    `$text_match` sees the beginning. Thread-safe.

    Args:
        uri: A server, e.g. "http://localhost:19530", or a path ending in ".db" for milvus-lite.
        token: "user:password" or a key.
        client: A `MilvusClient` instead; `close` leaves it open.
        collection: Its name: letters, digits and underscores.
        token_vectors: "stored": as codes in a field, scored here; a search fetches those of its
            candidates. "engine": as an array of structs, scored by the engine with MAX_SIM_IP
            (server 2.6.4 and newer). "encode": not kept; candidates are encoded again with `encode`.
        codec: How "stored" keeps them: float32, float16, int8, int4, int2 or binary. At dim 1,024 and
            200 tokens a chunk binary is 26 kB.
        encode: For "encode": returns the token vectors of texts, e.g.
            `lambda texts: encoder.encode(texts, heads=["multi_vector"]).multi_vector`.
        consistency: What a search sees: "Strong" everything written before it, "Bounded" and
            "Eventually" less, faster.
        timeout: Seconds that one request may take. The client tries again, with growing pauses, as long.

    Raises:
        InvalidInputError: not exactly one of `uri` and `client`, or an unknown option.
        MissingExtraError: pymilvus is not installed.
        StoreConnectionError, StoreAccessError, StoreLockedError: it cannot be opened.
    """

    def __init__(
        self,
        uri: str | Path | None = None,
        *,
        token: str = "",
        client: MilvusClient | None = None,
        collection: str = "bgem3",
        token_vectors: TokenVectors = "stored",
        codec: str = "binary",
        encode: Callable[[Sequence[str]], MultiVectors] | None = None,
        consistency: Literal["Strong", "Bounded", "Session", "Eventually"] = "Strong",
        timeout: float = 60,
    ) -> None:
        if (uri is None) == (client is None):
            raise InvalidInputError(
                "MilvusStore: expected exactly one of uri and client. Fix: MilvusStore('http://localhost:19530')"
            )
        check_choice("token_vectors", token_vectors, ("stored", "engine", "encode"))
        if (token_vectors == "encode") != (encode is not None):
            raise InvalidInputError("encode: expected with token_vectors='encode', and only then. Fix: give both")
        get_codec(codec, 1)
        self._token_vectors = token_vectors
        self._codec_name = codec
        self._encode = encode
        self._consistency = consistency
        self._owns_client = client is None
        self._client = client or connect(str(uri), token, timeout)
        self._collection = MilvusCollection(self._client, collection, token_vectors, timeout=timeout)
        self._settings: IndexSettings | None = None
        self._closed = False

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """See `Store.open`."""
        if self._closed:
            raise StoreClosedError("MilvusStore: closed. Fix: make a new one")
        if self._settings is None:
            if settings:
                check_lexical(settings, "MilvusStore")
            made_with, codec = self._collection.open(settings, self._codec_name, self._consistency)
            check_settings(made_with, settings or made_with)
            self._codec: Codec = get_codec(codec, made_with.multi_dim)
            self._settings = made_with
        check_settings(self._settings, settings or self._settings)
        return self._settings

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """See `Store.upsert`; each chunk is whole, and an error in the middle says which ids were written.

        Raises:
            InvalidInputError: a chunk is larger than Milvus can keep; nothing was written.
            PartialWriteError: the server failed midway.
            StoreConnectionError, StoreAccessError, StoreError: it failed before anything was written.
        """
        vocab_size = self._opened().vocab_size
        rows = [milvus_rows.to_row(chunk, embeddings, i, vocab_size) for i, chunk in enumerate(chunks)]
        for row, tokens in zip(rows, embeddings.multi_vector, strict=True):
            row.update(self._token_field(tokens))
        write = partial(self._collection.call, self._client.upsert)
        batches = sized_slices(rows, milvus_rows.size_of, _BATCH_BYTES, _MOST_ROWS)
        write_batches(batches, write, lambda row: str(row[ID]))

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """See `Store.get`."""
        found = {row[KEY]: milvus_rows.to_chunk(row) for row in self._rows(ids, _CHUNK)}
        return [found[key] for key in map(key_of, ids) if key in found]

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """See `Store.dense_vectors`."""
        return {row[ID]: np.array(row[DENSE], dtype=np.float32) for row in self._rows(ids, [ID, DENSE])}

    def find(self, where: Where) -> list[str]:
        """See `Store.find`."""
        return [row[ID] for rows in self._pages(to_milvus(where), [ID]) for row in rows]

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """See `Store.unchanged`."""
        texts = {row[ID]: row[TEXT] for row in self._rows([chunk.id for chunk in chunks], [ID, TEXT])}
        return {chunk.id for chunk in chunks if texts.get(chunk.id) == chunk.text}

    def replace_metadata(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """See `Store.replace_metadata`."""
        fields = [ID, TEXT, *self._vector_fields]
        stored = {row[ID]: row for row in self._rows([chunk.id for chunk in chunks], fields)}
        same = [chunk for chunk in chunks if chunk.id in stored and stored[chunk.id][TEXT] == chunk.text]
        rows = [{**stored[chunk.id], **milvus_rows.metadata_fields(chunk)} for chunk in same]
        for batch in sized_slices(rows, milvus_rows.size_of, _BATCH_BYTES, _MOST_ROWS):
            self._collection.call(self._client.upsert, batch)
        return [chunk for chunk in chunks if chunk not in same]

    def scan(self, batch_size: int = 256) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """See `Store.scan`; chunks come in the order of their keys.

        Raises:
            StoreError: token vectors are not kept (`token_vectors="encode"`).
        """
        self._opened()
        if self._token_vectors == "encode":
            raise StoreError("token vectors are not kept here. Fix: add the texts to the other store")
        for rows in self._pages("", [*_CHUNK, *self._vector_fields], batch_size):
            yield [milvus_rows.to_chunk(row) for row in rows], self._embeddings(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """See `Store.delete`."""
        keys = [row[KEY] for row in self._rows(ids, [KEY])]
        for part in slices(keys, _PAGE):
            self._collection.call(self._client.delete, filter=keys_in(part))
        return len(keys)

    def count(self) -> int:
        """See `Store.count`."""
        return self._count("")

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """See `Store.search`: one request for the candidates, and another one for their token vectors."""
        self._opened()
        where = "" if plan.where is None else to_milvus(plan.where)
        stages: list[Stage] = []
        if plan.explain and where:
            start = time.perf_counter()
            stages.append(Stage("filter", self._count(where), time.perf_counter() - start))
        start = time.perf_counter()
        rows = self._everything(where) if plan.exhaustive else self._found(query, plan, where)
        stages.append(Stage("request", len(rows), time.perf_counter() - start))
        rows.sort(key=itemgetter(ID))  # ranks of equal scores are by row
        return run_over(self._candidates(query, rows), query, plan, stages)

    def close(self) -> None:
        """Close the client, where this store made it. A second call does nothing."""
        if self._owns_client and not self._closed:
            self._client.close()
        self._closed = True

    def _found(self, query: M3Embeddings, plan: SearchPlan, where: str) -> list[dict[str, Any]]:
        """Return the best by dense and the best by sparse, with both vectors."""
        fields = [*_CHUNK, DENSE, SPARSE]
        searches = _searches(query, plan)
        if not searches:
            return []
        if len(searches) == 1:
            only = searches[0]
            answer = self._collection.call(
                self._client.search,
                data=only.data,
                anns_field=only.field,
                filter=where,
                limit=only.limit,
                search_params=only.params,
                output_fields=fields,
            )
        else:
            from pymilvus import AnnSearchRequest, RRFRanker

            requests = [AnnSearchRequest(s.data, s.field, s.params, s.limit, expr=where or None) for s in searches]
            limit = min(_MOST_HITS, sum(search.limit for search in searches))
            # The ranker only joins the lists: the scores are computed from the vectors.
            options = {"ranker": RRFRanker(), "limit": limit, "output_fields": fields}
            answer = self._collection.call(self._client.hybrid_search, requests, **options)
        return [{KEY: hit[KEY], **hit["entity"]} for hit in answer[0]]

    def _everything(self, where: str) -> list[dict[str, Any]]:
        return [row for rows in self._pages(where, [*_CHUNK, DENSE, SPARSE]) for row in rows]

    def _candidates(self, query: M3Embeddings, rows: list[dict[str, Any]]) -> Candidates:
        dense, sparse = milvus_rows.dense_and_sparse(rows, self._opened().vocab_size, self._opened().dim)
        scores: dict[Head, FloatArray] = {}
        if "dense" in query.heads:
            scores["dense"] = dense_row_scores(query.dense[0], dense)
        if "sparse" in query.heads:
            scores["sparse"] = np.asarray((sparse @ query.sparse[[0]].T).toarray(), dtype=np.float32)[:, 0]

        def late(head: Head, chosen: IntArray) -> FloatArray:
            return self._token_scores(query.multi_vector[0], [rows[row] for row in chosen.tolist()])

        def vectors(ids: list[str]) -> tuple[list[str], M3Embeddings]:
            found = self._rows(ids, [ID, TEXT, *self._vector_fields])
            return [row[ID] for row in found], self._embeddings(found)

        return Candidates([milvus_rows.to_chunk(row) for row in rows], scores, vectors, late)

    def _token_scores(self, query: FloatArray, rows: list[dict[str, Any]]) -> FloatArray:
        """Return MaxSim, the mean over query vectors, of each row, `(n,)` float32."""
        if not rows:
            return np.empty(0, dtype=np.float32)
        if self._token_vectors == "encode":
            assert self._encode is not None  # checked when the store was made
            passages = self._encode([row[TEXT] for row in rows])
            encoded: FloatArray = max_sim(MultiVectors.from_list([query]), passages)[0]
            return encoded
        keys = [row[KEY] for row in rows]
        scores = self._stored_scores(query, keys) if self._token_vectors == "stored" else self._asked(query, keys)
        # A chunk that went in the meantime is as unlike as can be.
        return np.array([scores.get(key, -1.0) for key in keys], dtype=np.float32)

    def _stored_scores(self, query: FloatArray, keys: list[str]) -> dict[str, float]:
        blobs: dict[str, bytes] = {}
        for part in slices(keys, _PAGE):
            found = self._collection.call(self._client.query, filter=keys_in(part), output_fields=[KEY, BLOBS])
            blobs.update((row[KEY], b"".join(map(b64decode, row[BLOBS]))) for row in found)
        scores = self._codec.scores(query, list(blobs.values())).tolist() if blobs else []
        return dict(zip(blobs, scores, strict=True))

    def _asked(self, query: FloatArray, keys: list[str]) -> dict[str, float]:
        """Return the engine's MaxSim, which is a sum, as the mean."""
        from pymilvus.client.embedding_list import EmbeddingList

        scores: dict[str, float] = {}
        for part in slices(keys, _MOST_HITS):
            answer = self._collection.call(
                self._client.search,
                data=[EmbeddingList(list(query))],
                anns_field=f"{STRUCT}[{VECTOR}]",
                filter=keys_in(part),
                limit=len(part),
                search_params={"metric_type": "MAX_SIM_IP"},
                output_fields=[KEY],
            )
            scores.update((hit[KEY], hit["distance"] / len(query)) for hit in answer[0])
        return scores

    def _embeddings(self, rows: Sequence[Mapping[str, Any]]) -> M3Embeddings:
        settings = self._opened()
        dense, sparse = milvus_rows.dense_and_sparse(rows, settings.vocab_size, settings.dim)
        if self._token_vectors == "encode":
            assert self._encode is not None  # checked when the store was made
            tokens = self._encode([row[TEXT] for row in rows])
        else:
            tokens = MultiVectors.from_list([self._tokens_of(row) for row in rows], settings.multi_dim)
        return M3Embeddings(dense=dense, sparse=sparse, multi_vector=tokens)

    @property
    def _vector_fields(self) -> list[str]:
        tokens = {"stored": [BLOBS], "engine": [STRUCT], "encode": []}[self._token_vectors]
        return [DENSE, SPARSE, *tokens]

    def _token_field(self, tokens: FloatArray) -> dict[str, Any]:
        if self._token_vectors == "encode":
            return {}
        if self._token_vectors == "engine":
            return {STRUCT: [{VECTOR: vector.tolist()} for vector in tokens]}
        blob = self._codec.encode(MultiVectors.from_list([tokens]))[0]
        return {BLOBS: [b64encode(part).decode() for part in milvus_rows.cut(blob)]}

    def _tokens_of(self, row: Mapping[str, Any]) -> FloatArray:
        if self._token_vectors == "engine":
            return np.array([struct[VECTOR] for struct in row[STRUCT]], dtype=np.float32)
        return self._codec.decode(b"".join(map(b64decode, row[BLOBS])))

    def _rows(self, ids: Sequence[str], fields: list[str]) -> list[dict[str, Any]]:
        self._opened()
        found: list[dict[str, Any]] = []
        for part in slices(list(dict.fromkeys(map(key_of, ids))), _PAGE):
            options = {"filter": keys_in(part), "output_fields": [KEY, *fields]}
            found += self._collection.call(self._client.query, **options)
        return found

    def _pages(self, where: str, fields: list[str], size: int = _PAGE) -> Iterator[list[dict[str, Any]]]:
        self._opened()
        return self._collection.pages(where, [KEY, *fields], size)

    def _count(self, where: str) -> int:
        self._opened()
        return int(self._collection.call(self._client.query, filter=where, output_fields=["count(*)"])[0]["count(*)"])

    def _opened(self) -> IndexSettings:
        if self._closed:
            raise StoreClosedError("MilvusStore: closed. Fix: make a new one")
        if self._settings is None:
            raise StoreClosedError("MilvusStore: not opened yet. Fix: pass it to HybridIndex")
        return self._settings


@dataclass(frozen=True, slots=True)
class _Search:
    """One list of candidates that the engine is asked for."""

    data: list[Any]
    field: str
    limit: int
    params: dict[str, Any]


def _searches(query: M3Embeddings, plan: SearchPlan) -> list[_Search]:
    """Return what a plan asks the engine for: the best by dense, by sparse, or both."""
    depth = max(plan.fetch_k, plan.k)
    if plan.mode == "hybrid" and plan.strategy == "cascade":
        depth = max(*plan.cascade, plan.k)
    if depth > _MOST_HITS:
        raise InvalidInputError(
            f"k, fetch_k, cascade: Milvus returns at most {_MOST_HITS:,} results, got {depth:,}. Fix: a smaller depth"
        )
    searches: list[_Search] = []
    if plan.mode != "sparse":
        params = {"metric_type": "IP", "params": {"ef": max(depth, 128)}}
        searches.append(_Search([query.dense[0].tolist()], DENSE, depth, params))
    row = sparse_row(query.sparse, 0) if plan.mode != "dense" else {}
    if row:
        searches.append(_Search([row], SPARSE, depth, {"metric_type": "IP"}))
    return searches
