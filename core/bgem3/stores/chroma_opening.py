"""Opening a Chroma collection so that what a killed process left of its graph is mended first."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Container
from contextlib import ExitStack
from dataclasses import asdict
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bgem3.errors import IndexMismatchError, InvalidInputError, StoreError, StoreNotFoundError, StoreWriteError
from bgem3.index.files import CollectionFiles
from bgem3.index.sidecar import Sidecar
from bgem3.intake import slices
from bgem3.stores.base import check_settings
from bgem3.stores.chroma_client import ChromaCollection, says_graph
from bgem3.stores.chroma_embedded import CODEC, OWNER, SETTINGS
from bgem3.stores.chroma_graph import Graph
from bgem3.stores.writer_lock import WriterLock
from bgem3.types import IndexSettings

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_log = logging.getLogger(__name__)
_SLICE = 1000
# What a database opens: not the end of a string, not half of a surrogate pair.
_PATH = re.compile("[^\0\ud800-\udfff]+")
# Chroma's own rule, but for the length: it takes 512 characters, and a name of ours is part of a file's.
_NAME = re.compile(r"(?!.*\.\.)(?!([0-9]+\.){3}[0-9]+$)[a-zA-Z0-9][a-zA-Z0-9._-]{1,198}[a-zA-Z0-9]")


def check_folders(**folders: object) -> None:
    """Refuse what is no path of a folder; None is the caller's business.

    Raises:
        InvalidInputError: names the parameter.
    """
    for name, folder in folders.items():
        if folder is not None and not (isinstance(folder, str | PathLike) and _PATH.fullmatch(str(folder))):
            raise InvalidInputError(f"{name}: expected the path of a folder, got {folder!r}. Fix: {name}='./db'")


def check_name(collection: object) -> None:
    """Refuse a collection's name that Chroma refuses, before it names a file.

    Raises:
        InvalidInputError: says what a name is.
    """
    if not isinstance(collection, str) or not _NAME.fullmatch(collection):
        raise InvalidInputError(
            f"collection: got {collection!r}, expected 3 to 200 of a-z, A-Z, 0-9, dot, dash, underscore, a letter or digit "
            f"first and last, no two dots in a row, no IP address. Fix: collection='bgem3'"
        )


def prepare(path: Path, *, exists: bool) -> None:
    """Make the folder of a sidecar file.

    Raises:
        StoreNotFoundError: the file should exist and does not.
        StoreWriteError: the folder cannot be made.
    """
    if exists and not path.exists():
        raise StoreNotFoundError(
            f"{path}: not there. Fix: another path or collection, pass it to HybridIndex, or bgem3 repair if it was lost"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreWriteError(f"{path.parent}: cannot be made ({error}). Fix: choose a writable path") from error


def agree(sidecar: Sidecar, settings: IndexSettings | None) -> IndexSettings:
    """Return what the index was made with; write it down where it is new.

    Raises:
        StoreNotFoundError: nothing was written down yet, and nothing is given.
        IndexMismatchError: it was made with other settings.
        InvalidInputError: it is that of a collection whose name differs in capitals, which many disks take for one.
    """
    name = CollectionFiles.of(sidecar.path).name
    if sidecar.collection != name and sidecar.collection.lower() == name.lower():
        raise InvalidInputError(
            f"collection: got {name!r}, whose file on this disk is that of {sidecar.collection!r}. Fix: that one, or a name "
            f"that differs in more than capitals"
        )
    if sidecar.settings is None and settings is not None:
        sidecar.save_settings(settings)
    if sidecar.settings is None:
        raise StoreNotFoundError(f"{sidecar.path}: nothing was stored yet. Fix: pass it to HybridIndex")
    check_settings(sidecar.settings, settings or sidecar.settings)
    return sidecar.settings


class Opener:
    """Opens one collection, as often as it must be.

    Args:
        name: The collection.
        sidecar: Holds its vectors.
        writer: The writer's lock; only who holds it may mend.
        graph: Its files.
        path: Folder of an embedded Chroma, or None with `client`.
        client: A Chroma client.
        adopt: Take a collection that another program made.
    """

    def __init__(
        self,
        name: str,
        sidecar: Sidecar,
        writer: WriterLock,
        graph: Graph,
        path: Path | None,
        client: ClientAPI | None,
        *,
        adopt: bool,
    ) -> None:
        self._name, self._sidecar, self._writer, self._graph = name, sidecar, writer, graph
        self._path, self._client, self._adopt = path, client, adopt
        self._chunks = 0  # in Chroma's database at the last opening

    def open(self) -> ChromaCollection:
        """Open it, and mend its graph where a killed process left it torn.

        Raises:
            IndexMismatchError: it belongs to another sidecar or program, or its files are gone.
            StoreError: Chroma cannot open it, and it cannot be mended.
        """
        if self._sidecar.graph() is None:
            return self.reopen()
        with self._writer.tried() as taken:
            if not taken:  # another process writes, and is alive
                return self.reopen()
            if self._graph.torn():
                return self.mend()
            try:
                collection = self.reopen(waits=True)
            except IndexMismatchError:
                raise
            except StoreError as error:
                if not (self._graph.embedded and says_graph(error)):
                    raise
                return self.mend()
            self._graph.settle()
            return collection

    def tell_of_others(self) -> None:
        """Warn of chunks that another program put into the collection: without a row here no search finds them."""
        if self._adopt or self._sidecar.pending() or self._chunks <= self._sidecar.count():
            return
        others = self._graph.count() - self._sidecar.count()  # again: what a crash left is settled since
        if others > 0:
            _log.warning(
                "collection %r: %d chunks were written by another program and are not found. Fix: bgem3 backfill "
                "--collection %s, or ChromaStore.adopt",
                self._name,
                others,
                self._name,
            )

    def torn(self) -> bool:
        """Whether a process that wrote died and left a torn graph."""
        if self._writer.held or self._sidecar.graph() is None:
            return False
        with self._writer.tried() as taken:
            return taken and self._graph.torn()

    def mend(self) -> ChromaCollection:
        """Make the graph again from the sidecar's vectors, float16. Nobody may have the collection open.

        Raises:
            StoreError: the client is the caller's, who may have.
        """
        if self._client is not None:
            raise StoreError(
                f"collection {self._name!r}: a killed process left its graph torn. Fix: close the client, open "
                f"ChromaStore(path=..., sidecar=...) once, which makes the graph again, and pass client= after it"
            )
        _log.warning("collection %r: its graph is made again", self._name)
        with self._graph.alone():
            logged = self._graph.drop()
        collection = self.reopen()
        try:
            refill(collection, self._sidecar, logged)
        except BaseException:
            collection.close()
            raise
        self._graph.settle()
        return collection

    def reopen(self, *, waits: bool = False) -> ChromaCollection:
        """Open it as it is; its graph is loaded beside what comes next, unless this waits for it."""
        with ExitStack() as alone:
            alone.enter_context(self._graph.alone())
            self._chunks = self._graph.count()
            made_with = json.dumps(self._sidecar.settings and asdict(self._sidecar.settings))
            marks = {OWNER: self._sidecar.uuid, CODEC: self._sidecar.codec, SETTINGS: made_with}
            collection = ChromaCollection(
                self._name, marks, self._graph, path=self._path, client=self._client, adopt=self._adopt
            )
            collection.load(alone.pop_all())
        try:
            if waits:
                collection.loaded()
            there = self._chunks or collection.count()
        except BaseException:
            collection.close()
            raise
        if not there and self._sidecar.count():
            collection.close()
            raise IndexMismatchError(
                f"collection {self._name!r} is empty, {self._sidecar.path} is not: Chroma's files are gone. "
                f"Fix: restore them, or delete the sidecar and add the texts again"
            )
        return collection


def settle(sidecar: Sidecar, collection: ChromaCollection) -> None:
    """Finish or take back what was begun: ask Chroma what became of those chunks. Only who holds the writer's lock may."""
    if not (pending := sidecar.pending()):
        return
    found = collection.get([one.id for one in pending])
    old = {one.id: one.old_row for one in pending}
    # A chunk without a pointer was adopted and not written since: it is at its old row.
    pointers = {id_: old[id_] if pointer is None else pointer for id_, (_, pointer) in found.items()}
    sidecar.settle(pending, {id_: row for id_, row in pointers.items() if row is not None})


def refill(collection: ChromaCollection, sidecar: Sidecar, logged: Container[str] = ()) -> None:
    """Give each chunk that the graph lacks the vector of the row that it points at.

    Chunks without a whole row are left without a vector; `verify` names them and `repair` encodes them.

    Args:
        collection: Open.
        sidecar: Holds the vectors.
        logged: Ids that may be in the graph; others are not.
    """
    for ids in slices(collection.ids(), _SLICE):
        there = collection.dense([id_ for id_ in ids if id_ in logged])
        pointers = {id_: pointer for id_, (_, pointer) in collection.get(ids).items() if id_ not in there}
        live = sidecar.rows_of(list(pointers))
        rows = {id_: live.get(id_) if pointer is None else pointer for id_, pointer in pointers.items()}
        known = {id_: row for id_, row in rows.items() if row is not None}
        whole = set(sidecar.whole(np.array(list(known.values()), dtype=np.int64)))
        kept = {id_: row for id_, row in known.items() if row in whole}
        if kept:
            collection.put_dense(list(kept), sidecar.dense(np.array(list(kept.values()), dtype=np.int64)))
