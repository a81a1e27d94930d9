"""Every async method runs beside the event loop."""

from __future__ import annotations

import asyncio
import time

import pytest
from langchain_core.documents import Document

from bgem3 import HybridIndex, MemoryStore
from langchain_bgem3 import BGEM3DocumentIndex, BGEM3Reranker, BGEM3Retriever, BGEM3VectorStore
from tests.langchain.conftest import TEXTS
from tests.support.heartbeat import heartbeat

MANY = [f"{text} {i}" for i in range(40) for text in TEXTS]
DOCUMENTS = [Document(text) for text in MANY]


class SlowBackend:
    """A real backend whose every forward pass takes a tenth of a second more."""

    def __init__(self, inner):
        self.inner = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def forward(self, sequences, heads):
        time.sleep(0.1)
        return self.inner.forward(sequences, heads)


@pytest.fixture
def slow(encoder):
    inner = encoder._backend
    encoder._backend = SlowBackend(inner)
    yield encoder
    encoder._backend = inner


@pytest.fixture
def calls(settings, embeddings, slow):
    index = HybridIndex(slow, MemoryStore())
    store = BGEM3VectorStore(index=index)
    other = BGEM3VectorStore(embeddings)
    qdrant, milvus = embeddings.as_qdrant_sparse(), embeddings.as_milvus_sparse()
    embeddings.shared._memory.clear()
    return {
        "aembed_documents": lambda: embeddings.aembed_documents(MANY),
        "aembed_query": lambda: embeddings.aembed_query("key"),
        "sparse aembed_documents": lambda: qdrant.aembed_documents(MANY[1:]),
        "milvus aembed_documents": lambda: milvus.aembed_documents(MANY[2:]),
        "aadd_documents": lambda: store.aadd_documents(DOCUMENTS),
        "afrom_documents": lambda: BGEM3VectorStore.afrom_documents(DOCUMENTS, embeddings),
        "asimilarity_search": lambda: other.asimilarity_search("key"),
        "amax_marginal_relevance_search": lambda: other.amax_marginal_relevance_search("key"),
        "aupsert": lambda: BGEM3DocumentIndex(index=index).aupsert(DOCUMENTS),
        "retriever": lambda: BGEM3Retriever(index=index).ainvoke("key"),
        "acompress_documents": lambda: BGEM3Reranker(**settings).acompress_documents(DOCUMENTS, "key"),
    }


@pytest.mark.parametrize(
    "name",
    [
        "aembed_documents",
        "aembed_query",
        "sparse aembed_documents",
        "milvus aembed_documents",
        "aadd_documents",
        "afrom_documents",
        "asimilarity_search",
        "amax_marginal_relevance_search",
        "aupsert",
        "retriever",
        "acompress_documents",
    ],
)
async def test_the_event_loop_goes_on(calls, name):
    async with heartbeat():
        await calls[name]()


async def test_one_bad_caller_harms_no_other(embeddings, slow):
    calls = [embeddings.aembed_documents([f"text {i}"]) for i in range(20)]
    results = await asyncio.gather(*calls, embeddings.aembed_documents([None]), return_exceptions=True)
    assert [type(one) for one in results[:-1]] == [list] * 20
    assert "texts[0]" in str(results[-1])


async def test_a_cancelled_caller_harms_no_other(embeddings, slow):
    first = asyncio.create_task(embeddings.aembed_documents(MANY))
    second = asyncio.create_task(embeddings.aembed_query("key"))
    await asyncio.sleep(0.02)
    first.cancel()
    assert await second == pytest.approx(embeddings.embed_query("key"), abs=1e-5)
