"""An index from what LangChain users have at hand: an embedding model and a folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from langchain_core.embeddings import Embeddings

from bgem3.errors import InvalidInputError
from bgem3.hybrid import HybridIndex
from bgem3.stores.base import Store
from bgem3.types import Lexical
from langchain_bgem3.dense_only import DenseEncoder
from langchain_bgem3.embeddings import BGEM3Embeddings
from langchain_bgem3.settings import EncoderSettings

if TYPE_CHECKING:
    from bgem3.encoder import M3Encoder

DEFAULT_COLLECTION = "langchain"


def open_index(
    embedding: Embeddings | EncoderSettings,
    *,
    store: Store | None = None,
    persist_directory: str | Path | None = None,
    collection_name: str = DEFAULT_COLLECTION,
    lexical: Lexical = "m3",
) -> HybridIndex:
    """Open or make an index.

    Args:
        embedding: `BGEM3Embeddings`; any other embedding model gives its dense vectors only.
        store: Where chunks live; None: in memory, or on Chroma with `persist_directory`.
        persist_directory: Folder of an embedded Chroma.
        collection_name: Its collection there.
        lexical: What the sparse head is; see `HybridIndex`.

    Raises:
        InvalidInputError: both a store and a folder, or `embedding` is no embedding model.
        IndexMismatchError, StoreError: as `HybridIndex`.
        MissingExtraError: chromadb is not installed.
    """
    if store is not None and persist_directory is not None:
        raise InvalidInputError("store: got persist_directory beside it, expected one. Fix: leave one of them out")
    return HybridIndex(encoder_of(embedding), store or _make_store(persist_directory, collection_name), lexical=lexical)


def encoder_of(embedding: Embeddings | EncoderSettings) -> M3Encoder:
    """Return the encoder of an embedding model; a dense-only one where it is of another kind.

    Raises:
        InvalidInputError: it is no embedding model.
    """
    if isinstance(embedding, EncoderSettings):
        return embedding.encoder
    if not isinstance(embedding, Embeddings):
        raise InvalidInputError(
            f"embedding: got {type(embedding).__name__}, expected an embedding model. Fix: BGEM3Embeddings()"
        )
    # DenseEncoder has the part of M3Encoder that HybridIndex uses.
    return cast("M3Encoder", DenseEncoder(embedding))


def embedding_of(index: HybridIndex) -> Embeddings:
    """Return the embedding model of an index."""
    encoder: object = index.encoder
    return encoder.embedding if isinstance(encoder, DenseEncoder) else BGEM3Embeddings.from_encoder(index.encoder)


def dense_only_model(index: HybridIndex) -> str | None:
    """Return the class name of the other kind of model behind an index; None where it is BGE-M3."""
    encoder: object = index.encoder
    return type(encoder.embedding).__name__ if isinstance(encoder, DenseEncoder) else None


def _make_store(folder: str | Path | None, collection: str) -> Store:
    if folder is None:
        from bgem3.stores.memory import MemoryStore

        return MemoryStore()
    from bgem3.stores.chroma import ChromaStore

    return ChromaStore(folder, collection=collection)
