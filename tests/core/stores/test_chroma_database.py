"""SQL on Chroma's database from a process of its own."""

import fcntl
import sqlite3
import subprocess
import sys
from contextlib import closing

import pytest

from bgem3.stores import chroma_database
from bgem3.stores.chroma_database import run

# SQLite's lock of a writer: one byte of the file.
RESERVED = 0x40000001
HELD = """
import fcntl, sys
with open(sys.argv[1], "r+b") as file:
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, int(sys.argv[2]))
    except OSError:
        print("held")
"""


@pytest.fixture
def folder(tmp_path):
    with closing(sqlite3.connect(tmp_path / "chroma.sqlite3")) as database, database:
        database.execute("CREATE TABLE tea (name TEXT, grams INTEGER)")
        database.execute("INSERT INTO tea VALUES ('龙井', 3), ('Assam', NULL)")
    return tmp_path


@pytest.mark.parametrize("elsewhere", [True, False])
def test_a_damaged_name_is_an_error_of_sqlite(folder, monkeypatch, elsewhere):
    if not elsewhere:
        monkeypatch.setattr(sys, "executable", "")
    path = folder / "chroma.sqlite3"
    path.write_bytes(path.read_bytes().replace(b"CREATE TABLE tea", b"CREATE TA\xe5LE tea"))
    with pytest.raises(sqlite3.DatabaseError, match="malformed"):
        run(folder, ("SELECT name FROM tea", []))


def test_the_rows_of_each_statement(folder):
    assert run(folder, ("SELECT name FROM tea WHERE grams = ?", [3]), ("SELECT * FROM tea ORDER BY name", [])) == [
        [["龙井"]],
        [["Assam", None], ["龙井", 3]],
    ]


def test_a_change_is_kept(folder):
    assert run(folder, ("DELETE FROM tea WHERE grams IS NULL", []), ("SELECT count(*) FROM tea", [])) == [[], [[1]]]
    assert run(folder, ("VACUUM", []), ("SELECT count(*) FROM tea", [])) == [[], [[1]]]


def test_where_one_statement_is_refused_nothing_changes(folder):
    with pytest.raises(sqlite3.OperationalError, match="no such table: milk"):
        run(folder, ("DELETE FROM tea", []), ("SELECT * FROM milk", []))
    assert run(folder, ("SELECT count(*) FROM tea", [])) == [[[2]]]


def test_the_locks_of_this_process_stay(folder):
    """Those that Chroma's SQLite holds; closing the file here would give them back."""
    path = folder / "chroma.sqlite3"
    with path.open("r+b") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, RESERVED)
        assert run(folder, ("SELECT count(*) FROM tea", [])) == [[[2]]]
        asked = subprocess.run([sys.executable, "-c", HELD, path, str(RESERVED)], capture_output=True, text=True)
    assert asked.stdout == "held\n"


@pytest.mark.parametrize("executable", ["", "/nowhere/python", "/usr/sbin/some-server"])
def test_without_an_interpreter_that_can_be_started_it_runs_here(folder, monkeypatch, executable):
    monkeypatch.setattr(sys, "executable", executable)
    assert run(folder, ("DELETE FROM tea WHERE grams IS NULL", []), ("SELECT count(*) FROM tea", [])) == [[], [[1]]]
    with pytest.raises(sqlite3.OperationalError, match="no such table: milk"):
        run(folder, ("SELECT * FROM milk", []))


def test_what_a_killed_process_asked_for_is_void(folder):
    chroma_database._run(str(folder / "chroma.sqlite3"), [("DELETE FROM tea", [])], parent=-1)
    assert run(folder, ("SELECT count(*) FROM tea", [])) == [[[2]]]
