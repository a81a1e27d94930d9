"""What QdrantStore asks of a server and what it makes of its errors; the contract suite tests the rest."""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from qdrant_client import QdrantClient, models

from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    StoreConnectionError,
    StoreLockedError,
)
from bgem3.stores import qdrant_points
from bgem3.stores.engine import key_of, pool_tokens
from bgem3.stores.memory import MemoryStore
from bgem3.stores.qdrant import QdrantStore
from bgem3.types import Chunk, Matches, SearchPlan, Weights
from tests.support.vectors import SETTINGS, embed

TEXTS = [f"text {i}" for i in range(50)]
CHUNKS = [Chunk(f"id {i}", text, {"n": i}) for i, text in enumerate(TEXTS)]


class Recorder:
    """A client that notes each call."""

    def __init__(self):
        self._inner = QdrantClient(":memory:")
        self._client = self._inner._client
        self.calls = []

    def __getattr__(self, name):
        function = getattr(self._inner, name)

        def call(*args, **options):
            self.calls.append(name)
            return function(*args, **options)

        return call


def filled(client=None, **options):
    store = QdrantStore(client=client or Recorder(), **options)
    store.open(SETTINGS)
    store.upsert(CHUNKS, embed(TEXTS))
    return store


PLANS = [
    {}, {"strategy": "rrf"}, {"strategy": "cascade"}, {"strategy": "cascade", "cascade": (20, 8)}, {"mode": "dense"}, {"mode": "sparse"},
    {"mode": "multi_vector"}, {"fetch_k": 12}, {"strategy": "rrf", "fetch_k": 12}, {"where": {"n": {"$gte": 25}}},
    {"strategy": "rrf", "weights": Weights(0.2, 0.8, 0)}, {"mode": "multi_vector", "fetch_k": 11},
]  # fmt: skip


@pytest.mark.parametrize("options", PLANS, ids=str)
def test_one_request_a_search_and_the_ranking_of_memory(options):
    client = Recorder()
    store, memory = filled(client), MemoryStore()
    memory.open(SETTINGS)
    memory.upsert(CHUNKS, embed(TEXTS))
    for text in ("text 3", "something else", "text 44"):
        client.calls.clear()
        plan = SearchPlan(k=10, **options)
        hits, expected = store.search(embed([text]), plan), memory.search(embed([text]), plan)
        assert client.calls == ["query_batch_points"]
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        for hit, other in zip(hits, expected, strict=True):
            assert hit.score == pytest.approx(other.score, abs=1e-5)
            # a head without weight is not asked of the engine
            assert hit.scores == pytest.approx({head: other.scores[head] for head in hit.scores}, abs=1e-5)


def test_a_chunk_that_is_deleted_between_a_search_and_its_explanation():
    class Deleting(Recorder):
        def query_batch_points(self, *args):
            found = self._inner.query_batch_points(*args)
            self._inner.delete("bgem3", [key_of("id 3"), *self.more], wait=True)
            return found

    client = Deleting()
    client.more = []
    store = filled(client)
    hits = {hit.id: hit for hit in store.search(embed(["text 3"]), SearchPlan(k=5, explain=True))}
    assert (hits["id 3"].text, hits["id 3"].matches) == ("text 3", Matches())
    assert all(hit.matches.tokens for id_, hit in hits.items() if id_ != "id 3")
    client.more = [key_of(chunk.id) for chunk in CHUNKS]
    assert {hit.matches for hit in store.search(embed(["text 4"]), SearchPlan(k=5, explain=True))} == {Matches()}


def test_exhaustive_counts_first():
    client = Recorder()
    store = filled(client)
    client.calls.clear()
    assert len(store.search(embed(["text 3"]), SearchPlan(k=50, fetch_k=1, exhaustive=True))) == 50
    assert client.calls == ["count", "query_batch_points"]


def test_no_server(no_waiting):
    store = QdrantStore(url="http://127.0.0.1:9", prefer_grpc=False)
    with pytest.raises(StoreConnectionError, match="does not answer .*Fix: check that it runs and that url="):
        store.open(SETTINGS)


def test_a_collection_of_somebody_else():
    client = QdrantClient(":memory:")
    client.create_collection("bgem3", vectors_config=models.VectorParams(size=32, distance=models.Distance.COSINE))
    with pytest.raises(IndexMismatchError, match="was not made by bgem3"):
        QdrantStore(client=client).open(SETTINGS)


VECTOR = models.VectorParams(size=32, distance=models.Distance.DOT)
TOKENS = models.VectorParams(
    size=16,
    distance=models.Distance.DOT,
    multivector_config=models.MultiVectorConfig(comparator=models.MultiVectorComparator.MAX_SIM),
)


@pytest.mark.parametrize(
    ("vectors", "sparse", "message"),
    [
        ({"multi_vector": TOKENS}, ["sparse"], "the dense vector 'dense' is missing"),
        ({"dense": VECTOR}, ["sparse"], "the multi_vector vector 'multi_vector' is missing"),
        ({"dense": VECTOR, "multi_vector": TOKENS}, [], "the sparse vector 'sparse' is missing"),
        ({"dense": TOKENS, "multi_vector": TOKENS}, ["sparse"], "is 16 wide, expected 32"),
        ({"dense": VECTOR, "multi_vector": TOKENS.model_copy(update={"multivector_config": None})}, ["sparse"], "other kind"),
        ({"dense": VECTOR.model_copy(update={"distance": models.Distance.EUCLID}), "multi_vector": TOKENS}, ["sparse"], "distance Euclid"),
    ],
)  # fmt: skip
def test_vectors_that_do_not_fit(vectors, sparse, message):
    settings = filled()._collection.client.get_collection("bgem3").config.metadata
    client = QdrantClient(":memory:")
    names = {name: models.SparseVectorParams() for name in sparse}
    client.create_collection("bgem3", vectors_config=vectors, sparse_vectors_config=names, metadata=settings)
    with pytest.raises(IndexMismatchError, match=message):
        QdrantStore(client=client).open(SETTINGS)


def test_long_chunks_are_pooled_and_nothing_is_dropped(monkeypatch):
    vectors = np.eye(8, dtype=np.float32)[[0, 0, 1, 1, 2, 2, 3]]
    np.testing.assert_array_equal(pool_tokens(vectors, 4), np.eye(8, dtype=np.float32)[:4])
    np.testing.assert_allclose(pool_tokens(vectors, 3)[0], [np.sqrt(0.8), np.sqrt(0.2), *[0] * 6], rtol=1e-6)
    assert pool_tokens(vectors, 7) is vectors
    assert [len(pool_tokens(np.ones((n, 2), dtype=np.float32), 1023)) for n in (1023, 1024, 8191)] == [1023, 512, 911]
    monkeypatch.setattr(qdrant_points, "MAX_FLOATS", 16 * 4)
    client = filled()._collection.client
    records = client.scroll("bgem3", limit=100, with_vectors=["multi_vector"])[0]
    assert max(len(record.vector["multi_vector"]) for record in records) == 3


def test_ids_become_uuids_and_uuids_stay():
    assert key_of("a") == key_of("a") != key_of("b")
    assert key_of("6f1c2f0e-7f5c-4b57-9d5b-0c1f3d0e9a11") == "6f1c2f0e-7f5c-4b57-9d5b-0c1f3d0e9a11"
    assert key_of("6F1C2F0E-7F5C-4B57-9D5B-0C1F3D0E9A11") != "6f1c2f0e-7f5c-4b57-9d5b-0c1f3d0e9a11"


def test_a_folder_that_is_open_elsewhere(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        first = QdrantStore(tmp_path / "db")
        with pytest.raises(StoreLockedError, match="another process has this folder open"):
            QdrantStore(tmp_path / "db")
    first.close()
    QdrantStore(tmp_path / "db").close()


def test_a_folder_is_written_to_from_another_thread_where_sqlite_is_built_for_one(tmp_path, monkeypatch):
    # as macOS builds it
    monkeypatch.setattr("qdrant_client.local.persistence.CollectionPersistence.CHECK_SAME_THREAD", True)
    store = QdrantStore(tmp_path / "db")
    store.open(SETTINGS)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(store.upsert, CHUNKS, embed(TEXTS)).result()
    assert store.count() == len(CHUNKS)
    store.close()


def test_one_place():
    with pytest.raises(InvalidInputError, match="exactly one of path, url and client"):
        QdrantStore()
    with pytest.raises(InvalidInputError, match="quantization: got 'tiny', expected one of none, scalar, binary"):
        QdrantStore(":memory:", quantization="tiny")


def test_langchain_reads_what_we_write():
    from langchain_core.embeddings import DeterministicFakeEmbedding
    from langchain_qdrant import QdrantVectorStore

    client = filled()._collection.client._inner
    theirs = QdrantVectorStore(
        client, "bgem3", DeterministicFakeEmbedding(size=32), vector_name="dense", distance=models.Distance.DOT
    )
    found = theirs.similarity_search("text", k=50)
    assert {document.page_content for document in found} == set(TEXTS)
    assert {document.metadata["n"] for document in found} == set(range(50))


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a?b", "a\0b", "n" * 256])
def test_a_name_that_qdrant_does_not_make(name):
    with pytest.raises(InvalidInputError, match="collection: got .* Fix: collection='bgem3'"):
        QdrantStore(":memory:", collection=name).open(SETTINGS)
