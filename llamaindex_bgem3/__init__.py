"""BGE-M3 for LlamaIndex: dense, sparse and multi-vector retrieval from one model.

Names load on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bgem3.errors import MissingExtraError

if TYPE_CHECKING:
    from llamaindex_bgem3.embeddings import BGEM3Embedding as BGEM3Embedding
    from llamaindex_bgem3.index import BGEM3Index as BGEM3Index
    from llamaindex_bgem3.rerankers import BGEM3Rerank as BGEM3Rerank
    from llamaindex_bgem3.retrievers import BGEM3Retriever as BGEM3Retriever
    from llamaindex_bgem3.sparse import BGEM3SparseEmbedding as BGEM3SparseEmbedding
    from llamaindex_bgem3.vector_stores import BGEM3VectorStore as BGEM3VectorStore

__all__ = [
    "BGEM3Embedding",
    "BGEM3Index",
    "BGEM3Rerank",
    "BGEM3Retriever",
    "BGEM3SparseEmbedding",
    "BGEM3VectorStore",
]

_HOMES = {
    "BGEM3Embedding": "llamaindex_bgem3.embeddings",
    "BGEM3Index": "llamaindex_bgem3.index",
    "BGEM3Rerank": "llamaindex_bgem3.rerankers",
    "BGEM3Retriever": "llamaindex_bgem3.retrievers",
    "BGEM3SparseEmbedding": "llamaindex_bgem3.sparse",
    "BGEM3VectorStore": "llamaindex_bgem3.vector_stores",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("llama_index", "llama_index.core"):
            raise
        raise MissingExtraError("llama-index-core", "llamaindex", name) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
