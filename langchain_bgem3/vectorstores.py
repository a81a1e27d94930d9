"""An index of all three heads as a LangChain vector store."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings

from bgem3.embeddings import M3Embeddings, unit_row
from bgem3.errors import InvalidInputError
from bgem3.intake import check_stream
from bgem3.types import MODES, Hit, Lexical, Mode, SearchOptions, Strategy
from langchain_bgem3.diversity import most_diverse, pool_size
from langchain_bgem3.documents import TakesAnyDocuments, to_document, to_ids, to_metadatas
from langchain_bgem3.indexing import check_no_more
from langchain_bgem3.opening import DEFAULT_COLLECTION, dense_only_model, embedding_of, open_index
from langchain_bgem3.options import WeightsLike, comparable, relevance, to_options
from langchain_bgem3.search_fields import check_index, check_mode
from langchain_bgem3.store_retriever import BGEM3VectorStoreRetriever

if TYPE_CHECKING:
    from bgem3.hybrid import HybridIndex
    from bgem3.stores.base import Store
    from langchain_bgem3.settings import EncoderSettings


class BGEM3VectorStore(TakesAnyDocuments):
    """Dense, sparse, multi-vector and hybrid search over one index, in memory or on Chroma.

    A text costs one forward pass when it is added, and so does a query, whatever the mode. Any other
    embedding model works too, by its dense vectors and in dense mode only.

    Setup:
        `pip install "bgem3[langchain]"`; `bgem3[chroma]` to keep it on disk.

    Args:
        embedding: `BGEM3Embeddings`, or another embedding model.
        index: An open `HybridIndex` instead of the embedding and the four that follow.
        store: Where chunks live, e.g. `ChromaStore(client=..., sidecar=...)`; None: in memory.
        persist_directory, collection_name: Folder of an embedded Chroma, and the collection there.
        lexical: What the sparse head is: `m3` or `bm25`; see `HybridIndex`.
        mode: Of a search that names none; None: `hybrid`, or `dense` for other embedding models.
        strategy, weights, fetch_k: Of a search that names none; see `HybridIndex.search`.

    Examples:
        Instantiate:
        >>> store = BGEM3VectorStore(embeddings)
        >>> store = BGEM3VectorStore(embeddings, persist_directory="./db")  # doctest: +SKIP

        Add Documents:
        >>> documents = [Document("Where is the key?", metadata={"lang": "en"}), Document("On the moon.")]
        >>> store.add_documents(documents, ids=["a", "b"])
        ['a', 'b']

        Search:
        >>> [found.id for found in store.similarity_search("Where is the key?", k=1)]
        ['a']

        Search with filter:
        >>> [found.id for found in store.similarity_search("moon", filter={"lang": {"$ne": "en"}}, mode="dense")]
        ['b']

        Search with score:
        >>> [(found, score)] = store.similarity_search_with_score("Where is the key?", k=1)
        >>> score > 0.5
        True

        Delete Documents:
        >>> store.delete(["b"])
        True

        Async:
        >>> found = await store.asimilarity_search("key", k=1)  # doctest: +SKIP

        Use as Retriever:
        >>> retriever = store.as_retriever(search_type="hybrid", search_kwargs={"k": 1, "fetch_k": 50})

    Raises:
        InvalidInputError: an option is unknown or out of range.
        IndexMismatchError, StoreError: as `HybridIndex`.
    """

    def __init__(
        self,
        embedding: Embeddings | EncoderSettings | None = None,
        *,
        index: HybridIndex | None = None,
        store: Store | None = None,
        persist_directory: str | Path | None = None,
        collection_name: str = DEFAULT_COLLECTION,
        lexical: Lexical = "m3",
        mode: Mode | None = None,
        strategy: Strategy | None = None,
        weights: WeightsLike | None = None,
        fetch_k: int = 100,
    ) -> None:
        if (embedding is None) == (index is None):
            raise InvalidInputError(
                "BGEM3VectorStore: expected exactly one of embedding and index. Fix: BGEM3VectorStore(BGEM3Embeddings())"
            )
        self._defaults = {"strategy": strategy, "weights": weights, "fetch_k": fetch_k, "mode": mode or "hybrid"}
        to_options(self._defaults)
        if index is None:
            assert embedding is not None  # exactly one is there
            index = open_index(
                embedding,
                store=store,
                persist_directory=persist_directory,
                collection_name=collection_name,
                lexical=lexical,
            )
        elif (store, persist_directory, collection_name, lexical) != (None, None, DEFAULT_COLLECTION, "m3"):
            raise InvalidInputError("index: it has a store and a lexical, got another beside it. Fix: leave that out")
        self.index = check_index(index)
        if mode is None and dense_only_model(index):
            self._defaults["mode"] = "dense"
        self._embedding = embedding if isinstance(embedding, Embeddings) else embedding_of(index)

    @property
    def embeddings(self) -> Embeddings:
        """The embedding model of the dense head."""
        return self._embedding

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Make a store and add texts; `kwargs` and errors are those of the constructor and of `add_texts`."""
        made = cls(embedding, **kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made

    @classmethod
    async def afrom_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> Self:
        """Do what `from_texts` does, beside the event loop."""
        made = await asyncio.to_thread(lambda: cls(embedding, **kwargs))
        await made.aadd_texts(texts, metadatas, ids=ids)
        return made

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts; one with an existing id is replaced whole, metadata and all.

        Args:
            texts: Any number.
            metadatas: One a text: str, int, float, bool, or lists of one of them.
            ids: One a text, None where a new one is wanted; None: new ones.
            batch_size: Accepted for LangChain's `index`; batches are made by tokens.
            show_progress: Show a bar over the texts.
            kwargs: None are known.

        Returns:
            The ids, in order.

        Raises:
            InvalidInputError, DuplicateIdError, StoreError: as `HybridIndex.add`.
        """
        check_no_more(kwargs)
        rows = list(check_stream(texts))
        return self.index.add(
            rows, ids=to_ids(ids), metadatas=to_metadatas(metadatas or None), show_progress=show_progress
        )

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        batch_size: int | None = None,
        show_progress: bool = False,
        **kwargs: Any,
    ) -> list[str]:
        """Do what `add_texts` does, beside the event loop."""
        check_no_more(kwargs)
        rows = await asyncio.to_thread(list, check_stream(texts))
        return await self.index.aadd(
            rows, ids=to_ids(ids), metadatas=to_metadatas(metadatas or None), show_progress=show_progress
        )

    def delete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Delete documents by `ids` or by `filter`; missing ids are ignored.

        Raises:
            InvalidInputError: not exactly one of the two.
            InvalidFilterError: the filter does not follow the grammar.
            StoreError: the store refused the write.
        """
        where = kwargs.pop("filter", None)
        check_no_more(kwargs)
        self.index.delete(ids=ids, where=where)
        return True

    async def adelete(self, ids: list[str] | None = None, **kwargs: Any) -> bool:
        """Do what `delete` does, beside the event loop."""
        return await asyncio.to_thread(lambda: self.delete(ids, **kwargs))

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Return the documents that exist, in the order asked."""
        return [to_document(chunk) for chunk in self.index.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Do what `get_by_ids` does, beside the event loop."""
        return [to_document(chunk) for chunk in await self.index.aget(ids)]

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents that answer a query, best first.

        Args:
            query: A text in any language.
            k: Documents returned, fewer only where fewer match.
            kwargs: `filter` is a metadata filter, e.g. `{"lang": "zh"}`; `mode`, `strategy`, `fetch_k`,
                `weights`, `rrf_k`, `exhaustive` and `cascade` are those of `HybridIndex.search`.

        Raises:
            InvalidInputError: an option is unknown or out of range.
            InvalidFilterError: the filter does not follow the grammar.
        """
        return [to_document(hit) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """Do what `similarity_search` does, beside the event loop."""
        return [to_document(hit) for hit in await self._asearch(query, k, kwargs)]

    def similarity_search_with_score(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        """Return documents and their scores, higher is better; arguments are those of `similarity_search`.

        A score is the head's own in a one-head mode, the weighted mean in hybrid mode (about -1 to 1).
        """
        return [(to_document(hit), hit.score) for hit in self._search(query, k, kwargs)]

    async def asimilarity_search_with_score(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """Do what `similarity_search_with_score` does, beside the event loop."""
        return [(to_document(hit), hit.score) for hit in await self._asearch(query, k, kwargs)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Return the documents nearest to a dense vector, best first; `kwargs` may have a `filter`.

        Raises:
            InvalidInputError: the vector has another width than the index, or zero length.
        """
        return [to_document(hit) for hit in self._nearest(embedding, k, kwargs)]

    async def asimilarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """Do what `similarity_search_by_vector` does, beside the event loop."""
        return await asyncio.to_thread(lambda: self.similarity_search_by_vector(embedding, k, **kwargs))

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Return documents that answer a query and are unlike each other.

        Relevance is the score of the mode that searches, likeness the dense vectors' cosine.

        Args:
            query: A text in any language.
            k: Documents returned.
            fetch_k: Documents to choose from.
            lambda_mult: 1 is relevance alone, 0 diversity alone.
            kwargs: Those of `similarity_search`, as the errors are.
        """
        options = self._options(pool_size(k, fetch_k), kwargs)
        return self._diverse(self.index.search(query, **options), options, k, lambda_mult)

    async def amax_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do what `max_marginal_relevance_search` does, beside the event loop."""
        options = self._options(pool_size(k, fetch_k), kwargs)
        hits = await self.index.asearch(query, **options)
        return await asyncio.to_thread(self._diverse, hits, options, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do what `max_marginal_relevance_search` does, for a dense vector."""
        return self._diverse(self._nearest(embedding, pool_size(k, fetch_k), kwargs), {"mode": "dense"}, k, lambda_mult)

    async def amax_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Do what `max_marginal_relevance_search_by_vector` does, beside the event loop."""
        return await asyncio.to_thread(
            lambda: self.max_marginal_relevance_search_by_vector(embedding, k, fetch_k, lambda_mult, **kwargs)
        )

    def search(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Search by LangChain's types or by a mode.

        Args:
            query: A text in any language.
            search_type: `similarity`, `similarity_score_threshold`, `mmr`, or `hybrid`, `dense`,
                `sparse`, `multi_vector`.
            kwargs: Those of the method behind it.
        """
        if search_type in MODES:
            return self.similarity_search(query, **{**kwargs, "mode": search_type})
        return super().search(query, search_type, **kwargs)

    async def asearch(self, query: str, search_type: str, **kwargs: Any) -> list[Document]:
        """Do what `search` does, beside the event loop."""
        if search_type in MODES:
            return await self.asimilarity_search(query, **{**kwargs, "mode": search_type})
        return await super().asearch(query, search_type, **kwargs)

    def as_retriever(self, **kwargs: Any) -> BGEM3VectorStoreRetriever:
        """Return a retriever; `search_type` may also be a mode, e.g. `search_type="hybrid"`.

        Args:
            kwargs: `search_type`, `search_kwargs` (the options of `similarity_search`), `tags`.
        """
        tags = [*(kwargs.pop("tags", None) or []), *self._get_retriever_tags()]
        return BGEM3VectorStoreRetriever(vectorstore=self, tags=tags, **kwargs)

    def close(self) -> None:
        """Close the store and give back its files and locks. A second call does nothing."""
        self.index.close()

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        plan = self.index.plan(**to_options(self._defaults))
        return lambda score: relevance(score, plan)

    def _similarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        options = self._options(k, kwargs)
        return self._relevant(self.index.search(query, **options), options)

    async def _asimilarity_search_with_relevance_scores(
        self, query: str, k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        options = self._options(k, kwargs)
        return self._relevant(await self.index.asearch(query, **options), options)

    def _relevant(self, hits: Sequence[Hit], options: SearchOptions) -> list[tuple[Document, float]]:
        plan = self.index.plan(**options)
        return [(to_document(hit), relevance(hit.score, plan)) for hit in hits]

    def _options(self, k: int, kwargs: dict[str, Any]) -> SearchOptions:
        options = to_options({**self._defaults, **kwargs, "k": k})
        check_mode(self.index, options)
        return options

    def _search(self, query: str, k: int, kwargs: dict[str, Any]) -> list[Hit]:
        return self.index.search(query, **self._options(k, kwargs))

    async def _asearch(self, query: str, k: int, kwargs: dict[str, Any]) -> list[Hit]:
        return await self.index.asearch(query, **self._options(k, kwargs))

    def _nearest(self, vector: Sequence[float], k: int, kwargs: dict[str, Any]) -> list[Hit]:
        options = self._options(k, {**kwargs, "mode": "dense"})
        row = unit_row(vector, self.index.encoder.dim, "embedding", "embeddings.embed_query(text)")
        return self.index.search_embedded(M3Embeddings(dense=row), **options)[0]

    def _diverse(self, hits: Sequence[Hit], options: SearchOptions, k: int, lambda_mult: float) -> list[Document]:
        vectors = self.index.dense_vectors([hit.id for hit in hits])
        there = [hit for hit in hits if hit.id in vectors]
        if not there:
            return []
        plan = self.index.plan(**options)
        chosen = most_diverse(
            [comparable(hit.score, plan) for hit in there],
            np.stack([vectors[hit.id] for hit in there]),
            k=k,
            lambda_mult=lambda_mult,
        )
        return [to_document(there[i]) for i in chosen]
