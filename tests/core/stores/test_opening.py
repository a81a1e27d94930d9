"""Stores by their address."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import chromadb
import pytest
from qdrant_client import models

from bgem3 import HybridIndex, M3Encoder
from bgem3.errors import IndexMismatchError, InvalidInputError, StoreAccessError, StoreConnectionError, StoreError
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_embedded import delete_collection
from bgem3.stores.chroma_rescue import rescue
from bgem3.stores.chroma_upkeep import compact
from bgem3.stores.opening import collection_names, drop_collection, open_store
from bgem3.stores.qdrant import QdrantStore
from bgem3.types import Chunk, SearchPlan
from tests.support.qdrant_server import QdrantServer
from tests.support.vectors import SETTINGS, embed


@pytest.fixture
def server():
    server = QdrantServer()
    yield server
    server.close()


def test_a_folder_is_chroma(tmp_path):
    assert isinstance(open_store(str(tmp_path), "tea"), ChromaStore)
    (tmp_path / "bgem3-tea.sqlite3").touch()
    assert collection_names(str(tmp_path)) == ["tea"]
    assert collection_names(str(tmp_path / "nowhere")) == []


def test_an_address_is_qdrant(server):
    for name in ("tea", "cars"):
        with closing(QdrantStore(url=server.url, prefer_grpc=False, collection=name)) as store:
            store.open(SETTINGS)
    assert collection_names(server.url) == ["cars", "tea"]
    drop_collection(server.url, "tea")
    drop_collection(server.url, "nobody")
    assert collection_names(server.url) == ["cars"]
    assert isinstance(open_store("http://127.0.0.1:1", "tea"), QdrantStore)


def test_a_collection_of_another_program_is_not_dropped(server, tmp_path):
    width = models.VectorParams(size=4, distance=models.Distance.DOT)
    server.client.create_collection("theirs", vectors_config=width)
    with pytest.raises(IndexMismatchError, match="collection 'theirs': another program made it. Fix: delete it there"):
        drop_collection(server.url, "theirs")
    assert collection_names(server.url) == ["theirs"]
    (tmp_path / "bgem3-theirs.sqlite3").touch()
    options = chromadb.Settings(anonymized_telemetry=False)
    with chromadb.PersistentClient(str(tmp_path), settings=options) as client:
        client.create_collection("theirs").add(ids=["a"], documents=["x"], embeddings=[[1.0]])
    with pytest.raises(IndexMismatchError, match="another program made the one in Chroma. Fix: delete it there, or"):
        drop_collection(str(tmp_path), "theirs")
    with chromadb.PersistentClient(str(tmp_path), settings=options) as client:
        assert client.get_collection("theirs").count() == 1


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (503, StoreConnectionError, "does not answer .*Fix: check that it runs"),
        (403, StoreAccessError, "refused the key"),
        (400, StoreError, "Qdrant refused"),
    ],
)
def test_what_a_servers_answers_become(server, no_waiting, status, error, message):
    server.status = status
    for call in (lambda: collection_names(server.url), lambda: drop_collection(server.url, "tea")):
        with pytest.raises(error, match=message):
            call()


def test_no_server(no_waiting):
    with pytest.raises(StoreConnectionError, match=r"'http://127\.0\.0\.1:9': the server does not answer") as error:
        collection_names("http://somebody:secret@127.0.0.1:9")
    assert "secret" not in str(error.value)


def test_a_folder_whose_chroma_cannot_be_opened(tmp_path):
    (tmp_path / "bgem3-tea.sqlite3").touch()
    (tmp_path / "chroma.sqlite3").write_bytes(b"x" * 8192)
    with pytest.raises(StoreError, match="Chroma refused"):
        drop_collection(str(tmp_path), "tea")


def test_what_a_repair_put_aside_is_dropped_too(tmp_path):
    with closing(ChromaStore(tmp_path, collection="tea")) as store:
        store.open(SETTINGS)
    with closing(sqlite3.connect(tmp_path / "bgem3-tea.sqlite3")) as database, database:
        database.execute("UPDATE meta SET value = '1' WHERE key = 'format'")
    rescue(tmp_path, "tea", SETTINGS)
    assert (tmp_path / "bgem3-tea.sqlite3.damaged").exists()
    drop_collection(str(tmp_path), "tea")
    assert {path.name for path in tmp_path.glob("bgem3-tea*")} <= {"bgem3-tea.lock", "bgem3-tea.graph.lock"}


def test_dropping_leaves_nothing_of_a_collection_and_all_of_the_others(tmp_path, checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    for name in ("tea", "tea.green"):
        with HybridIndex(encoder, ChromaStore(tmp_path, collection=name)) as index:
            index.add(["a text"], ids=["one"])
    drop_collection(str(tmp_path), "tea")
    assert collection_names(str(tmp_path)) == ["tea.green"]
    left = {path.name for path in tmp_path.glob("bgem3-tea.*") if "green" not in path.name}
    # lock files stay: another process may be waiting for one
    assert left <= {"bgem3-tea.lock", "bgem3-tea.graph.lock"}
    with HybridIndex(encoder, ChromaStore(tmp_path, collection="tea")) as index:
        assert index.count() == 0
        index.add(["another"])
        assert len(index.search("another")) == 1
    with HybridIndex(encoder, ChromaStore(tmp_path, collection="tea.green")) as index:
        assert index.get(["one"])[0].text == "a text"
    drop_collection(str(tmp_path), "nobody")


def test_graphs_that_chroma_leaves_behind_go(tmp_path):
    def graphs():
        return {path.parent for path in tmp_path.glob("*/header.bin")}

    stores = [ChromaStore(tmp_path, collection=name) for name in ("tea", "milk", "cup")]
    for store in stores:
        store.open(SETTINGS)
        store.upsert([Chunk("one", "a text", {})], embed(["a text"]))
    assert len(graphs()) == 3
    for store in stores[:2]:
        store.close()
    drop_collection(str(tmp_path), "tea")
    assert len(graphs()) == 2
    delete_collection("milk", tmp_path)  # where the process ended before the files went
    foreign = tmp_path / "0a04a685-0efa-4774-8e7c-f789e1cb5064"
    foreign.mkdir()
    (foreign / "notes.txt").touch()
    assert len(graphs()) == 2
    compact(stores[2])
    assert len(graphs()) == 1
    assert foreign.exists()
    assert stores[2].search(embed(["a text"]), SearchPlan(k=1, mode="dense"))[0].id == "one"
    stores[2].close()


def test_a_drop_that_was_cut_off_can_be_made_again(tmp_path, checkpoint):
    with HybridIndex(M3Encoder.from_pretrained(checkpoint), ChromaStore(tmp_path, collection="tea")) as index:
        index.add(["a text"])
    delete_collection("tea", tmp_path)
    assert collection_names(str(tmp_path)) == ["tea"]
    drop_collection(str(tmp_path), "tea")
    assert collection_names(str(tmp_path)) == []


@pytest.mark.parametrize("name", ["ab", "-ab", "a..b", "../../up", "1.2.3.4", "茶茶茶", "a" * 201, "", 5])
def test_a_bad_name_leaves_no_file(tmp_path, name):
    with pytest.raises(InvalidInputError, match=r"collection: got .*Fix: collection='bgem3'"):
        open_store(str(tmp_path / "db"), name)
    assert not [*tmp_path.iterdir()]
