"""Embedded Chroma clients, each with the graphs as they are on disk.

chromadb keeps one system, with the graphs it has loaded, for each spelling of a folder, and hands it to every client
that asks for that one. So a second store in a process would see a collection as it was when the first was opened,
whatever other processes wrote since, and closing one would let go of nothing. Here a store whose folder another store
has open spells it in another way. A client that the caller made for the folder is joined: what it writes must go
through the same graph. chromadb's cache of systems is not safe for threads; the lock makes it so for ours.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakSet

from bgem3.errors import (
    BGEM3Error,
    IndexMismatchError,
    MissingExtraError,
    StoreError,
    StoreNotFoundError,
    StoreWriteError,
)
from bgem3.index.files import CollectionFiles

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

# Chroma metadata of ours: the sidecar of a collection, what that was made with, the row in it of a chunk.
OWNER, SETTINGS, CODEC, POINTER = "_bgem3_sidecar", "_bgem3_settings", "_bgem3_codec", "_bgem3_row"
FREE = ". Fix: free disk space, then call again"
_LOCK = Lock()
# Systems that were made here.
_OURS: WeakSet[Any] = WeakSet()


# The process that made the first one. Chroma's threads live there alone: a child that it forks would wait for them for ever.
_process: int | None = None


def check_not_forked(opened_in: int | None) -> None:
    """Refuse to go on in a child process after its parent opened Chroma.

    Args:
        opened_in: The process that did; None: nobody did.

    Raises:
        StoreError: it is not this one.
    """
    if opened_in not in (None, os.getpid()):
        raise StoreError(
            "ChromaStore: this process was forked from one that had opened Chroma, whose threads are not in it. Fix: open "
            "stores after the fork only, or start processes by spawn"
        )


def require_chroma() -> None:
    """Raise MissingExtraError where chromadb is not installed, before anything is made and without its import's second."""
    if find_spec("chromadb") is None:
        raise MissingExtraError("chromadb", "chroma", "ChromaStore")


def connect(path: Path | None) -> tuple[ClientAPI, bool]:
    """Open a folder of Chroma.

    Returns:
        A client, and whether it sees what other processes wrote before: not where it joins one of the caller's.

    Raises:
        MissingExtraError: chromadb is not installed.
        StoreError: this process was forked from one that had opened Chroma.
        Exception: whatever Chroma raises.
    """
    try:
        import chromadb
        from chromadb.api.shared_system_client import SharedSystemClient
        from chromadb.config import Settings
    except ImportError as error:
        raise MissingExtraError("chromadb", "chroma", "ChromaStore") from error
    systems = SharedSystemClient._identifier_to_system
    global _process
    check_not_forked(_process)
    with _LOCK:
        _process = os.getpid()
        folder = Path(str(path)).resolve()
        theirs = (name for name, system in list(systems.items()) if _is_the_callers(system, folder))
        spelled = next(theirs, str(folder))
        while systems.get(spelled) in _OURS:
            spelled += "/."
        fresh = spelled not in systems
        settings = Settings(anonymized_telemetry=False) if fresh else systems[spelled].settings
        try:
            client: ClientAPI = chromadb.PersistentClient(spelled, settings=settings)
        except Exception:  # whatever it was goes on to the caller
            if fresh:  # chromadb would hand the system that did not start to the next client
                systems.pop(spelled, None)
            raise
        if fresh:
            _OURS.add(systems[spelled])
        return client, fresh


def _is_the_callers(system: Any, folder: Path) -> bool:
    """Tell whether a caller opened the folder, however they spelled it."""
    settings = system.settings
    return system not in _OURS and settings.is_persistent and Path(settings.persist_directory).resolve() == folder


def disconnect(client: ClientAPI) -> None:
    """Close a client."""
    with _LOCK:
        cast(Any, client).close()


def folder_of(client: ClientAPI | None) -> Path | None:
    """Return the folder of an embedded client; None: a server or memory keeps its collections."""
    settings = client.get_settings() if client else None
    return Path(settings.persist_directory).resolve() if settings and settings.is_persistent else None


def require_collection(name: str, *, path: Path | None, client: ClientAPI | None) -> None:
    """Raise StoreNotFoundError where there is no such collection; nothing is made."""
    if client is None and not (path and (path / "chroma.sqlite3").is_file()):
        raise StoreNotFoundError(f"{path}: no Chroma database. Fix: the folder that was its persist_directory")
    with _opened(path, client) as opened:
        names = [collection.name for collection in opened.list_collections()]
    if name not in names:
        raise StoreNotFoundError(f"collection: none is called {name!r}, there are {', '.join(names) or 'none'}")


def says_full(error: Exception) -> bool:
    """Whether an error of Chroma's is about a full disk, on which it opens nothing either."""
    return "disk is full" in str(error) or "No space left" in str(error)


def delete_collection(name: str, path: Path) -> None:
    """Delete a collection of an embedded Chroma with all its chunks; one that is not there is left so.

    Raises:
        IndexMismatchError: another program made it.
        StoreError: Chroma cannot be opened, or refuses.
    """
    with _opened(path) as client:
        for collection in client.list_collections():
            if collection.name == name and OWNER not in (collection.metadata or {}):
                raise IndexMismatchError(
                    f"collection {name!r}: another program made the one in Chroma. Fix: delete it there, or the file "
                    f"{CollectionFiles(path, name).sidecar.name} alone"
                )
            if collection.name == name:
                client.delete_collection(name)


@contextmanager
def _opened(path: Path | None, client: ClientAPI | None = None) -> Iterator[ClientAPI]:
    """Give the caller's client, or one for as long as this lasts; Chroma's errors become ours."""
    try:
        opened = client or connect(path)[0]
        try:
            yield opened
        finally:
            if client is None:
                disconnect(opened)
    except (BGEM3Error, OSError):
        raise
    except Exception as error:  # chromadb raises its own, ValueError, httpx's and Rust's, with no common base
        said = f"{path or 'client'}: Chroma refused ({type(error).__name__}: {error})"
        raise (StoreWriteError(f"{said}{FREE}") if says_full(error) else StoreError(said)) from error
