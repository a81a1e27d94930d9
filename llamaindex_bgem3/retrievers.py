"""Retrieval by all three heads: over an index, or over what another retriever finds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters

from bgem3.errors import InvalidInputError
from bgem3.types import Mode, SearchOptions, Strategy, Weights, make_plan
from llamaindex_bgem3.nodes import node_filter, to_node

if TYPE_CHECKING:
    from bgem3.embeddings import M3Embeddings
    from bgem3.hybrid import HybridIndex
    from bgem3.stores.base import Store
    from llamaindex_bgem3.embeddings import BGEM3Embedding


class BGEM3Retriever(BaseRetriever):
    """Finds nodes in an index. The texts of `QueryBundle.custom_embedding_strs` make one query together.

    Args:
        index: Where nodes live.
        similarity_top_k: Results returned.
        mode: `dense`, `sparse`, `multi_vector` or `hybrid`.
        strategy, fetch_k, weights, rrf_k, exhaustive, cascade: See `HybridIndex.search`.
        filters: Metadata filters.
        doc_ids, node_ids: Only nodes of these source documents, only these nodes.
        callback_manager, object_map, verbose: See `BaseRetriever`.

    Raises:
        InvalidInputError: an option is unknown or out of range.
        InvalidFilterError: a filter has a value its operator cannot take.

    Examples:
        >>> retriever = BGEM3Retriever.from_nodes(nodes, BGEM3Embedding(), similarity_top_k=3)  # doctest: +SKIP
        >>> retriever.retrieve("Where is the key?")  # doctest: +SKIP
    """

    def __init__(
        self,
        index: HybridIndex,
        *,
        similarity_top_k: int = 10,
        mode: Mode = "hybrid",
        strategy: Strategy | None = None,
        fetch_k: int = 100,
        weights: Weights | None = None,
        rrf_k: int = 60,
        exhaustive: bool = False,
        cascade: tuple[int, int] = (100, 20),
        filters: MetadataFilters | None = None,
        doc_ids: Sequence[str] | None = None,
        node_ids: Sequence[str] | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        from llamaindex_bgem3.engine import Engine

        self._engine = Engine(index)
        self._options = SearchOptions(
            k=similarity_top_k,
            mode=mode,
            strategy=strategy,
            fetch_k=fetch_k,
            weights=weights,
            rrf_k=rrf_k,
            exhaustive=exhaustive,
            cascade=cascade,
            where=node_filter(filters, doc_ids=doc_ids, node_ids=node_ids),
        )
        make_plan(self._options)
        super().__init__(callback_manager=callback_manager, object_map=object_map, verbose=verbose)

    @classmethod
    def from_nodes(
        cls, nodes: Sequence[BaseNode], embed_model: BGEM3Embedding, *, store: Store | None = None, **options: Any
    ) -> BGEM3Retriever:
        """Index nodes and retrieve from them.

        Args:
            nodes: Any number.
            embed_model: Its encoder is used.
            store: Where they are kept; None: in memory.
            options: Those of the constructor.

        Raises:
            DuplicateIdError, StoreError: as `BGEM3VectorStore.add`.
        """
        from bgem3.hybrid import HybridIndex
        from bgem3.stores.memory import MemoryStore

        retriever = cls(HybridIndex(embed_model.shared.encoder, store or MemoryStore()), **options)
        retriever._engine.add(nodes)
        return retriever

    @classmethod
    def from_retriever(
        cls,
        retriever: BaseRetriever,
        embed_model: BGEM3Embedding,
        *,
        similarity_top_k: int = 10,
        weights: Weights | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> BaseRetriever:
        """Score what another retriever finds by all three heads.

        Args:
            retriever: Finds candidates; let it find more than `similarity_top_k`.
            embed_model: Its encoder is used.
            similarity_top_k: Results returned.
            weights: How much each head counts; None: `Weights.balanced`.
            callback_manager: See `BaseRetriever`.

        Raises:
            InvalidInputError: `similarity_top_k` is below 1.
        """
        make_plan({"k": similarity_top_k})
        return _RescoringRetriever(
            retriever, embed_model, similarity_top_k, weights or Weights.balanced, callback_manager
        )

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._nodes(self._engine.query(query_bundle.embedding_strs))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = await self._engine.aquery(query_bundle.embedding_strs)
        return await asyncio.to_thread(self._nodes, query)

    def _nodes(self, query: M3Embeddings) -> list[NodeWithScore]:
        hits = self._engine.search(query, **self._options)
        return [NodeWithScore(node=to_node(hit), score=hit.score) for hit in hits]


class _RescoringRetriever(BaseRetriever):
    """Candidates of another retriever, in the order of all three heads."""

    def __init__(
        self,
        retriever: BaseRetriever,
        embed_model: BGEM3Embedding,
        top_k: int,
        weights: Weights,
        callback_manager: CallbackManager | None,
    ) -> None:
        self._retriever = retriever
        self._shared = embed_model.shared
        self._top_k = top_k
        self._weights = weights
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = self._retriever.retrieve(query_bundle)
        return self._ranked(query_bundle, found, self._shared.encoder.encode(_texts(query_bundle, found)))

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        found = await self._retriever.aretrieve(query_bundle)
        embeddings = await self._shared.encoder.aencode(_texts(query_bundle, found))
        return await asyncio.to_thread(self._ranked, query_bundle, found, embeddings)

    def _ranked(
        self, query_bundle: QueryBundle, found: list[NodeWithScore], embeddings: M3Embeddings
    ) -> list[NodeWithScore]:
        from bgem3.scoring import score
        from llamaindex_bgem3.engine import join_queries

        if not found:
            return []
        asked = len(query_bundle.embedding_strs)
        scores = score(join_queries(embeddings[:asked]), embeddings[asked:]).combine(self._weights)[0].tolist()
        order = sorted(range(len(found)), key=lambda i: -scores[i])[: self._top_k]
        return [NodeWithScore(node=found[i].node, score=scores[i]) for i in order]


def _texts(query_bundle: QueryBundle, found: list[NodeWithScore]) -> list[str]:
    if not query_bundle.embedding_strs:
        raise InvalidInputError("query: got no text. Fix: query_str='...'")
    return [*query_bundle.embedding_strs, *(one.node.get_content(metadata_mode=MetadataMode.EMBED) for one in found)]
