"""An index of all three heads as a LlamaIndex vector store."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.indices.query.embedding_utils import get_top_k_mmr_embeddings
from llama_index.core.schema import BaseNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from bgem3.errors import BGEM3Warning, InvalidInputError
from bgem3.types import Hit, Lexical, SearchOptions, Strategy, Weights, check_choice
from llamaindex_bgem3.nodes import EVERYTHING, node_filter, to_node

if TYPE_CHECKING:
    from bgem3.embeddings import M3Embeddings
    from bgem3.hybrid import HybridIndex
    from bgem3.stores.base import Store
    from llamaindex_bgem3.embeddings import BGEM3Embedding
    from llamaindex_bgem3.engine import Engine

_DENSE = (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR)
_SPARSE = (VectorStoreQueryMode.SPARSE, VectorStoreQueryMode.TEXT_SEARCH)
_MODES = (*_DENSE, *_SPARSE, VectorStoreQueryMode.HYBRID)


class BGEM3VectorStore(BasePydanticVectorStore):
    """Dense, sparse and hybrid search over one index, in memory or on Chroma.

    Beside a `BGEM3Embedding` over the same encoder a text costs one forward pass at ingestion, and
    a hybrid query one. With chunks of 512 tokens and more, hand over fewer than LlamaIndex's 2,048
    at once (`VectorStoreIndex(insert_batch_size=256)`): what embedding remembers for storing is
    kept within 2 GiB, and what falls out is encoded again.

    Modes: `default` by the dense head, `sparse` and `text_search` by the sparse head, `hybrid` by
    all three, `mmr` by the dense head with less repetition.

    Args:
        index: Where nodes live. `index.close()` closes it.
        is_embedding_query: Take the dense vector of a query from the index's embedding model, so that
            query transforms (HyDE) count. False: the store encodes queries itself, and the
            embedding model may be a mock.
        weights: How much each head counts in hybrid mode where the query names no `alpha`; see
            `HybridIndex.search`.
        multi_vector_weight: What the multi-vector head counts beside `alpha` for dense and
            `1 - alpha` for sparse. `alpha` 1 is the dense head alone, 0 the sparse head alone.
        strategy: How hybrid joins the heads; see `HybridIndex.search`.
        fetch_k: Candidates taken from dense and from sparse.
        rrf_k: Dampens the first ranks under `strategy="rrf"`.

    Raises:
        pydantic.ValidationError: an option is out of range, or of another type.

    Examples:
        >>> embed_model = BGEM3Embedding()  # doctest: +SKIP
        >>> vector_store = BGEM3VectorStore.from_store(ChromaStore("./db"), embed_model)  # doctest: +SKIP
        >>> storage = StorageContext.from_defaults(vector_store=vector_store)  # doctest: +SKIP
        >>> index = VectorStoreIndex.from_documents(  # doctest: +SKIP
        ...     documents, storage_context=storage, embed_model=embed_model
        ... )
        >>> index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=5)  # doctest: +SKIP
    """

    stores_text: bool = True
    is_embedding_query: bool = True
    flat_metadata: bool = False
    weights: Weights | None = None
    # The balanced preset's share beside dense and sparse: 1 / (1 + 0.3).
    multi_vector_weight: float = Field(default=0.77, ge=0)
    strategy: Strategy | None = None
    fetch_k: int = Field(default=100, ge=1)
    rrf_k: int = Field(default=60, ge=1)

    _engine: Any = PrivateAttr()

    def __init__(
        self,
        index: HybridIndex,
        *,
        is_embedding_query: bool = True,
        weights: Weights | None = None,
        multi_vector_weight: float = 0.77,
        strategy: Strategy | None = None,
        fetch_k: int = 100,
        rrf_k: int = 60,
    ) -> None:
        from llamaindex_bgem3.engine import Engine

        fields: dict[str, Any] = {
            "is_embedding_query": is_embedding_query,
            "weights": weights,
            "multi_vector_weight": multi_vector_weight,
            "strategy": strategy,
            "fetch_k": fetch_k,
            "rrf_k": rrf_k,
        }
        super().__init__(**fields)
        self._engine = Engine(index)

    @classmethod
    def from_store(
        cls, store: Store, embed_model: BGEM3Embedding, *, lexical: Lexical = "m3", **options: Any
    ) -> BGEM3VectorStore:
        """Open a store with the model of an embedding; both then share every forward pass.

        Args:
            store: E.g. `ChromaStore("./db")` or `MemoryStore()`.
            embed_model: Its encoder is used.
            lexical: What the sparse head is; see `HybridIndex`.
            options: Those of the constructor.

        Raises:
            IndexMismatchError, StoreError: as `HybridIndex`.
        """
        from bgem3.hybrid import HybridIndex

        return cls(HybridIndex(embed_model.shared.encoder, store, lexical=lexical), **options)

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex stores with a serialised object."""
        return "BGEM3VectorStore"

    @property
    def client(self) -> HybridIndex:
        """The index."""
        engine: Engine = self._engine
        return engine.index

    @property
    def embed_model(self) -> BGEM3Embedding:
        """An embedding model over the index's encoder, for `VectorStoreIndex(embed_model=)`."""
        from llamaindex_bgem3.embeddings import BGEM3Embedding

        return BGEM3Embedding.from_encoder(self.client.encoder)

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Encode and store nodes with all heads; one with an existing id replaces that node whole.

        Raises:
            DuplicateIdError: an id stands twice in the call.
            InvalidInputError: the nodes were embedded by another model.
            StoreError: the store refused the write.
        """
        return self._own.add(nodes, same_model=self.is_embedding_query)

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Do what `add` does, beside the event loop."""
        return await self._own.aadd(nodes, same_model=self.is_embedding_query)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Return nodes, their scores and ids, best first; a higher score is better.

        A score is the head's own in the one-head modes and the weighted mean in hybrid mode.
        `sparse_top_k` raises the candidates, `hybrid_top_k` is the number of hybrid results.

        Raises:
            InvalidInputError: a mode or an `alpha` this store has not, or an embedding of another width.
            InvalidFilterError: a filter has a value its operator cannot take.
        """
        self._check(query)
        return self._answer(query, self._own.query(*self._asked(query)))

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Do what `query` does, beside the event loop."""
        self._check(query)
        embeddings = await self._own.aquery(*self._asked(query))
        return await asyncio.to_thread(self._answer, query, embeddings)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Return nodes by id, in the order asked, by filter, or by both; all of them without either.

        Raises:
            InvalidFilterError: a filter has a value its operator cannot take.
        """
        where = node_filter(filters)
        if node_ids is None:
            ids = self.client.store.find(EVERYTHING if where is None else where)
        elif where is None:
            ids = node_ids
        else:
            found = set(self.client.store.find(where))
            ids = [one for one in node_ids if one in found]
        return [to_node(chunk) for chunk in self.client.get(ids)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Do what `get_nodes` does, beside the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document; an unknown one changes nothing."""
        self.client.delete(where=node_filter(doc_ids=[ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Do what `delete` does, beside the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or those that both name; missing ids are ignored.

        Raises:
            InvalidInputError: neither is given; `clear` deletes everything.
        """
        where = node_filter(filters)
        if node_ids is None and where is None:
            raise InvalidInputError("delete_nodes: got neither node_ids nor filters. Fix: clear() deletes everything")
        if where is None:
            self.client.delete(ids=node_ids)
        elif node_ids is None:
            self.client.delete(where=where)
        elif node_ids:
            self.client.delete(where=node_filter(filters, node_ids=node_ids))

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Do what `delete_nodes` does, beside the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete every node."""
        self.client.delete(where=EVERYTHING)

    async def aclear(self) -> None:
        """Do what `clear` does, beside the event loop."""
        await asyncio.to_thread(self.clear)

    def persist(self, persist_path: str, fs: Any = None) -> None:
        """Do nothing: a store on disk is saved by every call. Warns where the store is in memory."""
        from bgem3.stores.memory import MemoryStore

        if isinstance(self.client.store, MemoryStore):
            warnings.warn(
                "persist: MemoryStore is not kept on disk. Fix: use ChromaStore, or BGEM3Index.persist",
                BGEM3Warning,
                stacklevel=2,
            )

    def __getstate__(self) -> NoReturn:
        raise TypeError("BGEM3VectorStore: an open index cannot be sent to another process. Fix: open it there")

    @property
    def _own(self) -> Engine:
        engine: Engine = self._engine
        return engine

    def _check(self, query: VectorStoreQuery) -> None:
        mode = getattr(query.mode, "value", query.mode)  # LlamaIndex lets a string through
        check_choice("mode", mode, [one.value for one in _MODES])
        if query.alpha is not None and not 0 <= query.alpha <= 1:
            raise InvalidInputError(f"alpha: got {query.alpha}, expected 0 (sparse) to 1 (dense). Fix: alpha=0.5")
        if query.query_str is None and query.mode not in _DENSE:
            raise InvalidInputError(f"query_str: mode {mode!r} needs the query's text. Fix: query_str='...'")

    def _asked(self, query: VectorStoreQuery) -> tuple[list[str], list[float] | None]:
        """Return the texts to encode and the dense vector to use."""
        texts = [] if query.query_str is None else [query.query_str]
        return texts, query.query_embedding if self.is_embedding_query or not texts else None

    def _answer(self, query: VectorStoreQuery, embeddings: M3Embeddings) -> VectorStoreQueryResult:
        if query.mode == VectorStoreQueryMode.MMR:
            hits = self._less_repetition(query, embeddings)
        else:
            hits = self._own.search(embeddings, **self._options(query))
        return VectorStoreQueryResult(
            nodes=[to_node(hit) for hit in hits], similarities=[hit.score for hit in hits], ids=[hit.id for hit in hits]
        )

    def _options(self, query: VectorStoreQuery) -> SearchOptions:
        where = node_filter(query.filters, doc_ids=query.doc_ids, node_ids=query.node_ids)
        k = query.similarity_top_k
        options = SearchOptions(k=k, fetch_k=max(self.fetch_k, query.sparse_top_k or 0), where=where)
        if query.mode in _SPARSE:
            return {**options, "mode": "sparse", "k": query.sparse_top_k or k}
        if query.mode in _DENSE:
            return {**options, "mode": "dense"}
        options = {**options, "k": query.hybrid_top_k or k}
        if query.alpha in (0, 1):
            return {**options, "mode": "dense" if query.alpha else "sparse"}
        weights = self.weights
        if query.alpha is not None:
            weights = Weights(dense=query.alpha, sparse=1 - query.alpha, multi_vector=self.multi_vector_weight)
        return {**options, "mode": "hybrid", "strategy": self.strategy, "weights": weights, "rrf_k": self.rrf_k}

    def _less_repetition(self, query: VectorStoreQuery, embeddings: M3Embeddings) -> list[Hit]:
        """Choose among the dense candidates those near the query and far from each other."""
        k = query.similarity_top_k
        options: SearchOptions = {**self._options(query), "k": max(4 * k, 20)}
        hits = self._own.search(embeddings, **options)
        vectors = self.client.dense_vectors([hit.id for hit in hits])
        there = [hit for hit in hits if hit.id in vectors]
        _, chosen = get_top_k_mmr_embeddings(
            embeddings.dense[0].tolist(),
            [vectors[hit.id].tolist() for hit in there],
            similarity_fn=lambda left, right: float(np.dot(left, right)),
            similarity_top_k=k,
            mmr_threshold=query.mmr_threshold,
        )
        return [there[i] for i in chosen]
