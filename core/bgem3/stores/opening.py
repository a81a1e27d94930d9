"""A store by its address, for the command line and the server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bgem3.errors import MissingExtraError, StoreWriteError
from bgem3.stores.base import Store
from bgem3.stores.writer_lock import WriterLock

if TYPE_CHECKING:
    from qdrant_client import QdrantClient


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
    with _qdrant(db) as client:
        return sorted(one.name for one in client.get_collections().collections)


def drop_collection(db: str, collection: str) -> None:
    """Delete a collection and everything that is kept of it; one that is not there is left so.

    After a crash it is wholly gone, or a second call ends it.

    Raises:
        StoreLockedError: another process writes to it.
        StoreWriteError: a file cannot be deleted.
        MissingExtraError: the package of the store is not installed.
    """
    if _is_address(db):
        with _qdrant(db) as client:
            client.delete_collection(collection)
    elif collection in collection_names(db):
        _drop_from_folder(Path(db), collection)


def _drop_from_folder(folder: Path, collection: str) -> None:
    """Delete from Chroma first: what is left beside it names the collection, for a second call."""
    from bgem3.stores.chroma_embedded import delete_collection

    stem = folder / f"bgem3-{collection}"
    lock = WriterLock(Path(f"{stem}.lock"), collection)
    lock.take()
    try:
        delete_collection(collection, folder)
        shutil.rmtree(f"{stem}.lexical", ignore_errors=True)
        for ending in ("sqlite3-wal", "sqlite3-shm", "sqlite3"):
            Path(f"{stem}.{ending}").unlink(missing_ok=True)
    except OSError as error:
        raise StoreWriteError(f"{folder}: cannot be written ({error}). Fix: make it writable") from error
    finally:
        lock.release()


@contextmanager
def _qdrant(db: str) -> Iterator[QdrantClient]:
    try:
        from qdrant_client import QdrantClient
    except ImportError as error:
        raise MissingExtraError("qdrant-client", "qdrant", db) from error
    client = QdrantClient(url=db, api_key=os.environ.get("QDRANT_API_KEY"), check_compatibility=False)
    try:
        yield client
    finally:
        client.close()


def _is_address(db: str) -> bool:
    return db.startswith(("http://", "https://"))
