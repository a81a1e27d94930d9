"""The sparse head for `MilvusVectorStore`. In a module of its own: importing it loads pymilvus."""

from __future__ import annotations

from bgem3.errors import MissingExtraError
from bgem3.stores.milvus_rows import EMPTY_ROW
from llamaindex_bgem3.sparse import BGEM3SparseEmbedding

try:
    from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction
except ImportError as error:
    raise MissingExtraError(
        "llama-index-vector-stores-milvus", "llamaindex-milvus", "The sparse function for Milvus"
    ) from error


class BGEM3MilvusSparse(BaseSparseEmbeddingFunction):
    """Lexical weights of BGE-M3 as Milvus asks for them.

    A text without words gives `{0: 1e-6}` instead of an empty row, which Milvus may refuse; it finds nothing and is
    found by nothing.

    Args:
        embedding: What encodes. Beside a `BGEM3Embedding` of equal settings both heads come from
            one forward pass.
    """

    def __init__(self, embedding: BGEM3SparseEmbedding) -> None:
        self._embedding = embedding

    def encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """Return token id to weight for each query."""
        return self.encode_documents(queries)

    def encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """Return token id to weight for each document."""
        return self._embedding.shared.encode(documents, "sparse").lexical_rows(EMPTY_ROW)

    async def async_encode_queries(self, queries: list[str]) -> list[dict[int, float]]:
        """Do what `encode_queries` does, beside the event loop."""
        return await self.async_encode_documents(queries)

    async def async_encode_documents(self, documents: list[str]) -> list[dict[int, float]]:
        """Do what `encode_documents` does, beside the event loop."""
        return (await self._embedding.shared.aencode(documents, "sparse")).lexical_rows(EMPTY_ROW)
