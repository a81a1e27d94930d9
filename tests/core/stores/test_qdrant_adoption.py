"""Collections that langchain-qdrant and LlamaIndex filled: both sides read them after ours added what they lack."""

from __future__ import annotations

import numpy as np
import pytest
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_qdrant import QdrantVectorStore as LangChainStore
from langchain_qdrant import RetrievalMode, SparseEmbeddings, SparseVector
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery
from llama_index.vector_stores.qdrant import QdrantVectorStore as LlamaStore
from qdrant_client import QdrantClient, models

from bgem3 import HybridIndex, MemoryStore, QdrantStore
from bgem3.errors import IndexMismatchError, StoreError, StoreNotFoundError, StoreVersionError
from bgem3.stores.layouts import Layout
from bgem3.types import HEADS
from llamaindex_bgem3.nodes import to_node
from tests.support.fake_encoder import DIM, MULTI_DIM, FakeEncoder

TEXTS = ["part KX-220B fits the pump", "bees dance", "the pump hums", "a new part", "the night train"]
METADATAS = [
    {"n": i, "lang": "en" if i % 2 else "de", "author": {"name": "x"}, "none": None} for i in range(len(TEXTS))
]
IDS = [f"6f1c2f0e-7f5c-4b57-9d5b-0c1f3d0e9a1{i}" for i in range(len(TEXTS))]


class Dense(Embeddings):
    """The dense head of the fake encoder, or another model of its width."""

    def __init__(self, sign=1.0):
        self.sign = sign

    def embed_documents(self, texts):
        return (self.sign * FakeEncoder().encode(texts).dense).tolist()

    def embed_query(self, text):
        return self.embed_documents([text])[0]


class Sparse(SparseEmbeddings):
    """Another program's own sparse vectors."""

    def embed_documents(self, texts):
        return [SparseVector(indices=[len(text)], values=[1.0]) for text in texts]

    def embed_query(self, text):
        return SparseVector(indices=[len(text)], values=[1.0])


@pytest.fixture
def client():
    return QdrantClient(":memory:")


@pytest.fixture
def encoder():
    return FakeEncoder()


def langchain_store(client, embedding=None, mode=RetrievalMode.DENSE, **options):
    client.create_collection(
        "theirs",
        vectors_config={options.get("vector_name", ""): models.VectorParams(size=DIM, distance=models.Distance.COSINE)},
        sparse_vectors_config={"langchain-sparse": models.SparseVectorParams()}
        if mode != RetrievalMode.DENSE
        else None,
    )
    return LangChainStore(
        client, "theirs", embedding or Dense(), retrieval_mode=mode, sparse_embedding=Sparse(), **options
    )


def documents():
    return [Document(text, metadata=metadata) for text, metadata in zip(TEXTS, METADATAS, strict=True)]


def in_memory(encoder, metadatas):
    index = HybridIndex(encoder, MemoryStore())
    index.add(TEXTS, ids=IDS, metadatas=metadatas)
    return index


@pytest.mark.parametrize("name", ["", "vec"])
@pytest.mark.parametrize("mode", [RetrievalMode.DENSE, RetrievalMode.HYBRID], ids=str)
def test_what_langchain_wrote(client, encoder, name, mode):
    theirs = langchain_store(client, mode=mode, vector_name=name)
    theirs.add_documents(documents(), ids=IDS)
    before = theirs.similarity_search("the pump", k=3)

    index = HybridIndex(encoder, QdrantStore(client=client, collection="theirs").adopt(encoder))
    memory = in_memory(encoder, [{"n": one["n"], "lang": one["lang"]} for one in METADATAS])
    for options in ({}, {"strategy": "rrf"}, {"mode": "sparse"}, {"mode": "multi_vector"}, {"where": {"lang": "en"}}):
        hits, expected = index.search("the pump part", k=3, **options), memory.search("the pump part", k=3, **options)
        assert [hit.id for hit in hits] == [hit.id for hit in expected]
        assert [hit.score for hit in hits] == pytest.approx([hit.score for hit in expected], abs=2e-3)
    assert index.get(IDS[:1])[0].metadata == METADATAS[0]

    assert theirs.similarity_search("the pump", k=3) == before
    kept = client.retrieve("theirs", IDS[:1], with_vectors=True)[0]
    assert (mode == RetrievalMode.HYBRID) == ("langchain-sparse" in kept.vector)


def test_what_llamaindex_wrote(client, encoder):
    theirs = LlamaStore("theirs", client=client, index_doc_id=False)
    nodes = [
        TextNode(id_=id_, text=text, metadata={"n": n}) for n, (id_, text) in enumerate(zip(IDS, TEXTS, strict=True))
    ]
    for node in nodes:
        node.embedding = Dense().embed_query(node.get_content("embed"))
    theirs.add(nodes)
    query = VectorStoreQuery(query_embedding=Dense().embed_query("the pump"), similarity_top_k=3)
    before = theirs.query(query)

    index = HybridIndex(encoder, QdrantStore(client=client, collection="theirs").adopt(encoder))
    hits = index.search("hums", mode="sparse", where={"n": {"$gte": 1}})
    assert [to_node(hit).get_content() for hit in hits] == ["the pump hums"]
    assert hits[0].text == nodes[2].get_content("embed")
    assert to_node(hits[0]) == nodes[2].model_copy(update={"embedding": None})
    after = theirs.query(query)
    assert (after.ids, after.similarities) == (before.ids, before.similarities)


def test_opened_again_it_knows_its_names(client, encoder):
    langchain_store(client, vector_name="vec").add_documents(documents(), ids=IDS)
    QdrantStore(client=client, collection="theirs").adopt(encoder).close()
    index = HybridIndex(encoder, QdrantStore(client=client, collection="theirs"))
    index.add(["something new"], ids=["new"], metadatas=[{"n": 9}])
    found = LangChainStore(client, "theirs", Dense(), vector_name="vec").similarity_search("something new", k=1)
    assert (found[0].page_content, found[0].metadata["n"]) == ("something new", 9)
    assert index.search("bees", mode="sparse")[0].id == IDS[1]


def test_begun_again_it_encodes_only_what_is_new(client, encoder):
    theirs = langchain_store(client)
    theirs.add_documents(documents(), ids=IDS)
    QdrantStore(client=client, collection="theirs").adopt(encoder)
    encoder.calls.clear()
    theirs.add_documents(
        [Document("newer text"), Document("bees sleep")], ids=["6f1c2f0e-7f5c-4b57-9d5b-0c1f3d0e9a1f", IDS[1]]
    )
    store = QdrantStore(client=client, collection="theirs")
    store.open()
    with pytest.raises(StoreError, match="lacks vectors, so another program added it. Fix: bgem3 backfill"):
        list(store.scan())
    index = HybridIndex(encoder, QdrantStore(client=client, collection="theirs").adopt(encoder))
    assert sorted(text for texts, _ in encoder.calls for text in texts) == ["bees sleep", "newer text"]
    assert index.search("sleep", mode="sparse")[0].id == IDS[1]


def test_broken_off_it_goes_on(client, encoder, monkeypatch):
    langchain_store(client).add_documents(documents(), ids=IDS)
    monkeypatch.setattr("bgem3.ingestion.SLICE_TEXTS", 2)
    whole = encoder.encode_passages

    def broken(texts, **options):
        if len(encoder.calls) == 1:
            raise KeyboardInterrupt
        return whole(texts, **options)

    encoder.encode_passages = broken
    with pytest.raises(KeyboardInterrupt):
        QdrantStore(client=client, collection="theirs").adopt(encoder)
    with pytest.raises(IndexMismatchError, match="was not made by bgem3, so its chunks lack vectors"):
        QdrantStore(client=client, collection="theirs").open()
    encoder.encode_passages = whole
    QdrantStore(client=client, collection="theirs").adopt(encoder)
    assert sorted(text for texts, _ in encoder.calls for text in texts) == sorted(TEXTS)


def test_dense_vectors_of_another_model_are_replaced(client, encoder):
    langchain_store(client, Dense(sign=-1)).add_documents(documents(), ids=IDS)
    store = QdrantStore(client=client, collection="theirs").adopt(encoder)
    np.testing.assert_allclose(store.dense_vectors(IDS[:1])[IDS[0]], encoder.encode(TEXTS[:1]).dense[0], atol=1e-6)


def test_fields_of_other_names(client, encoder):
    theirs = langchain_store(client, content_payload_key="body", metadata_payload_key="about")
    theirs.add_documents(documents(), ids=IDS)
    with pytest.raises(
        IndexMismatchError, match="no text in the payload's field 'page_content', there are .'about', 'body'"
    ):
        QdrantStore(client=client, collection="theirs").adopt(encoder)
    layout = Layout(text="body", metadata="about")
    store = QdrantStore(client=client, collection="theirs", layout=layout).adopt(encoder)
    assert store.get(IDS[:1])[0].text == TEXTS[0]


def made(client, vectors, sparse=None, ids=IDS):
    client.create_collection("theirs", vectors_config=vectors, sparse_vectors_config=sparse)
    payloads = [{"page_content": text} for text in TEXTS]
    client.upsert(
        "theirs", [models.PointStruct(id=i, vector={}, payload=p) for i, p in zip(ids, payloads, strict=True)]
    )


PARAMS = models.VectorParams(size=DIM, distance=models.Distance.COSINE)
IDF = models.SparseVectorParams(modifier=models.Modifier.IDF)


@pytest.mark.parametrize(
    ("vectors", "sparse", "ids", "message"),
    [
        (PARAMS.model_copy(update={"size": 7}), None, IDS, "is 7 wide, expected 24"),
        (PARAMS.model_copy(update={"distance": models.Distance.EUCLID}), None, IDS, "has distance Euclid"),
        ({"a": PARAMS, "b": PARAMS}, None, IDS, r"has the dense vectors \['a', 'b'\]. Fix: dense_name="),
        ({"dense": PARAMS}, {"sparse": IDF}, IDS, "is weighed again by idf"),
        ({"dense": PARAMS}, None, [1, 2, 3, 4, 5], "the point 1 has a number for an id.*Fix: bgem3 backfill --into"),
    ],
)  # fmt: skip
def test_what_cannot_be_ours(client, encoder, vectors, sparse, ids, message):
    made(client, vectors, sparse, ids)
    with pytest.raises(IndexMismatchError, match=message):
        QdrantStore(client=client, collection="theirs").adopt(encoder)


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"page_content": 12}, "has int in the field 'page_content', expected str. Fix: layout="),
        ({"other": "b"}, "has NoneType in the field 'page_content'"),
        ({}, "has NoneType in the field 'page_content'"),
        ({"page_content": "a", "metadata": "hello"}, "has str in the field 'metadata', expected dict"),
        ({"page_content": "a", "_bgem3": "x"}, "has str in the field '_bgem3', expected dict"),
    ],
    ids=str,
)
def test_points_that_are_no_chunks_are_named(client, encoder, payload, message):
    made(client, {"dense": PARAMS})
    client.overwrite_payload("theirs", payload, points=[IDS[3]])
    with pytest.raises(IndexMismatchError, match=f"the point {IDS[3]} {message}"):
        QdrantStore(client=client, collection="theirs").adopt(encoder)


def test_metadata_may_be_called_as_the_text_is(encoder):
    with HybridIndex(encoder, QdrantStore(":memory:")) as index:
        index.add(["text"], ids=["a"], metadatas=[{"page_content": "of the metadata", "_own": 1}])
        assert index.get(["a"])[0].metadata == {"page_content": "of the metadata", "_own": 1}


def test_a_collection_that_is_not_there(client, encoder):
    with pytest.raises(StoreNotFoundError, match="'theirs' is not there"):
        QdrantStore(client=client, collection="theirs").adopt(encoder)


def test_a_server_that_cannot_add_vectors(client, encoder, monkeypatch):
    made(client, {"dense": PARAMS})
    monkeypatch.setattr(client, "info", lambda: models.VersionInfo(title="qdrant", version="1.17.2"))
    with pytest.raises(StoreVersionError, match="1.17.2, expected 1.18 .*Fix: upgrade .*, or bgem3 backfill --into"):
        QdrantStore(client=client, collection="theirs").adopt(encoder)
    assert set(client.get_collection("theirs").config.params.vectors) == {"dense"}


def test_an_empty_collection_of_sparse_vectors(client, encoder):
    client.create_collection("theirs", vectors_config={}, sparse_vectors_config={"sparse": models.SparseVectorParams()})
    index = HybridIndex(encoder, QdrantStore(client=client, collection="theirs").adopt(encoder))
    index.add(TEXTS, ids=IDS)
    assert {index.search("bees", mode=mode, k=1)[0].id for mode in HEADS} == {IDS[1]}
    params = client.get_collection("theirs").config.params.vectors["multi_vector"]
    assert (params.size, params.multivector_config.comparator) == (MULTI_DIM, models.MultiVectorComparator.MAX_SIM)
