"""How often Chroma saves its graph, and what closing leaves to the next opening."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing
from threading import Event

import chromadb
import pytest

from bgem3.errors import StoreError
from bgem3.stores import chroma_client
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(chroma_client._HNSW, "sync_threshold", 10)
    monkeypatch.setattr(chroma_client, "_LEFT_UNSAVED", 3)
    return tmp_path / "db"


def opened(folder):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    return store


def put(store, numbers):
    chunks = [Chunk(f"id {i}", f"text of {i}", {"n": i}) for i in numbers]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))


def in_database(folder, sql):
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database:
        return database.execute(sql).fetchone()


def last_saved(folder):
    found = in_database(
        folder,
        "SELECT seq_id FROM max_seq_id JOIN segments ON segments.id = segment_id WHERE scope = 'VECTOR'",
    )
    return found[0] if found else 0


def last_logged(folder):
    return in_database(folder, "SELECT max(seq_id) FROM embeddings_queue")[0]


def test_closing_leaves_few_records_to_the_next_opening(folder):
    store = opened(folder)
    put(store, range(14))  # a save after 10, four in the log
    assert (last_saved(folder), last_logged(folder)) == (10, 14)
    store.close()
    assert (last_saved(folder), last_logged(folder)) == (20, 20)
    again = opened(folder)
    assert (again.count(), verify(again)) == (14, Report(14))
    assert len(again.find({"n": {"$gte": 0}})) == 14
    assert again.search(embed(["text of 3"]), SearchPlan(mode="dense"))[0].id == "id 3"
    put(again, range(14, 16))
    again.close()
    assert last_saved(folder) == 20  # two are few
    last = opened(folder)
    assert verify(last) == Report(16)
    last.close()


def test_a_store_that_only_read_saves_nothing(folder):
    store = opened(folder)
    put(store, range(14))
    reader = opened(folder)
    reader.count()
    reader.close()
    assert last_saved(folder) == 10
    store.close()


def test_a_collection_that_grew_is_saved_less_often(folder, monkeypatch):
    monkeypatch.setattr(chroma_client, "_SAVES_PER_GRAPH", 1)
    store = opened(folder)
    put(store, range(19))
    assert last_saved(folder) == 10
    put(store, range(19, 21))
    assert last_saved(folder) == 21
    put(store, range(21, 40))  # 21 rows when this begins, so the next save is due after 21 records
    assert last_saved(folder) == 21
    put(store, range(40, 45))
    assert last_saved(folder) == 45
    assert verify(store) == Report(45)
    assert store.search(embed(["text of 43"]), SearchPlan(mode="dense"))[0].id == "id 43"
    store.close()
    again = opened(folder)
    assert verify(again) == Report(45)
    again.close()


def test_opening_does_not_wait_for_the_graph_and_a_search_does(folder, monkeypatch):
    store = opened(folder)
    put(store, range(14))
    store.close()
    loads, get = Event(), chromadb.Collection.get
    monkeypatch.setattr(chromadb.Collection, "get", lambda self, **asked: loads.wait(10) and get(self, **asked))
    again = opened(folder)
    assert (again.count(), len(again.find({"n": {"$gte": 7}}))) == (14, 7)
    with ThreadPoolExecutor(1) as pool:
        search = pool.submit(again.search, embed(["text of 3"]), SearchPlan(mode="dense"))
        assert wait([search], timeout=0.2).not_done
        loads.set()
        assert search.result(10)[0].id == "id 3"
    again.close()


def test_a_graph_that_cannot_be_loaded_is_named_by_what_needs_it(folder):
    store = opened(folder)
    put(store, range(14))
    store.close()
    (files,) = folder.glob("*/header.bin")
    files.write_bytes(b"")
    again = opened(folder)
    assert again.count() == 14
    for _ in range(2):
        with pytest.raises(StoreError, match="'bgem3': Chroma refused .* Fix: bgem3 repair, which makes"):
            again.get(["id 3"])
    again.close()
