"""Embedded Chroma clients: of one folder, of several stores, of the caller's, from many threads."""

import json
import os
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import chromadb
import pytest
from chromadb.api.shared_system_client import SharedSystemClient
from chromadb.config import Settings

from bgem3.errors import StoreError, StoreNotFoundError
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_embedded import OWNER, connect, delete_collection, disconnect, require_collection
from bgem3.stores.chroma_upkeep import Report, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed


def systems(folder):
    return [one for one in SharedSystemClient._identifier_to_system if one.startswith(str(folder))]


def test_each_store_has_a_system_of_its_own_and_gives_it_back(tmp_path):
    first, second = connect(tmp_path), connect(tmp_path)
    assert (first[1], second[1]) == (True, True)
    assert first[0]._system is not second[0]._system
    disconnect(first[0])
    third, fresh = connect(tmp_path)
    assert fresh
    assert third._system is not second[0]._system
    assert len(systems(tmp_path)) == 2
    disconnect(second[0])
    disconnect(third)
    assert systems(tmp_path) == []


@pytest.mark.parametrize("settings", [None, Settings(anonymized_telemetry=False)])
@pytest.mark.parametrize("spelled", ["{}", "{}/", ".", "../{name}"])
def test_a_client_of_the_callers_is_joined_however_it_spells_the_folder(tmp_path, monkeypatch, settings, spelled):
    monkeypatch.chdir(tmp_path)
    caller = chromadb.PersistentClient(spelled.format(tmp_path, name=tmp_path.name), settings=settings)
    joined, fresh = connect(tmp_path)
    assert (joined._system is caller._system, fresh) == (True, False)
    disconnect(joined)
    caller.heartbeat()
    caller.close()


def test_a_folder_that_does_not_open_leaves_nothing_behind(tmp_path):
    (tmp_path / "chroma.sqlite3").write_bytes(b"not a database, " * 100)
    with pytest.raises(Exception, match="not a database"):
        connect(tmp_path)
    assert systems(tmp_path) == []


def test_collections_are_found_and_deleted(tmp_path):
    with pytest.raises(StoreNotFoundError, match="no Chroma database"):
        require_collection("tea", path=tmp_path, client=None)
    client, _ = connect(tmp_path)
    client.create_collection("tea", metadata={OWNER: "a sidecar"})
    require_collection("tea", path=tmp_path, client=None)
    delete_collection("tea", tmp_path)
    delete_collection("milk", tmp_path)
    with pytest.raises(StoreNotFoundError, match="none is called 'tea', there are none"):
        require_collection("tea", path=tmp_path, client=client)
    disconnect(client)


def test_collections_of_one_folder_are_opened_and_written_from_threads(tmp_path):
    def work(name):
        for round_ in range(6):
            store = ChromaStore(tmp_path, collection=name)
            store.open(SETTINGS)
            chunks = [Chunk(f"{name} {i}", f"text {i} of {name}, {round_}") for i in range(round_, round_ + 8)]
            store.upsert(chunks, embed([chunk.text for chunk in chunks]))
            (hit,) = store.search(embed([chunks[3].text]), SearchPlan(k=1, mode="dense", fetch_k=1))
            assert hit.id == chunks[3].id
            assert verify(store) == Report(8 + round_)
            store.close()

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(work, [f"collection-{i}" for i in range(4)])) == [None] * 4
    assert systems(tmp_path) == []


def test_a_store_that_cannot_open_says_so(tmp_path):
    (tmp_path / "chroma.sqlite3").write_bytes(b"not a database, " * 100)
    with pytest.raises(StoreError, match="not a database"):
        ChromaStore(tmp_path).open(SETTINGS)


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("UPDATE migrations SET hash = 'another'", "Inconsistent hash"),
        ("UPDATE embeddings_queue SET metadata = '{'", "Failed to pull logs"),
    ],
)
def test_a_damaged_or_torn_database_of_chroma_has_a_fix(tmp_path, sql, said):
    write(tmp_path, "a")
    with closing(sqlite3.connect(tmp_path / "chroma.sqlite3")) as database, database:
        database.execute(sql)
    with pytest.raises(StoreError, match=f"{said}.*Fix: restore a backup.*copy it again while nothing writes"):
        write(tmp_path, "b")


def write(folder, id_):
    with closing(ChromaStore(folder)) as store:
        store.open(SETTINGS)
        store.upsert([Chunk(id_, "text")], embed(["text"]))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_so_and_does_not_wait(tmp_path):
    store = ChromaStore(tmp_path)
    store.open(SETTINGS)

    def in_child():
        said = []
        for call in (store.count, lambda: ChromaStore(tmp_path / "other").open(SETTINGS)):
            try:
                call()
            except StoreError as error:
                said.append(str(error))
        store.close()
        return said

    read, write = os.pipe()
    if not (child := os.fork()):
        os.write(write, json.dumps(in_child()).encode())
        os._exit(0)
    os.waitpid(child, 0)
    said = json.loads(os.read(read, 9999))
    assert len(said) == 2
    assert all("forked from one that had opened Chroma" in one for one in said)
    assert store.count() == 0
    store.close()
