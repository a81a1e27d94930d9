"""The sparse head for Milvus. In a module of its own: importing it loads pymilvus."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgem3.errors import MissingExtraError
from bgem3.stores.milvus_rows import EMPTY_ROW
from langchain_bgem3.settings import EncoderSettings

try:
    from langchain_milvus.utils.sparse import BaseSparseEmbedding
except ImportError as error:
    raise MissingExtraError("langchain-milvus", "langchain-milvus", "BGEM3MilvusSparseEmbeddings") from error

if TYPE_CHECKING:
    from bgem3.shared import SharedEncoder


class BGEM3MilvusSparseEmbeddings(EncoderSettings, BaseSparseEmbedding):
    """Lexical weights of BGE-M3 as Milvus asks for them: token id to weight above 0.

    Index the field with the inner product (`metric_type="IP"`). A text without words gives
    `{0: 1e-6}` instead of an empty row, which Milvus may refuse; it finds nothing and is found by
    nothing.

    Setup:
        `pip install "bgem3[langchain-milvus]"`

    Examples:
        Instantiate:
        >>> sparse = embeddings.as_milvus_sparse()

        Use:
        >>> sorted(sparse.embed_query("")) == [0]
        True

    Raises:
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    def embed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Return token id to weight for each text, in order; errors are those of `BGEM3Embeddings`."""
        return self.shared.encode(texts, "sparse").lexical_rows(EMPTY_ROW)

    def embed_query(self, query: str) -> dict[int, float]:
        """Return token id to weight of one text."""
        return self.embed_documents([query])[0]

    async def aembed_documents(self, texts: list[str]) -> list[dict[int, float]]:
        """Do what `embed_documents` does, beside the event loop; concurrent callers share forward passes."""
        return (await self.shared.aencode(texts, "sparse")).lexical_rows(EMPTY_ROW)

    async def aembed_query(self, query: str) -> dict[int, float]:
        """Do what `embed_query` does, beside the event loop."""
        return (await self.aembed_documents([query]))[0]

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        return shared.want("sparse")
