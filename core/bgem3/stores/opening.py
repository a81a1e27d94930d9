"""A store by its address, for the command line and the server."""

from __future__ import annotations

import os
from pathlib import Path

from bgem3.errors import MissingExtraError
from bgem3.stores.base import Store


def open_store(db: str, collection: str) -> Store:
    """Return the store of one collection.

    Args:
        db: A folder, for Chroma, or the http address of a Qdrant server, whose key is the variable QDRANT_API_KEY.
        collection: Its name.

    Raises:
        MissingExtraError: the package of the store is not installed.
    """
    if _is_address(db):
        from bgem3.stores.qdrant import QdrantStore

        return QdrantStore(url=db, collection=collection, api_key=os.environ.get("QDRANT_API_KEY"))
    from bgem3.stores.chroma import ChromaStore

    return ChromaStore(db, collection=collection)


def collection_names(db: str) -> list[str]:
    """Return the names of the collections at an address, sorted.

    Raises:
        MissingExtraError: the package of the store is not installed.
    """
    if not _is_address(db):
        return sorted(path.stem.removeprefix("bgem3-") for path in Path(db).glob("bgem3-*.sqlite3"))
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtraError("qdrant-client", "qdrant", db) from error
    client = QdrantClient(url=db, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False)
    try:
        return sorted(one.name for one in client.get_collections().collections)
    finally:
        client.close()


def _is_address(db: str) -> bool:
    return db.startswith(("http://", "https://"))
