"""An SQLite file whose errors are ours, with one writer at a time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_random

from bgem3.errors import StoreConnectionError, StoreCorruptError, StoreError, StoreLockedError, StoreWriteError
from bgem3.index.files import identity_of

# Values bound to one statement; SQLite allows 32,766.
_BINDS = 10_000
# A chunk of 28 kB lies on 4 pages, 7 of SQLite's usual size: a third less time from a cold disk for the same space.
_PAGE = 8192
_REFUSED = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
# Of the errors of input and output, those in which the disk did not give back what was written.
_UNREADABLE = {sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS}


def _is_busy(error: BaseException) -> bool:
    return _code(error) in _BUSY


def is_passing(error: sqlite3.Error) -> bool:
    """Whether an error tells of the moment (rights, a lock, a full disk, open files) and not of the file."""
    damaged = getattr(error, "sqlite_errorcode", 0) in _UNREADABLE
    return not damaged and _code(error) in {*_BUSY, *_REFUSED, sqlite3.SQLITE_CANTOPEN}


def _code(error: BaseException) -> int:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF  # the bits above tell kinds of one code apart


_PATIENTLY = Retrying(
    retry=retry_if_exception(_is_busy), stop=stop_after_delay(30), wait=wait_random(0.01, 0.05), reraise=True
)


class Database:
    """One file in write-ahead mode, each transaction synced to disk. Not thread-safe.

    Args:
        path: The file; made when it is not there.
        schema: Statements, joined by `;`, that a new file begins with.
        rows: First rows of the `meta` table that the schema makes, `(key, value)`.

    Raises:
        StoreCorruptError: the file is damaged or no SQLite file.
        StoreWriteError: the folder refuses a write.
        StoreLockedError: another process holds the file for longer than 30 seconds.
    """

    def __init__(self, path: Path, schema: str, rows: Sequence[tuple[str, str]]) -> None:
        self.path = path
        with self.errors():
            self._connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=30)
            try:
                self._connection.create_function("casefold", 1, str.casefold, deterministic=True)
                self._connection.execute("PRAGMA synchronous=FULL")
                if self._is_empty():
                    self._create(schema, rows)
                self._file = identity_of(path)
            except BaseException:
                self._connection.close()
                raise

    def _is_empty(self) -> bool:
        return not self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]

    def _create(self, schema: str, rows: Sequence[tuple[str, str]]) -> None:
        self._connection.execute(f"PRAGMA page_size={_PAGE}")
        # two processes that make one file at once: SQLite refuses one of them without waiting
        _PATIENTLY(self._connection.execute, "PRAGMA journal_mode=WAL")
        with self.transaction():
            if not self._is_empty():  # another process was quicker
                return
            for statement in filter(str.strip, schema.split(";")):
                self._connection.execute(statement)
            self._connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)

    def run(self, sql: str, values: Sequence[object] = ()) -> int:
        """Execute one statement and return the rowid it inserted last."""
        with self.errors():
            return int(self._connection.execute(sql, values).lastrowid or 0)

    def run_many(self, sql: str, rows: Sequence[Sequence[object]]) -> None:
        """Execute one statement for each row of values."""
        with self.errors():
            self._connection.executemany(sql, rows)

    def select(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return all rows of a query."""
        with self.errors():
            return self._connection.execute(sql, values).fetchall()

    def value(self, sql: str, values: Sequence[object] = ()) -> Any:
        """Return the first value of a query that gives a row."""
        return self.select(sql, values)[0][0]

    def select_in(self, sql: str, values: Sequence[object]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query that ends before an `IN`, for any number of values."""
        for start in range(0, len(values), _BINDS):
            part = values[start : start + _BINDS]
            yield from self.select(f"{sql} IN ({', '.join('?' * len(part))})", part)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit what happens within, whole and on disk, or nothing of it."""
        self.run("BEGIN IMMEDIATE")
        try:
            yield
            self.run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self.run("ROLLBACK")
            raise

    @property
    def in_transaction(self) -> bool:
        """Whether one has not ended: no other can begin."""
        return self._connection.in_transaction

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """Read one state of the file within, whatever another process commits meanwhile."""
        self.run("BEGIN")
        try:
            yield
        finally:
            if self._connection.in_transaction:  # an error of the disk can end it
                self.run("ROLLBACK")

    def check_there(self) -> None:
        """Find out whether the path still leads to this file.

        Raises:
            StoreConnectionError: it was moved, deleted or replaced, or its disk is away: SQLite would make others there.
        """
        if identity_of(self.path) != self._file:
            raise StoreConnectionError(
                f"{self.path}: moved, deleted, replaced or unmounted since it was opened. Fix: put the folder back; where "
                f"others are meant to be there now, close the store, or end the program, and open it again"
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def corrupt(self, reason: object) -> StoreCorruptError:
        """Return the error for a file that cannot be read."""
        return _corrupt(self.path, reason)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn SQLite's errors into ours."""
        try:
            yield
        except sqlite3.Error as error:
            raise translated(self.path, error) from error
        except UnicodeDecodeError as error:  # SQLite quotes what is damaged, in words that sqlite3 cannot read
            raise self.corrupt(error) from error


def translated(path: Path, error: sqlite3.Error) -> StoreError:
    """Return our error for one of SQLite's."""
    code = _code(error)
    if code == sqlite3.SQLITE_CANTOPEN:
        fix = (
            "copy the folder to where it can be written: readers need that too, SQLite and Chroma write beside what they read"
            if path.parent.is_dir() and not os.access(path.parent, os.W_OK)
            else "a folder that can be written, or more open files (ulimit -n)"
        )
        return StoreWriteError(f"{path}: {error}. Fix: {fix}")
    if code in _REFUSED:
        return StoreWriteError(
            f"{path}: {error}. Nothing was changed. Fix: make the folder writable, or free disk space"
        )
    if code in _BUSY:
        return StoreLockedError(f"{path}: {error}. Fix: close the process that holds the file")
    return _corrupt(path, error)


def _corrupt(path: Path, reason: object) -> StoreCorruptError:
    return StoreCorruptError(
        f"{path}: damaged, or not a sidecar ({reason}). Fix: restore a backup, or bgem3 repair, which keeps "
        f"what can be read"
    )
