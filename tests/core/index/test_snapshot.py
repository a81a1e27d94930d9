"""Snapshots of the inverted index: what comes back, and what is done about damage."""

import json

import numpy as np
import pytest

from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreWriteError
from bgem3.index.lexical import LexicalIndex
from bgem3.index.segment import invert, merge
from bgem3.index.snapshot import Snapshot, read_segment, write_segment
from tests.core.index.test_lexical import random_rows

ARRAYS = ("rows", "lengths", "tokens", "starts", "highest", "docs", "weights")


def make_segment(seed=0, start=0, n=50):
    return invert([(np.arange(start, start + n), random_rows(n, seed))])[0]


def make_snapshot(folder, owner="me", weighting="m3"):
    return Snapshot(folder / "lexical", owner=owner, weighting=weighting)


def equal(left, right):
    return all(np.array_equal(getattr(left, name), getattr(right, name)) for name in ARRAYS)


@pytest.fixture
def saved(tmp_path):
    snapshot = make_snapshot(tmp_path)
    snapshot.save([make_segment(0), make_segment(1, start=50)])
    return tmp_path


def files(folder):
    return sorted((folder / "lexical").glob("*.segment"))


def test_what_was_written_comes_back(tmp_path):
    segment = make_segment()
    write_segment(tmp_path / "one", segment)
    assert equal(read_segment(tmp_path / "one", postings=True), segment)


def test_an_index_from_a_snapshot_is_the_same_index(saved):
    whole = LexicalIndex(segments=[make_segment(0), make_segment(1, start=50)])
    mapped = LexicalIndex(segments=make_snapshot(saved).load())
    for seed in range(5):
        query = random_rows(1, 100 + seed)
        for one, other in zip(mapped.top(query, 20), whole.top(query, 20), strict=True):
            np.testing.assert_array_equal(one, other)
    mapped.remove(np.arange(0, 60))
    mapped.add(np.array([200]), random_rows(1, 7))
    assert mapped.rows().tolist() == [*range(60, 100), 200]


def test_nothing_is_there_yet(tmp_path):
    snapshot = make_snapshot(tmp_path)
    assert snapshot.load() == []
    assert snapshot.verify() == []
    assert snapshot.size() == 0


def test_only_new_segments_are_written_and_old_files_go(saved):
    snapshot = make_snapshot(saved)
    first, second = snapshot.load()
    before = {path.name: path.stat().st_mtime_ns for path in files(saved)}
    snapshot.save([first, make_segment(2, start=100)])
    after = {path.name: path.stat().st_mtime_ns for path in files(saved)}
    kept = set(before.items()) & set(after.items())
    assert len(before) == len(after) == 2
    assert len(kept) == 1
    assert len(second) == 50, "a segment that is still mapped stays readable"


def test_few_new_rows_are_not_worth_a_file(tmp_path):
    snapshot = make_snapshot(tmp_path)
    snapshot.keep_up([make_segment()], least=51)
    assert snapshot.size() == 0
    snapshot.keep_up([make_segment()], least=50)
    assert snapshot.size() > 0


@pytest.mark.parametrize("place", [0, 9, 20, 4096, -100])
def test_every_damaged_byte_is_found(saved, place):
    path = files(saved)[0]
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    (problem,) = make_snapshot(saved).verify()
    assert str(path) in problem


def test_damage_is_found_when_opening_and_then_left_out(saved):
    path = files(saved)[0]
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(StoreCorruptError, match="cut off within|not what was written"):
        make_snapshot(saved).load()
    assert make_snapshot(saved).restore(10**9) == []


def test_a_missing_file(saved):
    files(saved)[0].unlink()
    with pytest.raises(StoreCorruptError, match="No such file"):
        make_snapshot(saved).load()


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"format": 1'])
def test_a_damaged_manifest(saved, content):
    (saved / "lexical" / "manifest.json").write_text(content)
    with pytest.raises(StoreCorruptError, match="not a manifest"):
        make_snapshot(saved).load()
    assert len(make_snapshot(saved).verify()) == 1


@pytest.mark.parametrize("options", [{"owner": "other"}, {"weighting": "bm25"}])
def test_a_snapshot_of_something_else(saved, options):
    with pytest.raises(IndexMismatchError, match="delete the folder"):
        make_snapshot(saved, **options).load()


def test_a_later_format(saved):
    path = saved / "lexical" / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))
    with pytest.raises(IndexMismatchError, match="'format': 2"):
        make_snapshot(saved).load()


def test_a_folder_that_refuses_loses_nothing(tmp_path):
    (tmp_path / "lexical").write_text("a file stands where the folder should be")
    snapshot = make_snapshot(tmp_path)
    with pytest.raises(StoreWriteError, match="Nothing was changed"):
        snapshot.save([make_segment()])
    snapshot.keep_up([make_segment()], least=1)


def test_delete(saved):
    snapshot = make_snapshot(saved)
    snapshot.delete()
    assert not (saved / "lexical").exists()
    assert snapshot.load() == []


def test_merging_leaves_the_dead_out_and_keeps_the_order():
    left = make_segment(0)
    right = invert([(np.arange(60, 90), random_rows(30, 1))])[0]
    alive = np.ones(50, dtype=bool)
    alive[10:40] = False
    merged = merge([(right, np.ones(30, dtype=bool)), (left, alive)])
    expected = invert([(left.rows[alive], random_rows(50, 0)[alive]), (right.rows, random_rows(30, 1))])[0]
    assert equal(merged, expected)
