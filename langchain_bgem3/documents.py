"""Documents of LangChain and chunks of ours, each way; nothing that a caller holds is changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from typing import Any, Self
from uuid import uuid4

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore

from bgem3.errors import InvalidInputError
from bgem3.types import Chunk, Head, Hit, Ranked


def to_document(chunk: Chunk | Hit) -> Document:
    """Return a stored chunk as a document of its own."""
    return Document(id=chunk.id, page_content=chunk.text, metadata=deepcopy(dict(chunk.metadata)))


def hit_document(hit: Hit, *, head_scores: bool = False) -> Document:
    """Return a hit as a document with its score in `metadata["relevance_score"]`."""
    return _scored(to_document(hit), hit.score, hit.scores if head_scores else None)


def ranked_document(document: Document, ranked: Ranked, *, head_scores: bool = False) -> Document:
    """Return a copy of a reranked document with its score in `metadata["relevance_score"]`."""
    copy = document.model_copy(deep=True)
    return _scored(copy, ranked.score, ranked.scores if head_scores else None)


def _scored(document: Document, score: float, scores: Mapping[Head, float] | None) -> Document:
    document.metadata["relevance_score"] = score
    if scores is not None:
        document.metadata["scores"] = dict(scores)
    return document


def to_ids(ids: Sequence[str | None] | None) -> list[str] | None:
    """Return ids, new where one is None; without any, and a list of another length, are the index's business.

    Raises:
        InvalidInputError: it is one id, or a set.
    """
    if ids is None:
        return None
    if isinstance(ids, str):
        raise InvalidInputError(f"ids: expected a list of strings, got one str. Fix: [{ids!r}]")
    if isinstance(ids, set | frozenset):
        raise InvalidInputError("ids: got a set, which has no order, expected a list. Fix: ids=sorted(ids)")
    return [str(uuid4()) if one is None else one for one in ids]


def to_metadatas(metadatas: Iterable[Mapping[str, Any] | None] | None) -> list[dict[str, Any]] | None:
    """Return copies of metadata, which the caller may go on changing; what is none is the index's to refuse."""
    return None if metadatas is None else [_copied(one) for one in metadatas]


def _copied(metadata: Any) -> Any:
    if metadata is None:
        return {}
    return deepcopy(dict(metadata)) if isinstance(metadata, Mapping) else metadata


class TakesAnyDocuments(VectorStore):
    """Reads an iterable of documents once, such as a loader's `lazy_load()`; LangChain's own methods read it three times."""

    def add_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """Add documents; arguments, result and errors are those of `add_texts`."""
        return super().add_documents(list(documents), **kwargs)

    async def aadd_documents(self, documents: Iterable[Document], **kwargs: Any) -> list[str]:
        """Do what `add_documents` does, beside the event loop."""
        return await super().aadd_documents(await asyncio.to_thread(list, documents), **kwargs)

    @classmethod
    def from_documents(cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any) -> Self:
        """Make a store and add documents; `kwargs` and errors are those of `from_texts`."""
        return super().from_documents(list(documents), embedding, **kwargs)

    @classmethod
    async def afrom_documents(cls, documents: Iterable[Document], embedding: Embeddings, **kwargs: Any) -> Self:
        """Do what `from_documents` does, beside the event loop."""
        return await super().afrom_documents(await asyncio.to_thread(list, documents), embedding, **kwargs)
