"""The dense head as a LlamaIndex embedding model."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field

from llamaindex_bgem3.cache import ScopedKVStore
from llamaindex_bgem3.settings import EncoderSettings, check_only

if TYPE_CHECKING:
    from bgem3.shared import SharedEncoder


class BGEM3Embedding(EncoderSettings, BaseEmbedding):
    """Dense vectors of BGE-M3, `dim` floats of norm 1 (1,024 for bge-m3).

    Takes the place of `HuggingFaceEmbedding` by a change of the class name.

    Args:
        model_name: A hub id or a folder.
        max_length: Tokens of one forward pass; None: all the model reads (8,192 for bge-m3). Longer
            texts are read in windows; see `overflow`.
        query_instruction, text_instruction: Put before each text. This model needs none.
        normalize: Always true.
        embed_batch_size: Texts LlamaIndex hands over at once; inside, batches are made by tokens.
        show_progress_bar: Show a bar over the tokens of texts.
        trust_remote_code: Without effect: no code is ever taken from a checkpoint.
        parallel_process: Always false.

    Raises:
        CheckpointError, MissingExtraError, BackendError, InvalidInputError: the model cannot be loaded.

    Examples:
        >>> from llama_index.core import Settings
        >>> Settings.embed_model = BGEM3Embedding(model_name="BAAI/bge-m3")  # doctest: +SKIP
    """

    query_instruction: str | None = Field(default=None, description="Put before a query.")
    text_instruction: str | None = Field(default=None, description="Put before a text.")
    normalize: bool = Field(default=True, description="Vectors have norm 1; nothing else is offered.")
    embed_batch_size: int = Field(default=64, gt=0, le=2048, exclude=True, description="Texts handed over at once.")
    show_progress_bar: bool = Field(default=False, exclude=True, description="Show a bar over the tokens of texts.")
    trust_remote_code: bool = Field(default=False, exclude=True, description="Without effect: no code is taken.")
    parallel_process: bool = Field(default=False, exclude=True, description="Always false.")
    num_workers: int | None = Field(default=None, exclude=True, description="Concurrent batches of async calls.")

    @classmethod
    def class_name(cls) -> str:
        """Return the name LlamaIndex stores with a serialised object."""
        return "BGEM3Embedding"

    def _check(self) -> None:
        check_only("normalize", self.normalize, True, "the dense head is of norm 1")
        check_only("parallel_process", self.parallel_process, False, "one process uses every core")

    def _wants(self, shared: SharedEncoder) -> SharedEncoder:
        cache = self.embeddings_cache
        if cache is not None:  # a copy with other settings has the scope of the first
            whole = cache.store if isinstance(cache, ScopedKVStore) else cache
            self.embeddings_cache = ScopedKVStore(whole, self._cache_scope(shared))
        return shared.want("dense")

    def _cache_scope(self, shared: SharedEncoder) -> str:
        encoder = shared.encoder
        parts = (encoder.fingerprint, encoder.lengths, encoder.precision, self.query_instruction, self.text_instruction)
        return sha256(repr(parts).encode()).hexdigest()

    def _get_query_embedding(self, query: str) -> list[float]:
        return _lists(self.shared.encode([self._query(query)], "dense").dense)[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return _lists((await self.shared.aencode([self._query(query)], "dense")).dense)[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _lists(self.shared.encode(self._texts(texts), "dense", show_progress=self.show_progress_bar).dense)

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return _lists((await self.shared.aencode(self._texts(texts), "dense")).dense)

    def _query(self, query: str) -> str:
        return self.query_instruction + query if self.query_instruction else query

    def _texts(self, texts: list[str]) -> list[str]:
        return [self.text_instruction + text for text in texts] if self.text_instruction else texts


def _lists(vectors: Any) -> list[list[float]]:
    rows: list[list[float]] = vectors.tolist()
    return rows
