"""SQL on Chroma's database, run by a process of its own.

Chroma brings its own copy of SQLite, and locks of files are counted by process: Python's copy in the same process does
not see what Chroma's holds. It can take the journal of a transaction under way for one that a crash left, and undo it;
when it closes the file, Chroma's locks are gone (sqlite.org/howtocorrupt.html, "Multiple copies of SQLite"). From
another process they hold. That process takes some 30 ms, and this file is what it runs, so nothing here imports bgem3.
"""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

Statement = tuple[str, Sequence[object]]
Rows = list[list[Any]]


def run(folder: Path, *statements: Statement) -> list[Rows]:
    """Run statements on the database in a folder of an embedded Chroma, in one transaction.

    Args:
        folder: Holds `chroma.sqlite3`.
        statements: SQL with its values, as JSON knows them.

    Returns:
        The rows of each.

    Raises:
        sqlite3.Error: SQLite refuses one; nothing was changed.
    """
    task = json.dumps({"path": str(folder / "chroma.sqlite3"), "statements": statements, "parent": os.getpid()})
    if (answer := _elsewhere(task)) is None:
        return _run(**json.loads(task))
    if "error" in answer:
        raise sqlite3.OperationalError(answer["error"])
    found: list[Rows] = answer["rows"]
    return found


def _elsewhere(task: str) -> dict[str, Any] | None:
    """Return what the other process says, None where there is no interpreter that can be started."""
    if not Path(sys.executable or "").name.lower().startswith("py"):  # a program with Python in it
        return None
    try:
        # Alone with the standard library, from which it starts in half the time.
        command = [sys.executable, "-I", "-S", __file__]
        done = subprocess.run(command, input=task, capture_output=True, encoding="ascii", check=True)
        answer: dict[str, Any] = json.loads(done.stdout)
    except (OSError, subprocess.CalledProcessError, ValueError):
        return None
    return answer


def _run(path: str, statements: Sequence[Statement], parent: int) -> list[Rows]:
    if not os.path.isfile(path):  # SQLite would make an empty one
        raise sqlite3.OperationalError("unable to open database file")
    with closing(sqlite3.connect(path, timeout=30)) as database:
        try:
            rows = [[list(row) for row in database.execute(sql, values)] for sql, values in statements]
        except UnicodeDecodeError as error:  # SQLite quotes a damaged name
            raise sqlite3.DatabaseError(f"database disk image is malformed ({error})") from error
        if os.name == "nt" or parent in (os.getpid(), os.getppid()):  # who asked was killed meanwhile: it is void
            database.commit()
        return rows


def _main() -> None:
    try:
        answer: dict[str, object] = {"rows": _run(**json.load(sys.stdin))}
    except sqlite3.Error as error:
        answer = {"error": str(error)}
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    _main()
