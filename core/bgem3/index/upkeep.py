"""Looking after a sidecar file: is it whole, how large are its parts, give space back, save what is left of a damaged one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from bgem3.errors import StoreError
from bgem3.index.sidecar import Sidecar, checksum_of, hash_text
from bgem3.stores.filters import to_fields
from bgem3.types import Chunk, IndexSettings, IntArray

# Rows that nothing leads to: neither live, nor being written.
_ORPHANS = (
    "row NOT IN (SELECT row FROM live) AND row NOT IN (SELECT new_row FROM pending WHERE new_row IS NOT NULL) "
    "AND row NOT IN (SELECT old_row FROM pending WHERE old_row IS NOT NULL)"
)
_COLUMNS = (
    "row, id, text_hash, metadata, sparse_checksum, dense_checksum, multi_vector_checksum, "
    "tokens, weights, dense, multi_vector"
)


def damage(sidecar: Sidecar) -> str | None:
    """Return what SQLite finds wrong with the file's structure, or None. Reads the whole file."""
    try:
        found = sidecar.database.value("PRAGMA quick_check(1)")
    except StoreError as error:
        return str(error)
    return None if found == "ok" else str(found)


def count_orphans(sidecar: Sidecar) -> int:
    """Return how many rows belong to no chunk."""
    return int(sidecar.database.value(f"SELECT count(*) FROM rows WHERE {_ORPHANS}"))


def drop_orphans(sidecar: Sidecar) -> None:
    """Delete the rows that belong to no chunk."""
    with sidecar.database.transaction():
        sidecar.database.run(f"DELETE FROM fields WHERE {_ORPHANS}")
        sidecar.database.run(f"DELETE FROM rows WHERE {_ORPHANS}")


def rows_with_wrong_fields(sidecar: Sidecar, rows: IntArray) -> set[int]:
    """Return those of the rows whose filter fields are not what their metadata says."""
    fields: dict[int, list[tuple[Any, ...]]] = {row: [] for row in rows.tolist()}
    for row, *field in sidecar.database.select_in(
        "SELECT row, key, place, kind, value FROM fields WHERE row", list(fields)
    ):
        fields[row].append(tuple(field))
    return {
        one.row
        for one in sidecar.stored(rows)
        if sorted(map(repr, fields[one.row])) != sorted(repr(tuple(field)) for field in to_fields(one.metadata))
    }


def sizes(sidecar: Sidecar) -> dict[str, int]:
    """Return the bytes of each part of the live and the superseded rows, and of the whole file."""
    parts = {
        "sparse": "length(tokens) + length(weights)",
        "dense": "length(dense)",
        "token vectors": "length(multi_vector)",
        "metadata": "length(metadata)",
    }
    sums = ", ".join(f"coalesce(sum({part}), 0)" for part in parts.values())
    (found,) = sidecar.database.select(f"SELECT {sums} FROM rows")
    return dict(zip(parts, map(int, found), strict=True))


def compact(sidecar: Sidecar) -> None:
    """Give the space of deleted rows back to the disk; needs room for a second copy meanwhile."""
    sidecar.database.run("VACUUM")
    sidecar.database.run("PRAGMA wal_checkpoint(TRUNCATE)")


class Wreck:
    """What can still be read of a damaged sidecar file, or of one of another version.

    Attributes:
        settings, codec: As the file says; None where it does not.
    """

    def __init__(self, path: Path) -> None:
        # Text is compared as bytes decoded leniently: a damaged file may hold anything.
        self._connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True, check_same_thread=False)
        self._connection.text_factory = lambda value: value.decode(errors="replace")
        meta = dict(self._select("SELECT key, value FROM meta", ()))
        self.codec: str | None = meta.get("codec")
        self.settings: IndexSettings | None = None
        with suppress(KeyError, TypeError, ValueError):
            self.settings = IndexSettings(**json.loads(meta["settings"]))

    def save_into(self, sidecar: Sidecar, chunks: Sequence[tuple[Chunk, int | None]]) -> None:
        """Copy the rows that are whole and belong to chunks, each given with its pointer, into a new sidecar."""
        with sidecar.database.transaction():
            for chunk, pointer in chunks:
                row = pointer if pointer is not None else self._live_row(chunk.id)
                for values in self._select(f"SELECT {_COLUMNS} FROM rows WHERE row = ?", (row,)):
                    if _is_whole(values, chunk):
                        _restore(sidecar, values, chunk)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _live_row(self, id_: str) -> int | None:
        return next((row for (row,) in self._select("SELECT row FROM live WHERE id = ?", (id_,))), None)

    def _select(self, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        try:
            with closing(self._connection.execute(sql, values)) as cursor:
                yield from cursor.fetchall()
        except sqlite3.Error:  # the part of the file that holds the answer is lost
            return


def _is_whole(values: tuple[Any, ...], chunk: Chunk) -> bool:
    _, id_, text_hash, _, *checksums, tokens, weights, dense, blob = values
    try:
        same = checksums == [checksum_of(tokens, weights), checksum_of(dense), checksum_of(blob)]
    except TypeError:
        return False
    return same and id_ == chunk.id and text_hash == hash_text(chunk.text)


def _restore(sidecar: Sidecar, values: tuple[Any, ...], chunk: Chunk) -> None:
    metadata = json.dumps(chunk.metadata, ensure_ascii=False)
    marks = ", ".join("?" * len(values))
    sidecar.database.run(f"INSERT INTO rows ({_COLUMNS}) VALUES ({marks})", [*values[:3], metadata, *values[4:]])
    sidecar.database.run("INSERT INTO live VALUES (?, ?)", [chunk.id, values[0]])
    sidecar.put_fields(values[0], chunk.metadata)
