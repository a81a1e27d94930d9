"""Dense vectors of BGE-M3 as Chroma's own embedding function. Importing this module registers it with Chroma.

    from bgem3.chroma_function import BGEM3EmbeddingFunction
    collection = client.create_collection("notes", embedding_function=BGEM3EmbeddingFunction())

Chroma writes its name and settings into the collection, so that `client.get_collection("notes")` has the function again
in any process that imported this module. Sparse weights and token vectors are added by `ChromaStore.adopt`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from bgem3.encoder import M3Encoder
from bgem3.errors import IndexMismatchError, InvalidInputError, MissingExtraError
from bgem3.types import Head

try:
    from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
    from chromadb.utils.embedding_functions import register_embedding_function
except ImportError as error:
    raise MissingExtraError("chromadb", "chroma", "BGEM3EmbeddingFunction") from error

# What `M3Encoder.from_pretrained` takes and a collection remembers; no secret is among it.
_OPTIONS = ("model", "backend", "precision", "max_length")


class BGEM3EmbeddingFunction(EmbeddingFunction[Documents]):
    """Encodes documents and queries with the dense head.

    Args:
        model: A folder, kept as an absolute path, or a hub id.
        backend: As `M3Encoder.from_pretrained`.
        precision: As `M3Encoder.from_pretrained`.
        max_length: As `M3Encoder.from_pretrained`.
        fingerprint: Of the checkpoint that the collection was made with; None: any.

    Raises:
        IndexMismatchError: the checkpoint has another fingerprint.
        CheckpointError, BackendError, InvalidInputError: as `M3Encoder.from_pretrained`.
    """

    def __init__(
        self,
        model: str | Path = "BAAI/bge-m3",
        *,
        backend: str = "auto",
        precision: str = "auto",
        max_length: int | None = None,
        fingerprint: str | None = None,
    ) -> None:
        place = str(Path(model).resolve()) if Path(model).is_dir() else str(model)
        self._options = (place, backend, precision, max_length)
        self.encoder = _encoder(*self._options)
        if fingerprint not in (None, self.encoder.fingerprint):
            raise IndexMismatchError(
                f"model: {place} has fingerprint {self.encoder.fingerprint[:12]}, the collection was made with "
                f"{str(fingerprint)[:12]}. Fix: the checkpoint it was made with, or a new collection"
            )

    def __call__(self, input: Documents) -> Embeddings:
        """Return the dense vector, `(dim,)` float32 of norm 1, of each document."""
        dense: Head = "dense"
        return cast(Embeddings, list(self.encoder.encode(list(input), heads=(dense,)).dense))

    def embed_query(self, input: Documents) -> Embeddings:
        """Return the dense vector of each query: this model encodes both sides alike."""
        return self(input)

    @staticmethod
    def name() -> str:
        """Return the name by which a collection finds this class."""
        return "bgem3"

    def default_space(self) -> Space:
        """Return `ip`: the vectors have norm 1."""
        return "ip"

    def supported_spaces(self) -> list[Space]:
        """Return all of Chroma's: they rank vectors of norm 1 alike."""
        return ["ip", "cosine", "l2"]

    def get_config(self) -> dict[str, Any]:
        """Return what Chroma writes down: the options and the checkpoint's fingerprint."""
        return {**dict(zip(_OPTIONS, self._options, strict=True)), "fingerprint": self.encoder.fingerprint}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> BGEM3EmbeddingFunction:
        """Return the function that a collection was made with.

        Raises:
            InvalidInputError: not a configuration of this class.
            IndexMismatchError, CheckpointError: the checkpoint is another one now, or gone.
        """
        BGEM3EmbeddingFunction.validate_config(config)
        return BGEM3EmbeddingFunction(**config)

    @staticmethod
    def validate_config(config: dict[str, Any]) -> None:
        """Refuse what is not a configuration of this class.

        Raises:
            InvalidInputError: names what is missing or unknown.
        """
        known = {*_OPTIONS, "fingerprint"}
        if wrong := known ^ set(config):
            raise InvalidInputError(
                f"embedding function bgem3: missing or unknown in its configuration: {sorted(wrong)}"
            )

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuse another checkpoint for vectors that are there.

        Raises:
            IndexMismatchError: the fingerprint differs.
        """
        if old_config.get("fingerprint") != new_config.get("fingerprint"):
            raise IndexMismatchError("embedding function bgem3: the new model's vectors are no match for those stored")


@lru_cache(maxsize=2)
def _encoder(model: str, backend: str, precision: str, max_length: int | None) -> M3Encoder:
    """Load a model once: Chroma builds the function anew whenever it reads a collection's configuration."""
    return M3Encoder.from_pretrained(
        model, backend=backend, precision=precision, max_length=max_length, show_progress=False
    )


register_embedding_function(BGEM3EmbeddingFunction)  # type: ignore[no-untyped-call]  # as Chroma wrote it
