"""What a store must do. `HybridIndex` validates and encodes; a store keeps and searches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError
from bgem3.types import Chunk, FloatArray, Hits, IndexSettings, SearchPlan, Where


class Store(Protocol):
    """Keeps chunks with all three representations, and answers a whole search plan.

    A store that is an engine runs the plan there; an embedded one hands its parts to
    `bgem3.stores.local.run_plan`. Every method raises `StoreClosedError` after `close`. One that may have to encode
    again has a method `use_encoder` besides, to which an index gives its encoder when the store is open.
    """

    def open(self, settings: IndexSettings | None = None) -> IndexSettings:
        """Create the collection, or check that it fits; return the settings it was made with.

        Args:
            settings: What the encoder needs; None: open what is there, whatever encoder made it.

        Raises:
            StoreNotFoundError: `settings` is None and nothing is there.
            IndexMismatchError: fingerprint, lexical weighting or a width differs.
            StoreLockedError, StoreWriteError, StoreCorruptError: the folder cannot be used.
        """

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """Add chunks, or replace text, vectors and metadata whole where an id exists.

        When it returns, all chunks are there and survive a crash; when it raises or the process is
        killed, each is wholly there or wholly as it was.

        Args:
            chunks: Unique ids; texts and metadata already checked.
            embeddings: All three heads, in the order of `chunks`.
        """

    def unchanged(self, chunks: Sequence[Chunk]) -> set[str]:
        """Return the ids of those chunks whose text is stored under their id, undamaged, whatever their metadata."""

    def replace_metadata(self, chunks: Sequence[Chunk]) -> list[Chunk]:
        """Give stored chunks the metadata of `chunks`, whole, and keep their text and vectors.

        Crash-safe as `upsert`.

        Returns:
            The chunks that were left alone, because another text or none is stored under their id.
        """

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks that exist, in the order asked."""

    def dense_vectors(self, ids: Sequence[str]) -> dict[str, FloatArray]:
        """Return the dense vector, `(dim,)` float32, of each chunk that exists, by id."""

    def find(self, where: Where) -> list[str]:
        """Return the ids of all chunks that match a filter, in no particular order."""

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the chunks that exist and return how many there were."""

    def count(self) -> int:
        """Return the number of chunks."""

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """Return at most `plan.k` hits for one encoded query, best first; ties by id.

        Which of equal scores are candidates where a depth cuts among them is open: the oldest, or what an engine chooses.
        """

    def scan(self, batch_size: int = 256) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
        """Yield every chunk once, with all three heads, in batches; for copies and exports.

        What is added while it runs may be in it or not; what is replaced may come twice, the newer
        last. A chunk is whole either way.

        Args:
            batch_size: Chunks at a time; one batch is in memory.

        Yields:
            At most `batch_size` chunks, and their embeddings in float32 as `upsert` takes them. Token
            vectors are as far as the store's codec kept them: not of norm 1, and a store with
            another codec encodes what is left of them. Under BM25 sparse rows are token counts.

        Raises:
            StoreCorruptError: a chunk is not what was written.
        """

    def close(self) -> None:
        """Give back files, locks and connections. A second call does nothing."""


def check_settings(made_with: IndexSettings, wanted: IndexSettings) -> None:
    """Refuse an index whose vectors cannot be compared with the encoder's.

    Raises:
        IndexMismatchError: fingerprint, lexical weighting or a width differs.
    """
    for name in ("fingerprint", "lexical", "dim", "multi_dim", "vocab_size"):
        old, new = getattr(made_with, name), getattr(wanted, name)
        if old != new:
            raise IndexMismatchError(
                f"{name}: the index was made with {_short(old)}, this encoder has {_short(new)}. "
                f"Fix: open it with the checkpoint and settings it was made with, or add the texts to a new collection"
            )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 20 else f"{text[:17]}...'"
