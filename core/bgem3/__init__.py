"""All three representations of BGE-M3: encode, score, fuse, store and search.

Names load on first use, so that importing the package costs next to nothing.
"""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bgem3.embeddings import M3Embeddings as M3Embeddings
    from bgem3.encoder import M3Encoder as M3Encoder
    from bgem3.hybrid import HybridIndex as HybridIndex
    from bgem3.rerank import Reranker as Reranker
    from bgem3.scoring import score as score
    from bgem3.stores.chroma import ChromaStore as ChromaStore
    from bgem3.stores.memory import MemoryStore as MemoryStore
    from bgem3.stores.milvus import MilvusStore as MilvusStore
    from bgem3.stores.qdrant import QdrantStore as QdrantStore
    from bgem3.types import Weights as Weights

# onnxruntime reads it once, when it loads; without it each use is told to its maker
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__all__ = [
    "ChromaStore",
    "HybridIndex",
    "M3Embeddings",
    "M3Encoder",
    "MemoryStore",
    "MilvusStore",
    "QdrantStore",
    "Reranker",
    "Weights",
    "score",
]

_HOMES = {
    "ChromaStore": "bgem3.stores.chroma",
    "HybridIndex": "bgem3.hybrid",
    "M3Embeddings": "bgem3.embeddings",
    "M3Encoder": "bgem3.encoder",
    "MemoryStore": "bgem3.stores.memory",
    "MilvusStore": "bgem3.stores.milvus",
    "QdrantStore": "bgem3.stores.qdrant",
    "Reranker": "bgem3.rerank",
    "Weights": "bgem3.types",
    "score": "bgem3.scoring",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
