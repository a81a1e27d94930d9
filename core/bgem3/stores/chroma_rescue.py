"""A sidecar file that is damaged, lost or of an older format, made anew from what of it can be read.

The old file is put aside, the new one made beside it and moved to its place when it is whole: a rescue that is broken off
begins again. Rows that are whole are carried over under their numbers, so that Chroma's pointers still lead
to them; of an older format none are, for their codes mean something else. `chroma_upkeep.backfill` then encodes the rest.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from bgem3.errors import StoreError, StoreLockedError, StoreNotFoundError, StoreWriteError
from bgem3.index.database import is_passing, translated
from bgem3.index.files import CollectionFiles
from bgem3.index.sidecar import FORMAT, Sidecar, checksum_of
from bgem3.stores.chroma_database import Rows, run
from bgem3.stores.chroma_embedded import CODEC, OWNER, POINTER, SETTINGS
from bgem3.stores.writer_lock import WriterLock
from bgem3.types import IndexSettings

_COLUMNS = (
    "row, id, text_hash, metadata, sparse_checksum, dense_checksum, multi_vector_checksum, "
    "tokens, weights, dense, multi_vector"
)
_MARKS = (
    "SELECT key, str_value FROM collection_metadata JOIN collections ON collections.id = collection_id "
    f"WHERE name = ? AND key IN ('{OWNER}', '{SETTINGS}', '{CODEC}')"
)
_POINTERS = (
    "SELECT embeddings.embedding_id, int_value FROM embedding_metadata "
    "JOIN embeddings ON embeddings.id = embedding_metadata.id JOIN segments ON segments.id = segment_id "
    f"JOIN collections ON collections.id = segments.collection WHERE name = ? AND key = '{POINTER}'"
)
_SLICE = 100
# SQLite quotes a damaged name in words that are no UTF-8.
_UNREADABLE = (sqlite3.Error, UnicodeDecodeError)
# What SQLite keeps of a database.
_PARTS = ("", "-wal", "-shm")


def needs_rescue(path: Path) -> bool:
    """Whether a sidecar file is damaged as a file or of an older format, or gone while Chroma has its chunks. Reads all of it.

    Raises:
        StoreWriteError, StoreLockedError: it cannot be read now: the disk is full, another process holds it.
    """
    try:
        owner = _marks(path.parent, CollectionFiles.of(path).name)[OWNER]
    except StoreError:
        owner = None
    if not path.exists():
        return owner is not None
    try:
        with closing(sqlite3.connect(path)) as database:
            meta = dict(database.execute("SELECT key, value FROM meta"))
            whole = database.execute("PRAGMA integrity_check(1)").fetchone()[0] == "ok"
            # made by whoever opened the collection after the file was lost
            strange = owner not in (None, meta.get("uuid")) and _is_empty(path)
            return not whole or "uuid" not in meta or int(meta["format"]) < FORMAT or strange
    except sqlite3.DatabaseError as error:
        if is_passing(error):
            raise translated(path, error) from error
        return True
    except (ValueError, KeyError):
        return True


def rescue(folder: Path, collection: str, settings: IndexSettings, *, codec: str = "binary") -> int:
    """Put a sidecar file aside and make it anew.

    Args:
        folder: Of the embedded Chroma and the sidecar.
        collection: Its name.
        settings: What the index is made with where neither Chroma's metadata nor the old file tells.
        codec: Likewise.

    Returns:
        The number of rows that were carried over.

    Raises:
        StoreNotFoundError: Chroma has no collection of that name that belongs to a sidecar.
        StoreError: Chroma's database cannot be read.
        StoreLockedError: another process writes.
        StoreWriteError: the folder refuses it.
    """
    files = CollectionFiles(folder, collection)
    path, lock = files.sidecar, WriterLock(files.lock, collection)
    with lock.tried() as taken:
        if not taken:
            raise StoreLockedError(f"{path}: another process writes to it. Fix: close it there")
        marks, pointers = _marks(folder, collection), _pointers(folder, collection)
        _put_aside(path, files.damaged)
        _delete(files.fresh)
        with closing(sqlite3.connect(files.damaged if files.damaged.exists() else ":memory:")) as old:
            # Lets SQLite read a file that is cut off.
            old.execute("PRAGMA writable_schema = ON")
            meta = dict(_read(old, "SELECT key, value FROM meta"))
            current = meta.get("format") == str(FORMAT)
            # of a file that whoever opened the collection made after the right one was lost, too
            codec = marks.get(CODEC) or str(meta.get("codec", codec))
            with closing(Sidecar(files.fresh, codec=codec, uuid=marks[OWNER])) as new:
                _save_settings(new, marks.get(SETTINGS) or meta.get("settings"), settings)
                kept = _carry_over(old, new, pointers) if current else _number_from(new, pointers)
        files.fresh.rename(path)
        return kept


def _marks(folder: Path, collection: str) -> dict[str, str]:
    """Return what Chroma's metadata tells of the collection's sidecar: its uuid, and what it was made with."""
    marks = {str(key): str(value) for key, value in _ask(folder, _MARKS, collection)}
    if OWNER not in marks:
        raise StoreNotFoundError(f"{folder}: no collection {collection!r} of ours in Chroma. Fix: bgem3 backfill")
    return marks


def _pointers(folder: Path, collection: str) -> dict[str, int]:
    """Return the row that each chunk points at."""
    return {str(id_): int(row) for id_, row in _ask(folder, _POINTERS, collection)}


def _ask(folder: Path, sql: str, collection: str) -> Rows:
    database_path = folder / "chroma.sqlite3"
    if not database_path.is_file():
        raise StoreNotFoundError(f"{folder}: no Chroma database. Fix: --db, the folder of the collection")
    try:
        (rows,) = run(folder, (sql, [collection]))
    except sqlite3.Error as error:
        raise StoreError(f"{database_path}: cannot be read ({error})") from error
    return rows


def _put_aside(path: Path, damaged: Path) -> None:
    """Move a file out of the way; one that is not there was moved by a rescue that was broken off, or is lost.

    One without a chunk, made by whoever opened the collection meanwhile, does not replace what was moved before.
    """
    try:
        if path.exists():
            _delete(path if damaged.exists() and _is_empty(path) else damaged)
        for suffix in _PARTS:
            with suppress(FileNotFoundError):
                Path(f"{path}{suffix}").rename(f"{damaged}{suffix}")
    except OSError as error:
        raise StoreWriteError(f"{path}: cannot be put aside ({error}). Fix: make the folder writable") from error


def _is_empty(path: Path) -> bool:
    if not path.stat().st_size:
        return True
    try:
        with closing(sqlite3.connect(path)) as database:
            return not database.execute("SELECT count(*) FROM live").fetchone()[0]
    except _UNREADABLE:
        return False


def _delete(path: Path) -> None:
    for suffix in _PARTS:
        Path(f"{path}{suffix}").unlink(missing_ok=True)


def _save_settings(new: Sidecar, kept: Any, settings: IndexSettings) -> None:
    with suppress(TypeError, ValueError):
        settings = IndexSettings(**json.loads(kept))
    new.save_settings(settings)


def _carry_over(old: sqlite3.Connection, new: Sidecar, pointers: Mapping[str, int]) -> int:
    """Copy the rows that Chroma points at, and those of adopted chunks, as far as they are whole."""
    live = {id_: row for id_, row in _read(old, "SELECT id, row FROM live") if isinstance(row, int)}
    wanted = {**live, **pointers}
    count = 0
    rows = sorted(set(wanted.values()))
    for start in range(0, len(rows), _SLICE):
        found = [row for row in _read_rows(old, rows[start : start + _SLICE]) if _is_whole(row)]
        with new.database.transaction():
            for row in found:
                if wanted.get(row[1]) == row[0]:
                    new.restore(row)
                    count += 1
    _number_from(new, wanted)
    return count


def _number_from(new: Sidecar, pointers: Mapping[str, int]) -> int:
    """Never use a number again that a chunk may still point at."""
    new.number_from(max(pointers.values(), default=0))
    return 0


def _is_whole(row: Sequence[Any]) -> bool:
    *_, sparse, dense, multi_vector, tokens, weights, dense_blob, blob = row
    with suppress(TypeError):
        return [sparse, dense, multi_vector] == [
            checksum_of(tokens, weights),
            checksum_of(dense_blob),
            checksum_of(blob),
        ]
    return False


def _read_rows(old: sqlite3.Connection, rows: Sequence[int]) -> list[tuple[Any, ...]]:
    """Return what can be read of rows: half of them at a time where a page is damaged."""
    sql = f"SELECT {_COLUMNS} FROM rows WHERE row IN ({', '.join('?' * len(rows))})"
    try:
        return old.execute(sql, list(rows)).fetchall()
    except _UNREADABLE:
        half = len(rows) // 2
        return _read_rows(old, rows[:half]) + _read_rows(old, rows[half:]) if half else []


def _read(old: sqlite3.Connection, sql: str) -> Iterator[tuple[Any, ...]]:
    with suppress(*_UNREADABLE):
        yield from old.execute(sql)
