"""Reordering of retrieved nodes by all three heads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from llama_index.core.bridge.pydantic import Field
from llama_index.core.callbacks.schema import CBEventType, EventPayload
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from llama_index_instrumentation import get_dispatcher

from bgem3.errors import InvalidInputError
from bgem3.types import Ranked, Weights
from llamaindex_bgem3.settings import EncoderSettings

if TYPE_CHECKING:
    from bgem3.rerank import Reranker

_dispatcher = get_dispatcher(__name__)


class BGEM3Rerank(EncoderSettings, BaseNodePostprocessor):
    """Scores each node against the query by the weighted mean of the heads, and keeps the best.

    Nodes that come in are not changed.

    Args:
        model_name: A hub id or a folder; `model` means the same.
        top_n: Nodes kept.
        weights: How much each head counts.
        keep_retrieval_score: Keep the score a node came with in `metadata["retrieval_score"]`.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: the model cannot be loaded.

    Examples:
        >>> index.as_query_engine(similarity_top_k=50, node_postprocessors=[BGEM3Rerank(top_n=5)])  # doctest: +SKIP
    """

    top_n: int = Field(default=5, ge=1, description="Nodes kept.")
    weights: Weights = Field(default=Weights.balanced, description="How much each head counts.")
    keep_retrieval_score: bool = Field(default=False, description="Keep the former score in the metadata.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex stores with a serialised object."""
        return "BGEM3Rerank"

    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _required(query_bundle)
        with self._events(nodes, query) as done:
            done.extend(self._kept(nodes, self._reranker.rerank(query.query_str, _texts(nodes), top_n=self.top_n)))
        return done

    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = _required(query_bundle)
        with self._events(nodes, query) as done:
            ranked = await self._reranker.arerank(query.query_str, _texts(nodes), top_n=self.top_n)
            done.extend(self._kept(nodes, ranked))
        return done

    @property
    def _reranker(self) -> Reranker:
        from bgem3.rerank import Reranker

        return Reranker(self.shared.encoder, weights=self.weights)

    def _kept(self, nodes: list[NodeWithScore], ranked: list[Ranked]) -> list[NodeWithScore]:
        return [self._copy(nodes[one.index], one.score) for one in ranked]

    def _copy(self, node: NodeWithScore, score: float) -> NodeWithScore:
        if not self.keep_retrieval_score:
            return NodeWithScore(node=node.node, score=score)
        metadata = {**node.node.metadata, "retrieval_score": node.score}
        return NodeWithScore(node=node.node.model_copy(update={"metadata": metadata}), score=score)

    @contextmanager
    def _events(self, nodes: list[NodeWithScore], query: QueryBundle) -> Iterator[list[NodeWithScore]]:
        """Tell LlamaIndex's observers of the start and the end; yields the list to fill."""
        _dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=self.top_n, model_name=self.model_name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: self.model_name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: self.top_n,
        }
        done: list[NodeWithScore] = []
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield done
            event.on_end(payload={EventPayload.NODES: done})
        _dispatcher.event(ReRankEndEvent(nodes=done))


def _required(query_bundle: QueryBundle | None) -> QueryBundle:
    if query_bundle is None:
        raise InvalidInputError("query_bundle: reranking needs the query, got None. Fix: query_str='...'")
    return query_bundle


def _texts(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node.get_content(metadata_mode=MetadataMode.EMBED) for node in nodes]
