"""QdrantStore against a server on loopback: what is sent, and what comes of a server that fails."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest

from bgem3 import MemoryStore, QdrantStore
from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import (
    IndexMismatchError,
    PartialWriteError,
    StoreAccessError,
    StoreConnectionError,
    StoreError,
    StoreNotFoundError,
    StoreVersionError,
)
from bgem3.stores import qdrant
from bgem3.types import Chunk, SearchPlan
from tests.support.qdrant_server import QdrantServer
from tests.support.vectors import SETTINGS, embed

TEXTS = [f"text {i}" for i in range(50)]
CHUNKS = [Chunk(f"id {i}", text, {"n": i}) for i, text in enumerate(TEXTS)]
PLANS = [
    {}, {"strategy": "rrf"}, {"strategy": "cascade"}, {"mode": "dense"}, {"mode": "sparse"}, {"mode": "multi_vector"},
    {"where": {"$not": {"n": {"$gte": 25}}}},
]  # fmt: skip


@pytest.fixture
def server():
    server = QdrantServer()
    yield server
    server.close()


@pytest.fixture
def store(server):
    store = QdrantStore(url=server.url, prefer_grpc=False)
    yield store
    store.close()


def fill(store):
    store.open(SETTINGS)
    store.upsert(CHUNKS, embed(TEXTS))


@pytest.mark.parametrize("options", PLANS, ids=str)
def test_one_request_over_the_wire(server, store, options):
    fill(store)
    memory = MemoryStore()
    fill(memory)
    server.requests.clear()
    plan = SearchPlan(k=10, **options)
    hits, expected = store.search(embed(["text 3"]), plan), memory.search(embed(["text 3"]), plan)
    assert [path for _, path, _ in server.requests] == ["/collections/bgem3/points/query/batch"]
    assert [hit.id for hit in hits] == [hit.id for hit in expected]
    assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=1e-4)


def test_everything_else_over_the_wire(server, store):
    fill(store)
    again = QdrantStore(url=server.url, prefer_grpc=False)
    assert again.open() == SETTINGS
    assert again.get(["id 7", "no"]) == [CHUNKS[7]]
    assert again.delete(["id 8", "no"]) == 1
    assert again.replace_metadata([Chunk("id 9", "text 9", {"z": 1})]) == []
    assert again.find({"z": 1}) == ["id 9"]
    assert again.unchanged(CHUNKS[:9]) == {chunk.id for chunk in CHUNKS[:8]}
    np.testing.assert_allclose(again.dense_vectors(["id 3"])["id 3"], embed(["text 3"]).dense[0], atol=1e-6)
    assert sum(len(chunks) for chunks, _ in again.scan(7)) == again.count() == 49
    again.close()


def test_the_settings_of_a_new_collection_are_sent(server):
    options = {"shard_number": 3, "replication_factor": 2, "write_consistency_factor": 2, "on_disk": True}
    QdrantStore(url=server.url, prefer_grpc=False, quantization="binary", range_keys=["n"], **options).open(SETTINGS)
    [made] = server.bodies("PUT", "/collections/bgem3")
    assert (made["shard_number"], made["replication_factor"], made["write_consistency_factor"]) == (3, 2, 2)
    assert made["vectors"]["dense"] == {
        "size": 32, "distance": "Dot", "on_disk": True, "quantization_config": {"binary": {"always_ram": True}},
    }  # fmt: skip
    tokens = made["vectors"]["multi_vector"]
    assert (tokens["on_disk"], tokens["datatype"], tokens["hnsw_config"]) == (True, "float16", {"m": 0})
    assert tokens["multivector_config"] == {"comparator": "max_sim"}
    assert tokens["quantization_config"] == {"binary": {"always_ram": True}}
    assert made["sparse_vectors"] == {"sparse": {"index": {"on_disk": True}}}
    kinds = [body["field_schema"] for body in server.bodies("PUT", "/index")]
    assert kinds == ["keyword", "float"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"quantization": "scalar"}, {"scalar": {"type": "int8", "always_ram": True}}),
        ({"quantization": "binary"}, {"binary": {"always_ram": True}}),
        ({}, None),
    ],
)
def test_quantisation_is_part_of_the_collection(options, expected):
    store = QdrantStore(":memory:", token_datatype="uint8", **options)
    store.open(SETTINGS)
    vectors = store._client.get_collection("bgem3").config.params.vectors
    for name in ("dense", "multi_vector"):
        found = vectors[name].quantization_config
        assert (found and found.model_dump(mode="json", exclude_none=True)) == expected
    assert vectors["multi_vector"].datatype == "uint8"


def test_no_request_is_larger_than_the_budget(server, store, monkeypatch):
    monkeypatch.setattr(qdrant, "_BATCH_BYTES", 20_000)
    fill(store)
    sizes = [len(json.dumps(body)) for body in server.bodies("PUT", "/points")]
    assert len(sizes) > 3
    assert max(sizes) <= 20_000


@pytest.mark.parametrize(("given", "kept"), [(1023, 1023), (1024, 512), (3000, 1000)])
def test_no_multi_vector_reaches_the_limit_of_the_server(given, kept):
    tokens = np.random.default_rng(0).standard_normal((given, 1024)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    one = embed(["x"])
    embeddings = M3Embeddings(dense=one.dense, sparse=one.sparse, multi_vector=MultiVectors.from_list([tokens], 1024))
    store = QdrantStore(":memory:")
    store.open(SETTINGS.__class__(fingerprint="x", dim=32, multi_dim=1024, vocab_size=500))
    store.upsert([Chunk("x", "x")], embeddings)
    [record] = store._client.scroll("bgem3", with_vectors=["multi_vector"])[0]
    sent = np.array(record.vector["multi_vector"])
    assert sent.shape == (kept, 1024)
    assert sent.size < 1_048_576


def test_a_server_that_is_busy_or_breaks_a_connection_is_asked_again(server, store, no_waiting, monkeypatch):
    monkeypatch.setattr(qdrant, "_MOST_POINTS", 20)
    store = QdrantStore(url=server.url, prefer_grpc=False)
    server.answers = [0, 503, -1, 429, 0]
    fill(store)
    assert store.count() == 50
    assert len(server.bodies("PUT", "/points")) == 6


def test_a_server_that_dies_midway(server, no_waiting, monkeypatch):
    monkeypatch.setattr(qdrant, "_MOST_POINTS", 20)
    store = QdrantStore(url=server.url, prefer_grpc=False)
    server.answers = [0, 0, *[-1] * 5]
    with pytest.raises(PartialWriteError, match="does not answer .*Written before that: 40 ids, up to 'id 39'") as e:
        fill(store)
    assert e.value.written == tuple(chunk.id for chunk in CHUNKS[:40])
    assert store.count() == 40
    store.upsert(CHUNKS, embed(TEXTS))
    assert store.count() == 50


def test_a_key_that_expires_midway(server, monkeypatch, no_waiting):
    monkeypatch.setattr(qdrant, "_MOST_POINTS", 20)
    with pytest.warns(UserWarning, match="insecure connection"):
        store = QdrantStore(url=server.url, prefer_grpc=False, api_key="secret-key")
    server.answers = [0, 403]
    with pytest.raises(
        PartialWriteError, match="refused the key .*Fix: api_key= .*Written before that: 20 ids"
    ) as caught:
        fill(store)
    assert isinstance(caught.value.__cause__, StoreAccessError)
    assert "secret-key" not in str(caught.value)


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, StoreAccessError, "refused the key .*Fix: api_key="),
        (403, StoreAccessError, "refused the key"),
        (
            404,
            StoreNotFoundError,
            "deleted meanwhile, or url= is no Qdrant server .*said the server.*Fix: make a new store",
        ),
        (400, StoreError, "Qdrant refused .*said the server.*Fix: what it says"),
        (503, StoreConnectionError, "does not answer .*Fix: check that it runs and that url="),
        (-1, StoreConnectionError, "does not answer"),
    ],
)
def test_a_server_that_refuses_to_open(server, no_waiting, status, error, message):
    server.status = status
    store = QdrantStore(url=server.url, prefer_grpc=False)
    with pytest.raises(error, match=message):
        store.open(SETTINGS)


def test_a_server_that_went_away(server, store, no_waiting):
    store = QdrantStore(url=server.url, prefer_grpc=False)
    fill(store)
    server.status = -1
    for call in (lambda: store.search(embed(["x"]), SearchPlan()), store.count, lambda: list(store.scan())):
        with pytest.raises(StoreConnectionError, match="does not answer"):
            call()


def test_an_old_server(server, store):
    server.version = "1.15.4"
    with pytest.raises(StoreVersionError, match=r"Qdrant 1.15.4, expected 1.16 or newer .*Fix: upgrade"):
        store.open(SETTINGS)


def test_another_width(server, store):
    fill(store)
    other = QdrantStore(url=server.url, prefer_grpc=False)
    with pytest.raises(IndexMismatchError, match="dim: the index was made with 32, this encoder has 64"):
        other.open(SETTINGS.__class__(fingerprint="fake", dim=64, multi_dim=16, vocab_size=500))


class Refusal(grpc.GenericRpcHandler):
    """Answers every call with one code."""

    def __init__(self, code):
        self.code = code
        self.methods = []

    def service(self, details):
        self.methods.append(details.method)
        return grpc.unary_unary_rpc_method_handler(lambda request, context: context.abort(self.code, "said the server"))


@pytest.mark.parametrize(
    ("code", "error", "calls"),
    [
        (grpc.StatusCode.UNAUTHENTICATED, StoreAccessError, 1),
        (grpc.StatusCode.PERMISSION_DENIED, StoreAccessError, 1),
        (grpc.StatusCode.UNAVAILABLE, StoreConnectionError, 5),
        (grpc.StatusCode.INVALID_ARGUMENT, StoreError, 1),
    ],
    ids=str,
)
def test_grpc_is_spoken_and_its_errors_are_ours(no_waiting, code, error, calls):
    refusal = Refusal(code)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[refusal])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        store = QdrantStore(url="http://127.0.0.1:9", grpc_port=port)
        with pytest.raises(error, match="said the server"):
            store._collection.call(store._client.count, "bgem3")
        store.close()
    finally:
        server.stop(None)
    assert refusal.methods == ["/qdrant.Points/Count"] * calls
