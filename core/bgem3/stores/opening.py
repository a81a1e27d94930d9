"""A store by its address, for the command line and the server."""

from __future__ import annotations

from pathlib import Path

from bgem3.stores.base import Store


def open_store(db: str, collection: str) -> Store:
    """Return the store of one collection.

    Args:
        db: A folder, for Chroma.
        collection: Its name.
    """
    from bgem3.stores.chroma import ChromaStore

    return ChromaStore(db, collection=collection)


def collection_names(db: str) -> list[str]:
    """Return the names of the collections at an address, sorted."""
    return sorted(path.stem.removeprefix("bgem3-") for path in Path(db).glob("bgem3-*.sqlite3"))
