"""Searches of several threads at once, and a writer among them."""

import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from sqlite3 import SQLITE_DENY, SQLITE_OK, SQLITE_TRANSACTION
from threading import Barrier, Event

import numpy as np
import pytest

from bgem3.errors import StoreConnectionError, StoreCorruptError, StoreError, StoreWriteError
from bgem3.index.sidecar import Sidecar
from bgem3.index.threads import READERS
from bgem3.stores import chroma_search
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_readers import _KEPT, _MOST
from bgem3.stores.chroma_upkeep import Report, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed

ODD = {"odd": True}


class Meeting:
    """A codec whose scores wait until several searches ask for them."""

    def __init__(self, codec, wait):
        self._codec, self._wait = codec, wait

    def __getattr__(self, name):
        return getattr(self._codec, name)

    def matcher(self, query):
        self._wait()
        return self._codec.matcher(query)


@pytest.fixture
def store(tmp_path):
    store = ChromaStore(tmp_path / "db")
    store.open(SETTINGS)
    put(store, range(40))
    yield store
    store.close()


def put(store, numbers):
    chunks = [Chunk(f"id {i}", f"text of {i}", {"odd": bool(i % 2)}) for i in numbers]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))


def found(store, text, **options):
    return [(hit.id, hit.score) for hit in store.search(embed([text]), SearchPlan(**options))]


def test_three_searches_run_at_the_same_time(store):
    alone = [found(store, f"text of {i}") for i in range(3)]
    store._searcher.codec = Meeting(store._codec, Barrier(3, timeout=10).wait)
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(lambda i: found(store, f"text of {i}"), range(3)))
    assert together == alone


def test_a_writer_waits_for_a_search_and_the_next_search_for_the_writer(store):
    begun, go_on = Event(), Event()

    def stop():
        begun.set()
        assert go_on.wait(10)

    codec, store._searcher.codec = store._codec, Meeting(store._codec, stop)
    with ThreadPoolExecutor(2) as pool:
        before = pool.submit(found, store, "text of 7", k=100, fetch_k=100)
        assert begun.wait(10)
        writing = pool.submit(store.delete, ["id 7"])
        store._searcher.codec = codec
        assert not writing.done()
        go_on.set()
        assert "id 7" in [id_ for id_, _ in before.result(10)]
        assert writing.result(10) == 1
    assert "id 7" not in [id_ for id_, _ in found(store, "text of 7", k=100, fetch_k=100)]


def test_many_threads_search_with_filters_while_chunks_come_and_go(store):
    def read(i):
        odd = {int(id_[3:]) for id_, _ in found(store, f"text of {i % 40}", where=ODD, k=50, fetch_k=50)}
        return set(range(1, 40, 2)) <= odd <= set(range(1, 60, 2))

    with ThreadPoolExecutor(6) as pool:
        reads = [pool.submit(read, i) for i in range(60)]
        for i in range(40, 60):
            put(store, [i])
            store.delete([f"id {i}"] if i % 4 == 0 else [])
        assert all(one.result(30) for one in reads)
    assert store.count() == 55


def test_an_error_of_one_search_leaves_the_others_and_the_connection(store):
    with pytest.raises(ZeroDivisionError):
        store._readers.run(store.reading, lambda _: 1 / 0)
    connections = len(store._readers._free)
    assert connections == READERS
    assert np.isfinite([score for _, score in found(store, "text of 3")]).all()
    assert len(store._readers._free) == connections


def test_many_searches_at_once_share_a_bounded_number_of_connections(store, monkeypatch):
    opened, closed, connect, close = [], [], store._readers._connect, Sidecar.close
    monkeypatch.setattr(store._readers, "_connect", lambda: opened.append(connect()) or opened[-1])
    monkeypatch.setattr(Sidecar, "close", lambda sidecar: closed.append(sidecar) or close(sidecar))
    alone = [found(store, f"text of {i}") for i in range(20)]
    store._searcher.codec = Meeting(store._codec, Barrier(20, timeout=30).wait)
    with ThreadPoolExecutor(20) as pool:
        assert list(pool.map(lambda i: found(store, f"text of {i}"), range(20))) == alone
    assert len(opened) <= _MOST + 20
    assert set(opened) - set(closed) == set(store._readers._free)
    assert len(store._readers._free) <= _KEPT


def test_a_connection_that_cannot_be_opened_loses_none_of_the_others(store, monkeypatch):
    connect, opened = store._readers._connect, []

    def fail_at_the_third():
        if len(opened) == 2:
            raise StoreWriteError("no file descriptor is left")
        opened.append(connect())
        return opened[-1]

    with monkeypatch.context() as patched:
        patched.setattr(store._readers, "_connect", fail_at_the_third)
        for _ in range(3):
            with pytest.raises(StoreWriteError, match="no file descriptor"):
                found(store, "text of 3")
        assert store._readers._free == opened
    assert found(store, "text of 3")[0][0] == "id 3"


@pytest.mark.parametrize("n", [1, 4, 5, 20, 21, 40])
def test_candidates_from_a_slow_disk_are_scored_alike(store, monkeypatch, n):
    plan = {"k": n, "fetch_k": n, "mode": "multi_vector", "strategy": "union"}
    fast = found(store, "text of 7", **plan)
    monkeypatch.setattr(chroma_search, "_WAITED_S", -1.0)
    assert found(store, "text of 7", **plan) == fast
    assert (len(fast), fast[0][0]) == (n, "id 7")


def test_a_damaged_candidate_from_a_slow_disk_is_named_and_the_others_are_read_to_the_end(store, monkeypatch):
    monkeypatch.setattr(chroma_search, "_WAITED_S", -1.0)
    store._sidecar.database.run("UPDATE rows SET multi_vector = x'00' WHERE id = 'id 30'")
    for _ in range(3):
        with pytest.raises(StoreCorruptError, match="chunk 'id 30' is damaged"):
            found(store, "text of 7", mode="multi_vector", fetch_k=40)
    assert found(store, "text of 7", mode="dense")[0][0] == "id 7"
    put(store, [30])
    assert found(store, "text of 7", mode="multi_vector", fetch_k=40)[0][0] == "id 7"


def test_a_connection_that_cannot_end_what_it_read_is_closed(store):
    found(store, "text of 3")
    stuck = store._readers._free[0]
    stuck.database._connection.set_authorizer(
        lambda action, what, *_: SQLITE_DENY if (action, what) == (SQLITE_TRANSACTION, "ROLLBACK") else SQLITE_OK
    )
    with pytest.raises(StoreError, match="not authorized"):
        found(store, "text of 3")
    assert found(store, "text of 3")[0][0] == "id 3"
    with pytest.raises(StoreError, match="closed database"):
        stuck.count()


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder with open files")
@pytest.mark.parametrize("writes", [True, False])
def test_a_folder_that_is_unmounted_and_mounted_again(store, tmp_path, writes):
    """A search made an empty sidecar at the mount point, and went on to read that one after the folder was back."""
    folder, elsewhere = tmp_path / "db", tmp_path / "elsewhere"
    if not writes:
        store.close()
        store = ChromaStore(folder)
        store.open()
        store._collection.loaded()
    folder.rename(elsewhere)
    folder.mkdir()
    for call in (
        lambda: found(store, "text of 3"),
        store.count,
        lambda: put(store, [3]),
        lambda: store.delete(["id 3"]),
    ):
        with pytest.raises(StoreConnectionError, match="moved, deleted, replaced or unmounted"):
            call()
    assert not [*folder.iterdir()]
    folder.rmdir()
    elsewhere.rename(folder)
    assert found(store, "text of 3")[0][0] == "id 3"
    put(store, [50])
    assert found(store, "text of 50", k=1)[0][0] == "id 50"
    if not writes:
        store.close()


@pytest.mark.skipif(os.name == "nt", reason="Windows moves no folder with open files")
def test_a_folder_that_is_closed_while_it_is_away_is_whole_when_it_is_back(store, tmp_path):
    folder, elsewhere = tmp_path / "db", tmp_path / "elsewhere"
    folder.rename(elsewhere)
    folder.mkdir()
    store.close()
    assert not [*folder.iterdir()]
    with closing(ChromaStore(elsewhere)) as moved:
        moved.open()
        assert verify(moved) == Report(40)
        assert found(moved, "text of 3")[0][0] == "id 3"
