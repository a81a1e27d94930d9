"""One process may write to a collection at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from bgem3.errors import StoreLockedError, StoreWriteError

# Files that this process holds.
_HELD: set[Path] = set()


class WriterLock:
    """A lock file that goes with the process that holds it.

    Args:
        path: The file; made when the lock is taken.
        name: The collection, for errors.
    """

    def __init__(self, path: Path, name: str) -> None:
        self._lock = FileLock(path, thread_local=False)
        self._path = path.resolve()
        self._name = name

    def take(self) -> None:
        """Take the lock, or keep it.

        Raises:
            StoreLockedError: another process has it.
            StoreWriteError: the folder refuses the file.
        """
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            who, fix = (
                ("another store of this process", "use that one, or close it first")
                if self._path in _HELD
                else ("another process", "close it there, or write through one process")
            )
            raise StoreLockedError(
                f"{self._path.parent}: {who} is writing to collection {self._name!r}. Fix: {fix}"
            ) from error
        except OSError as error:
            raise StoreWriteError(f"{self._path.parent}: cannot be written ({error}). Fix: make it writable") from error
        _HELD.add(self._path)

    @contextmanager
    def tried(self) -> Iterator[bool]:
        """Hold the lock within, if no other process does; tell whether it is held."""
        held = self.held
        try:
            self.take()
        except StoreLockedError:
            yield False
            return
        try:
            yield True
        finally:
            if not held:
                self.release()

    @property
    def held(self) -> bool:
        """Whether this object has the lock."""
        return self._lock.is_locked

    def release(self) -> None:
        """Give the lock back."""
        if self._lock.is_locked:
            _HELD.discard(self._path)
        self._lock.release(force=True)
