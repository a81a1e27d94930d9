"""Looking after a sidecar file: is it whole, and does every row belong to a chunk."""

from __future__ import annotations

from typing import Any

from bgem3.errors import StoreError
from bgem3.filters import to_fields
from bgem3.index.sidecar import Sidecar
from bgem3.types import IntArray

# Rows that nothing leads to: neither live, nor being written.
_ORPHANS = (
    "row NOT IN (SELECT row FROM live) AND row NOT IN (SELECT new_row FROM pending WHERE new_row IS NOT NULL) "
    "AND row NOT IN (SELECT old_row FROM pending WHERE old_row IS NOT NULL)"
)


def damage(sidecar: Sidecar) -> str | None:
    """Return what SQLite finds wrong with the file, an index that differs from its table too, or None. Reads all of it."""
    try:
        found = sidecar.database.value("PRAGMA integrity_check(1)")
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


def compact(sidecar: Sidecar) -> None:
    """Write the file anew without the space that deleted rows left. Needs its size again while it runs.

    Raises:
        StoreWriteError: the disk is full; nothing was changed.
        StoreLockedError: another process holds the file.
    """
    sidecar.database.run("VACUUM")
    sidecar.database.run("PRAGMA wal_checkpoint(TRUNCATE)")


def rows_with_wrong_fields(sidecar: Sidecar, rows: IntArray) -> set[int]:
    """Return those of the rows whose filter fields are not what their metadata says."""
    fields: dict[int, set[tuple[Any, ...]]] = {row: set() for row in rows.tolist()}
    for row, *field in sidecar.database.select_in(
        "SELECT row, key, place, kind, value FROM fields WHERE row", list(fields)
    ):
        fields[row].add(tuple(field))
    # equal, not alike: SQLite keeps true as 1 and -0.0 as 0.0
    return {one.row for one in sidecar.stored(rows) if fields[one.row] != set(to_fields(one.metadata))}
