"""The dense head as a LangChain embedding model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from langchain_core.embeddings import Embeddings
from pydantic import Field

from langchain_bgem3.hugging_face import to_fields
from langchain_bgem3.settings import EncoderSettings

if TYPE_CHECKING:
    from bgem3.shared import SharedEncoder
    from bgem3.types import FloatArray
    from langchain_bgem3.milvus import BGEM3MilvusSparseEmbeddings
    from langchain_bgem3.sparse import BGEM3SparseEmbeddings


class BGEM3Embeddings(EncoderSettings, Embeddings):
    """Dense vectors of BGE-M3, `dim` floats of norm 1 (1,024 for bge-m3).

    Takes the place of `HuggingFaceEmbeddings` by a change of the class name. Texts are read as they
    are: newlines stay, and nothing is put in front of them.

    Setup:
        `pip install "bgem3[langchain]"`; `bgem3[torch]` for a GPU.

    Args:
        model_name: A hub id or a folder; also `model`.
        max_length: Tokens of one forward pass; None: all the model reads (8,192 for bge-m3). Longer
            texts are read in windows; see `overflow`.
        backend, precision, device: What runs the model; see `M3Encoder.from_pretrained`.
        cache_folder, revision, local_files_only: Where the model comes from.
        model_kwargs: `device`, `revision`, `backend`, `local_files_only`, `trust_remote_code`.
        encode_kwargs, query_encode_kwargs: `batch_size` (batches are made by tokens instead),
            `normalize_embeddings` (always true), `show_progress_bar`.
        show_progress: Show a bar over the tokens.

    Examples:
        Instantiate:
        >>> embeddings = BGEM3Embeddings(model_name="BAAI/bge-m3")  # doctest: +SKIP

        Embed single text:
        >>> vector = embeddings.embed_query("Where is the key?")

        Embed multiple texts:
        >>> vectors = embeddings.embed_documents(["Under the mat.", "Unter der Matte."])
        >>> len(vectors), len(vectors[0]) == len(vector)
        (2, True)

        Async:
        >>> vector = await embeddings.aembed_query("Where is the key?")  # doctest: +SKIP

    Raises:
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    model_kwargs: dict[str, Any] = Field(default_factory=dict, description="As HuggingFaceEmbeddings has them.")
    encode_kwargs: dict[str, Any] = Field(default_factory=dict, description="As HuggingFaceEmbeddings has them.")
    query_encode_kwargs: dict[str, Any] = Field(default_factory=dict, description="As HuggingFaceEmbeddings has them.")
    multi_process: bool = Field(default=False, description="Always false.")
    show_progress: bool = Field(default=False, description="Show a bar over the tokens.")

    @property
    def cache_namespace(self) -> str:
        """What the vectors depend on, as `namespace` for `CacheBackedEmbeddings.from_bytes_store`."""
        described = self.encoder.describe()
        names = ("fingerprint", "precision", "max_length", "overflow", "window", "window_overlap")
        return "-".join(["bgem3", *(str(described[name]) for name in names)])

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Return one vector a text, in order.

        Raises:
            InvalidTextError: an item is not a string or not valid Unicode; names its position.
            TextTooLongError: under `overflow="error"`; names its position.
        """
        return _lists(self.shared.encode(texts, "dense", show_progress=self.show_progress).dense)

    def embed_query(self, text: str) -> list[float]:
        """Return the vector of one text; errors are those of `embed_documents`."""
        return self.embed_documents([text])[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Do what `embed_documents` does, beside the event loop; concurrent callers share forward passes."""
        return _lists((await self.shared.aencode(texts, "dense")).dense)

    async def aembed_query(self, text: str) -> list[float]:
        """Do what `embed_query` does, beside the event loop."""
        return (await self.aembed_documents([text]))[0]

    def as_qdrant_sparse(self) -> BGEM3SparseEmbeddings:
        """Return the sparse head of the same model, for `QdrantVectorStore(sparse_embedding=)`.

        Raises:
            MissingExtraError: langchain-qdrant is not installed.
        """
        from langchain_bgem3.sparse import BGEM3SparseEmbeddings

        return BGEM3SparseEmbeddings._beside(self)

    def as_milvus_sparse(self) -> BGEM3MilvusSparseEmbeddings:
        """Return the sparse head of the same model, for `Milvus(embedding_function=[dense, sparse])`.

        Raises:
            MissingExtraError: langchain-milvus is not installed.
        """
        from langchain_bgem3.milvus import BGEM3MilvusSparseEmbeddings

        return BGEM3MilvusSparseEmbeddings._beside(self)

    @classmethod
    def _prepared(cls, fields: dict[str, Any]) -> dict[str, Any]:
        return to_fields(fields)

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        return shared.want("dense")


def _lists(vectors: FloatArray) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
