"""MilvusStore against milvus-lite behind a proxy that fails; the contract suite tests the rest."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import grpc
import pytest
from pymilvus import DataType, MilvusClient

from bgem3 import MilvusStore
from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    InvalidMetadataError,
    PartialWriteError,
    StoreAccessError,
    StoreConnectionError,
    StoreError,
    StoreVersionError,
    StoreWriteError,
)
from bgem3.stores import milvus
from bgem3.stores.addresses import Address
from bgem3.stores.foreign import read_foreign
from bgem3.types import Chunk, Matches, SearchPlan
from tests.support.milvus_server import MilvusServer
from tests.support.read_only import open_folder, without_rights
from tests.support.vectors import SETTINGS, embed

TEXTS = [f"text {i}" for i in range(50)]
CHUNKS = [Chunk(f"id {i}", text, {"n": i}) for i, text in enumerate(TEXTS)]
AWAY = grpc.StatusCode.UNAVAILABLE


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    server = MilvusServer(tmp_path_factory.mktemp("milvus"))
    yield server
    server.close()


@pytest.fixture
def server(shared):
    yield shared
    shared.code = shared.version = None
    shared.answers.clear()
    client = MilvusClient(shared.uri)
    for name in client.list_collections():
        client.drop_collection(name)
    client.close()


@pytest.fixture
def store(server):
    store = MilvusStore(server.uri)
    store.open(SETTINGS)
    yield store
    store.close()


def test_two_requests_a_search_over_the_wire(server, store):
    store.upsert(CHUNKS, embed(TEXTS))
    server.methods.clear()
    assert store.search(embed(["text 3"]), SearchPlan(k=3))[0].id == "id 3"
    assert server.methods == ["HybridSearch", "Query"]
    server.methods.clear()
    assert store.search(embed(["text 3"]), SearchPlan(k=3, mode="dense"))[0].id == "id 3"
    assert server.methods == ["Search"]


def test_a_chunk_that_is_deleted_between_a_search_and_its_explanation(server, store):
    class Deleting(MilvusClient):
        def hybrid_search(self, name, *args, **options):
            found = super().hybrid_search(name, *args, **options)
            store.delete(["id 3"])
            return found

    store.upsert(CHUNKS, embed(TEXTS))
    with closing(Deleting(server.uri)) as client:
        other = MilvusStore(client=client)
        other.open(SETTINGS)
        hits = {hit.id: hit for hit in other.search(embed(["text 3"]), SearchPlan(k=5, explain=True))}
    assert (hits["id 3"].text, hits["id 3"].matches) == ("text 3", Matches())
    assert all(hit.matches.tokens for id_, hit in hits.items() if id_ != "id 3")


def test_a_server_that_dies_between_two_pages(server, store, monkeypatch):
    monkeypatch.setattr(milvus, "_PAGE", 20)
    store.upsert(CHUNKS, embed(TEXTS))
    store._collection._timeout = 1
    pages = store.scan(20)
    assert len(next(pages)[0]) == 20
    server.code = AWAY
    with pytest.raises(StoreConnectionError, match="does not answer"):
        list(pages)
    server.code = None
    monkeypatch.setattr("bgem3.stores.foreign._PAGE", 20)
    chunks = read_foreign(Address("milvus", server.uri), "text")
    assert next(chunks).text in TEXTS
    server.code = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(StoreError, match="Milvus refused .*said the server"):
        list(chunks)


def test_a_server_that_is_away_for_a_moment_is_asked_again(server, store):
    server.answers = [AWAY, AWAY]
    server.sizes.clear()
    store.upsert(CHUNKS, embed(TEXTS))
    assert len(server.sizes) == 3
    assert store.count() == 50


def test_a_server_that_dies_midway(server, monkeypatch):
    monkeypatch.setattr(milvus, "_MOST_ROWS", 20)
    store = MilvusStore(server.uri, timeout=5)
    store.open(SETTINGS)
    server.answers = [None, None, *[AWAY] * 1000]
    with pytest.raises(PartialWriteError, match="does not answer .*Written before that: 40 ids, up to 'id 39'") as e:
        store.upsert(CHUNKS, embed(TEXTS))
    assert e.value.written == tuple(chunk.id for chunk in CHUNKS[:40])
    server.answers.clear()
    assert store.count() == 40
    store.upsert(CHUNKS, embed(TEXTS))
    assert store.count() == 50


def test_a_token_that_expires_midway(server, store, monkeypatch):
    monkeypatch.setattr(milvus, "_MOST_ROWS", 20)
    server.answers = [None, grpc.StatusCode.UNAUTHENTICATED]
    with pytest.raises(PartialWriteError, match="refused the token .*Fix: token= .*Written before that: 20 ids") as e:
        store.upsert(CHUNKS, embed(TEXTS))
    assert isinstance(e.value.__cause__, StoreAccessError)


@pytest.mark.parametrize(
    ("code", "error", "message"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, StoreAccessError, "refused the token .*Fix: token="),
        (grpc.StatusCode.PERMISSION_DENIED, StoreAccessError, "refused the token"),
        (AWAY, StoreConnectionError, "does not answer .*Fix: check that it runs and that uri="),
        (grpc.StatusCode.INVALID_ARGUMENT, StoreError, "Milvus refused .*said the server"),
    ],
    ids=str,
)
def test_what_a_servers_answers_become(server, store, code, error, message):
    store._collection._timeout = 1
    server.code = code
    for call in (
        store.count,
        lambda: store.search(embed(["x"]), SearchPlan()),
        lambda: store.upsert(CHUNKS, embed(TEXTS)),
    ):
        with pytest.raises(error, match=message):
            call()


def test_no_server():
    with pytest.raises(StoreConnectionError, match="does not answer .*Fix: check that it runs and that uri="):
        MilvusStore("http://127.0.0.1:9", timeout=1)


@pytest.mark.parametrize(
    ("version", "options", "message"),
    [
        ("v2.3.22", {}, "sparse vectors: needs Milvus 2.4 or newer, the server is v2.3.22. Fix: upgrade it"),
        (
            "v2.6.3",
            {"token_vectors": "engine"},
            "needs Milvus 2.6.4 or newer.*Fix: upgrade it, or token_vectors='stored'",
        ),
        (None, {"token_vectors": "engine"}, "the server is milvus_lite"),
    ],
)
def test_a_server_that_is_too_old(server, version, options, message):
    server.version = version
    store = MilvusStore(server.uri, **options)
    with pytest.raises(StoreVersionError, match=message):
        store.open(SETTINGS)
    store.close()


def test_a_collection_of_somebody_else(server):
    client = MilvusClient(server.uri)
    schema = client.create_schema()
    schema.add_field("pk", DataType.VARCHAR, is_primary=True, max_length=36)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=32)
    client.create_collection("bgem3", schema=schema)
    with pytest.raises(IndexMismatchError, match="was not made by bgem3.*Fix: .*bgem3 backfill --into"):
        MilvusStore(client=client).open(SETTINGS)


@pytest.mark.parametrize("width", [32, 64])
def test_fields_and_widths_that_do_not_fit(server, store, width):
    client = MilvusClient(server.uri)
    record = client.describe_collection("bgem3")["properties"]["bgem3"]
    client.drop_collection("bgem3")
    schema = client.create_schema()
    schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=36)
    schema.add_field("dense", DataType.FLOAT_VECTOR, dim=width)
    if width == 64:
        for name in ("id", "text"):
            schema.add_field(name, DataType.VARCHAR, max_length=100)
        for name in ("metadata", "words", "texts", "folds"):
            schema.add_field(name, DataType.JSON)
        schema.add_field("tokens", DataType.ARRAY, element_type=DataType.VARCHAR, max_length=32, max_capacity=9)
        schema.add_field("sparse", DataType.SPARSE_FLOAT_VECTOR)
    client.create_collection("bgem3", schema=schema, properties={"bgem3": record})
    message = "the dense vector is 64 wide, expected 32" if width == 64 else r"lacks the fields \['folds', 'id'"
    with pytest.raises(IndexMismatchError, match=message):
        MilvusStore(client=client).open(SETTINGS)


def test_opened_otherwise_than_it_was_made(server, store):
    with pytest.raises(IndexMismatchError, match="made with token_vectors='stored', now 'encode'. Fix: open it as"):
        MilvusStore(server.uri, token_vectors="encode", encode=lambda texts: embed(texts).multi_vector).open(SETTINGS)
    with pytest.raises(IndexMismatchError, match="fingerprint: the index was made with 'fake'"):
        MilvusStore(server.uri).open(replace(SETTINGS, fingerprint="other"))


def test_no_request_is_larger_than_the_budget(server, store, monkeypatch):
    monkeypatch.setattr(milvus, "_BATCH_BYTES", 8_000)
    server.sizes.clear()
    store.upsert(CHUNKS, embed(TEXTS))
    assert len(server.sizes) > 3
    assert max(server.sizes) <= 8_000


def test_long_strings_are_searched_by_their_beginning(store):
    long = "a" + "y" * 5000 + "z"
    store.upsert([Chunk("long", "x", {"s": long}), Chunk("fold", "x", {"s": "İ" * 1500})], embed(["x", "x"]))
    for condition, found in (
        ({"s": {"$text_match": "ay"}}, ["long"]),
        ({"s": {"$text_match": "z"}}, []),
        ({"$not": {"s": {"$text_match": "z"}}}, ["fold", "long"]),
        ({"s": {"$text_match_insensitive": "i̇"}}, ["fold"]),
    ):
        assert sorted(store.find(condition)) == found


def test_what_is_too_large(server, store):
    for chunk, error, message in (
        (
            Chunk("x", "é" * 32_768),
            InvalidInputError,
            "text of 'x': Milvus keeps at most 65,535 bytes, got 65,536. Fix: split",
        ),
        (Chunk("x" * 65_536, "x"), InvalidInputError, "id of 'xxx"),
        (Chunk("x", "x", {"a": "x" * 65_536}), InvalidMetadataError, "larger than Milvus keeps .*Fix: shorten it"),
        (Chunk("x", "x", {"a": list(range(5000))}), InvalidMetadataError, "at most 4,096 values"),
    ):
        with pytest.raises(error, match=message):
            store.upsert([CHUNKS[0], chunk], embed(["a", "b"]))
    with pytest.raises(InvalidInputError, match="returns at most 16,384 results, got 16,385"):
        store.search(embed(["x"]), SearchPlan(k=16_385))
    assert store.count() == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of uri and client"),
        ({"uri": "./folder"}, "uri: expected a path ending in .db or a URL"),
        ({"uri": "m.db", "token_vectors": "some"}, "token_vectors: got 'some', expected one of stored, engine, encode"),
        ({"uri": "m.db", "token_vectors": "encode"}, "encode: expected with token_vectors='encode'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InvalidInputError, match=message):
        MilvusStore(**options)


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "old.db").write_text("of milvus-lite 2")
    for place in ("file/m.db", "old.db"):
        with pytest.raises(StoreWriteError, match=r"cannot be written \(.*Fix: uri= a path that can be written"):
            MilvusStore(tmp_path / place)


def test_a_place_that_cannot_be_written():
    with open_folder() as folder:
        (folder / "m.db").mkdir()
        with (
            without_rights(folder / "m.db"),
            pytest.raises(StoreWriteError, match=r"m\.db: cannot be written \(.*Fix: uri= a path that can be written"),
        ):
            MilvusStore(folder / "m.db")


def test_a_bad_name(server):
    with pytest.raises(InvalidInputError, match="collection: expected letters, digits and underscores"):
        MilvusStore(server.uri, collection="my-docs")
