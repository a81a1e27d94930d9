"""What a store must do. `HybridIndex` validates and encodes; a store keeps and searches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from bgem3.embeddings import M3Embeddings
from bgem3.types import Chunk, Hits, IndexSettings, SearchPlan, Where


class Store(Protocol):
    """Keeps chunks with all three representations, and answers a whole search plan.

    A store that is an engine runs the plan there; an embedded one hands its parts to
    `bgem3.stores.local.run_plan`. Every method raises `StoreClosedError` after `close`.
    """

    def open(self, settings: IndexSettings) -> IndexSettings:
        """Create the collection, or check that it fits; return the settings it was made with.

        Raises:
            IndexMismatchError: fingerprint, lexical weighting or a width differs.
            StoreLockedError, StoreWriteError, StoreCorruptError: the folder cannot be used.
        """

    def upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings) -> None:
        """Add chunks, or replace text, vectors and metadata whole where an id exists.

        When it returns, all chunks are there and survive a crash; when it raises, none is.

        Args:
            chunks: Unique ids; texts and metadata already checked.
            embeddings: All three heads, in the order of `chunks`.
        """

    def get(self, ids: Sequence[str]) -> list[Chunk]:
        """Return the chunks that exist, in the order asked."""

    def find(self, where: Where) -> list[str]:
        """Return the ids of all chunks that match a filter, in no particular order."""

    def delete(self, ids: Sequence[str]) -> int:
        """Delete the chunks that exist and return how many there were."""

    def count(self) -> int:
        """Return the number of chunks."""

    def search(self, query: M3Embeddings, plan: SearchPlan) -> Hits:
        """Return at most `plan.k` hits for one encoded query, best first; ties by id."""

    def close(self) -> None:
        """Give back files, locks and connections. A second call does nothing."""
