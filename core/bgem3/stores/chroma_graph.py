"""The files of Chroma's graph, and what a killed process can do to them.

Chroma saves a collection's graph in place, in three steps: the graph's files, then the map of its ids, then in its
database the number of the last record that is in them. A process killed between two of them leaves files that
disagree: records are applied a second time, which an embedded Chroma refuses ("Failed to apply logs to the hnsw
segment writer"), answers wrongly or does not survive. So while a process writes, the sidecar holds that number and
the files' times and sizes as they were after the last write. Other files under the same number are torn; they
are thrown away and made again from the vectors of the sidecar. See docs/decisions/chroma-graph.md.
"""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bgem3.errors import StoreError, StoreLockedError, StoreWriteError
from bgem3.index.sidecar import Sidecar
from bgem3.stores.chroma_database import Rows, Statement, run

_SEGMENTS = (
    "SELECT segments.id FROM segments JOIN collections ON collections.id = segments.collection "
    "WHERE collections.name = ? AND segments.scope = 'VECTOR'"
)
_SAVED = f"SELECT seq_id FROM max_seq_id WHERE segment_id IN ({_SEGMENTS})"
_FORGET_SAVED = f"DELETE FROM max_seq_id WHERE segment_id IN ({_SEGMENTS})"
# Operations 0 and 2 are add and upsert; an update of a chunk that is not in the graph is passed over.
_LOGGED = (
    "SELECT embeddings_queue.id FROM embeddings_queue JOIN collections ON topic LIKE '%' || collections.id "
    "WHERE collections.name = ? AND operation IN (0, 2) AND vector IS NOT NULL"
)
_COUNT = (
    "SELECT count(*) FROM embeddings WHERE segment_id IN (SELECT segments.id FROM segments JOIN collections "
    "ON collections.id = segments.collection WHERE collections.name = ? AND segments.scope = 'METADATA')"
)
_UNSAVED = (
    "SELECT count(*) FROM embeddings_queue JOIN collections ON topic LIKE '%' || collections.id "
    f"WHERE collections.name = ? AND seq_id > coalesce(({_SAVED}), 0)"
)
# What Chroma calls the folder of a graph, and the files in it.
_FOLDER = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FILES = {"data_level0.bin", "header.bin", "length.bin", "link_lists.bin", "index_metadata.pickle"}
# How long another process may take to write one batch.
_PATIENCE_S = 120.0


class Graph:
    """Guards the graph of one collection.

    Args:
        path: Folder of an embedded Chroma; None: a server keeps the graph, and nothing is done here.
        name: The collection.
        lock: A lock file, held for each change and while the collection is opened: a process that opens it in the
            middle of a change could save the graph at the same time.
        sidecar: Where the files' state is kept.
    """

    def __init__(self, path: Path | None, name: str, *, lock: Path, sidecar: Sidecar) -> None:
        self._path = path
        self._name = name
        self._lock = FileLock(lock, thread_local=False, poll_interval=0.01)
        self._sidecar = sidecar
        self._segments: list[str] = []
        self._seen: dict[str, Any] = {}
        self._noted: dict[str, Any] | None = None
        # The files when they were last found to agree.
        self._whole: dict[str, list[int]] | None = None

    @property
    def embedded(self) -> bool:
        """Whether the files are here."""
        return self._path is not None

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other processes from changing or opening the graph within.

        Raises:
            StoreLockedError: another process holds it for longer than 2 minutes.
        """
        if self._path is None:
            yield
            return
        try:
            self._lock.acquire(timeout=_PATIENCE_S)
        except Timeout as error:
            raise StoreLockedError(
                f"{self._path}: another process changes collection {self._name!r} for longer than {_PATIENCE_S:.0f} s. "
                f"Fix: end it"
            ) from error
        except OSError:  # a folder that cannot be written: nobody writes to it
            yield
            return
        try:
            yield
        finally:
            self._lock.release()

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Hold the graph for one batch of changes, small enough that Chroma saves at most once within."""
        with self.alone():
            self._note()
            yield
            self._note()

    def damage(self) -> str | None:
        """Return what SQLite finds wrong with Chroma's database, or None. Reads all of it."""
        if self._path is None:
            return None
        found = self._ask(("PRAGMA integrity_check(1)", []))[0][0][0]
        return None if found == "ok" else f"{self._path / 'chroma.sqlite3'}: {found}"

    def vectors(self) -> int:
        """Return for how many vectors the files have room, those of deleted chunks among them."""
        if self._path is None:
            return 0
        self._look()
        # a number of 4 bytes for each
        return sum(size for name, (size, _) in self._files().items() if name == "length.bin") // 4

    def unsaved(self) -> int:
        """Return the number of records that are in Chroma's log and not in the files: an opening applies them again."""
        return int(self._ask((_UNSAVED, [self._name] * 2))[0][0][0])

    def count(self) -> int:
        """Return how many chunks an embedded Chroma's database surely holds; the graph is not loaded for that."""
        if self._path is None or not (self._path / "chroma.sqlite3").is_file():
            return 0
        try:
            return int(self._look((_COUNT, [self._name]))[0][0][0])
        except StoreError:  # tables that Chroma has yet to make
            return 0

    def torn(self) -> bool:
        """Whether a killed process left files that disagree. Only true while nobody changes the collection."""
        noted = self._sidecar.graph()
        if noted is None or self._path is None:
            return False
        if not noted:  # it was being made again
            return True
        before = json.loads(noted)
        if self._segments and self._files() in (before["files"], self._whole):
            return False
        self._look()
        if before["saved"] == self._seen["saved"] and before["files"] != self._seen["files"]:
            return True
        self._whole = self._seen["files"]
        return False

    def distrust(self) -> None:
        """Note that the files cannot be used: the next opening makes them again."""
        self._sidecar.note_graph("")

    def drop(self) -> set[str]:
        """Throw the files away, so that Chroma begins with an empty graph. The collection must not be open.

        Returns:
            The ids of which Chroma's log holds a vector: it puts those into the graph by itself.

        Raises:
            StoreWriteError: the folder refuses it.
        """
        assert self._path is not None
        self.distrust()
        name = [self._name]
        try:
            segments, _, logged = run(self._path, (_SEGMENTS, name), (_FORGET_SAVED, name), (_LOGGED, name))
        except sqlite3.Error as error:
            raise StoreWriteError(
                f"{self._path}: {error}. Fix: make the folder writable, or free disk space"
            ) from error
        for (segment,) in segments:
            shutil.rmtree(self._path / segment, ignore_errors=True)
        return {id_ for (id_,) in logged}

    def settle(self) -> None:
        """Say that the files agree and nobody changes them."""
        self._noted = None
        if self.embedded and self._sidecar.graph() is not None:
            self._sidecar.note_graph(None)

    def _note(self) -> None:
        if self._path is None:
            return
        if not self._segments or self._files() != self._seen["files"]:  # Chroma saves seldom: the number stays else
            self._look()
        if self._seen != self._noted:
            self._sidecar.note_graph(json.dumps(self._seen))
            self._noted = self._seen

    def _look(self, *more: Statement) -> list[Rows]:
        """See the number of the last record that Chroma says is saved, and the files; return the rows of `more`."""
        name = [self._name]
        segments, saved, *found = self._ask((_SEGMENTS, name), (_SAVED, name), *more)
        self._segments = [segment for (segment,) in segments]
        self._seen = {"saved": saved[0] if saved else None, "files": self._files()}
        return found

    def _files(self) -> dict[str, list[int]]:
        """Return the sizes and times of the graph's files."""
        assert self._path is not None
        try:
            files = [one for segment in self._segments for one in sorted((self._path / segment).glob("*"))]
            return {one.name: _size_and_time(one) for one in files}
        except OSError as error:
            raise StoreError(f"{self._path}: Chroma's files cannot be read ({error})") from error

    def _ask(self, *statements: Statement) -> list[Rows]:
        try:
            return run(self._path or Path(), *statements)
        except sqlite3.Error as error:
            raise StoreError(f"{self._path}: Chroma's files cannot be read ({error})") from error


def vacuum(path: Path) -> None:
    """Write Chroma's database anew without the space that deleted records left.

    Raises:
        StoreWriteError: the disk is full, or another program holds it; nothing was changed.
    """
    try:
        run(path, ("VACUUM", []))
    except sqlite3.Error as error:
        raise StoreWriteError(
            f"{path}: {error}. Fix: free disk space, or close the program that has it open"
        ) from error


def sweep(path: Path) -> None:
    """Delete the graphs of collections that are gone, whose files Chroma leaves behind; the others may be open.

    Raises:
        StoreWriteError: Chroma's database cannot be read.
    """
    # Before the database is read: it knows of a graph before there is a folder.
    folders = [one for one in path.iterdir() if _FOLDER.fullmatch(one.name) and one.is_dir()]
    graphs = [one for one in folders if {file.name for file in one.iterdir()} <= _FILES]
    try:
        [segments] = run(path, ("SELECT id FROM segments", []))
    except sqlite3.Error as error:
        raise StoreWriteError(f"{path}: {error}. Fix: close the program that holds it, and call again") from error
    known = {segment for (segment,) in segments}
    for graph in graphs:
        if graph.name not in known:
            shutil.rmtree(graph, ignore_errors=True)


def _size_and_time(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns]
