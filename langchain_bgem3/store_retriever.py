"""The retriever of our vector store: LangChain's three search types, and one for each mode."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.vectorstores import VectorStoreRetriever

from bgem3.types import MODES


class BGEM3VectorStoreRetriever(VectorStoreRetriever):
    """What `BGEM3VectorStore.as_retriever` returns.

    `search_type` is `similarity` (the store's own mode), `similarity_score_threshold`, `mmr`, or
    `hybrid`, `dense`, `sparse`, `multi_vector`. `search_kwargs` are the options of
    `BGEM3VectorStore.similarity_search`.

    Examples:
        >>> from langchain_bgem3 import BGEM3VectorStore
        >>> store = BGEM3VectorStore.from_texts(["Under the mat.", "On the moon."], embeddings)
        >>> retriever = store.as_retriever(search_type="hybrid", search_kwargs={"k": 1})
        >>> len(retriever.invoke("Where is the key?"))
        1
    """

    allowed_search_types: ClassVar[Collection[str]] = (*VectorStoreRetriever.allowed_search_types, *MODES)

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return self.vectorstore.search(query, self.search_type, **(self.search_kwargs | kwargs))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return await self.vectorstore.asearch(query, self.search_type, **(self.search_kwargs | kwargs))
