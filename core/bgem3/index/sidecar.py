"""What a dense-only store cannot keep, in one SQLite file beside it.

A chunk's row holds its sparse weights, its token vectors, its dense vector as float16 and its
metadata. A row is live, in table `live`, once the store beside it has the chunk. Writing takes two
transactions with the store's own write between them:

1. new rows and a `pending` entry for each chunk (its old row, its new row) are put down;
2. the store is changed, so that it points at the new rows;
3. new rows become live, old rows and the pending entries go, the generation rises.

After a crash the pending entries say which chunks to ask the store about; `settle` then finishes
or takes back each of them.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.errors import IndexMismatchError, StoreCorruptError
from bgem3.filters import FIELDS_SCHEMA, to_fields
from bgem3.index.database import Database
from bgem3.index.files import CollectionFiles
from bgem3.types import Chunk, FloatArray, IndexSettings, IntArray, Metadata, MetadataValue

# 2: int8 codes are bytes around 128, and the vectors of other codecs may have any norm.
FORMAT = 2
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
_VECTORS = "sparse_checksum, dense_checksum, multi_vector_checksum, tokens, weights, dense, multi_vector"
_INSERT = f"INSERT INTO rows (id, text_hash, metadata, {_VECTORS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_COPY = f"INSERT INTO rows (id, text_hash, metadata, {_VECTORS}) SELECT id, text_hash, ?, {_VECTORS} FROM rows WHERE row = ?"
# Rows that are read with their token vectors at a time.
_SLICE = 100


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
        uuid: Name of the sidecar, written down when the file is made; None: a new one.

    Raises:
        StoreCorruptError: the file is damaged or is not a sidecar.
        StoreWriteError: the folder refuses a write.
        StoreLockedError: another process holds the file for longer than 30 seconds.
        IndexMismatchError: made by another version.
    """

    def __init__(self, path: Path, *, codec: str, uuid: str | None = None) -> None:
        self.path = path
        first = {"format": str(FORMAT), "uuid": uuid or uuid4().hex, "codec": codec, "generation": "0"}
        first["collection"] = CollectionFiles.of(path).name
        self.database = Database(path, _SCHEMA, list(first.items()))
        try:
            self._read_meta()
        except BaseException:
            self.database.close()
            raise

    def _read_meta(self) -> None:
        meta = dict(self.database.select("SELECT key, value FROM meta"))
        if (found := meta.get("format")) != str(FORMAT):
            older = str(found).isdecimal() and int(str(found)) < FORMAT
            fix = f"{_repair(self.path)}, which encodes its texts again" if older else "use the version that made it"
            raise IndexMismatchError(f"{self.path}: format {found}, expected {FORMAT}. Fix: {fix}")
        try:
            self.uuid, self.codec = str(meta["uuid"]), str(meta["codec"])
            self.collection = str(meta.get("collection", ""))
            self.settings = IndexSettings(**json.loads(meta["settings"])) if "settings" in meta else None
        except (KeyError, TypeError, ValueError) as error:
            raise self.database.corrupt(f"its settings cannot be read: {error!r}") from error

    def save_settings(self, settings: IndexSettings) -> None:
        """Write down what the index is made with, unless another process was quicker."""
        with self.database.transaction():
            self.database.run("INSERT OR IGNORE INTO meta VALUES ('settings', ?)", [json.dumps(asdict(settings))])
        self._read_meta()

    def snapshot(self) -> AbstractContextManager[None]:
        """Read one state of the file within, whatever another process commits meanwhile."""
        return self.database.snapshot()

    def generation(self) -> int:
        """Return a number that rises with each commit, also of other processes."""
        return int(self.database.value("SELECT value FROM meta WHERE key = 'generation'"))

    def graph(self) -> str | None:
        """Return what was noted of the store's own files; None: no process died while it changed them."""
        found = self.database.select("SELECT value FROM meta WHERE key = 'graph'")
        return str(found[0][0]) if found else None

    def note_graph(self, state: str | None) -> None:
        """Note a state of the store's own files, on disk when it returns; None: they agree."""
        if state is None:
            self.database.run("DELETE FROM meta WHERE key = 'graph'")
        else:
            self.database.run("INSERT OR REPLACE INTO meta VALUES ('graph', ?)", [state])

    def begin_upsert(self, chunks: Sequence[Chunk], embeddings: M3Embeddings, blobs: Sequence[bytes]) -> list[Pending]:
        """Put new rows down, not live yet, and what is pending; return it in the order of the chunks."""
        old = self.rows_of([chunk.id for chunk in chunks])
        pending = []
        with self.database.transaction():
            for i, chunk in enumerate(chunks):
                row = self.database.run(_INSERT, _values(chunk, embeddings, i, blobs[i]))
                self.put_fields(row, chunk.metadata)
                pending.append(Pending(chunk.id, old.get(chunk.id), row))
            self._put_pending(pending)
        return pending

    def begin_replace_metadata(self, chunks: Sequence[Chunk]) -> list[Pending]:
        """Put copies of the chunks' rows down with new metadata, not live yet; each chunk must have a row."""
        old = self.rows_of([chunk.id for chunk in chunks])
        pending = []
        with self.database.transaction():
            for chunk in chunks:
                row = self.database.run(_COPY, [_to_json(chunk.metadata), old[chunk.id]])
                self.put_fields(row, chunk.metadata)
                pending.append(Pending(chunk.id, old[chunk.id], row))
            self._put_pending(pending)
        return pending

    def begin_delete(self, ids: Sequence[str]) -> list[Pending]:
        """Note chunks as about to go; return those that exist."""
        pending = [Pending(id_, row, None) for id_, row in self.rows_of(ids).items()]
        with self.database.transaction():
            self._put_pending(pending)
        return pending

    def settle(self, pending: Sequence[Pending], pointers: Mapping[str, int]) -> None:
        """Finish each chunk that the store has changed, take back each that it has not.

        Args:
            pending: What was begun.
            pointers: The row that the store points at now, for every chunk it has.
        """
        with self.database.transaction():
            for one in pending:
                done = pointers.get(one.id) == one.new_row
                gone, kept = (one.old_row, one.new_row) if done else (one.new_row, one.old_row)
                self.database.run("DELETE FROM live WHERE id = ?", [one.id])
                if kept is not None:
                    self.database.run("INSERT INTO live VALUES (?, ?)", [one.id, kept])
                self.database.run("DELETE FROM fields WHERE row = ?", [gone])
                self.database.run("DELETE FROM rows WHERE row = ?", [gone])
                self.database.run("DELETE FROM pending WHERE id = ?", [one.id])
            self.database.run("UPDATE meta SET value = value + 1 WHERE key = 'generation'")

    def pending(self) -> list[Pending]:
        """Return what was begun and not settled: the last write before a crash, or one that runs."""
        return [Pending(*row) for row in self.database.select("SELECT id, old_row, new_row FROM pending")]

    def count(self) -> int:
        """Return the number of live rows."""
        return int(self.database.value("SELECT count(*) FROM live"))

    def last_row(self) -> int:
        """Return the highest number of a live row, 0 where there is none: about how many were written."""
        return int(self.database.value("SELECT ifnull(max(row), 0) FROM live"))

    def highest(self) -> int:
        """Return the highest number that a row ever had, 0 where there was none."""
        return int(self.database.value("SELECT ifnull(max(seq), 0) FROM sqlite_sequence WHERE name = 'rows'"))

    def ids(self) -> list[str]:
        """Return the id of each live row, sorted."""
        return [id_ for (id_,) in self.database.select("SELECT id FROM live ORDER BY id")]

    def all_rows(self) -> IntArray:
        """Return all live rows, sorted, `(n,)` int64."""
        return self._row_numbers("SELECT row FROM live", [])

    def rows_after(self, row: int, n: int) -> IntArray:
        """Return the first `n` live rows above a number, sorted, `(n,)` int64."""
        return self._row_numbers("SELECT row FROM live WHERE row > ? ORDER BY row LIMIT ?", [row, n])

    def matching_rows(self, sql: str, values: Sequence[object]) -> IntArray:
        """Return the live rows that fulfil an expression of `filters.to_sql`, sorted, `(n,)` int64."""
        return self._row_numbers(f"SELECT row FROM live WHERE {sql}", values)

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """Return the live row of each chunk that exists."""
        # what is no number here is damage, and the chunk as one that is missing can be repaired
        return dict(self.database.select_in("SELECT id, row FROM live WHERE typeof(row) = 'integer' AND id", list(ids)))

    def stored(self, rows: IntArray) -> list[StoredRow]:
        """Return id, text hash and metadata of rows, in order; those that went are left out.

        Raises:
            StoreCorruptError: metadata is not what was written.
        """
        try:
            found = {
                int(row): StoredRow(int(row), id_, text_hash, json.loads(metadata))
                for row, id_, text_hash, metadata in self._select("row, id, text_hash, metadata", rows)
            }
        except ValueError as error:
            raise self.database.corrupt(f"metadata cannot be read: {error}") from error
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

    def whole(self, rows: IntArray) -> list[int]:
        """Return those of the rows that are there with the vectors that were written."""
        sql = "row, sparse_checksum, dense_checksum, multi_vector_checksum, tokens, weights, dense, multi_vector"
        return [
            row
            for start in range(0, len(rows), _SLICE)
            for row, *checksums, tokens, weights, dense, blob in self._select(sql, rows[start : start + _SLICE])
            if checksums == [checksum_of(tokens, weights), checksum_of(dense), checksum_of(blob)]
        ]

    def sparse_of(self, rows: IntArray, vocab_size: int) -> csr_array:
        """Return the sparse weights of rows, in order, `(n, vocab_size)` float32.

        Raises:
            StoreCorruptError: a row went, or is not what was written.
        """
        found: dict[int, tuple[bytes, bytes]] = {}
        for row, id_, checksum, tokens, weights in self._select("row, id, sparse_checksum, tokens, weights", rows):
            self._check(id_, checksum, tokens, weights)
            found[row] = tokens, weights
        pairs = [found[row] for row in self._all_there(rows, found)]
        indices = np.frombuffer(b"".join(tokens for tokens, _ in pairs), np.uint32).astype(np.int32)
        values = np.frombuffer(b"".join(weights for _, weights in pairs), np.float32)
        offsets = np.cumsum([0, *(len(tokens) // 4 for tokens, _ in pairs)])
        return csr_array((values, indices, offsets), shape=(len(rows), vocab_size))

    def restore(self, row: Sequence[object]) -> None:
        """Put a row of another sidecar down under its number, live; columns in the order of the table."""
        self.database.run(f"INSERT INTO rows VALUES ({', '.join('?' * len(row))})", row)
        self.database.run("INSERT INTO live VALUES (?, ?)", [row[1], row[0]])
        with suppress(ValueError):
            self.put_fields(int(str(row[0])), json.loads(str(row[3])))

    def number_from(self, row: int) -> None:
        """Give new rows numbers above this one."""
        with self.database.transaction():
            row = max(row, int(self.database.value("SELECT ifnull(max(row), 0) FROM rows")))
            self.database.run("DELETE FROM sqlite_sequence WHERE name = 'rows'")
            self.database.run("INSERT INTO sqlite_sequence VALUES ('rows', ?)", [row])

    def close(self) -> None:
        """Close the file."""
        self.database.close()

    def put_fields(self, row: int, metadata: Metadata) -> None:
        """Put down what filters read of a row's metadata; within a transaction."""
        fields = [(key, row, *field) for key, *field in to_fields(metadata)]
        self.database.run_many("INSERT INTO fields (key, row, place, kind, value) VALUES (?, ?, ?, ?, ?)", fields)

    def _put_pending(self, pending: Sequence[Pending]) -> None:
        rows = [(one.id, one.old_row, one.new_row) for one in pending]
        self.database.run_many("INSERT INTO pending VALUES (?, ?, ?)", rows)

    def _row_numbers(self, sql: str, values: Sequence[object]) -> IntArray:
        # one long text, since a Python object a row takes longer than finding it
        ((joined, count),) = self.database.select(f"SELECT group_concat(row), count(*) FROM ({sql})", values)
        with suppress(ValueError, DeprecationWarning):  # what numpy says of other text than numbers
            rows: IntArray = np.sort(np.fromstring(joined or "", dtype=np.int64, sep=","))
            if len(rows) == count and (rows[1:] > rows[:-1]).all():
                return rows
        raise self.database.corrupt("its rows are not numbers, each told once")

    def _select(self, columns: str, rows: IntArray) -> Iterator[tuple[Any, ...]]:
        return self.database.select_in(f"SELECT {columns} FROM rows WHERE row", rows.tolist())

    def _blobs(self, column: str, rows: IntArray) -> list[bytes]:
        found: dict[int, bytes] = {}
        for row, id_, checksum, blob in self._select(f"row, id, {column}_checksum, {column}", rows):
            self._check(id_, checksum, blob)
            found[row] = blob
        return [found[row] for row in self._all_there(rows, found)]

    def _all_there(self, rows: IntArray, found: Mapping[int, object]) -> list[int]:
        if missing := [row for row in rows.tolist() if row not in found]:
            raise self.database.corrupt(f"{len(missing)} rows are not there, among them {missing[0]}")
        return list(rows.tolist())

    def _check(self, id_: str, checksum: int, *blobs: bytes) -> None:
        if checksum_of(*blobs) != checksum:
            raise StoreCorruptError(f"{self.path}: chunk {id_!r} is damaged. Fix: bgem3 repair, or add its text again")


def _repair(path: Path) -> str:
    files = CollectionFiles.of(path)
    return f"bgem3 repair --db {files.folder} --collection {files.name}"


def old_rows(pending: Sequence[Pending]) -> IntArray:
    """Return the rows from before, `(n,)` int64, of those chunks that had one."""
    return np.array([one.old_row for one in pending if one.old_row is not None], dtype=np.int64)


def new_rows(pending: Sequence[Pending]) -> IntArray:
    """Return the rows from after, `(n,)` int64, of those chunks that will have one."""
    return np.array([one.new_row for one in pending if one.new_row is not None], dtype=np.int64)


def hash_text(text: str) -> bytes:
    """Return the 16 bytes by which a text is recognised."""
    # A lone surrogate has a hash too: the encoder refuses such a text, and says where it stands.
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _to_json(metadata: Metadata) -> str:
    return json.dumps(metadata, ensure_ascii=False, allow_nan=False)


def _values(chunk: Chunk, embeddings: M3Embeddings, position: int, blob: bytes) -> tuple[object, ...]:
    sparse = embeddings.sparse
    part = slice(int(sparse.indptr[position]), int(sparse.indptr[position + 1]))
    tokens = sparse.indices[part].astype(np.uint32).tobytes()
    weights = sparse.data[part].astype(np.float32).tobytes()
    dense = embeddings.dense[position].astype(np.float16).tobytes()
    return (
        chunk.id,
        hash_text(chunk.text),
        _to_json(chunk.metadata),
        checksum_of(tokens, weights),
        checksum_of(dense),
        checksum_of(blob),
        tokens,
        weights,
        dense,
        blob,
    )


def checksum_of(*blobs: bytes) -> int:
    """Return the CRC-32 of some bytes, one after the other."""
    checksum = 0
    for blob in blobs:
        checksum = zlib.crc32(blob, checksum)
    return checksum
