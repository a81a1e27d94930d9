"""LlamaIndex's classes over a model in another server: the same vectors, the same nodes."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode

from bgem3 import MemoryStore
from bgem3.errors import RemoteAccessError
from llamaindex_bgem3 import BGEM3Embedding, BGEM3Rerank, BGEM3VectorStore
from tests.llamaindex.conftest import CountingBackend
from tests.support.servers import serve_encoder

TEXTS = ["The key lies under the mat.", "Honey never spoils.", "钥匙在垫子下面。"]


@pytest.fixture(scope="module")
def url(checkpoint, embed_model):
    with serve_encoder(checkpoint, embed_model.shared.encoder, api_keys=("secret",)) as url:
        yield url


@pytest.fixture
def remote(url):
    return BGEM3Embedding(base_url=url, api_key="secret")


def test_the_same_vectors(remote, embed_model, checkpoint):
    np.testing.assert_allclose(
        remote.get_text_embedding_batch(TEXTS), embed_model.get_text_embedding_batch(TEXTS), atol=1e-5
    )
    assert remote.model_name == checkpoint.name


async def test_beside_the_event_loop(remote, embed_model):
    np.testing.assert_allclose(
        await remote.aget_query_embedding("key"), embed_model.get_query_embedding("key"), atol=1e-5
    )
    remote.shared.encoder.close()


def test_store_retriever_and_reranker(remote, url):
    store = BGEM3VectorStore.from_store(MemoryStore(), remote)
    nodes = [TextNode(text=text, id_=str(number)) for number, text in enumerate(TEXTS)]
    counting = remote.shared.encoder._backend = CountingBackend(remote.shared.encoder._backend)
    index = VectorStoreIndex.from_vector_store(store, embed_model=remote)
    index.insert_nodes(nodes)
    assert counting.sequences == len(TEXTS)  # one trip a text for all heads
    found = index.as_retriever(similarity_top_k=2).retrieve("Where is the key?")
    assert found[0].node.id_ == "0"
    reranker = BGEM3Rerank(base_url=url, api_key="secret", top_n=1)
    assert len(reranker.postprocess_nodes(found, query_str="Where is the key?")) == 1
    assert reranker.shared is remote.shared


def test_a_copy_asks_the_same_server(remote):
    made = ForkingPickler.loads(ForkingPickler.dumps(remote))
    assert made.get_query_embedding("key") == remote.get_query_embedding("key")
    fields = remote.to_dict()
    assert "secret" not in repr(remote) + repr(fields)
    assert BGEM3Embedding.from_dict({**fields, "api_key": "secret"}).shared is remote.shared


def test_the_key_is_asked_for(url):
    with pytest.raises(RemoteAccessError, match="Fix: api_key="):
        BGEM3Embedding(base_url=url)
