"""The sparse head for Qdrant. In a module of its own: importing it loads the Qdrant client."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bgem3.errors import MissingExtraError
from langchain_bgem3.settings import EncoderSettings

try:
    from langchain_qdrant.sparse_embeddings import SparseEmbeddings, SparseVector
except ImportError as error:
    raise MissingExtraError("langchain-qdrant", "langchain-qdrant", "BGEM3SparseEmbeddings") from error

if TYPE_CHECKING:
    from bgem3.embeddings import M3Embeddings
    from bgem3.shared import SharedEncoder
    from langchain_bgem3.milvus import BGEM3MilvusSparseEmbeddings


class BGEM3SparseEmbeddings(EncoderSettings, SparseEmbeddings):
    """Lexical weights of BGE-M3: token ids and weights above 0. A text without words gives empty lists.

    Beside a `BGEM3Embeddings` of equal settings both heads come from one forward pass, in this order:
    make both objects, then embed. `BGEM3Embeddings.as_qdrant_sparse` makes the fitting one.

    Setup:
        `pip install "bgem3[langchain-qdrant]"`

    Args:
        model_name: A hub id or a folder; also `model`. All others are those of `BGEM3Embeddings`.

    Examples:
        Instantiate:
        >>> sparse = BGEM3SparseEmbeddings(model_name="BAAI/bge-m3")  # doctest: +SKIP

        Use:
        >>> from langchain_qdrant import QdrantVectorStore, RetrievalMode
        >>> store = QdrantVectorStore.from_texts(
        ...     ["Under the mat.", "On the moon."],
        ...     embedding=embeddings,
        ...     sparse_embedding=embeddings.as_qdrant_sparse(),
        ...     retrieval_mode=RetrievalMode.HYBRID,
        ...     location=":memory:",
        ... )
        >>> len(store.similarity_search("Where is the key?", k=1))
        1

    Raises:
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    def embed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Return one sparse vector a text, in order.

        Raises:
            InvalidTextError: an item is not a string or not valid Unicode; names its position.
            TextTooLongError: under `overflow="error"`; names its position.
        """
        return _vectors(self.shared.encode(texts, "sparse"))

    def embed_query(self, text: str) -> SparseVector:
        """Return the sparse vector of one text; errors are those of `embed_documents`."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[SparseVector]:
        """Do what `embed_documents` does, beside the event loop; concurrent callers share forward passes."""
        return _vectors(await self.shared.aencode(texts, "sparse"))

    async def aembed_query(self, text: str) -> SparseVector:
        """Do what `embed_query` does, beside the event loop."""
        return (await self.aembed_documents([text]))[0]

    def as_milvus_sparse(self) -> BGEM3MilvusSparseEmbeddings:
        """Return the same in the form that `Milvus(embedding_function=[dense, sparse])` takes.

        Raises:
            MissingExtraError: langchain-milvus is not installed.
        """
        from langchain_bgem3.milvus import BGEM3MilvusSparseEmbeddings

        return BGEM3MilvusSparseEmbeddings._beside(self)

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        return shared.want("sparse")


def _vectors(embeddings: M3Embeddings) -> list[SparseVector]:
    return [SparseVector(indices=list(row), values=list(row.values())) for row in embeddings.lexical_rows()]
