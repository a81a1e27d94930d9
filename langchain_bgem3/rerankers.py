"""Reordering candidates by all three heads: a document compressor and a cross encoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from langchain_core.callbacks import Callbacks
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from pydantic import Field, SkipValidation

from bgem3.errors import InvalidInputError
from langchain_bgem3.documents import ranked_document
from langchain_bgem3.options import WeightsLike, to_weights
from langchain_bgem3.settings import EncoderSettings

if TYPE_CHECKING:
    from bgem3.rerank import Reranker
    from bgem3.types import Ranked


class BGEM3Reranker(EncoderSettings, BaseDocumentCompressor):
    """Scores documents against the query by all three heads and keeps the best.

    Returns copies with the score, the weighted mean of the heads (about -1 to 1), in
    `metadata["relevance_score"]`; ids and all other metadata stay.

    Setup:
        `pip install "bgem3[langchain]"`

    Args:
        top_n: Documents kept; None: all.
        weights: How much each head counts: `Weights`, or a mapping; None: `Weights.balanced`.
        threshold: Documents with a lower score are left out.
        head_scores: Put the score of each head into `metadata["scores"]`.
        model_name: A hub id or a folder; also `model`. All others are those of `BGEM3Embeddings`.

    Examples:
        Instantiate:
        >>> reranker = BGEM3Reranker(model_name="BAAI/bge-m3", top_n=5)  # doctest: +SKIP
        >>> reranker = BGEM3Reranker.from_encoder(embeddings.encoder, top_n=1)

        Use:
        >>> found = [Document("Under the mat.", id="a"), Document("Where is the key?", id="b")]
        >>> [document.id for document in reranker.compress_documents(found, "Where is the key?")]
        ['b']

    Use behind a retriever:
        `ContextualCompressionRetriever(base_compressor=reranker, base_retriever=retriever)`

    Raises:
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    top_n: int | None = Field(default=3, description="Documents kept; None: all.")
    weights: SkipValidation[WeightsLike | None] = Field(default=None, description="How much each head counts.")
    threshold: float | None = Field(default=None, description="Documents with a lower score are left out.")
    head_scores: bool = Field(default=False, description="Put the score of each head into metadata.")

    def compress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Return the best documents as copies, best first; ties in the order given.

        Args:
            documents: Any number; none gives an empty list.
            query: A text in any language.
            callbacks: Accepted as LangChain passes them; nothing is reported.

        Raises:
            InvalidTextError: a text is not valid Unicode.
        """
        return self._kept(documents, self._reranker.rerank(query, _texts(documents), top_n=self.top_n))

    async def acompress_documents(
        self, documents: Sequence[Document], query: str, callbacks: Callbacks | None = None
    ) -> list[Document]:
        """Do what `compress_documents` does, beside the event loop; concurrent callers share forward passes."""
        return self._kept(documents, await self._reranker.arerank(query, _texts(documents), top_n=self.top_n))

    @property
    def _reranker(self) -> Reranker:
        from bgem3.rerank import Reranker

        return Reranker(self.encoder, weights=to_weights(self.weights))

    def _check(self) -> None:
        to_weights(self.weights)
        if self.top_n is not None and self.top_n < 1:
            raise InvalidInputError(f"top_n: got {self.top_n}, expected a whole number >= 1. Fix: top_n=3")

    def _kept(self, documents: Sequence[Document], ranked: Sequence[Ranked]) -> list[Document]:
        return [
            ranked_document(documents[one.index], one, head_scores=self.head_scores)
            for one in ranked
            if self.threshold is None or one.score >= self.threshold
        ]


class BGEM3CrossEncoder(EncoderSettings, BaseCrossEncoder):
    """Scores pairs of texts by the weighted mean of the three heads, about -1 to 1.

    Goes wherever LangChain takes a `BaseCrossEncoder`; `BGEM3Reranker` does more on its own.

    Setup:
        `pip install "bgem3[langchain]"`

    Args:
        weights: How much each head counts: `Weights`, or a mapping; None: `Weights.balanced`.
        model_name: A hub id or a folder; also `model`. All others are those of `BGEM3Embeddings`.

    Examples:
        Instantiate:
        >>> cross_encoder = BGEM3CrossEncoder(model_name="BAAI/bge-m3")  # doctest: +SKIP
        >>> cross_encoder = BGEM3CrossEncoder.from_encoder(embeddings.encoder)

        Use:
        >>> scores = cross_encoder.score([("Where is the key?", "Where is the key?"), ("Where?", "On the moon.")])
        >>> scores[0] > scores[1]
        True

    Use behind a retriever:
        `CrossEncoderReranker(model=cross_encoder, top_n=3)`

    Raises:
        CheckpointError, MissingExtraError, BackendError: the model cannot be loaded.
        InvalidInputError: an option is out of range.
        pydantic.ValidationError: a field is unknown, or of another type.
    """

    weights: SkipValidation[WeightsLike | None] = Field(default=None, description="How much each head counts.")

    def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
        """Return one score a (query, passage) pair, higher is better; each distinct text is encoded once.

        Raises:
            InvalidTextError: a text is not a string or not valid Unicode.

        Source: FlagEmbedding `compute_score`, "colbert+sparse+dense".
        """
        from bgem3.rerank import Reranker

        scores: list[float] = Reranker(self.encoder, weights=to_weights(self.weights)).score_pairs(text_pairs).tolist()
        return scores

    def _check(self) -> None:
        to_weights(self.weights)


def _texts(documents: Sequence[Document]) -> list[str]:
    return [document.page_content for document in documents]
