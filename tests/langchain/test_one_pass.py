"""How many texts go through the model: one pass each at ingestion, one for a query of any mode."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_milvus import Milvus
from langchain_milvus.utils.sparse import BaseSparseEmbedding
from langchain_qdrant import QdrantVectorStore, RetrievalMode, SparseEmbeddings
from pymilvus import connections
from qdrant_client import QdrantClient
from qdrant_client.models import Distance, SparseVectorParams, VectorParams

from bgem3 import HybridIndex, MemoryStore
from bgem3.types import MODES
from langchain_bgem3 import BGEM3DocumentIndex, BGEM3Retriever, BGEM3SparseEmbeddings, BGEM3VectorStore
from tests.langchain.conftest import TEXTS

QUERY = "Where is the key?"


@pytest.fixture
def qdrant(embeddings, encoder) -> QdrantVectorStore:
    """Return an empty hybrid collection in memory; as users do, both objects exist before the first text."""
    client = QdrantClient(":memory:")
    client.create_collection(
        "texts",
        vectors_config={"dense": VectorParams(size=encoder.dim, distance=Distance.COSINE)},
        sparse_vectors_config={"sparse": SparseVectorParams()},
    )
    yield QdrantVectorStore(
        client=client,
        collection_name="texts",
        embedding=embeddings,
        sparse_embedding=embeddings.as_qdrant_sparse(),
        retrieval_mode=RetrievalMode.HYBRID,
        vector_name="dense",
        sparse_vector_name="sparse",
        validate_embeddings=False,
    )
    client.close()


def test_qdrant_hybrid_costs_one_pass_a_text(qdrant, passes):
    qdrant.add_texts(TEXTS)
    assert passes.sequences == len(TEXTS)
    found = qdrant.similarity_search(QUERY, k=3)
    assert passes.sequences == len(TEXTS) + 1
    assert len(found) == 3


async def test_qdrant_hybrid_costs_one_pass_a_text_in_async_code(qdrant, passes):
    await qdrant.aadd_texts(TEXTS)
    await qdrant.asimilarity_search(QUERY, k=3)
    assert passes.sequences == len(TEXTS) + 1


def test_objects_that_were_made_apart_share_the_model(settings, embeddings, passes):
    sparse = BGEM3SparseEmbeddings(**settings)
    assert sparse.shared is embeddings.shared
    embeddings.embed_documents(TEXTS)
    sparse.embed_documents(TEXTS)
    assert passes.sequences == len(TEXTS)


# langchain-milvus still goes by pymilvus' older interface
@pytest.mark.filterwarnings("ignore:.*ORM-style PyMilvus API:pymilvus.decorators.PyMilvusDeprecationWarning")
@pytest.mark.filterwarnings("ignore:The 'ranker_type' and 'ranker_params' parameters:DeprecationWarning")
def test_milvus_hybrid_costs_one_pass_a_text(embeddings, passes, tmp_path):
    sparse = embeddings.as_milvus_sparse()
    milvus = Milvus(
        embedding_function=[embeddings, sparse],
        vector_field=["dense", "sparse"],
        connection_args={"uri": str(tmp_path / "milvus.db")},
        index_params=[
            {"metric_type": "IP", "index_type": "FLAT"},
            {"metric_type": "IP", "index_type": "SPARSE_INVERTED_INDEX"},
        ],
        search_params=[{"metric_type": "IP", "params": {}}] * 2,
        auto_id=True,
    )
    # langchain-milvus 0.3.3 looks its client up among connections, where pymilvus 2.6.17 no longer puts it
    connections.connect(alias=milvus.alias, uri=str(tmp_path / "milvus.db"))
    milvus.add_texts([*TEXTS, ""])
    assert passes.sequences == len(TEXTS) + 1
    assert len(milvus.similarity_search(QUERY, k=3)) == 3
    assert passes.sequences == len(TEXTS) + 2


@pytest.mark.parametrize("mode", MODES)
def test_our_store_costs_one_pass_a_text(embeddings, store, passes, mode):
    texts = BGEM3VectorStore(embeddings, store=store)
    texts.add_texts(TEXTS)
    assert passes.sequences == len(TEXTS)
    texts.similarity_search(QUERY, mode=mode)
    assert passes.sequences == len(TEXTS) + 1
    texts.max_marginal_relevance_search(QUERY, k=2, mode=mode)
    assert passes.sequences == len(TEXTS) + 2
    texts.close()


async def test_our_retriever_costs_one_pass_a_text(embeddings, passes):
    retriever = BGEM3Retriever.from_texts(TEXTS, embeddings)
    assert passes.sequences == len(TEXTS)
    retriever.invoke(QUERY)
    await retriever.ainvoke(QUERY)
    assert passes.sequences == len(TEXTS) + 2


@pytest.mark.parametrize("kind", ["vector store", "document index"])
def test_the_indexing_api_encodes_what_is_new_only(embeddings, encoder, passes, kind):
    store = HybridIndex(encoder, MemoryStore())
    target = BGEM3VectorStore(index=store) if kind == "vector store" else BGEM3DocumentIndex(index=store)
    records = InMemoryRecordManager("texts")
    records.create_schema()
    documents = [Document(text, metadata={"source": str(i)}) for i, text in enumerate(TEXTS)]

    def load(docs):
        return index(docs, records, target, cleanup="full", source_id_key="source", key_encoder="sha256")

    assert load(documents)["num_added"] == len(TEXTS)
    assert passes.sequences == len(TEXTS)
    changed = [*documents[:-1], Document("Gone to the moon.", metadata={"source": "4"})]
    assert load(changed) == {"num_added": 1, "num_updated": 0, "num_skipped": len(TEXTS) - 1, "num_deleted": 1}
    assert passes.sequences == len(TEXTS) + 1
    assert store.count() == len(TEXTS)


def test_sparse_rows_are_the_encoders_own(embeddings, encoder):
    qdrant, milvus = embeddings.as_qdrant_sparse(), embeddings.as_milvus_sparse()
    assert isinstance(qdrant, SparseEmbeddings)
    assert isinstance(milvus, BaseSparseEmbedding)
    assert type(qdrant.as_milvus_sparse()) is type(milvus)
    expected = encoder.encode(TEXTS)
    for row, vector in enumerate(qdrant.embed_documents(TEXTS)):
        weights = expected.lexical_weights(row)
        assert vector.indices == list(weights)
        assert vector.values == pytest.approx(list(weights.values()), abs=1e-5)
    assert milvus.embed_documents(TEXTS)[0] == pytest.approx(expected.lexical_weights(0), abs=1e-5)
    assert qdrant.embed_query(TEXTS[0]).indices == list(milvus.embed_query(TEXTS[0]))


async def test_sparse_rows_are_the_same_in_async_code(embeddings):
    for sparse in (embeddings.as_qdrant_sparse(), embeddings.as_milvus_sparse()):
        assert await sparse.aembed_documents(TEXTS) == sparse.embed_documents(TEXTS)
        assert await sparse.aembed_query(QUERY) == sparse.embed_query(QUERY)


def test_a_text_without_words(embeddings):
    assert embeddings.as_qdrant_sparse().embed_query("").indices == []
    # Milvus may refuse an empty row: id 0 is <s>, for which no text has a weight
    assert embeddings.as_milvus_sparse().embed_documents(["", "key"])[0] == {0: 1e-6}
    assert 0 not in embeddings.as_milvus_sparse().embed_query("key")
