"""The lexical index of a collection on disk: mapped from its snapshot, put right from the sidecar."""

import shutil

import numpy as np
import pytest

from bgem3.stores import chroma
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, backfill, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed

TEXTS = [f"text {i}" for i in range(40)]
SPARSE = SearchPlan(k=40, mode="sparse")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setattr(chroma, "_SAVED_AT_END", 1)
    monkeypatch.setattr("bgem3.index.lexical._WAITING", 1)
    with_chunks(tmp_path, TEXTS[:30])
    return tmp_path


def with_chunks(folder, texts, gone=()):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    store.upsert([Chunk(text, text, {}) for text in texts], embed(texts))
    store.delete(list(gone))
    store.close()


def found(folder, text):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    hits = store.search(embed([text]), SPARSE)
    store.close()
    return {hit.id: hit.score for hit in hits}


def expected(texts, query):
    scores = (embed(texts).sparse @ embed([query]).sparse.T).toarray()[:, 0]
    return {text: pytest.approx(score, rel=1e-5) for text, score in zip(texts, scores, strict=True) if score > 0}


def segments(folder):
    return list((folder / "bgem3-bgem3.lexical").glob("*.segment"))


def test_a_snapshot_is_written_when_the_store_is_closed(folder):
    assert len(segments(folder)) == 1
    assert found(folder, "text 3") == expected(TEXTS[:30], "text 3")


def test_chunks_after_the_snapshot_are_found_and_deleted_ones_are_not(folder, monkeypatch):
    monkeypatch.setattr(chroma, "_SAVED_AT_END", 10**9)
    with_chunks(folder, TEXTS[25:], gone=TEXTS[:5])
    assert found(folder, "text 30") == expected(TEXTS[5:], "text 30")


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"x" * 100)])
def test_a_damaged_snapshot_is_made_again_from_the_sidecar(folder, damage):
    damage(segments(folder)[0])
    with_chunks(folder, TEXTS[30:])
    assert found(folder, "text 3") == expected(TEXTS, "text 3")
    assert len(segments(folder)) == 1


def test_damaged_postings_are_found_by_verify_and_made_again_by_backfill(folder):
    (path,) = segments(folder)
    content = bytearray(path.read_bytes())
    content[-64:] = bytes(64)  # weights: opening checks everything but the postings
    path.write_bytes(content)
    store = ChromaStore(folder)
    store.open(SETTINGS)
    report = verify(store)
    assert (report.ok, dict(report.problems)) == (False, {})
    assert "weights is not what was written" in str(report.file)
    assert backfill(store, embed) == {}
    assert verify(store) == Report(30)
    store.close()
    assert all(found(folder, text) == expected(TEXTS[:30], text) for text in TEXTS[:30])


def test_a_snapshot_of_a_later_state_than_the_sidecar_is_not_taken(folder, monkeypatch):
    """A backup that was copied over the folder leaves the files that it does not have."""
    backup = folder.with_name("backup")
    shutil.copytree(folder, backup)
    shutil.rmtree(backup / "bgem3-bgem3.lexical")
    with_chunks(folder, TEXTS[30:])
    monkeypatch.setattr(chroma, "_SAVED_AT_END", 10**9)
    shutil.copytree(backup, folder, dirs_exist_ok=True)
    assert found(folder, "text 3") == expected(TEXTS[:30], "text 3")
    assert segments(folder)
    others = [f"other {i}" for i in range(10)]  # with the numbers that the others had
    with_chunks(folder, others)
    assert not segments(folder)
    assert found(folder, "other 3") == expected([*TEXTS[:30], *others], "other 3")


def test_a_reader_writes_nothing(folder):
    before = {path: path.stat().st_mtime_ns for path in segments(folder)}
    found(folder, "text 3")
    assert before == {path: path.stat().st_mtime_ns for path in segments(folder)}


def test_the_snapshot_is_mapped_and_not_read(folder):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    (segment,) = store._searcher.lexical.segments()
    base = segment.weights
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    store.close()
