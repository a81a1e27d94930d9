"""An index of all three heads as LangChain's `DocumentIndex`: a retriever that takes documents."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, UpsertResponse
from langchain_core.indexing.base import DocumentIndex

from bgem3.errors import InvalidInputError
from bgem3.intake import check_ids
from langchain_bgem3.documents import to_document, to_ids, to_metadatas
from langchain_bgem3.search_fields import SearchFields


class BGEM3DocumentIndex(SearchFields, DocumentIndex):
    """Documents that go in, come back by id, and are found by meaning, by words and by details.

    Setup:
        `pip install "bgem3[langchain]"`; `bgem3[chroma]` to keep an index on disk.

    Args:
        index: A `HybridIndex`. All others are the fields of `BGEM3Retriever`.

    Examples:
        Instantiate:
        >>> from bgem3 import HybridIndex, MemoryStore
        >>> documents = BGEM3DocumentIndex(index=HybridIndex(embeddings.encoder, MemoryStore()), k=1)

        Add, get and delete documents:
        >>> documents.upsert([Document("Where is the key?", id="a"), Document("On the moon.", id="b")])
        {'succeeded': ['a', 'b'], 'failed': []}
        >>> [document.page_content for document in documents.get(["b"])]
        ['On the moon.']
        >>> documents.delete(["b"])["num_deleted"]
        1

        Use as Retriever:
        >>> [document.id for document in documents.invoke("Where is the key?")]
        ['a']

    Raises:
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Add documents; one with an existing id is replaced whole.

        Args:
            items: Any number; those without an id get a new one.
            kwargs: None are known.

        Returns:
            All ids as `succeeded`, in order: when it raises, the documents before the failing slice
            of up to 256 are stored and the others are not.

        Raises:
            InvalidInputError, DuplicateIdError, StoreError: as `HybridIndex.add`.
        """
        texts, ids, metadatas = _columns(items, kwargs)
        return UpsertResponse(succeeded=self.index.add(texts, ids=ids, metadatas=metadatas), failed=[])

    async def aupsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:
        """Do what `upsert` does, beside the event loop."""
        texts, ids, metadatas = await asyncio.to_thread(_columns, items, kwargs)
        return UpsertResponse(succeeded=await self.index.aadd(texts, ids=ids, metadatas=metadatas), failed=[])

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Delete documents by id; missing ones are no failure.

        Args:
            ids: Which.
            kwargs: None are known.

        Returns:
            The ids that were there as `succeeded`.

        Raises:
            InvalidInputError: no ids are given.
            StoreError: the store refused the write.
        """
        asked = _checked(ids, kwargs)
        there = [chunk.id for chunk in self.index.get(asked)]
        return _deleted(there, self.index.delete(ids=there))

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> DeleteResponse:
        """Do what `delete` does, beside the event loop."""
        asked = _checked(ids, kwargs)
        there = [chunk.id for chunk in await self.index.aget(asked)]
        return _deleted(there, await self.index.adelete(ids=there))

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:
        """Return the documents that exist, in the order asked."""
        check_no_more(kwargs)
        return [to_document(chunk) for chunk in self.index.get(ids)]

    async def aget(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:
        """Do what `get` does, beside the event loop."""
        check_no_more(kwargs)
        return [to_document(chunk) for chunk in await self.index.aget(ids)]


def check_no_more(kwargs: dict[str, Any]) -> None:
    """Refuse keyword arguments that LangChain's signatures let through.

    Raises:
        InvalidInputError: there are any.
    """
    if kwargs:
        raise InvalidInputError(f"unknown arguments {', '.join(sorted(kwargs))}. Fix: leave them out")


def _columns(
    items: Sequence[Document], kwargs: dict[str, Any]
) -> tuple[list[str], list[str] | None, list[dict[str, Any]] | None]:
    check_no_more(kwargs)
    rows = list(items)  # a loader's `lazy_load()` can be read once
    ids = to_ids([document.id for document in rows])
    return [document.page_content for document in rows], ids, to_metadatas(document.metadata for document in rows)


def _checked(ids: list[str] | None, kwargs: dict[str, Any]) -> list[str]:
    check_no_more(kwargs)
    if ids is None:
        raise InvalidInputError("delete: got no ids, expected a list. Fix: delete(['id'])")
    return list(dict.fromkeys(check_ids(ids)))


def _deleted(ids: list[str], count: int) -> DeleteResponse:
    return DeleteResponse(num_deleted=count, succeeded=ids, failed=[], num_failed=0)
