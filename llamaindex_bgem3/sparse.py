"""The sparse head as a LlamaIndex sparse embedding, and in the forms that Qdrant and Milvus take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.bridge.pydantic import Field

from llamaindex_bgem3.settings import EncoderSettings

if TYPE_CHECKING:
    from bgem3.shared import SharedEncoder
    from llamaindex_bgem3.milvus import BGEM3MilvusSparse


class BGEM3SparseEmbedding(EncoderSettings, BaseSparseEmbedding):
    """Lexical weights of BGE-M3: token id to weight above 0. A text without words gives `{}`.

    Beside a `BGEM3Embedding` of equal settings both heads come from one forward pass.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: the model cannot be loaded.

    Examples:
        >>> sparse = BGEM3SparseEmbedding()  # doctest: +SKIP
        >>> QdrantVectorStore(  # doctest: +SKIP
        ...     enable_hybrid=True, sparse_doc_fn=sparse.as_qdrant, sparse_query_fn=sparse.as_qdrant, ...
        ... )
    """

    embed_batch_size: int = Field(default=64, gt=0, le=2048, exclude=True, description="Texts handed over at once.")
    num_workers: int | None = Field(default=None, exclude=True, description="Concurrent batches of async calls.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex stores with a serialised object."""
        return "BGEM3SparseEmbedding"

    def similarity(self, embedding1: dict[int, float], embedding2: dict[int, float]) -> float:
        """Return the sum over shared token ids of the two weights' product, >= 0.

        Source: FlagEmbedding `compute_lexical_matching_score`. It is no cosine: the weights' size counts.
        """
        return sum(weight * embedding2[token] for token, weight in embedding1.items() if token in embedding2)

    def as_qdrant(self, texts: list[str]) -> tuple[list[list[int]], list[list[float]]]:
        """Return token ids and weights of each text, as `QdrantVectorStore(sparse_doc_fn=, sparse_query_fn=)` asks."""
        rows = self._get_text_embeddings(texts)
        return [list(row) for row in rows], [list(row.values()) for row in rows]

    def as_milvus(self) -> BGEM3MilvusSparse:
        """Return what `MilvusVectorStore(sparse_embedding_function=)` asks.

        Raises:
            MissingExtraError: llama-index-vector-stores-milvus is not installed.
        """
        from llamaindex_bgem3.milvus import BGEM3MilvusSparse

        return BGEM3MilvusSparse(self)

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        return shared.want("sparse")

    def _get_query_embedding(self, query: str) -> dict[int, float]:
        return self._get_text_embeddings([query])[0]

    async def _aget_query_embedding(self, query: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([query]))[0]

    def _get_text_embedding(self, text: str) -> dict[int, float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> dict[int, float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return self.shared.encode(texts, "sparse").lexical_rows()

    async def _aget_text_embeddings(self, texts: list[str]) -> list[dict[int, float]]:
        return (await self.shared.aencode(texts, "sparse")).lexical_rows()
