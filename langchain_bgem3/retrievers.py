"""Retrieval by all three heads: over an index, or over what a store or retriever finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import VectorStore

from bgem3.intake import check_stream
from bgem3.types import Lexical, Metadata
from langchain_bgem3.documents import to_ids, to_metadatas
from langchain_bgem3.opening import DEFAULT_COLLECTION, open_index
from langchain_bgem3.search_fields import SearchFields

if TYPE_CHECKING:
    from bgem3.stores.base import Store
    from langchain_bgem3.options import WeightsLike
    from langchain_bgem3.rescoring import BGEM3RescoringRetriever
    from langchain_bgem3.settings import EncoderSettings


class BGEM3Retriever(SearchFields):
    """Finds documents by meaning, by words and by details, in one forward pass a query.

    Documents carry their `id`, and their score in `metadata["relevance_score"]`: the weighted mean of
    the heads in hybrid mode (about -1 to 1), the head's own in a one-head mode. What compares documents whole,
    as `MultiQueryRetriever` does, wants `BGEM3VectorStore.as_retriever`, whose documents carry no score.

    Setup:
        `pip install "bgem3[langchain]"`; `bgem3[chroma]` to keep an index on disk.

    Args:
        index: A `HybridIndex`; `from_texts`, `from_documents` and `from_vectorstore` make one or do without.
        k: Documents returned.
        mode, strategy, fetch_k, weights, rrf_k, exhaustive, cascade: See `HybridIndex.search`. Weights
            may be a mapping, e.g. `{"dense": 1, "sparse": 0.3}`.
        filter: A metadata filter, e.g. `{"lang": "zh"}` or `{"year": {"$gte": 2020}}`.
        head_scores: Put the score of each head into `metadata["scores"]`.

    Examples:
        Instantiate:
        >>> retriever = BGEM3Retriever.from_texts(
        ...     ["Where is the key?", "On the moon."], embeddings, metadatas=[{"lang": "en"}, {"lang": "en"}], k=1
        ... )

        Use:
        >>> [document.page_content for document in retriever.invoke("Where is the key?")]
        ['Where is the key?']
        >>> len(retriever.invoke("Where is the key?", k=2, filter={"lang": "en"}, mode="sparse"))
        1

    Use within a chain:
        `chain = {"context": retriever, "question": RunnablePassthrough()} | prompt | model`

    Raises:
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
        InvalidFilterError: a filter does not follow the grammar.
    """

    @classmethod
    def from_texts(
        cls,
        texts: Iterable[str],
        embedding: Embeddings | EncoderSettings,
        metadatas: Sequence[Metadata | None] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        store: Store | None = None,
        persist_directory: str | Path | None = None,
        collection_name: str = DEFAULT_COLLECTION,
        lexical: Lexical = "m3",
        **fields: Any,
    ) -> Self:
        """Index texts and retrieve from them.

        Args:
            texts: Any number.
            embedding: `BGEM3Embeddings`; another embedding model wants `mode="dense"`.
            metadatas: One a text.
            ids: One a text; None: new ones.
            store: Where they are kept, e.g. `ChromaStore("./db")`; None: in memory.
            persist_directory: Folder of an embedded Chroma, instead of a store.
            collection_name: Its collection there.
            lexical: What the sparse head is; see `HybridIndex`.
            fields: Fields of the class.

        Raises:
            InvalidInputError, DuplicateIdError, StoreError: as `HybridIndex.add`.
        """
        rows = list(check_stream(texts))
        index = open_index(
            embedding,
            store=store,
            persist_directory=persist_directory,
            collection_name=collection_name,
            lexical=lexical,
        )
        retriever = cls(index=index, **fields)
        index.add(rows, ids=to_ids(ids), metadatas=to_metadatas(metadatas))
        return retriever

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], embedding: Embeddings | EncoderSettings, **options: Any
    ) -> Self:
        """Index documents and retrieve from them; options and errors are those of `from_texts`."""
        rows = list(documents)
        texts = [document.page_content for document in rows]
        return cls.from_texts(
            texts,
            embedding,
            [document.metadata for document in rows],
            **{"ids": [document.id for document in rows], **options},
        )

    @classmethod
    def from_vectorstore(
        cls,
        vectorstore: VectorStore | BaseRetriever,
        embedding: EncoderSettings | None = None,
        *,
        k: int = 4,
        fetch_k: int = 20,
        weights: WeightsLike | None = None,
        filter: Any = None,
        head_scores: bool = False,
    ) -> BGEM3RescoringRetriever:
        """Score what any vector store or retriever finds by all three heads.

        Args:
            vectorstore: Finds candidates; they are encoded at each query.
            embedding: `BGEM3Embeddings`; None: those of the vector store.
            k: Documents returned.
            fetch_k: Candidates asked for; of a retriever, those that are scored.
            weights: How much each head counts; None: `Weights.balanced`.
            filter: Passed to the vector store, in its own language.
            head_scores: Put the score of each head into `metadata["scores"]`.

        Raises:
            InvalidInputError: an option is out of range, or there is no BGE-M3 to score with.
        """
        from langchain_bgem3.rescoring import BGEM3RescoringRetriever, fitting_encoder

        return BGEM3RescoringRetriever(
            source=vectorstore,
            encoder=fitting_encoder(vectorstore, embedding),
            k=k,
            fetch_k=fetch_k,
            weights=weights,
            filter=filter,
            head_scores=head_scores,
        )
