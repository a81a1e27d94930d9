"""What the vector store, the retriever and the index do alike: nodes in, hits out, one pass a text."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Unpack

import numpy as np
from llama_index.core.schema import BaseNode
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors, unit_row, unit_rows
from bgem3.errors import InvalidInputError
from bgem3.hybrid import HybridIndex
from bgem3.ingestion import SLICE_TEXTS
from bgem3.intake import check_new, too_long_by_id, too_long_query
from bgem3.shared import share
from bgem3.types import HEADS, Chunk, FloatArray, Hits, SearchOptions
from llamaindex_bgem3.nodes import to_chunk

# Vectors of two models are about orthogonal; those of one model, prompts or precisions apart, are near 1.
_SAME_MODEL = 0.5


class Engine:
    """An index, and the memory it shares with the embedding model of the same encoder.

    Args:
        index: Where chunks live.
    """

    def __init__(self, index: HybridIndex) -> None:
        self.index = index
        self.shared = share(index.encoder).want(*HEADS)

    def add(self, nodes: Sequence[BaseNode], *, same_model: bool = False) -> list[str]:
        """Encode and store nodes; one with an existing id replaces that node whole.

        Args:
            nodes: Any number.
            same_model: Check that embeddings the nodes carry come from this model.

        Raises:
            DuplicateIdError: an id stands twice in the call.
            InvalidInputError: the nodes were embedded by another model.
            StoreError: the store refused the write.
        """
        chunks = _unique(nodes)
        for part in _slices(len(chunks)):
            with too_long_by_id(chunks[part]):
                embeddings = self.shared.take([chunk.text for chunk in chunks[part]])
            self._store(chunks[part], embeddings, nodes[part] if same_model else ())
        return [chunk.id for chunk in chunks]

    async def aadd(self, nodes: Sequence[BaseNode], *, same_model: bool = False) -> list[str]:
        """Do what `add` does, beside the event loop."""
        chunks = _unique(nodes)
        for part in _slices(len(chunks)):
            with too_long_by_id(chunks[part]):
                embeddings = await self.shared.atake([chunk.text for chunk in chunks[part]])
            await asyncio.to_thread(self._store, chunks[part], embeddings, nodes[part] if same_model else ())
        return [chunk.id for chunk in chunks]

    def query(self, texts: Sequence[str], dense: Sequence[float] | None = None) -> M3Embeddings:
        """Encode one query, which may be several texts; `dense` takes the place of the dense head."""
        with too_long_query(texts):
            return self._query(texts, self.shared.take(texts) if texts else None, dense)

    async def aquery(self, texts: Sequence[str], dense: Sequence[float] | None = None) -> M3Embeddings:
        """Do what `query` does, beside the event loop."""
        with too_long_query(texts):
            return self._query(texts, await self.shared.atake(texts) if texts else None, dense)

    def search(self, query: M3Embeddings, **options: Unpack[SearchOptions]) -> Hits:
        """Return hits for a query that `query` made, best first; options are those of `HybridIndex.search`."""
        return self.index.search_embedded(query, **options)[0]

    def _store(self, chunks: Sequence[Chunk], embeddings: M3Embeddings, nodes: Sequence[BaseNode]) -> None:
        _check_same_model(nodes, embeddings.dense)
        self.index.add_embedded(chunks, embeddings)

    def _query(
        self, texts: Sequence[str], embeddings: M3Embeddings | None, dense: Sequence[float] | None
    ) -> M3Embeddings:
        given = None if dense is None else _unit_row(dense, self.index.encoder.dim)
        if embeddings is None:
            if given is None:
                raise InvalidInputError("query: got neither a text nor an embedding. Fix: query_str='...'")
            return M3Embeddings(dense=given)
        one = join_queries(embeddings)
        counts = self.index.encoder.token_counts(texts) if self.index.settings.lexical == "bm25" else None
        return M3Embeddings(
            dense=one.dense if given is None else given,
            sparse=one.sparse if counts is None else _largest(counts),
            multi_vector=one.multi_vector,
        )


def join_queries(embeddings: M3Embeddings) -> M3Embeddings:
    """Join the texts of one query as the windows of one long text are joined.

    Returns:
        One row: the mean dense vector normalised again, the largest weight of each token, all
        token vectors.
    """
    if len(embeddings) == 1:
        return embeddings
    vectors = embeddings.multi_vector.vectors
    return M3Embeddings(
        dense=unit_rows(embeddings.dense.mean(axis=0, keepdims=True)),
        sparse=_largest(embeddings.sparse),
        multi_vector=MultiVectors(vectors, np.array([0, len(vectors)], dtype=np.int64)),
    )


def _largest(rows: csr_array) -> csr_array:
    return csr_array(reduce(lambda left, right: left.maximum(right), (rows[[i]] for i in range(rows.shape[0]))))


def _unit_row(vector: Sequence[float], dim: int) -> FloatArray:
    if len(vector) != dim:
        raise InvalidInputError(
            f"query_embedding: {len(vector)} wide, this index's dense vectors are {dim}: another model made it. "
            f"Fix: embed_model=vector_store.embed_model, or BGEM3VectorStore(..., is_embedding_query=False)"
        )
    return unit_row(vector, dim, "query_embedding", "embed_model.get_query_embedding(text)")


def _unique(nodes: Sequence[BaseNode]) -> list[Chunk]:
    chunks = [to_chunk(node) for node in nodes]
    check_new(chunks, {})
    return chunks


def _slices(total: int) -> Iterator[slice]:
    return (slice(start, start + SLICE_TEXTS) for start in range(0, total, SLICE_TEXTS))


def _check_same_model(nodes: Sequence[BaseNode], dense: FloatArray) -> None:
    rows = [i for i, node in enumerate(nodes) if node.embedding is not None]
    if not rows:
        return
    widths = {len(nodes[i].get_embedding()) for i in rows}
    if widths == {dense.shape[1]}:
        given = unit_rows(np.array([nodes[i].get_embedding() for i in rows], dtype=np.float32))
        if float(np.mean(np.sum(given * dense[rows], axis=1))) > _SAME_MODEL:
            return
    raise InvalidInputError(
        f"nodes: embedded by another model ({sorted(widths)} wide, this index's are {dense.shape[1]}), whose queries "
        f"would be compared with this one's. Fix: embed_model=vector_store.embed_model, or "
        f"BGEM3VectorStore(..., is_embedding_query=False)"
    )
