"""LangChain's classes over a model in another server: one round trip a text, the same vectors, the same hits."""

from __future__ import annotations

import copy
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from langchain_qdrant import QdrantVectorStore, RetrievalMode

from bgem3.errors import RemoteAccessError
from langchain_bgem3 import BGEM3Embeddings, BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore
from tests.langchain.conftest import TEXTS, CountingBackend
from tests.support.servers import serve_encoder


@pytest.fixture(scope="module")
def url(checkpoint, encoder):
    with serve_encoder(checkpoint, encoder, api_keys=("secret",)) as url:
        yield url


@pytest.fixture
def remote(url):
    return BGEM3Embeddings(base_url=url, api_key="secret")


@pytest.fixture
def trips(remote):
    counting = remote.encoder._backend = CountingBackend(remote.encoder._backend)
    return counting


def test_the_same_vectors(remote, embeddings, checkpoint):
    np.testing.assert_allclose(remote.embed_documents(TEXTS), embeddings.embed_documents(TEXTS), atol=1e-5)
    assert remote.model_name == checkpoint.name
    assert remote.encoder.fingerprint == embeddings.encoder.fingerprint


async def test_beside_the_event_loop(remote, embeddings):
    np.testing.assert_allclose(await remote.aembed_query("key"), embeddings.embed_query("key"), atol=1e-5)
    remote.encoder.close()


def test_retriever_store_and_reranker(remote, url, index):
    expected = [hit.id for hit in index.search("Where is the key?", k=3)]
    ids = [str(number) for number in range(len(TEXTS))]
    retriever = BGEM3Retriever.from_texts(TEXTS, remote, ids=ids, k=3)
    assert [document.id for document in retriever.invoke("Where is the key?")] == expected
    store = BGEM3VectorStore.from_texts(TEXTS, remote, ids=ids)
    found = store.similarity_search("Where is the key?", k=3)
    assert [document.id for document in found] == expected
    reranker = BGEM3Reranker(base_url=url, api_key="secret", top_n=1)
    assert reranker.encoder is remote.encoder
    assert [one.id for one in reranker.compress_documents(found, "Where is the key?")] == expected[:1]


def test_dense_and_sparse_in_one_trip(remote, trips):
    store = QdrantVectorStore.from_texts(
        TEXTS,
        embedding=remote,
        sparse_embedding=remote.as_qdrant_sparse(),
        retrieval_mode=RetrievalMode.HYBRID,
        location=":memory:",
    )
    before = trips.sequences
    assert before <= len(TEXTS) + 1  # one more: the store asks for a width
    store.similarity_search("Where is the key?", k=1)
    assert trips.sequences == before + 1


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda it: ForkingPickler.loads(ForkingPickler.dumps(it))], ids=["copy", "worker"]
)
def test_a_copy_asks_the_same_server(remote, twin):
    made = twin(remote)
    assert made._shared is None
    assert made.embed_query("key") == remote.embed_query("key")


def test_over_an_encoder_that_is_connected_already(remote, url):
    made = BGEM3Embeddings.from_encoder(remote.encoder)
    assert made.shared is remote.shared
    assert (made.backend, made.base_url, made.device) == ("remote", url, None)


def test_the_key_is_asked_for_and_not_shown(remote, url):
    assert "secret" not in repr(remote) + str(remote.model_dump())
    with pytest.raises(RemoteAccessError, match="Fix: api_key="):
        BGEM3Embeddings(base_url=url)
