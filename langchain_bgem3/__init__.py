"""BGE-M3 for LangChain: dense, sparse and multi-vector retrieval from one model.

Names load on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from bgem3.errors import MissingExtraError

if TYPE_CHECKING:
    from langchain_bgem3.embeddings import BGEM3Embeddings as BGEM3Embeddings
    from langchain_bgem3.indexing import BGEM3DocumentIndex as BGEM3DocumentIndex
    from langchain_bgem3.rerankers import BGEM3CrossEncoder as BGEM3CrossEncoder
    from langchain_bgem3.rerankers import BGEM3Reranker as BGEM3Reranker
    from langchain_bgem3.retrievers import BGEM3Retriever as BGEM3Retriever
    from langchain_bgem3.sparse import BGEM3SparseEmbeddings as BGEM3SparseEmbeddings
    from langchain_bgem3.vectorstores import BGEM3VectorStore as BGEM3VectorStore

__all__ = [
    "BGEM3CrossEncoder",
    "BGEM3DocumentIndex",
    "BGEM3Embeddings",
    "BGEM3Reranker",
    "BGEM3Retriever",
    "BGEM3SparseEmbeddings",
    "BGEM3VectorStore",
]

_HOMES = {
    "BGEM3CrossEncoder": "langchain_bgem3.rerankers",
    "BGEM3DocumentIndex": "langchain_bgem3.indexing",
    "BGEM3Embeddings": "langchain_bgem3.embeddings",
    "BGEM3Reranker": "langchain_bgem3.rerankers",
    "BGEM3Retriever": "langchain_bgem3.retrievers",
    "BGEM3SparseEmbeddings": "langchain_bgem3.sparse",
    "BGEM3VectorStore": "langchain_bgem3.vectorstores",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in ("langchain_core", "pydantic"):
            raise
        raise MissingExtraError("langchain-core", "langchain", name) from error


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
