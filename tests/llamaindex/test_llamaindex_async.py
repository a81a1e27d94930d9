"""Every async method runs beside the event loop."""

from __future__ import annotations

import asyncio

import pytest
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode

from bgem3 import MemoryStore
from bgem3.errors import InvalidTextError
from llamaindex_bgem3 import BGEM3Index, BGEM3Rerank, BGEM3Retriever, BGEM3SparseEmbedding, BGEM3VectorStore
from tests.support.heartbeat import heartbeat

TEXTS = [f"{i} " + "a longer text about pumps, cats and the night train to the north " * 30 for i in range(200)]


def nodes():
    return [TextNode(id_=f"n{i}", text=text) for i, text in enumerate(TEXTS)]


async def test_embedding(embed_model):
    async with heartbeat():
        vectors = await embed_model.aget_text_embedding_batch(TEXTS)
    assert len(vectors) == 200


async def test_transformation(embed_model):
    embed_model.shared._memory.clear()
    async with heartbeat():
        await embed_model.acall(nodes())


async def test_sparse_embedding(embed_model):
    sparse = BGEM3SparseEmbedding(model_name=embed_model.model_name, backend="onnx")
    sparse.shared._memory.clear()
    async with heartbeat():
        await sparse.aget_text_embedding_batch(TEXTS)


async def test_vector_store(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    async with heartbeat():
        await store.async_add(nodes())
    query = VectorStoreQuery(query_str="pumps", similarity_top_k=3, mode=VectorStoreQueryMode.HYBRID)
    assert (await store.aquery(query)).ids == store.query(query).ids


async def test_index(embed_model):
    index = BGEM3Index(nodes=[], embed_model=embed_model)
    async with heartbeat():
        await index.ainsert_nodes(nodes())


async def test_rerank(embed_model):
    rerank = BGEM3Rerank(model_name=embed_model.model_name, backend="onnx")
    scored = [NodeWithScore(node=node) for node in nodes()]
    async with heartbeat():
        await rerank.apostprocess_nodes(scored, query_str="pumps")


async def test_retriever_over_a_retriever(embed_model):
    inner = BGEM3Retriever.from_nodes(nodes(), embed_model, similarity_top_k=200, fetch_k=200)
    outer = BGEM3Retriever.from_retriever(inner, embed_model)
    async with heartbeat():
        await outer.aretrieve("pumps")


async def test_fifty_callers_share_batches_and_fail_alone(embed_model):
    texts = [f"caller {i}" for i in range(49)]
    results = await asyncio.gather(
        *(embed_model.aget_text_embedding(text) for text in texts),
        embed_model.aget_text_embedding("\ud800"),
        return_exceptions=True,
    )
    assert isinstance(results[-1], InvalidTextError)
    for text, vector in zip(texts, results[:-1], strict=True):
        assert vector == pytest.approx(embed_model.get_text_embedding(text), abs=1e-5)


async def test_a_cancelled_caller_harms_no_other(embed_model):
    slow = asyncio.create_task(embed_model.aget_text_embedding_batch(TEXTS))
    await asyncio.sleep(0)
    gone = asyncio.create_task(embed_model.aget_text_embedding("gone"))
    stays = asyncio.create_task(embed_model.aget_text_embedding("stays"))
    await asyncio.sleep(0)
    gone.cancel()
    assert await stays == pytest.approx(embed_model.get_text_embedding("stays"), abs=1e-5)
    assert len(await slow) == 200
    with pytest.raises(asyncio.CancelledError):
        await gone
