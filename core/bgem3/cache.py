"""Embeddings kept on disk by the text and by all they depend on, so that a text is encoded once."""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from threading import Lock
from typing import Any, TypeAlias, TypeVar
from weakref import finalize
from zlib import crc32

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import InvalidInputError, StoreCorruptError, StoreWriteError
from bgem3.forms import VERSION
from bgem3.index.database import Database
from bgem3.lengths import Lengths
from bgem3.types import HEADS, Head

DEFAULT_BYTES = 8 * 2**30

_FILE = "embeddings.sqlite"
_SIZE = "SELECT coalesce(sum(size), 0) FROM rows"
# Rows in the order they go, each while what went before it is not enough.
_ORDERED = "SELECT rowid, size, sum(size) OVER (ORDER BY used, rowid) AS gone FROM rows"
_DROP = f"DELETE FROM rows WHERE rowid IN (SELECT rowid FROM ({_ORDERED}) WHERE gone - size < ?)"
_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE rows (key BLOB NOT NULL, head TEXT NOT NULL, used INTEGER NOT NULL, size INTEGER NOT NULL,
                   sum INTEGER NOT NULL, content BLOB NOT NULL, UNIQUE (key, head));
CREATE INDEX by_use ON rows (used, size)
"""
# Reading marks a row at most once in so many seconds, so that most reads write nothing.
_USED_UNIT = 3600
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
# What is kept of a full cache, so that not every write has to make room.
_KEPT = 0.9
# The sum over all rows takes 50 ms for 400,000 of them. It is taken when a process has written its part of what was free:
# so many of them together stay within the bound.
_WRITERS = 4


Result = TypeVar("Result")

# key, head, used, size, sum, content
_Row: TypeAlias = tuple[bytes, Head, int, int, int, bytes]


class EmbeddingCache:
    """One SQLite file in a folder, for any number of checkpoints, threads and processes.

    Each head of a text is a row, found by the SHA-256 of fingerprint, backend, precision, version of the converted form,
    lengths and text, so that nothing of it is ever out of date; the text itself is not kept. Float32: 819 kB for 200
    tokens at 1,024 dims with all heads, 4 kB without token
    vectors. A row whose checksum is wrong is encoded again; a file that SQLite cannot read is begun anew.

    Args:
        folder: Made where it is missing.
        max_bytes: Past it the rows that were not used for longest go, until 90 % are left; None: no bound. The
            file keeps the space for new rows.

    Raises:
        InvalidInputError: `max_bytes` is below 1.
        StoreWriteError: the folder cannot be written to.
    """

    def __init__(self, folder: str | Path, max_bytes: int | None = DEFAULT_BYTES) -> None:
        if max_bytes is not None and max_bytes < 1:
            raise InvalidInputError(f"cache_bytes: got {max_bytes}, expected at least 1. Fix: None for no bound")
        self._max_bytes = max_bytes
        self._room = 0  # bytes that may be written before the sum is taken again
        self._lock = Lock()
        try:
            self.path = Path(folder).expanduser() / _FILE
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:  # the other: ~ of a user who has no home
            raise StoreWriteError(f"{folder}: {error}. Fix: cache=a folder that can be written to") from error
        self._opened: Database | None = None
        with self._lock:
            self._mending(lambda: self._database)

    def complete(
        self,
        texts: Sequence[str],
        heads: Collection[Head],
        identity: Mapping[str, object],
        widths: tuple[int, int],
        encode: Callable[[list[str]], M3Embeddings],
    ) -> M3Embeddings:
        """Return heads of texts, in order: those that are kept, and the others encoded, each once, and kept.

        Args:
            texts: At least one.
            heads: Which are wanted; `encode` may return more, which are kept too.
            identity: All that the vectors depend on besides the text; see `identity_of`.
            widths: Of a sparse row and of a token vector.
            encode: Encodes what is missing.

        Raises:
            StoreWriteError, StoreLockedError: the disk refuses, or another process holds the file too long.
        """
        keys = _keys(texts, identity)
        known = self._read(list(dict.fromkeys(keys)), heads, widths)
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        if missing:
            fresh = encode([*missing.values()])
            self._write([*missing], fresh)
            if len(missing) == len(texts):
                return fresh.only(heads)
            known |= {key: fresh[row : row + 1].only(heads) for row, key in enumerate(missing)}
        return M3Embeddings.concatenate([known[key] for key in keys])

    def clear(self) -> None:
        """Forget everything and give the space back."""
        with self._lock:
            self._mending(lambda: self._database.run("DELETE FROM rows"))
            self._mending(lambda: self._database.run("VACUUM"))

    def size(self) -> int:
        """Return how many bytes of vectors and weights are kept."""
        with self._lock:
            return int(self._mending(lambda: self._database.value(_SIZE)))

    def close(self) -> None:
        """Close the file; the next use opens it again."""
        with self._lock:
            if self._opened is not None:
                self._closing()
                self._opened = None

    @property
    def _database(self) -> Database:
        if self._opened is None:
            self._opened = Database(self.path, _SCHEMA, [("format", "1")])
            self._closing = finalize(self, self._opened.close)
        return self._opened

    def _mending(self, work: Callable[[], Result]) -> Result:
        """Do something with the file, and once more with a new one where it is damaged."""
        try:
            return work()
        except StoreCorruptError as error:
            self._remove_damaged(error)
            return work()

    def _remove_damaged(self, error: StoreCorruptError) -> None:
        """Delete a file that SQLite calls damaged, or with names that are no text; any other error is raised again."""
        cause = error.__cause__
        if getattr(cause, "sqlite_errorcode", 0) & 0xFF not in _DAMAGED and "utf-8" not in str(cause).lower():
            raise error
        if self._opened is not None:
            self._closing()
            self._opened = None
        for end in ("", "-wal", "-shm"):
            Path(f"{self.path}{end}").unlink(missing_ok=True)

    def _read(self, keys: list[bytes], heads: Collection[Head], widths: tuple[int, int]) -> dict[bytes, M3Embeddings]:
        """Return the texts of which every head is kept, whole."""
        named = ", ".join(repr(head) for head in HEADS if head in heads)
        query = f"SELECT key, head, used, size, sum, content FROM rows WHERE head IN ({named}) AND key"

        def read() -> list[_Row]:
            rows = [row for row in self._database.select_in(query, keys) if _is_whole(row)]
            self._mark_used(rows)
            return rows

        with self._lock:
            rows = self._mending(read)
        found: dict[bytes, dict[str, bytes]] = {}
        for key, head, *_, content in rows:
            found.setdefault(key, {})[head] = content
        return {key: _decode(contents, *widths) for key, contents in found.items() if len(contents) == len(set(heads))}

    def _mark_used(self, rows: Sequence[_Row]) -> None:
        now = _now()
        if old := [(now, key, head) for key, head, used, *_ in rows if used != now]:
            with self._database.transaction():
                self._database.run_many("UPDATE rows SET used = ? WHERE key = ? AND head = ?", old)

    def _write(self, keys: Sequence[bytes], embeddings: M3Embeddings) -> None:
        now = _now()
        rows = [
            (key, head, now, len(content), crc32(content), content)
            for row, key in enumerate(keys)
            for head, content in _contents(embeddings, row)
        ]
        with self._lock:
            self._mending(lambda: self._insert(rows))

    def _insert(self, rows: Sequence[_Row]) -> None:
        with self._database.transaction():
            self._database.run_many("INSERT OR REPLACE INTO rows VALUES (?, ?, ?, ?, ?, ?)", rows)
            self._room -= sum(size for _, _, _, size, _, _ in rows)
            if self._max_bytes is not None and self._room < 0:
                self._make_room(self._max_bytes)

    def _make_room(self, limit: int) -> None:
        """Drop what was not used for longest where the cache is too full, and see how much may be written unseen."""
        held = self._database.value(_SIZE)
        if held > limit:
            self._database.run(_DROP, (held - int(limit * _KEPT),))
            held = self._database.value(_SIZE)
        self._room = (limit - held) // _WRITERS


def identity_of(fingerprint: str, backend: str, precision: str, lengths: Lengths) -> dict[str, object]:
    """Return what a text's vectors depend on besides the text."""
    # of a converted form too: a later version may give other vectors for the same checkpoint
    form = {"form": VERSION} if precision in ("int8", "int4") else {}
    return {"fingerprint": fingerprint, "backend": backend, "precision": precision, **asdict(lengths), **form}


def _is_whole(row: Sequence[Any]) -> bool:
    """Whether a row has what was written; of a page of zeros the checksum is right too, and only the sparse head can be empty."""
    _, head, _, _, checksum, content = row
    return isinstance(content, bytes) and crc32(content) == checksum and bool(content or head == "sparse")


def _now() -> int:
    return int(time.time()) // _USED_UNIT


def _keys(texts: Sequence[str], identity: Mapping[str, object]) -> list[bytes]:
    begun = sha256(json.dumps(identity, sort_keys=True).encode())
    keys = []
    for text in texts:
        digest = begun.copy()
        # half a surrogate pair is refused when it is encoded, not here
        digest.update(text.encode("utf-8", "surrogatepass"))
        keys.append(digest.digest())
    return keys


def _contents(embeddings: M3Embeddings, row: int) -> Iterator[tuple[Head, bytes]]:
    """Yield each head of one text as bytes: float32, before the weights of the sparse head its ids in int32."""
    if "dense" in embeddings.heads:
        yield "dense", embeddings.dense[row].astype("<f4").tobytes()
    if "sparse" in embeddings.heads:
        weights = embeddings.lexical_weights(row)
        yield "sparse", np.array([*weights], "<i4").tobytes() + np.array([*weights.values()], "<f4").tobytes()
    if "multi_vector" in embeddings.heads:
        yield "multi_vector", embeddings.multi_vector[row].astype("<f4").tobytes()


def _decode(contents: Mapping[str, bytes], vocab_size: int, multi_dim: int) -> M3Embeddings:
    """Return one text of what `_contents` made."""
    numbers = {head: np.frombuffer(content, "<f4").astype(np.float32) for head, content in contents.items()}
    sparse = vectors = None
    if "sparse" in contents:
        half = len(numbers["sparse"]) // 2
        ids = np.frombuffer(contents["sparse"], "<i4", half).astype(np.int32)
        sparse = csr_array((numbers["sparse"][half:], ids, np.array([0, half], np.int32)), shape=(1, vocab_size))
    if "multi_vector" in contents:
        rows = numbers["multi_vector"].reshape(-1, multi_dim)
        vectors = MultiVectors(rows, np.array([0, len(rows)], np.int64))
    dense = numbers["dense"][None] if "dense" in contents else None
    return M3Embeddings(dense=dense, sparse=sparse, multi_vector=vectors)
