from __future__ import annotations

import numpy as np
import pytest
from llama_index.core import MockEmbedding, StorageContext, VectorStoreIndex
from llama_index.core.schema import QueryBundle, TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from bgem3 import HybridIndex, MemoryStore, Weights
from bgem3.errors import (
    BGEM3Warning,
    DuplicateIdError,
    InvalidFilterError,
    InvalidInputError,
    StoreClosedError,
    TextTooLongError,
)
from bgem3.scoring import score
from llamaindex_bgem3 import BGEM3Embedding, BGEM3VectorStore
from tests.llamaindex.conformance import VectorStoreConformance, full_node
from tests.llamaindex.test_llamaindex_filters import CASES, METADATA, one, reference

PASSAGES = [
    "the cat sat on the mat",
    "a dog barked at night",
    "part KX-220B fits the pump",
    "the pump needs a new part",
    "cats and dogs",
    "night trains to the north",
]
QUERY = "the part for the pump"


class TestBGEM3VectorStore(VectorStoreConformance):
    @pytest.fixture
    def vector_store(self, store, embed_model):
        made = BGEM3VectorStore.from_store(store, embed_model)
        yield made
        made.client.close()

    @pytest.fixture
    def embedder(self, embed_model):
        return embed_model


@pytest.fixture
def vector_store(store, embed_model):
    made = BGEM3VectorStore.from_store(store, embed_model)
    made.add([TextNode(id_=f"p{i}", text=text, metadata={"n": i}) for i, text in enumerate(PASSAGES)])
    yield made
    made.client.close()


def ask(mode="hybrid", k=6, text=QUERY, **options):
    return VectorStoreQuery(query_str=text, similarity_top_k=k, mode=VectorStoreQueryMode(mode), **options)


@pytest.fixture
def scores(embed_model, vector_store):
    """Return each head's score of each passage, by brute force."""
    texts = [node.get_content("embed") for node in vector_store.get_nodes([f"p{i}" for i in range(len(PASSAGES))])]
    encoder = embed_model.shared.encoder
    return score(encoder.encode([QUERY]), encoder.encode(texts))


def best(row, k=6):
    return [f"p{i}" for i in np.argsort(-row, kind="stable")[:k]]


# Beside Chroma dense vectors are kept as float16, token vectors in 1 bit a dimension.
def near(vector_store, *, exact):
    if isinstance(vector_store.client.store, MemoryStore):
        return 1e-5
    return 1e-3 if exact else 0.2


@pytest.mark.parametrize(("mode", "head"), [("default", "dense"), ("sparse", "sparse"), ("text_search", "sparse")])
async def test_one_head_modes(vector_store, scores, mode, head):
    expected = getattr(scores, head)[0]
    for result in (vector_store.query(ask(mode)), await vector_store.aquery(ask(mode))):
        kept = [one for one in best(expected) if mode == "default" or expected[int(one[1:])] > 0]
        assert result.ids == kept
        assert result.similarities == pytest.approx(
            [expected[int(one[1:])] for one in kept], abs=near(vector_store, exact=True)
        )


@pytest.mark.parametrize(("alpha", "head"), [(1.0, "dense"), (0.0, "sparse"), (1, "dense"), (0, "sparse")])
async def test_alpha_at_its_ends(vector_store, scores, alpha, head):
    expected = getattr(scores, head)[0]
    for result in (vector_store.query(ask(alpha=alpha)), await vector_store.aquery(ask(alpha=alpha))):
        assert result.ids[0] == best(expected)[0]
        assert result.similarities[0] == pytest.approx(expected.max(), abs=near(vector_store, exact=True))


@pytest.mark.parametrize(("alpha", "weights"), [(0.25, Weights(0.25, 0.75, 0.77)), (None, Weights.balanced)])
async def test_alpha_between(vector_store, scores, alpha, weights):
    expected = scores.combine(weights)[0]
    for result in (vector_store.query(ask(alpha=alpha)), await vector_store.aquery(ask(alpha=alpha))):
        found = dict(zip(result.ids, result.similarities, strict=True))
        for i, value in enumerate(expected):
            assert found[f"p{i}"] == pytest.approx(value, abs=near(vector_store, exact=False))


def test_alpha_without_the_multi_vector_head(embed_model, scores):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model, multi_vector_weight=0)
    store.add([TextNode(id_=f"p{i}", text=text, metadata={"n": i}) for i, text in enumerate(PASSAGES)])
    expected = scores.combine(Weights(0.5, 0.5, 0))[0]
    result = store.query(ask(alpha=0.5))
    assert result.ids == best(expected)
    assert result.similarities == pytest.approx(sorted(expected, reverse=True), abs=1e-5)


def test_depths(vector_store):
    assert len(vector_store.query(ask(k=2)).ids) == 2
    assert len(vector_store.query(ask(k=2, hybrid_top_k=4)).ids) == 4
    assert len(vector_store.query(ask("sparse", k=5, sparse_top_k=1)).ids) == 1


def test_mmr_repeats_less(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    texts = ["the pump part", "the pump part", "the pump part", "a dog barked at night"]
    store.add([TextNode(id_=f"p{i}", text=text) for i, text in enumerate(texts)])
    plain = store.query(ask("default", k=2, text="the pump part")).ids
    varied = store.query(ask("mmr", k=2, text="the pump part", mmr_threshold=0.1))
    assert plain == ["p0", "p1"]
    assert varied.ids == ["p0", "p3"]
    assert varied.similarities[0] == pytest.approx(1, abs=1e-5)


def test_a_query_without_a_text_uses_its_embedding(vector_store, embed_model):
    query = ask("default", text=None, query_embedding=embed_model.get_query_embedding(QUERY))
    assert vector_store.query(query).ids == vector_store.query(ask("default")).ids


@pytest.mark.parametrize("mode", ["default", "hybrid"])
def test_the_dense_vector_of_a_transformed_query_counts(vector_store, embed_model, mode):
    other = embed_model.get_query_embedding("cats and dogs")
    result = vector_store.query(ask(mode, query_embedding=other, alpha=1.0))
    assert result.ids == vector_store.query(ask("default", text="cats and dogs")).ids


@pytest.mark.parametrize(("key", "operator", "value"), CASES)
async def test_filters(filtered, key, operator, value):
    part = one(key, operator, value)
    filters = MetadataFilters(filters=[part])
    expected = {f"m{i}" for i, holds in enumerate(reference(part)) if holds}
    assert set(filtered.query(ask("default", k=10, filters=filters)).ids) == expected
    assert set((await filtered.aquery(ask("hybrid", k=10, filters=filters))).ids) == expected
    assert {node.node_id for node in filtered.get_nodes(filters=filters)} == expected


@pytest.fixture(scope="module", params=["memory", "chroma"])
def filtered(request, embed_model, tmp_path_factory):
    from bgem3 import ChromaStore

    store = MemoryStore() if request.param == "memory" else ChromaStore(tmp_path_factory.mktemp("db"))
    made = BGEM3VectorStore.from_store(store, embed_model)
    made.add([TextNode(id_=f"m{i}", text=f"text {i}", metadata=row) for i, row in enumerate(METADATA)])
    yield made
    made.client.close()


def test_what_cannot_be_filtered_by_is_kept_all_the_same(vector_store):
    node = full_node()
    vector_store.add([node])
    chunk = vector_store.client.get(["full"])[0]
    assert "deep" not in chunk.metadata
    assert "none" not in chunk.metadata
    assert chunk.text == node.get_content(metadata_mode="embed")
    assert vector_store.get_nodes(["full"]) == [node]


def test_chunks_of_another_framework_are_read(vector_store):
    vector_store.client.add(["written elsewhere"], ids=["plain"], metadatas=[{"a": 1}])
    [node] = vector_store.get_nodes(["plain"])
    assert (node.node_id, node.text, node.metadata) == ("plain", "written elsewhere", {"a": 1})
    vector_store.clear()
    assert vector_store.client.count() == 0


def test_bm25(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model, lexical="bm25")
    store.add([TextNode(id_=f"p{i}", text=text) for i, text in enumerate(PASSAGES)])
    for mode in ("sparse", "hybrid"):
        expected = store.client.search(QUERY, mode=mode, k=6)
        result = store.query(ask(mode))
        assert result.ids == [hit.id for hit in expected]
        assert result.similarities == pytest.approx([hit.score for hit in expected], abs=1e-5)


def test_chroma_survives_reopening(embed_model, tmp_path):
    from bgem3 import ChromaStore

    first = BGEM3VectorStore.from_store(ChromaStore(tmp_path), embed_model)
    node = full_node()
    first.add([node])
    before = first.query(ask(k=1))
    first.persist(str(tmp_path / "unused"))
    first.client.close()
    second = BGEM3VectorStore(HybridIndex(embed_model.shared.encoder, ChromaStore(tmp_path)))
    after = second.query(ask(k=1))
    assert after.nodes == before.nodes == [node]
    assert after.similarities == pytest.approx(before.similarities, abs=1e-5)
    second.client.close()


@pytest.mark.parametrize(
    ("query", "error", "match"),
    [
        (ask("svm"), InvalidInputError, "mode: got 'svm', expected one of default"),
        (
            VectorStoreQuery(query_str="a", mode="magic"),
            InvalidInputError,
            "mode: got 'magic', expected one of default",
        ),
        (VectorStoreQuery(mode="sparse"), InvalidInputError, "query_str: mode 'sparse' needs"),
        (ask(alpha=1.5), InvalidInputError, "alpha: got 1.5, expected 0.*Fix"),
        (ask(alpha=-0.1), InvalidInputError, "alpha"),
        (ask(k=0), InvalidInputError, "k: expected a whole number >= 1, got 0"),
        (ask(text=None), InvalidInputError, "query_str: mode 'hybrid' needs"),
        (ask("default", text=None), InvalidInputError, "neither a text nor an embedding"),
        (ask("default", query_embedding=[1.0]), InvalidInputError, "query_embedding: 1 wide.*Fix"),
        (ask("default", query_embedding=[0.0] * 64), InvalidInputError, "expected 64 finite numbers, not all 0"),
        (ask("default", query_embedding=[float("nan")] * 64), InvalidInputError, "query_embedding: .* finite.*Fix"),
        (
            ask(filters=MetadataFilters(filters=[MetadataFilter(key="a", value="x", operator="in")])),
            InvalidFilterError,
            "in expects a list",
        ),
    ],
)
async def test_bad_queries(vector_store, query, error, match):
    with pytest.raises(error, match=match):
        vector_store.query(query)
    with pytest.raises(error, match=match):
        await vector_store.aquery(query)


def test_bad_options(embed_model):
    with pytest.raises(ValueError, match="fetch_k"):
        BGEM3VectorStore.from_store(MemoryStore(), embed_model, fetch_k=0)
    with pytest.raises(ValueError, match="strategy"):
        BGEM3VectorStore.from_store(MemoryStore(), embed_model, strategy="best")


async def test_a_node_that_is_too_long_is_named(checkpoint):
    model = BGEM3Embedding(model_name=str(checkpoint), backend="onnx", max_length=8, overflow="error")
    store = BGEM3VectorStore.from_store(MemoryStore(), model)
    nodes = [TextNode(id_=id_, text=text) for id_, text in (("p", "a"), ("q", "a"), ("r", "the cat " * 8))]
    with pytest.raises(TextTooLongError, match="^text of id 'r': "):
        store.add(nodes)
    with pytest.raises(TextTooLongError, match="^text of id 'r': "):
        await store.async_add(nodes)
    with pytest.raises(TextTooLongError, match="^query: "):
        store.query(ask(text="the cat " * 8, query_embedding=[1.0] * model.shared.encoder.dim))
    model.shared.encoder.close()


def test_duplicate_ids_change_nothing(vector_store):
    with pytest.raises(DuplicateIdError, match="'x' stands twice"):
        vector_store.add([TextNode(id_="x", text="1"), TextNode(id_="x", text="2")])
    assert vector_store.get_nodes(["x"]) == []


def test_another_model_s_nodes_are_refused(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    dim = embed_model.shared.encoder.dim
    for vector in ([0.5] * 3, np.random.default_rng(0).normal(size=dim).tolist()):
        with pytest.raises(InvalidInputError, match=r"embedded by another model.*Fix"):
            store.add([TextNode(text="a", embedding=vector)])
    assert store.get_nodes() == []


def test_a_mock_embedding_will_do(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model, is_embedding_query=False)
    context = StorageContext.from_defaults(vector_store=store)
    nodes = [TextNode(id_=f"p{i}", text=text) for i, text in enumerate(PASSAGES)]
    index = VectorStoreIndex(nodes, storage_context=context, embed_model=MockEmbedding(embed_dim=1))
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=2)
    assert retriever.retrieve(PASSAGES[2])[0].node.node_id == "p2"


def test_deleting_nothing_in_particular(vector_store):
    with pytest.raises(InvalidInputError, match="neither node_ids nor filters"):
        vector_store.delete_nodes()


def test_closed(embed_model):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    store.client.close()
    with pytest.raises(StoreClosedError, match="closed"):
        store.query(ask())


def test_persisting_memory_warns(embed_model, tmp_path):
    store = BGEM3VectorStore.from_store(MemoryStore(), embed_model)
    with pytest.warns(BGEM3Warning, match="MemoryStore is not kept on disk"):
        store.persist(str(tmp_path / "x"))


def test_an_open_index_is_not_pickled(vector_store):
    with pytest.raises(TypeError, match="cannot be sent to another process"):
        vector_store.__getstate__()


@pytest.mark.parametrize("mode", ["default", "sparse", "hybrid"])
async def test_end_to_end(store, embed_model, mode):
    vector_store = BGEM3VectorStore.from_store(store, embed_model)
    context = StorageContext.from_defaults(vector_store=vector_store)
    index = VectorStoreIndex([], storage_context=context, embed_model=vector_store.embed_model)
    index.insert_nodes([TextNode(id_=f"p{i}", text=text) for i, text in enumerate(PASSAGES[:3])])
    await index.ainsert_nodes([TextNode(id_=f"p{i}", text=text) for i, text in enumerate(PASSAGES[3:], 3)])
    retriever = index.as_retriever(vector_store_query_mode=mode, similarity_top_k=3)
    expected = vector_store.client.search(QUERY, mode="dense" if mode == "default" else mode, k=3)
    for found in (retriever.retrieve(QUERY), await retriever.aretrieve(QueryBundle(QUERY))):
        assert [one.node.node_id for one in found] == [hit.id for hit in expected]
        assert [one.score for one in found] == pytest.approx([hit.score for hit in expected], abs=1e-5)
    index.delete_nodes(["p0"])
    assert vector_store.get_nodes(["p0"]) == []
    vector_store.client.close()
