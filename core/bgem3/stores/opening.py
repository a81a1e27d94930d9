"""A store by its address, for the command line and the server."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from bgem3.errors import IndexMismatchError, StoreError, StoreWriteError
from bgem3.index.files import CollectionFiles, identity_of
from bgem3.index.sidecar import Sidecar
from bgem3.redact import without_user
from bgem3.stores.addresses import Address
from bgem3.stores.base import Store
from bgem3.stores.chroma_opening import agree, prepare
from bgem3.stores.layouts import Layout
from bgem3.stores.writer_lock import WriterLock
from bgem3.types import IndexSettings

if TYPE_CHECKING:
    from bgem3.stores.qdrant_collection import QdrantCollection


def open_store(db: str, collection: str) -> Store:
    """Return the store of one collection.

    Args:
        db: A folder, for Chroma, or the http address of a Qdrant server, whose key is the variable QDRANT_API_KEY.
        collection: Its name.

    Raises:
        MissingExtraError: the package of the store is not installed.
        InvalidInputError, StoreError: as the store's constructor.
    """
    return Address("qdrant" if _is_address(db) else "chroma", db, collection).make()


def collection_names(db: str) -> list[str]:
    """Return the names of the collections at an address, sorted; on a server those of other programs too.

    Raises:
        MissingExtraError: the package of the store is not installed.
        StoreConnectionError, StoreAccessError, StoreError: as the server failed.
    """
    if not _is_address(db):
        return CollectionFiles.names(Path(db))
    with _qdrant(db, without_user(db)) as server:
        return sorted(one.name for one in server.call(server.client.get_collections).collections)


def count_in_folder(db: str, collection: str, settings: IndexSettings) -> int | None:
    """Count a collection's chunks, and open only the file that knows: no graph, threads or further files.

    Returns:
        The number; None: `db` is the address of a server.

    Raises:
        StoreNotFoundError: there is no such collection.
        IndexMismatchError: it was made with other settings.
        StoreError: its file cannot be read.
    """
    if _is_address(db):
        return None
    path = CollectionFiles(Path(db), collection).sidecar
    prepare(path, exists=True)
    with closing(Sidecar(path, codec="binary")) as sidecar:
        agree(sidecar, settings)
        return sidecar.count()


def place_of(db: str) -> tuple[int, int] | None:
    """Return what tells the database in a folder from one that takes its place; None: there is none.

    A server is asked for its own where it is needed: one answer stands for any.
    """
    return (0, 0) if _is_address(db) else identity_of(os.path.join(db, "chroma.sqlite3"))


def drop_collection(db: str, collection: str) -> None:
    """Delete a collection and everything that is kept of it; one that is not there is left so.

    After a crash it is wholly gone, or a second call ends it.

    Raises:
        IndexMismatchError: another program made it.
        StoreLockedError: another process writes to it.
        StoreWriteError: a file cannot be deleted.
        StoreConnectionError, StoreAccessError, StoreError: as the server failed.
        MissingExtraError: the package of the store is not installed.
    """
    if not _is_address(db):
        if collection in collection_names(db):
            _drop_from_folder(CollectionFiles(Path(db), collection))
        return
    with _qdrant(db, collection) as server:
        if server.call(server.client.collection_exists, collection):
            if server.read()[1] is None:
                raise IndexMismatchError(f"collection {collection!r}: another program made it. Fix: delete it there")
            server.call(server.client.delete_collection, collection)


def _drop_from_folder(files: CollectionFiles) -> None:
    """Delete from Chroma first: what is left beside it names the collection, for a second call."""
    from bgem3.stores.chroma_embedded import delete_collection
    from bgem3.stores.chroma_graph import sweep

    lock = WriterLock(files.lock, files.name)
    lock.take()
    try:
        delete_collection(files.name, files.folder)
        sweep(files.folder)
        shutil.rmtree(files.lexical, ignore_errors=True)
        for path in files.databases:
            path.unlink(missing_ok=True)
    except StoreError:  # one is an OSError too
        raise
    except OSError as error:
        raise StoreWriteError(f"{files.folder}: cannot be written ({error}). Fix: make it writable") from error
    finally:
        lock.release()


@contextmanager
def _qdrant(db: str, name: str) -> Iterator[QdrantCollection]:
    """Ask a server, about a collection or of all; errors call it by that name."""
    from bgem3.stores.qdrant_collection import QdrantCollection, connect

    with closing(connect(None, db, os.environ.get("QDRANT_API_KEY"), False, 6334, 60)) as client:
        yield QdrantCollection(client, name, {}, Layout())


def _is_address(db: str) -> bool:
    return db.startswith(("http://", "https://"))
