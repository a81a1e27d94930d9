"""An SQLite file of ours: made by several at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from bgem3.index.database import Database

SCHEMA = "CREATE TABLE meta (key TEXT, value TEXT)"


def test_several_make_one_file_at_the_same_moment(tmp_path):
    """SQLite refuses all but one of those that change the journal's mode at once, without waiting."""
    with ThreadPoolExecutor(6) as pool:
        for number in range(100):
            path, start = tmp_path / f"{number}.sqlite3", Barrier(6)

            def make(i, path=path, start=start):
                start.wait()
                database = Database(path, SCHEMA, [("key", str(i))])
                found = database.value("SELECT count(*) FROM meta")
                database.close()
                return found

            assert [*pool.map(make, range(6))] == [1] * 6
