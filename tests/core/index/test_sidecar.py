import sqlite3
from contextlib import closing

import numpy as np
import pytest

from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreWriteError
from bgem3.filters import parse_filter, to_sql
from bgem3.index.sidecar import Pending, Sidecar, hash_text
from bgem3.types import Chunk
from tests.support.vectors import SETTINGS, VOCAB, embed


@pytest.fixture
def path(tmp_path):
    return tmp_path / "side.sqlite3"


@pytest.fixture
def sidecar(path):
    sidecar = Sidecar(path, codec="int8")
    yield sidecar
    sidecar.close()


def begin(sidecar, *ids, version=0, **metadata):
    """Put rows down, not settled; a row's token vectors are its id in bytes."""
    chunks = [Chunk(id_, f"{id_} {version}", {"version": version, **metadata}) for id_ in ids]
    return sidecar.begin_upsert(chunks, embed([chunk.text for chunk in chunks]), [id_.encode() for id_ in ids])


def write(sidecar, *ids, **options):
    pending = begin(sidecar, *ids, **options)
    sidecar.settle(pending, {one.id: one.new_row for one in pending})
    return np.array([one.new_row for one in pending], dtype=np.int64)


def find(sidecar, where):
    return sidecar.matching_rows(*to_sql(parse_filter(where))).tolist()


def test_what_is_written_comes_back_in_the_order_asked(sidecar):
    rows = write(sidecar, "a", "b\0c", "猫")
    asked = rows[[2, 0]]
    embeddings = embed(["猫 0", "a 0"])
    np.testing.assert_array_equal(sidecar.dense(asked), embeddings.dense.astype(np.float16).astype(np.float32))
    assert sidecar.multi_vectors(asked) == ["猫".encode(), b"a"]
    stored = sidecar.stored(asked)
    assert [one.id for one in stored] == ["猫", "a"]
    assert stored[0].text_hash == hash_text("猫 0")
    assert stored[0].metadata == {"version": 0}
    assert sidecar.all_rows().tolist() == rows.tolist()
    assert abs(sidecar.sparse_of(rows, VOCAB) - embed(["a 0", "b\0c 0", "猫 0"]).sparse).max() == 0
    assert sidecar.rows_of(["b\0c", "b", "no"]) == {"b\0c": rows[1]}


def test_thousands_of_ids_at_once(sidecar):
    ids = [str(i) for i in range(12_000)]
    write(sidecar, *ids[:11_000])
    assert sidecar.count() == 11_000
    assert len(sidecar.rows_of(ids)) == 11_000
    assert sidecar.sparse_of(sidecar.all_rows(), VOCAB).shape == (11_000, VOCAB)


def test_rows_are_not_live_before_they_are_settled(sidecar):
    pending = begin(sidecar, "a")
    assert pending == sidecar.pending() == [Pending("a", None, 1)]
    assert (sidecar.count(), find(sidecar, {"version": 0}), list(sidecar.all_rows())) == (0, [], [])
    generation = sidecar.generation()
    sidecar.settle(pending, {"a": 1})
    assert (sidecar.count(), find(sidecar, {"version": 0}), sidecar.pending()) == (1, [1], [])
    assert sidecar.generation() == generation + 1


@pytest.mark.parametrize(("pointer", "left"), [("new", {"a": 2}), ("old", {"a": 1}), (None, {"a": 1})])
def test_an_overwrite_is_finished_or_taken_back(sidecar, pointer, left):
    write(sidecar, "a")
    (one,) = begin(sidecar, "a", version=1)
    sidecar.settle([one], {} if pointer is None else {"a": one.new_row if pointer == "new" else one.old_row})
    assert sidecar.rows_of(["a"]) == left
    assert find(sidecar, {"version": {"$exists": True}}) == list(left.values())


@pytest.mark.parametrize("gone", [True, False])
def test_a_deletion_is_finished_or_taken_back(sidecar, gone):
    write(sidecar, "a", "b")
    pending = sidecar.begin_delete(["a", "no"])
    assert pending == [Pending("a", 1, None)]
    sidecar.settle(pending, {} if gone else {"a": 1})
    assert sidecar.rows_of(["a", "b"]) == ({"b": 2} if gone else {"a": 1, "b": 2})
    assert sidecar.pending() == []


def test_row_numbers_are_never_used_again(path, sidecar):
    write(sidecar, "a")
    sidecar.settle(sidecar.begin_delete(["a"]), {})
    sidecar.close()
    again = Sidecar(path, codec="int8")
    assert write(again, "b").tolist() == [2]
    again.close()


def test_reopening_keeps_everything(path, sidecar):
    write(sidecar, "a")
    begin(sidecar, "b")
    sidecar.save_settings(SETTINGS)
    again = Sidecar(path, codec="binary")
    assert (again.uuid, again.codec, again.settings) == (sidecar.uuid, "int8", SETTINGS)
    assert (again.count(), again.pending()) == (1, [Pending("b", None, 2)])
    again.close()


def test_a_snapshot_does_not_move(path, sidecar):
    write(sidecar, "a")
    reader = Sidecar(path, codec="int8")
    with reader.snapshot():
        before = reader.generation()
        write(sidecar, "a", "b", version=1)
        assert (reader.generation(), reader.all_rows().tolist()) == (before, [1])
        assert reader.multi_vectors(reader.all_rows()) == [b"a"]
    assert reader.generation() > before
    assert reader.all_rows().tolist() == [2, 3]
    reader.close()


def test_a_write_that_fails_leaves_nothing(sidecar):
    begin(sidecar, "a")
    with pytest.raises(StoreCorruptError, match="UNIQUE constraint failed: pending.id"):
        begin(sidecar, "b", "a")
    assert sidecar.rows_of(["b"]) == {}
    assert [one.id for one in sidecar.pending()] == ["a"]


@pytest.mark.parametrize(
    ("column", "read"),
    [
        ("weights", lambda sidecar, rows: sidecar.sparse_of(rows, VOCAB)),
        ("tokens", lambda sidecar, rows: sidecar.sparse_of(rows, VOCAB)),
        ("dense", lambda sidecar, rows: sidecar.dense(rows)),
        ("multi_vector", lambda sidecar, rows: sidecar.multi_vectors(rows)),
    ],
)
def test_a_flipped_byte_is_noticed(path, sidecar, column, read):
    rows = write(sidecar, "fine", "broken")
    with sqlite3.connect(path) as db:
        (blob,) = db.execute(f"SELECT {column} FROM rows WHERE id = 'broken'").fetchone()
        db.execute(f"UPDATE rows SET {column} = ? WHERE id = 'broken'", [bytes([blob[0] ^ 1]) + blob[1:]])
    db.close()
    with pytest.raises(StoreCorruptError, match="chunk 'broken' is damaged. Fix: bgem3 repair, or add its text again"):
        read(sidecar, rows)


def test_a_row_that_went_is_noticed(sidecar):
    with pytest.raises(StoreCorruptError, match="1 rows are not there, among them 7"):
        sidecar.dense(np.array([7]))


def truncate(path):
    path.write_bytes(path.read_bytes()[: 3 * 4096])


def scribble(path):
    path.write_bytes(b"x" * 4096)


def other_program(path):
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
    db.close()


def bad_settings(path):
    with sqlite3.connect(path) as db:
        db.execute("INSERT OR REPLACE INTO meta VALUES ('settings', '{\"other\": 1}')")
    db.close()


def read_all(path):
    with closing(Sidecar(path, codec="int8")) as again:
        return again.sparse_of(again.all_rows(), VOCAB)


@pytest.mark.parametrize("damage", [truncate, scribble, other_program, bad_settings])
def test_a_damaged_or_foreign_file_is_refused(path, sidecar, damage):
    for start in range(0, 2_000, 500):
        write(sidecar, *map(str, range(start, start + 500)))
    sidecar.close()
    damage(path)
    with pytest.raises(StoreCorruptError, match=r"side.sqlite3: damaged, or not a sidecar .* Fix: restore a backup"):
        read_all(path)


@pytest.mark.parametrize(
    ("found", "fix"),
    [
        ("99", "use the version that made it"),
        ("1", "bgem3 repair --db .* --collection .*, which encodes its texts again"),
    ],
)
def test_another_format_is_refused(path, sidecar, found, fix):
    sidecar.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE meta SET value = ? WHERE key = 'format'", [found])
    db.close()
    with pytest.raises(IndexMismatchError, match=f"format {found}, expected 2. Fix: {fix}"):
        Sidecar(path, codec="int8")


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(StoreWriteError, match="unable to open database file. Fix: a folder that can be written"):
        Sidecar(tmp_path / "no" / "side.sqlite3", codec="int8")
