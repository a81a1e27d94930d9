from __future__ import annotations

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from bgem3 import HybridIndex, MemoryStore, Reranker, Weights
from bgem3.embeddings import M3Embeddings
from bgem3.errors import InvalidFilterError, InvalidInputError
from bgem3.tuned import Tuned
from llamaindex_bgem3 import BGEM3Retriever, BGEM3VectorStore
from llamaindex_bgem3.engine import join_queries
from tests.llamaindex.conformance import RetrieverConformance, equals, ids_of, nodes_of, scores_of

NODES = ("d0", "d1", "d2", "d3")


class TestOverAnIndex(RetrieverConformance):
    @pytest.fixture
    def top_k(self):
        return 3

    @pytest.fixture
    def retriever(self, store, embed_model, top_k):
        made = BGEM3Retriever.from_nodes(nodes_of(*NODES), embed_model, store=store, similarity_top_k=top_k)
        yield made
        store.close()


class TestOverAnotherRetriever(RetrieverConformance):
    @pytest.fixture
    def top_k(self):
        return 2

    @pytest.fixture
    def retriever(self, embed_model, top_k):
        index = VectorStoreIndex(
            nodes_of(*NODES), storage_context=StorageContext.from_defaults(), embed_model=embed_model
        )
        inner = index.as_retriever(similarity_top_k=4)
        return BGEM3Retriever.from_retriever(inner, embed_model, similarity_top_k=top_k)


@pytest.fixture
def retriever_of(embed_model):
    def make(**options):
        return BGEM3Retriever.from_nodes(nodes_of(*NODES), embed_model, **options)

    return make


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi_vector", "hybrid"])
def test_modes_equal_the_index(retriever_of, mode):
    retriever = retriever_of(mode=mode, similarity_top_k=4)
    hits = retriever._engine.index.search("the dog", mode=mode, k=4)
    found = retriever.retrieve("the dog")
    assert ids_of(found) == [hit.id for hit in hits]
    assert scores_of(found) == pytest.approx([hit.score for hit in hits], abs=1e-5)


def test_restrictions(retriever_of):
    assert set(ids_of(retriever_of(filters=equals("parity", "odd")).retrieve("x"))) == {"n1", "n3"}
    assert ids_of(retriever_of(doc_ids=["d2"]).retrieve("x")) == ["n2"]
    assert ids_of(retriever_of(node_ids=["n3"]).retrieve("x")) == ["n3"]


def test_several_texts_make_one_query(retriever_of):
    retriever = retriever_of(similarity_top_k=4)
    bundle = QueryBundle("ignored", custom_embedding_strs=["the cat", "a dog"])
    encoder = retriever._engine.index.encoder
    expected = retriever._engine.index.search_embedded(join_queries(encoder.encode(["the cat", "a dog"])), k=4)[0]
    assert scores_of(retriever.retrieve(bundle)) == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_joined_texts(embed_model):
    parts = embed_model.shared.encoder.encode(["the cat", "a dog"])
    one = join_queries(parts)
    mean = parts.dense.mean(axis=0)
    assert one.dense[0] == pytest.approx(mean / (mean @ mean) ** 0.5, abs=1e-6)
    largest = {**parts.lexical_weights(0)}
    for token, weight in parts.lexical_weights(1).items():
        largest[token] = max(weight, largest.get(token, 0))
    assert one.lexical_weights(0) == pytest.approx(largest)
    assert len(one.multi_vector[0]) == len(parts.multi_vector[0]) + len(parts.multi_vector[1])
    single = parts[[0]]
    assert join_queries(single) is single
    assert isinstance(one, M3Embeddings)


def test_rescored_candidates(embed_model):
    nodes = nodes_of(*NODES)
    inner = BGEM3Retriever.from_nodes(nodes, embed_model, mode="sparse")
    weights = Weights(dense=0, sparse=0, multi_vector=1)
    outer = BGEM3Retriever.from_retriever(inner, embed_model, similarity_top_k=4, weights=weights)
    candidates = inner.retrieve("the dog")
    texts = [one.node.get_content("embed") for one in candidates]
    expected = Reranker(embed_model.shared.encoder, weights=weights).rerank("the dog", texts)
    assert scores_of(outer.retrieve("the dog")) == pytest.approx([one.score for one in expected], abs=1e-5)
    assert ids_of(outer.retrieve("the dog")) == [ids_of(candidates)[one.index] for one in expected]


class Everything(BaseRetriever):
    """Finds one node, whatever is asked."""

    def _retrieve(self, query_bundle):
        return [NodeWithScore(node=nodes_of("d0")[0], score=1.0)]


async def test_a_query_without_a_text(embed_model):
    retriever = BGEM3Retriever.from_retriever(Everything(), embed_model)
    with pytest.raises(InvalidInputError, match="query: got no text. Fix: query_str"):
        retriever.retrieve("")
    with pytest.raises(InvalidInputError, match="query: got no text"):
        await retriever.aretrieve("")


def test_no_candidates(embed_model):
    empty = BGEM3Retriever.from_nodes([], embed_model)
    assert BGEM3Retriever.from_retriever(empty, embed_model).retrieve("x") == []


def test_objects_behind_index_nodes_are_resolved(embed_model):
    behind = TextNode(id_="behind", text="the whole table")
    node = IndexNode(id_="summary", text="a summary of the table", index_id="table")
    retriever = BGEM3Retriever.from_nodes([node], embed_model, object_map={"table": behind})
    assert ids_of(retriever.retrieve("table")) == ["behind"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"similarity_top_k": 0}, InvalidInputError, "k: expected a whole number >= 1"),
        ({"mode": "best"}, InvalidInputError, "mode: got 'best'"),
        ({"strategy": "best"}, InvalidInputError, "strategy: got 'best'"),
        (
            {"filters": MetadataFilters(filters=[MetadataFilter(key="a", value=None, operator="==")])},
            InvalidFilterError,
            "expects one value",
        ),
    ],
)
def test_bad_options(embed_model, options, error, match):
    with pytest.raises(error, match=match):
        BGEM3Retriever.from_nodes([], embed_model, store=MemoryStore(), **options)


def test_bad_depth_over_another_retriever(embed_model):
    inner = BGEM3Retriever.from_nodes([], embed_model)
    with pytest.raises(InvalidInputError, match="k: expected a whole number >= 1"):
        BGEM3Retriever.from_retriever(inner, embed_model, similarity_top_k=0)


@pytest.mark.parametrize("options", [{}, {"strategy": "rrf"}, {"strategy": "cascade"}, {"mode": "sparse"}], ids=str)
def test_every_store_finds_what_is_found_in_memory(make_store, embed_model, options):
    even = MetadataFilters(filters=[MetadataFilter(key="parity", value="even")])
    answers = []
    for store in (MemoryStore(), make_store(codec="float32")):
        vector_store = BGEM3VectorStore.from_store(store, embed_model)
        vector_store.add(nodes_of(*NODES))
        vector_store.delete_nodes(["n1"])
        found = []
        for filters in (None, even):
            retriever = BGEM3Retriever(vector_store.client, similarity_top_k=3, filters=filters, **options)
            found += [(one.node_id, one.score) for text in ("the cat sat", "dog") for one in retriever.retrieve(text)]
        answers.append(found)
        vector_store.client.close()
    assert answers[0]
    assert [id_ for id_, _ in answers[0]] == [id_ for id_, _ in answers[1]]
    assert [score for _, score in answers[0]] == pytest.approx([score for _, score in answers[1]], abs=2e-3)


def test_what_was_tuned_decides_where_nothing_is_named(embed_model):
    index = HybridIndex(embed_model.shared.encoder, MemoryStore(), tuned=Tuned("rrf", Weights(0, 1, 0)))
    store = BGEM3VectorStore(index)
    nodes = nodes_of(*NODES)
    store.add(nodes)
    question = nodes[0].get_content()
    hybrid = VectorStoreQuery(query_str=question, similarity_top_k=1, mode=VectorStoreQueryMode.HYBRID)
    # first by the sparse head: 1 / (60 + 1)
    assert store.query(hybrid).similarities == [pytest.approx(1 / 61)]
    assert scores_of(BGEM3Retriever(index, similarity_top_k=1).retrieve(question)) == [pytest.approx(1 / 61)]
    assert scores_of(BGEM3Retriever(index, similarity_top_k=1, strategy="union").retrieve(question))[0] > 0.1
