"""LlamaIndex's ingestion: its cache notices other settings, its document store upserts and deletes."""

from __future__ import annotations

import pytest
from llama_index.core import Document
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.ingestion.pipeline import get_transformation_hash
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import TextNode
from llama_index.core.storage.docstore import SimpleDocumentStore

from llamaindex_bgem3 import BGEM3Embedding, BGEM3VectorStore

DOCUMENTS = [Document(id_="a", text="the cat sat"), Document(id_="b", text="a dog barked")]


def documents():
    return [document.model_copy() for document in DOCUMENTS]


def test_the_cache_answers_a_second_run(embed_model, passes):
    cache = IngestionCache()
    for _ in range(2):
        IngestionPipeline(transformations=[embed_model], cache=cache).run(nodes=documents())
    assert passes.sequences == 2


@pytest.mark.parametrize("changed", [{"max_length": 8}, {"overflow": "truncate"}, {"query_instruction": "q: "}])
def test_the_cache_notices_a_setting(checkpoint, embed_model, changed):
    other = BGEM3Embedding(**{"model_name": str(checkpoint), "backend": "onnx", **changed})
    nodes = [TextNode(text="a")]
    assert get_transformation_hash(nodes, other) != get_transformation_hash(nodes, embed_model)


@pytest.mark.parametrize(
    "changed", [{"device": "cpu"}, {"num_threads": 1}, {"embed_batch_size": 3}, {"num_workers": 2}]
)
def test_the_cache_ignores_what_changes_no_vector(checkpoint, embed_model, changed):
    other = BGEM3Embedding(**{"model_name": str(checkpoint), "backend": "onnx", **changed})
    nodes = [TextNode(text="a")]
    assert get_transformation_hash(nodes, other) == get_transformation_hash(nodes, embed_model)


@pytest.fixture
def pipeline(store, embed_model):
    vector_store = BGEM3VectorStore.from_store(store, embed_model)
    yield IngestionPipeline(
        transformations=[SentenceSplitter(), embed_model],
        vector_store=vector_store,
        docstore=SimpleDocumentStore(),
        docstore_strategy=DocstoreStrategy.UPSERTS_AND_DELETE,
    )
    vector_store.client.close()


def stored(pipeline):
    return sorted((node.ref_doc_id, node.text) for node in pipeline.vector_store.get_nodes())


def test_upserts_and_deletes(pipeline):
    pipeline.run(documents=documents())
    assert stored(pipeline) == [("a", "the cat sat"), ("b", "a dog barked")]
    assert pipeline.run(documents=documents()) == []
    pipeline.run(documents=[Document(id_="a", text="the cat ran"), DOCUMENTS[1].model_copy()])
    assert stored(pipeline) == [("a", "the cat ran"), ("b", "a dog barked")]
    pipeline.run(documents=[Document(id_="a", text="the cat ran")])
    assert stored(pipeline) == [("a", "the cat ran")]


async def test_async_upserts(pipeline):
    await pipeline.arun(documents=documents())
    await pipeline.arun(documents=[Document(id_="a", text="the cat ran"), DOCUMENTS[1].model_copy()])
    assert stored(pipeline) == [("a", "the cat ran"), ("b", "a dog barked")]
