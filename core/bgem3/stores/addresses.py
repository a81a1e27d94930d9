"""Stores by one line of text, as commands and workers name them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from bgem3.errors import InvalidInputError
from bgem3.stores.base import Store

HELP = "chroma:FOLDER, qdrant:URL or FOLDER, milvus:URL or FILE.db, each with #COLLECTION behind it"
_ENGINES = ("chroma", "qdrant", "milvus")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a store is, e.g. `qdrant:http://localhost:6333#news`.

    Attributes:
        engine: `chroma`, `qdrant` or `milvus`.
        place: A folder, a file or a URL.
        collection: Its name.
    """

    engine: str
    place: str
    collection: str = "bgem3"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Read an address.

        Raises:
            InvalidInputError: it names no engine or no place.
        """
        engine, _, rest = text.partition(":")
        place, _, collection = rest.partition("#")
        if engine not in _ENGINES or not place:
            raise InvalidInputError(f"store: got {text!r}, expected {HELP}. Fix: qdrant:http://localhost:6333#bgem3")
        return cls(engine, place, collection or "bgem3")

    @property
    def is_server(self) -> bool:
        """Whether several processes can open it at once."""
        return "://" in self.place

    def make(self, **options: Any) -> Store:
        """Return the store, not yet opened. Keys come from QDRANT_API_KEY and MILVUS_TOKEN.

        Args:
            options: Further arguments of the store's constructor.

        Raises:
            InvalidInputError: a codec for Qdrant, which keeps numbers; or as the constructor.
            MissingExtraError, StoreError: as the store's constructor.
        """
        if self.engine == "chroma":
            from bgem3.stores.chroma import ChromaStore

            return ChromaStore(self.place, collection=self.collection, **options)
        if self.engine == "milvus":
            from bgem3.stores.milvus import MilvusStore

            token = os.environ.get("MILVUS_TOKEN", "")
            return MilvusStore(self.place, collection=self.collection, token=token, **options)
        from bgem3.stores.qdrant import QdrantStore

        if "codec" in options:
            raise InvalidInputError("codec: Qdrant keeps token vectors as numbers. Fix: leave it out")
        if self.is_server:
            key = os.environ.get("QDRANT_API_KEY")
            return QdrantStore(url=self.place, api_key=key, collection=self.collection, **options)
        return QdrantStore(self.place, collection=self.collection, **options)
