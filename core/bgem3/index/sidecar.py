"""What a dense-only store cannot keep, in one SQLite file beside it.

A chunk's row holds its sparse weights, its token vectors, its dense vector as float16 and its
metadata. A row is live, in table `live`, once the store beside it points at it. Writing takes two
transactions with the store's own write between them:

1. new rows and a `pending` entry for each chunk (its old row, its new row) are put down;
2. the store is changed, so that it points at the new rows;
3. new rows become live, old rows and the pending entries go, the generation rises.

After a crash the pending entries say which chunks to ask the store about; `settle` then finishes
or takes back each of them.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreError, StoreLockedError, StoreWriteError
from bgem3.stores.filters import FIELDS_SCHEMA, to_fields
from bgem3.types import Chunk, FloatArray, IndexSettings, IntArray, MetadataValue

FORMAT = 1
_SCHEMA = f"""
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE rows (
    row INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL,
    text_hash BLOB NOT NULL,
    metadata TEXT NOT NULL,
    sparse_checksum INTEGER NOT NULL,
    dense_checksum INTEGER NOT NULL,
    multi_vector_checksum INTEGER NOT NULL,
    tokens BLOB NOT NULL,
    weights BLOB NOT NULL,
    dense BLOB NOT NULL,
    multi_vector BLOB NOT NULL
);
CREATE TABLE live (id TEXT PRIMARY KEY, row INTEGER NOT NULL UNIQUE) WITHOUT ROWID;
CREATE TABLE pending (id TEXT PRIMARY KEY, old_row INTEGER, new_row INTEGER) WITHOUT ROWID;
{FIELDS_SCHEMA}
"""
_INSERT = (
    "INSERT INTO rows (id, text_hash, metadata, sparse_checksum, dense_checksum, multi_vector_checksum, "
    "tokens, weights, dense, multi_vector) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
# Values bound to one statement; SQLite allows 32,766.
_BINDS = 10_000
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_IOERR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@dataclass(frozen=True, slots=True)
class Pending:
    """A chunk whose writing has begun; None for no row before, or none after."""

    id: str
    old_row: int | None
    new_row: int | None


@dataclass(frozen=True, slots=True, eq=False)
class StoredRow:
    """One row as the final step of a search needs it."""

    row: int
    id: str
    text_hash: bytes
    metadata: Mapping[str, MetadataValue]


class Sidecar:
    """One collection's sidecar file. Not thread-safe: its store holds a lock.

    Args:
        path: The file; made when it is not there.
        codec: Name of the codec of the token vectors, written down when the file is made.

    Raises:
        StoreCorruptError: the file is damaged or is not a sidecar.
        StoreWriteError: the folder refuses a write.
        StoreLockedError: another process holds the file for longer than 30 seconds.
        IndexMismatchError: made by another version.
    """

    def __init__(self, path: Path, *, codec: str) -> None:
        self.path = path
        with self._errors():
            self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            self._db.create_function("casefold", 1, str.casefold, deterministic=True)
            self._db.execute("PRAGMA synchronous=FULL")
            if not self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                self._create(codec)
        try:
            self._read_meta()
        except BaseException:
            self._db.close()
            raise

    def _create(self, codec: str) -> None:
        self._db.execute("PRAGMA journal_mode=WAL")
        with self._transaction():
            # another process may have been quicker
            if self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return
            for statement in filter(str.strip, _SCHEMA.split(";")):
                self._db.execute(statement)
            values = {"format": str(FORMAT), "uuid": uuid4().hex, "codec": codec, "generation": "0"}
            self._db.executemany("INSERT INTO meta VALUES (?, ?)", values.items())

    def _read_meta(self) -> None:
        with self._errors():
            meta = dict(self._db.execute("SELECT key, value FROM meta").fetchall())
        if meta.get("format") != str(FORMAT):
            raise IndexMismatchError(
                f"{self.path}: format {meta.get('format')}, expected {FORMAT}. Fix: use the version that made it"
            )
        try:
            self.uuid, self.codec = str(meta["uuid"]), str(meta["codec"])
            self.settings = IndexSettings(**json.loads(meta["settings"])) if "settings" in meta else None
        except (KeyError, TypeError, ValueError) as error:
            raise self._corrupt(f"its settings cannot be read: {error!r}") from error

    def save_settings(self, settings: IndexSettings) -> None:
        """Write down what the index is made with, unless another process was quicker."""
        with self._transaction():
            self._db.execute("INSERT OR IGNORE INTO meta VALUES ('settings', ?)", [json.dumps(asdict(settings))])
        self._read_meta()

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the file within, whatever another process commits meanwhile."""
        with self._errors():
            self._db.execute("BEGIN")
        try:
            yield
        finally:
            self._db.execute("ROLLBACK")

    def generation(self) -> int:
        """Return a number that rises with each commit, also of other processes."""
        with self._errors():
            return int(self._db.execute("SELECT value FROM meta WHERE key = 'generation'").fetchone()[0])

    def begin_upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings, blobs: Sequence[bytes]) -> list[Pending]:
        """Put new rows down, not live yet, and what is pending; return it in the order of the chunks."""
        old = self.rows_of([chunk.id for chunk in chunks])
        pending = []
        with self._transaction():
            for i, chunk in enumerate(chunks):
                cursor = self._db.execute(_INSERT, _values(chunk, embeddings, i, blobs[i]))
                fields = [(key, cursor.lastrowid, *field) for key, *field in to_fields(chunk.metadata)]
                self._db.executemany("INSERT INTO fields (key, row, place, kind, value) VALUES (?, ?, ?, ?, ?)", fields)
                pending.append(Pending(chunk.id, old.get(chunk.id), cursor.lastrowid))
            self._put_pending(pending)
        return pending

    def begin_delete(self, ids: Sequence[str]) -> list[Pending]:
        """Note chunks as about to go; return those that exist."""
        pending = [Pending(id_, row, None) for id_, row in self.rows_of(ids).items()]
        with self._transaction():
            self._put_pending(pending)
        return pending

    def settle(self, pending: Sequence[Pending], pointers: Mapping[str, int]) -> None:
        """Finish each chunk that the store has changed, take back each that it has not.

        Args:
            pending: What was begun.
            pointers: The row that the store points at now, for every chunk it has.
        """
        with self._transaction():
            for one in pending:
                done = pointers.get(one.id) == one.new_row
                gone, kept = (one.old_row, one.new_row) if done else (one.new_row, one.old_row)
                self._db.execute("DELETE FROM live WHERE id = ?", [one.id])
                if kept is not None:
                    self._db.execute("INSERT INTO live VALUES (?, ?)", [one.id, kept])
                self._db.execute("DELETE FROM fields WHERE row = ?", [gone])
                self._db.execute("DELETE FROM rows WHERE row = ?", [gone])
                self._db.execute("DELETE FROM pending WHERE id = ?", [one.id])
            self._db.execute("UPDATE meta SET value = value + 1 WHERE key = 'generation'")

    def pending(self) -> list[Pending]:
        """Return what was begun and not settled: the last write before a crash, or one that runs."""
        with self._errors():
            return [Pending(*row) for row in self._db.execute("SELECT id, old_row, new_row FROM pending")]

    def count(self) -> int:
        """Return the number of live rows."""
        with self._errors():
            return int(self._db.execute("SELECT count(*) FROM live").fetchone()[0])

    def all_rows(self) -> IntArray:
        """Return all live rows, sorted, `(n,)` int64."""
        return self._row_numbers("SELECT row FROM live ORDER BY row", [])

    def matching_rows(self, sql: str, values: Sequence[object]) -> IntArray:
        """Return the live rows that fulfil an expression of `filters.to_sql`, sorted, `(n,)` int64."""
        return self._row_numbers(f"SELECT row FROM live WHERE {sql} ORDER BY row", values)

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the live row of each chunk that exists."""
        return dict(self._in("SELECT id, row FROM live WHERE id", list(ids)))

    def stored(self, rows: IntArray) -> list[StoredRow]:
        """Return id, text hash and metadata of rows, in order; those that went are left out."""
        found = {
            int(row): StoredRow(int(row), id_, text_hash, json.loads(metadata))
            for row, id_, text_hash, metadata in self._select("row, id, text_hash, metadata", rows)
        }
        return [found[row] for row in rows.tolist() if row in found]

    def dense(self, rows: IntArray) -> FloatArray:
        """Return the dense vectors of rows, in order, `(n, dim)` float32.

        Raises:
            StoreCorruptError: a row went, or is not what was written.
        """
        joined = b"".join(self._blobs("dense", rows))
        return np.frombuffer(joined, np.float16).reshape(len(rows), -1).astype(np.float32)

    def multi_vectors(self, rows: IntArray) -> list[bytes]:
        """Return the encoded token vectors of rows, in order.

        Raises:
            StoreCorruptError: a row went, or is not what was written.
        """
        return self._blobs("multi_vector", rows)

    def _blobs(self, column: str, rows: IntArray) -> list[bytes]:
        found: dict[int, bytes] = {}
        for row, id_, checksum, blob in self._select(f"row, id, {column}_checksum, {column}", rows):
            self._check(id_, checksum, blob)
            found[row] = blob
        if missing := [row for row in rows.tolist() if row not in found]:
            raise self._corrupt(f"{len(missing)} rows are not there, among them {missing[0]}")
        return [found[row] for row in rows.tolist()]

    def sparse(self, vocab_size: int) -> Iterator[tuple[IntArray, csr_array]]:
        """Yield all live rows, rising, and their sparse rows `(n, vocab_size)`, in slices."""
        after = 0
        sql = (
            "SELECT row, tokens, weights, id, sparse_checksum FROM rows "
            "WHERE row > ? AND row IN (SELECT row FROM live) ORDER BY row LIMIT 10000"
        )
        while True:
            with self._errors():
                found = self._db.execute(sql, [after]).fetchall()
            if not found:
                return
            for _, tokens, weights, id_, checksum in found:
                self._check(id_, checksum, tokens, weights)
            rows = np.array([one[0] for one in found], dtype=np.int64)
            offsets = np.cumsum([0, *(len(one[1]) // 4 for one in found)])
            tokens = np.frombuffer(b"".join(one[1] for one in found), np.uint32).astype(np.int32)
            weights = np.frombuffer(b"".join(one[2] for one in found), np.float32)
            yield rows, csr_array((weights, tokens, offsets), shape=(len(rows), vocab_size))
            after = int(rows[-1])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _put_pending(self, pending: Sequence[Pending]) -> None:
        rows = [(one.id, one.old_row, one.new_row) for one in pending]
        self._db.executemany("INSERT INTO pending VALUES (?, ?, ?)", rows)

    def _row_numbers(self, sql: str, values: Sequence[object]) -> IntArray:
        with self._errors():
            return np.array([row for (row,) in self._db.execute(sql, list(values))], dtype=np.int64)

    def _select(self, columns: str, rows: IntArray) -> Iterator[tuple[Any, ...]]:
        return self._in(f"SELECT {columns} FROM rows WHERE row", rows.tolist())

    def _in(self, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(values), _BINDS):
            part = values[start : start + _BINDS]
            with self._errors():
                yield from self._db.execute(f"{sql} IN ({', '.join('?' * len(part))})", part).fetchall()

    def _check(self, id_: str, checksum: int, *blobs: bytes) -> None:
        if _checksum(*blobs) != checksum:
            raise StoreCorruptError(f"{self.path}: chunk {id_!r} is damaged. Fix: add its text again")

    def _corrupt(self, reason: object) -> StoreCorruptError:
        return StoreCorruptError(
            f"{self.path}: damaged, or not a sidecar ({reason}). Fix: restore a backup, or delete the file and its "
            f"collection and add the texts again"
        )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._translated(error) from error

    def _translated(self, error: sqlite3.Error) -> StoreError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the bits above tell kinds of one code apart
        if code in _REFUSED:
            return StoreWriteError(
                f"{self.path}: {error}. Nothing was changed. Fix: make the folder writable, or free disk space"
            )
        if code in _BUSY:
            return StoreLockedError(f"{self.path}: {error}. Fix: close the process that holds the file")
        return self._corrupt(error)


def hash_text(text: str) -> bytes:
    """Return the 16 bytes by which a text is recognised."""
    return blake2b(text.encode(), digest_size=16).digest()


def _values(chunk: Chunk, embeddings: M3Embeddings, position: int, blob: bytes) -> tuple[object, ...]:
    sparse = embeddings.sparse
    part = slice(int(sparse.indptr[position]), int(sparse.indptr[position + 1]))
    tokens = sparse.indices[part].astype(np.uint32).tobytes()
    weights = sparse.data[part].astype(np.float32).tobytes()
    dense = embeddings.dense[position].astype(np.float16).tobytes()
    return (
        chunk.id,
        hash_text(chunk.text),
        json.dumps(chunk.metadata, ensure_ascii=False, allow_nan=False),
        _checksum(tokens, weights),
        _checksum(dense),
        _checksum(blob),
        tokens,
        weights,
        dense,
        blob,
    )


def _checksum(*blobs: bytes) -> int:
    checksum = 0
    for blob in blobs:
        checksum = zlib.crc32(blob, checksum)
    return checksum
