"""A sidecar file that cannot be opened any more: what of it can be read is kept, the rest is encoded."""

import sqlite3
from contextlib import closing

import pytest

from bgem3.errors import (
    IndexMismatchError,
    StoreCorruptError,
    StoreLockedError,
    StoreNotFoundError,
    StoreWriteError,
)
from bgem3.stores import chroma_rescue
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_rescue import needs_rescue, rescue
from bgem3.stores.chroma_upkeep import Report, backfill, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.full_disk import file_size_limit
from tests.support.vectors import SETTINGS, embed

IDS = [f"id {i}" for i in range(400)]
NAME = "bgem3-bgem3.sqlite3"


@pytest.fixture
def folder(tmp_path):
    store = opened(tmp_path / "db", codec="int8")
    chunks = [Chunk(id_, f"text of {id_}", {"n": i}) for i, id_ in enumerate(IDS)]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))
    store.delete(["id 399"])
    store.close()
    with closing(sqlite3.connect(tmp_path / "db" / NAME)) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return tmp_path / "db"


def opened(folder, **options):
    store = ChromaStore(folder, **options)
    store.open(SETTINGS)
    return store


def mended(folder):
    """Repair as the command does; return how many rows were kept and which chunks were encoded."""
    kept = rescue(folder, "bgem3", SETTINGS)
    store = opened(folder)
    encoded = []
    backfill(store, lambda texts: encoded.extend(texts) or embed(texts))
    assert verify(store) == Report(399)
    for id_ in ("id 7", "id 398"):
        for mode in ("dense", "sparse", "multi_vector"):
            assert store.search(embed([f"text of {id_}"]), SearchPlan(k=1, mode=mode))[0].id == id_
    assert store.find({"n": {"$lt": 3}}) == IDS[:3]
    assert store._sidecar.codec == "int8"
    store.upsert([Chunk("new", "new text")], embed(["new text"]))
    assert store.get(["new", "id 399"]) == [Chunk("new", "new text")]
    store.close()
    assert not needs_rescue(folder / NAME)
    return kept, encoded


def test_a_whole_file_needs_none(folder):
    assert not needs_rescue(folder / NAME)
    assert not needs_rescue(folder / "other")


def test_a_truncated_file(folder):
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content[: len(content) // 2])
    assert needs_rescue(folder / NAME)
    kept, encoded = mended(folder)
    assert 0 < kept < 399
    assert len(encoded) == 399 - kept


def test_pages_that_were_overwritten(folder):
    content = bytearray((folder / NAME).read_bytes())
    for page in range(8, len(content) // 4096, 16):
        content[page * 4096 : page * 4096 + 4096] = b"\x0d" + bytes(4095)
    (folder / NAME).write_bytes(content)
    assert needs_rescue(folder / NAME)
    kept, encoded = mended(folder)
    assert 0 < kept < 399
    assert len(encoded) == 399 - kept


def test_a_damaged_name(folder):
    content = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(content.replace(b"CREATE TABLE live", b"CREATE TA\xe5LE live"))
    with pytest.raises(StoreCorruptError, match="damaged.*Fix: restore a backup, or bgem3 repair"):
        opened(folder)
    assert needs_rescue(folder / NAME)
    (folder / f"{NAME}.damaged").write_bytes(content)  # of an earlier rescue
    kept, encoded = mended(folder)
    assert (kept, len(encoded)) == (399, 0)


def test_an_index_that_tells_a_row_twice(folder):
    # (row, id) in the index of `live`: the lengths of both, then both
    content = (folder / NAME).read_bytes()
    assert content.count(b"\x03\x01\x15\x08id 7") == 1
    (folder / NAME).write_bytes(content.replace(b"\x03\x01\x15\x08id 7", b"\x03\x01\x15\x09id 7"))
    with pytest.raises(
        StoreCorruptError, match="rows are not numbers, each told once.*Fix: restore a backup, or bgem3 repair"
    ):
        opened(folder)
    assert needs_rescue(folder / NAME)
    assert mended(folder) == (399, [])


def test_a_chunk_whose_row_is_text_in_the_table_and_a_number_in_its_index(folder):
    # (id, row) in `live`: kind of both, then both; kind 1 is a number of one byte, 15 a text of one
    content = (folder / NAME).read_bytes()
    assert content.count(b"\x03\x15\x01id 7\x08") == 1
    (folder / NAME).write_bytes(content.replace(b"\x03\x15\x01id 7\x08", b"\x03\x15\x0fid 7\x08"))
    store = opened(folder)
    report = verify(store)
    store.close()
    assert report.problems == {"id 7": "missing"}
    assert "sqlite_autoindex_live_2" in report.file
    assert mended(folder) == (399, [])


def test_a_row_that_belongs_to_nobody_and_is_no_number(folder):
    with closing(sqlite3.connect(folder / NAME)) as database:
        database.executescript(
            "PRAGMA writable_schema = ON;"
            "UPDATE sqlite_master SET sql = replace(sql, 'row INTEGER NOT NULL UNIQUE', 'row INTEGER UNIQUE');"
            "PRAGMA writable_schema = RESET;"
            "INSERT INTO live VALUES ('nobody', NULL)"
        )
    with pytest.raises(StoreCorruptError, match="rows are not numbers"):
        opened(folder)
    assert mended(folder) == (399, [])


def test_a_file_of_which_nothing_is_left(folder):
    (folder / NAME).write_bytes(b"x" * 10_000)
    with pytest.raises(StoreCorruptError, match="Fix: restore a backup, or bgem3 repair, which keeps what can be read"):
        opened(folder)
    kept, encoded = mended(folder)
    assert (kept, len(encoded)) == (0, 399)


def test_an_older_format_is_encoded_again(folder):
    with closing(sqlite3.connect(folder / NAME)) as database, database:
        database.execute("UPDATE meta SET value = '1' WHERE key = 'format'")
    with pytest.raises(
        IndexMismatchError, match="format 1, expected 2. Fix: bgem3 repair --db .* --collection bgem3, which"
    ):
        opened(folder)
    assert needs_rescue(folder / NAME)
    kept, encoded = mended(folder)
    assert (kept, len(encoded)) == (0, 399)


def test_a_crash_in_the_middle_of_a_write_is_settled_by_what_chroma_says(folder):
    store = opened(folder)
    begun = store._sidecar.begin_upsert(
        [Chunk("id 5", "other")], embed(["other"]), store._codec.encode(embed(["other"]).multi_vector)
    )
    store.close()
    assert len(begun) == 1
    kept = rescue(folder, "bgem3", SETTINGS)
    store = opened(folder)
    assert (kept, store.get(["id 5"])[0].text) == (399, "text of id 5")
    assert verify(store) == Report(399)
    store.close()


def test_a_file_that_is_lost(folder):
    (folder / NAME).unlink()
    assert needs_rescue(folder / NAME)
    # as whoever opens it before knows it: a new file, of no use
    with pytest.raises(IndexMismatchError, match="or bgem3 repair if the file was lost"):
        opened(folder)
    assert (folder / NAME).exists()
    assert needs_rescue(folder / NAME)
    kept, encoded = mended(folder)
    assert (kept, len(encoded)) == (0, 399)
    with closing(sqlite3.connect(folder / NAME)) as database:
        assert database.execute("SELECT value FROM meta WHERE key = 'collection'").fetchall() == [("bgem3",)]


@pytest.mark.parametrize("moved", [True, False])
def test_a_rescue_that_was_broken_off_keeps_what_the_first_would_have(folder, monkeypatch, moved):
    with closing(sqlite3.connect(folder / NAME)) as database, database:
        database.execute("DELETE FROM meta WHERE key = 'uuid'")
    monkeypatch.setattr(chroma_rescue, "_carry_over" if moved else "_put_aside", interrupt)
    with pytest.raises(KeyboardInterrupt):
        rescue(folder, "bgem3", SETTINGS)
    monkeypatch.undo()
    assert (folder / NAME).exists() != moved
    if moved:
        with pytest.raises(IndexMismatchError, match="belongs to another sidecar"):
            opened(folder)  # which leaves an empty file
    assert needs_rescue(folder / NAME)
    assert mended(folder) == (399, [])


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_a_file_that_cannot_be_read_now_is_not_taken_for_a_damaged_one(folder):
    with closing(sqlite3.connect(folder / NAME)) as database:
        database.execute("PRAGMA locking_mode = EXCLUSIVE")
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM meta")
        with pytest.raises(StoreLockedError, match="database is locked"):
            needs_rescue(folder / NAME)


def test_on_a_full_disk_no_file_is_taken_for_a_damaged_one(folder):
    with file_size_limit(10_000), pytest.raises(StoreWriteError, match="disk I/O error. Nothing was changed"):
        needs_rescue(folder / NAME)
    assert not needs_rescue(folder / NAME)


def test_what_cannot_be_rescued(folder, tmp_path):
    with pytest.raises(StoreNotFoundError, match="no Chroma database"):
        rescue(tmp_path / "other", "bgem3", SETTINGS)
    with pytest.raises(StoreNotFoundError, match="no collection 'notes' of ours in Chroma"):
        rescue(folder, "notes", SETTINGS)
    store = opened(folder)
    store.upsert([Chunk("new", "new text")], embed(["new text"]))
    with pytest.raises(StoreLockedError, match="another process writes to it"):
        rescue(folder, "bgem3", SETTINGS)
    store.close()
