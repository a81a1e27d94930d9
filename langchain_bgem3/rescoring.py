"""All three heads over the candidates of a store or retriever that knows none, or one, of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, LangSmithRetrieverParams
from langchain_core.vectorstores import VectorStore
from pydantic import ConfigDict, Field, SkipValidation

from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError
from bgem3.rerank import Reranker
from bgem3.types import make_plan
from langchain_bgem3.documents import ranked_document
from langchain_bgem3.indexing import check_no_more
from langchain_bgem3.options import WeightsLike, to_weights
from langchain_bgem3.settings import EncoderSettings


class BGEM3RescoringRetriever(BaseRetriever):
    """What `BGEM3Retriever.from_vectorstore` returns; every field but the first two may be given to `invoke` for one call.

    Examples:
        >>> from langchain_core.vectorstores import InMemoryVectorStore
        >>> from langchain_bgem3 import BGEM3Retriever
        >>> store = InMemoryVectorStore.from_texts(["Where is the key?", "On the moon."], embeddings)
        >>> retriever = BGEM3Retriever.from_vectorstore(store, fetch_k=20, k=1)
        >>> [document.page_content for document in retriever.invoke("Where is the key?")]
        ['Where is the key?']
    """

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    source: SkipValidation[VectorStore | BaseRetriever] = Field(description="Finds candidates.")
    encoder: SkipValidation[M3Encoder] = Field(description="Scores them.")
    k: SkipValidation[int] = Field(default=4, description="Documents returned.")
    fetch_k: SkipValidation[int] = Field(default=20, description="Candidates asked for.")
    weights: SkipValidation[WeightsLike | None] = Field(default=None, description="How much each head counts.")
    filter: SkipValidation[Any] = Field(default=None, description="In the vector store's own language.")
    head_scores: bool = Field(default=False, description="Put the score of each head into metadata['scores'].")

    if not TYPE_CHECKING:  # type checkers take the signature from the fields

        def __init__(self, **fields: Any) -> None:
            # Not in a validator: pydantic would wrap our errors.
            super().__init__(**fields)
            if not isinstance(self.source, (VectorStore, BaseRetriever)):
                raise InvalidInputError(
                    f"vectorstore: got {type(self.source).__name__}, expected a VectorStore or a BaseRetriever. Fix: vectorstore=one of them"
                )
            self._depth(self.k, self.fetch_k)
            self._wanted(self.filter)
            to_weights(self.weights)

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        weights: WeightsLike | None = None,
        filter: Any = None,
        head_scores: bool | None = None,
        **unknown: Any,
    ) -> list[Document]:
        check_no_more(unknown)
        k = self.k if k is None else k
        depth = self._depth(k, fetch_k)
        wanted = self._wanted(filter)
        if isinstance(self.source, VectorStore):
            found = self.source.similarity_search(query, k=depth, **wanted)
        else:
            found = self.source.invoke(query, {"callbacks": run_manager.get_child()})[:depth]
        ranked = self._reranker(weights).rerank(query, _texts(found), top_n=k)
        shown = self.head_scores if head_scores is None else head_scores
        return [ranked_document(found[one.index], one, head_scores=shown) for one in ranked]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        fetch_k: int | None = None,
        weights: WeightsLike | None = None,
        filter: Any = None,
        head_scores: bool | None = None,
        **unknown: Any,
    ) -> list[Document]:
        check_no_more(unknown)
        k = self.k if k is None else k
        depth = self._depth(k, fetch_k)
        wanted = self._wanted(filter)
        if isinstance(self.source, VectorStore):
            found = await self.source.asimilarity_search(query, k=depth, **wanted)
        else:
            found = (await self.source.ainvoke(query, {"callbacks": run_manager.get_child()}))[:depth]
        ranked = await self._reranker(weights).arerank(query, _texts(found), top_n=k)
        shown = self.head_scores if head_scores is None else head_scores
        return [ranked_document(found[one.index], one, head_scores=shown) for one in ranked]

    def _depth(self, k: int, fetch_k: int | None) -> int:
        depth = self.fetch_k if fetch_k is None else fetch_k
        make_plan({"k": k, "fetch_k": depth})
        return max(k, depth)

    def _wanted(self, asked: Any) -> dict[str, Any]:
        """Return the filter as the vector store's keyword argument."""
        chosen = self.filter if asked is None else asked
        if chosen is None:
            return {}
        if not isinstance(self.source, VectorStore):
            raise InvalidInputError(
                f"filter: {type(self.source).__name__} takes none at this place. Fix: give it to that retriever"
            )
        return {"filter": chosen}

    def _reranker(self, weights: WeightsLike | None) -> Reranker:
        return Reranker(self.encoder, weights=to_weights(self.weights if weights is None else weights))

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        params = super()._get_ls_params(**kwargs)
        params["ls_vector_store_provider"] = type(self.source).__name__
        params["ls_embedding_provider"] = "BGEM3Embeddings"
        params["ls_embedding_model"] = str(self.encoder.describe()["model"])
        return params


def fitting_encoder(source: object, embedding: EncoderSettings | None) -> M3Encoder:
    """Return the encoder to score with: that of `embedding`, else that of the vector store's own model.

    Raises:
        InvalidInputError: neither is BGE-M3.
    """
    model = embedding if embedding is not None else getattr(source, "embeddings", None)
    if not isinstance(model, EncoderSettings):
        raise InvalidInputError(
            f"embedding: got {type(model).__name__}, expected BGEM3Embeddings. "
            f"Fix: from_vectorstore(vectorstore, embedding=BGEM3Embeddings())"
        )
    return model.encoder


def _texts(documents: list[Document]) -> list[str]:
    return [document.page_content for document in documents]
