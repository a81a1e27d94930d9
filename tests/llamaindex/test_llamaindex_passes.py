"""One forward pass a text at ingestion and one a query, for all heads, counted at the backend."""

from __future__ import annotations

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from llama_index.vector_stores.qdrant import QdrantVectorStore
from qdrant_client import AsyncQdrantClient, QdrantClient

from bgem3 import MemoryStore
from llamaindex_bgem3 import BGEM3Index, BGEM3Retriever, BGEM3SparseEmbedding, BGEM3VectorStore

TEXTS = [f"text number {i}" for i in range(130)]


def nodes():
    return [TextNode(id_=f"00000000-0000-0000-0000-{i:012}", text=text) for i, text in enumerate(TEXTS)]


@pytest.mark.parametrize("mode", ["default", "sparse", "hybrid"])
async def test_vector_store_index(embed_model, passes, mode):
    vector_store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    index = VectorStoreIndex(
        nodes(), storage_context=StorageContext.from_defaults(vector_store=vector_store), embed_model=embed_model
    )
    assert passes.sequences == len(TEXTS)
    retriever = index.as_retriever(vector_store_query_mode=mode)
    retriever.retrieve("text")
    assert passes.sequences == len(TEXTS) + 1
    await retriever.aretrieve("another")
    assert passes.sequences == len(TEXTS) + 2


async def test_vector_store_index_in_async_code(embed_model, passes):
    vector_store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    index = VectorStoreIndex(
        [], storage_context=StorageContext.from_defaults(vector_store=vector_store), embed_model=embed_model
    )
    await index.ainsert_nodes(nodes())
    assert passes.sequences == len(TEXTS)


def test_pipeline(embed_model, passes):
    vector_store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    IngestionPipeline(transformations=[embed_model], vector_store=vector_store).run(nodes=nodes())
    assert passes.sequences == len(TEXTS)


def test_retriever_and_index(embed_model, passes):
    retriever = BGEM3Retriever.from_nodes(nodes(), embed_model)
    assert passes.sequences == len(TEXTS)
    retriever.retrieve("text")
    assert passes.sequences == len(TEXTS) + 1
    index = BGEM3Index(nodes=nodes(), embed_model=embed_model)
    assert passes.sequences == 2 * len(TEXTS) + 1
    index.query("text")
    assert passes.sequences == 2 * len(TEXTS) + 2


def test_what_was_stored_is_forgotten(embed_model, passes):
    vector_store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    vector_store.add(embed_model(nodes()))
    assert not embed_model.shared._memory
    assert embed_model.shared._bytes == 0


@pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant:UserWarning")
async def test_qdrant_hybrid(embed_model, passes):
    sparse = BGEM3SparseEmbedding(model_name=embed_model.model_name, backend="onnx")
    client, aclient = QdrantClient(":memory:"), AsyncQdrantClient(":memory:")
    store = QdrantVectorStore(
        collection_name="test",
        client=client,
        aclient=aclient,
        enable_hybrid=True,
        sparse_doc_fn=sparse.as_qdrant,
        sparse_query_fn=sparse.as_qdrant,
    )
    index = VectorStoreIndex(
        nodes(), storage_context=StorageContext.from_defaults(vector_store=store), embed_model=embed_model
    )
    assert passes.sequences == len(TEXTS)
    found = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=2).retrieve("number 7 please")
    assert passes.sequences == len(TEXTS) + 1
    assert len(found) == 2
    only_sparse = store.query(
        VectorStoreQuery(query_str="text number 7", mode=VectorStoreQueryMode.SPARSE, sparse_top_k=130)
    )
    expected = {
        text: sparse.similarity(sparse.get_query_embedding("text number 7"), weights)
        for text, weights in zip(TEXTS, sparse.get_text_embedding_batch(TEXTS), strict=True)
    }
    for node, similarity in zip(only_sparse.nodes, only_sparse.similarities, strict=True):
        assert similarity == pytest.approx(expected[node.text], abs=1e-4)
    client.close()
    await aclient.close()


async def test_milvus_function(embed_model, passes):
    sparse = BGEM3SparseEmbedding(model_name=embed_model.model_name, backend="onnx")
    from llama_index.vector_stores.milvus.utils import BaseSparseEmbeddingFunction

    function = sparse.as_milvus()
    assert isinstance(function, BaseSparseEmbeddingFunction)
    embed_model.get_text_embedding_batch(["a cat", "a dog"])
    documents = [function.encode_documents([text])[0] for text in ("a cat", "a dog")]
    assert passes.sequences == 2
    assert documents == sparse.get_text_embedding_batch(["a cat", "a dog"])
    assert function.encode_queries(["a cat"]) == await function.async_encode_queries(["a cat"]) == documents[:1]
    assert await function.async_encode_documents(["a dog"]) == documents[1:]
    # an empty row, which Milvus may refuse with a whole insert, has a place holder
    assert function.encode_documents([""]) == await function.async_encode_queries([""]) == [{0: 1e-6}]
