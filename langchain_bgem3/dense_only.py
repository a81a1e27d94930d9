"""Any LangChain embedding model in the place of the encoder: dense vectors, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import sha256

import numpy as np
from langchain_core.embeddings import Embeddings
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors, unit_rows
from bgem3.errors import BackendError
from bgem3.lengths import Lengths
from bgem3.types import HEADS, Head

# How long texts are read is the other model's own business; the index wants numbers to compare.
_LENGTHS = Lengths(max_length=8192, overflow="window", window=8192, window_overlap=64)


class DenseEncoder:
    """What `HybridIndex` asks of an encoder, over an embedding model of another kind.

    Dense rows are scaled to norm 1. Sparse rows are empty and every text has one token vector, the
    same for all, so that a store keeps chunks as it does others. The fingerprint is a hash of class,
    model name and width: two models that differ in nothing of this are taken for one.

    Args:
        embedding: The model. It embeds one word here, to learn its width.
    """

    backend = "langchain"
    precision = "float32"
    multi_dim = vocab_size = 1
    lengths = _LENGTHS

    def __init__(self, embedding: Embeddings) -> None:
        self.embedding = embedding
        self.dim = len(embedding.embed_query("width"))
        self.model_name = _model_name(embedding)
        kind = type(embedding)
        self._name = kind.__name__
        identity = f"{kind.__module__}.{kind.__qualname__}|{self.model_name}|{self.dim}"
        self.fingerprint = sha256(identity.encode()).hexdigest()

    def encode_passages(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Return `(n, dim)` float32 dense rows beside empty other heads."""
        return self._result(self.embedding.embed_documents(list(texts)) if texts else [], heads, len(texts))

    def encode_queries(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Do what `encode_passages` does, with the model's way to embed a query."""
        return self._result([self.embedding.embed_query(text) for text in texts], heads, len(texts))

    async def aencode_passages(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Do what `encode_passages` does, by the model's own async method."""
        return self._result(await self.embedding.aembed_documents(list(texts)) if texts else [], heads, len(texts))

    async def aencode_queries(self, texts: Sequence[str], *, heads: Collection[Head] = HEADS) -> M3Embeddings:
        """Do what `encode_queries` does, by the model's own async method."""
        return self._result([await self.embedding.aembed_query(text) for text in texts], heads, len(texts))

    def describe(self) -> dict[str, object]:
        """Return what runs here: model, backend, width, fingerprint."""
        names = ("backend", "precision", "dim", "fingerprint")
        return {"model": self.model_name, **{name: getattr(self, name) for name in names}}

    def _result(self, vectors: Sequence[Sequence[float]], heads: Collection[Head], n: int) -> M3Embeddings:
        if len(vectors) != n:
            raise BackendError(f"{self._name} gave {len(vectors)} vectors for {n} texts")
        if widths := {len(vector) for vector in vectors} - {self.dim}:
            raise BackendError(f"{self._name} gave vectors {sorted(widths)} wide, and {self.dim} wide before")
        dense = np.array(vectors, dtype=np.float32).reshape(n, self.dim)
        if not np.isfinite(dense).all():
            raise BackendError(f"{self._name} gave a number that is not finite")
        ones = MultiVectors(np.ones((n, 1), dtype=np.float32), np.arange(n + 1, dtype=np.int64))
        return M3Embeddings(
            dense=unit_rows(dense) if "dense" in heads else None,
            sparse=csr_array(np.zeros((n, 1), dtype=np.float32)) if "sparse" in heads else None,
            multi_vector=ones if "multi_vector" in heads else None,
        )


def _model_name(embedding: Embeddings) -> str:
    for name in ("model_name", "model", "deployment", "model_id"):
        value = getattr(embedding, name, None)
        if isinstance(value, str):
            return value
    return ""
