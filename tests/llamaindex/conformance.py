"""A conformance suite for LlamaIndex, which has none of its own.

Derive a test class, give the fixtures it asks for, and every test runs over your class:

    class TestMine(VectorStoreConformance):
        @pytest.fixture
        def vector_store(self): return MyVectorStore()
"""

from __future__ import annotations

import asyncio
import copy
import json

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import (
    ImageNode,
    IndexNode,
    MetadataMode,
    NodeRelationship,
    NodeWithScore,
    QueryBundle,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
)

TEXTS = ["the cat sat on the mat", "a dog barked at night", "el gato duerme", "猫坐在垫子上", "part KX-220B"]


def full_node(node_id: str = "full", ref_doc_id: str = "doc-1") -> TextNode:
    """Return a node that uses every field a store could lose."""
    return TextNode(
        id_=node_id,
        text="Körper und Geist.\nZweite Zeile 😀",
        metadata={
            "title": "T",
            "page": 3,
            "score": 0.5,
            "ok": True,
            "tags": ["a", "b"],
            "none": None,
            "deep": {"x": [1]},
        },
        excluded_embed_metadata_keys=["page", "deep"],
        excluded_llm_metadata_keys=["title"],
        relationships={
            NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref_doc_id, metadata={"file": "a.txt"}),
            NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
            NodeRelationship.CHILD: [RelatedNodeInfo(node_id="c1"), RelatedNodeInfo(node_id="c2")],
        },
        start_char_idx=5,
        end_char_idx=40,
        text_template="[{metadata_str}] {content}",
        metadata_template="{key}={value}",
        metadata_seperator="|",
    )


def nodes_of(*ref_doc_ids: str) -> list[TextNode]:
    """Return one node a source document, ids n0, n1, ..."""
    return [
        TextNode(
            id_=f"n{i}",
            text=TEXTS[i % len(TEXTS)],
            metadata={"number": i, "parity": "odd" if i % 2 else "even"},
            relationships={NodeRelationship.SOURCE: RelatedNodeInfo(node_id=ref)},
        )
        for i, ref in enumerate(ref_doc_ids)
    ]


def equals(key: str, value: object) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value)])


class EmbeddingConformance:
    """Asks for a fixture `embedding`."""

    def test_is_a_llamaindex_class(self, embedding):
        assert BaseEmbedding.__name__ in [base.__name__ for base in type(embedding).__mro__]
        assert embedding.class_name() == type(embedding).__name__

    def test_query_is_a_list_of_python_floats(self, embedding):
        vector = embedding.get_query_embedding("a")
        assert isinstance(vector, list)
        assert all(type(value) is float for value in vector)

    def test_batch_keeps_order_and_equals_single_texts(self, embedding):
        together = embedding.get_text_embedding_batch(TEXTS)
        assert len(together) == len(TEXTS)
        for text, vector in zip(TEXTS, together, strict=True):
            assert vector == pytest.approx(embedding.get_text_embedding(text), abs=1e-5)

    def test_no_texts(self, embedding):
        assert embedding.get_text_embedding_batch([]) == []

    async def test_async_equals_sync(self, embedding):
        query = await embedding.aget_query_embedding("a")
        text = await embedding.aget_text_embedding("a")
        batch = await embedding.aget_text_embedding_batch(TEXTS)
        assert query == pytest.approx(embedding.get_query_embedding("a"), abs=1e-5)
        assert text == pytest.approx(embedding.get_text_embedding("a"), abs=1e-5)
        for one, other in zip(batch, embedding.get_text_embedding_batch(TEXTS), strict=True):
            assert one == pytest.approx(other, abs=1e-5)

    def test_as_a_transformation_it_sets_embeddings(self, embedding):
        nodes = embedding(nodes_of("d0", "d1"))
        expected = embedding.get_text_embedding(nodes[0].get_content(metadata_mode=MetadataMode.EMBED))
        assert nodes[0].embedding == pytest.approx(expected, abs=1e-5)

    def test_serialised_settings_make_an_equal_object(self, embedding):
        data = json.loads(embedding.to_json())
        assert data["class_name"] == embedding.class_name()
        again = type(embedding).from_dict(data)
        assert again.to_dict() == embedding.to_dict()

    def test_payload_is_plain(self, embedding):
        assert json.dumps(embedding.to_payload())


class SparseEmbeddingConformance:
    """Asks for a fixture `sparse`."""

    def test_is_a_llamaindex_class(self, sparse):
        assert BaseSparseEmbedding.__name__ in [base.__name__ for base in type(sparse).__mro__]
        assert sparse.class_name() == type(sparse).__name__

    def test_plain_python_numbers(self, sparse):
        weights = sparse.get_text_embedding("the cat")
        assert weights
        assert all(type(token) is int and type(weight) is float for token, weight in weights.items())

    def test_batch_keeps_order_and_equals_single_texts(self, sparse):
        for text, weights in zip(TEXTS, sparse.get_text_embedding_batch(TEXTS), strict=True):
            assert weights == pytest.approx(sparse.get_text_embedding(text), abs=1e-5)

    def test_no_texts(self, sparse):
        assert sparse.get_text_embedding_batch([]) == []

    async def test_async_equals_sync(self, sparse):
        assert await sparse.aget_query_embedding("cat") == pytest.approx(sparse.get_query_embedding("cat"), abs=1e-5)
        assert await sparse.aget_text_embedding("cat") == pytest.approx(sparse.get_text_embedding("cat"), abs=1e-5)
        batch = await sparse.aget_text_embedding_batch(TEXTS)
        for one, other in zip(batch, sparse.get_text_embedding_batch(TEXTS), strict=True):
            assert one == pytest.approx(other, abs=1e-5)


class VectorStoreConformance:
    """Asks for fixtures `vector_store`, empty, and `embedder`, which gives a node's dense vector."""

    @pytest.fixture
    def filled(self, vector_store, embedder):
        vector_store.add(embedder(nodes_of("d0", "d1", "d2", "d3")))
        return vector_store

    def ids(self, store, mode=VectorStoreQueryMode.DEFAULT, text="the cat", k=10, **options):
        return store.query(self.asked(store, mode, text, k, **options)).ids

    def asked(self, store, mode, text, k, **options):
        embedding = self.embed(store, text) if store.is_embedding_query else None
        return VectorStoreQuery(
            query_str=text, query_embedding=embedding, similarity_top_k=k, mode=VectorStoreQueryMode(mode), **options
        )

    def embed(self, store, text):
        return store.embed_model.get_query_embedding(text)

    def test_is_a_llamaindex_class(self, vector_store):
        assert BasePydanticVectorStore.__name__ in [base.__name__ for base in type(vector_store).__mro__]
        assert vector_store.class_name() == type(vector_store).__name__
        assert vector_store.client is not None

    def test_empty(self, vector_store):
        assert self.ids(vector_store) == []
        assert vector_store.get_nodes() == []

    def test_add_returns_ids_in_order(self, vector_store, embedder):
        assert vector_store.add(embedder(nodes_of("d0", "d1"))) == ["n0", "n1"]
        assert vector_store.add([]) == []

    def test_add_does_not_change_nodes(self, vector_store, embedder):
        nodes = embedder([full_node()])
        before = copy.deepcopy(nodes)
        vector_store.add(nodes)
        assert nodes == before

    def test_results_are_aligned_and_ordered(self, filled):
        result = filled.query(self.asked(filled, "default", "the cat", 3))
        assert len(result.nodes) == len(result.similarities) == len(result.ids) == 3
        assert [node.node_id for node in result.nodes] == result.ids
        assert result.similarities == sorted(result.similarities, reverse=True)
        assert all(type(score) is float for score in result.similarities)

    def test_a_node_comes_back_whole(self, vector_store, embedder):
        node = full_node()
        vector_store.add(embedder([node.model_copy()]))
        [back] = vector_store.get_nodes(["full"])
        assert back == node
        assert vector_store.query(self.asked(vector_store, "default", "x", 1)).nodes == [node]

    @pytest.mark.parametrize(
        "node",
        [
            IndexNode(id_="i", text="t", index_id="other", metadata={"a": 1}),
            ImageNode(id_="i", text="t", image_url="u"),
        ],
        ids=["IndexNode", "ImageNode"],
    )
    def test_node_kinds_come_back(self, vector_store, embedder, node):
        vector_store.add(embedder([node]))
        [back] = vector_store.get_nodes(["i"])
        assert type(back) is type(node)
        assert back.to_dict() == {**node.to_dict(), "embedding": None}

    def test_adding_an_id_again_replaces_text_and_metadata(self, vector_store, embedder):
        vector_store.add(embedder([TextNode(id_="x", text="old", metadata={"old": 1})]))
        vector_store.add(embedder([TextNode(id_="x", text="new", metadata={"new": 2})]))
        [back] = vector_store.get_nodes()
        assert back.text == "new"
        assert back.metadata == {"new": 2}
        assert self.ids(vector_store, filters=equals("old", 1)) == []

    def test_filters(self, filled):
        assert sorted(self.ids(filled, filters=equals("parity", "odd"))) == ["n1", "n3"]
        assert self.ids(filled, filters=equals("parity", "none")) == []
        assert sorted(node.node_id for node in filled.get_nodes(filters=equals("parity", "even"))) == ["n0", "n2"]

    def test_doc_ids_and_node_ids(self, filled):
        assert self.ids(filled, doc_ids=["d2"]) == ["n2"]
        assert sorted(self.ids(filled, node_ids=["n0", "n3"])) == ["n0", "n3"]
        assert self.ids(filled, doc_ids=["d2"], node_ids=["n0"]) == []

    def test_get_nodes(self, filled):
        assert [node.node_id for node in filled.get_nodes(["n3", "nowhere", "n0"])] == ["n3", "n0"]
        assert filled.get_nodes([]) == []
        assert len(filled.get_nodes()) == 4
        assert [n.node_id for n in filled.get_nodes(["n0", "n1"], equals("parity", "odd"))] == ["n1"]

    def test_delete_by_source_document(self, filled):
        filled.delete("d1")
        filled.delete("nowhere")
        assert sorted(self.ids(filled)) == ["n0", "n2", "n3"]

    def test_delete_nodes(self, filled):
        filled.delete_nodes(["n0", "nowhere"])
        filled.delete_nodes(filters=equals("number", 3))
        filled.delete_nodes(["n1"], equals("parity", "even"))
        filled.delete_nodes([])
        assert sorted(self.ids(filled)) == ["n1", "n2"]

    def test_clear(self, filled):
        filled.clear()
        assert filled.get_nodes() == []
        assert self.ids(filled) == []

    async def test_async_equals_sync(self, vector_store, embedder):
        assert await vector_store.async_add(embedder(nodes_of("d0", "d1", "d2", "d3"))) == ["n0", "n1", "n2", "n3"]
        query = self.asked(vector_store, "default", "the cat", 4)
        one, other = await vector_store.aquery(query), vector_store.query(query)
        assert (one.ids, one.nodes) == (other.ids, other.nodes)
        assert one.similarities == pytest.approx(other.similarities, abs=1e-5)
        assert await vector_store.aget_nodes(["n1"]) == vector_store.get_nodes(["n1"])
        await vector_store.adelete("d0")
        await vector_store.adelete_nodes(["n1"])
        assert sorted(node.node_id for node in vector_store.get_nodes()) == ["n2", "n3"]
        await vector_store.aclear()
        assert vector_store.get_nodes() == []


class RetrieverConformance:
    """Asks for fixtures `retriever`, over `nodes_of("d0", "d1", "d2", "d3")`, and `top_k`, its number of results."""

    def test_is_a_llamaindex_class(self, retriever):
        assert BaseRetriever.__name__ in [base.__name__ for base in type(retriever).__mro__]

    def test_scored_nodes_best_first(self, retriever, top_k):
        found = retriever.retrieve("the cat")
        assert len(found) == top_k
        assert all(isinstance(one, NodeWithScore) and isinstance(one.score, float) for one in found)
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)

    def test_a_bundle_equals_its_text(self, retriever):
        assert ids_of(retriever.retrieve(QueryBundle("dog"))) == ids_of(retriever.retrieve("dog"))

    async def test_async_equals_sync(self, retriever):
        one, other = await retriever.aretrieve("dog"), retriever.retrieve("dog")
        assert ids_of(one) == ids_of(other)
        assert [n.score for n in one] == pytest.approx([n.score for n in other], abs=1e-5)

    async def test_concurrent_callers_get_their_own_answers(self, retriever):
        answers = await asyncio.gather(*(retriever.aretrieve(text) for text in TEXTS * 3))
        for text, found in zip(TEXTS * 3, answers, strict=True):
            assert ids_of(found) == ids_of(retriever.retrieve(text))

    def test_custom_embedding_texts_are_used(self, retriever):
        bundle = QueryBundle("nothing of the kind", custom_embedding_strs=["a dog barked at night"])
        assert scores_of(retriever.retrieve(bundle)) == pytest.approx(
            scores_of(retriever.retrieve("a dog barked at night")), abs=1e-5
        )


class PostprocessorConformance:
    """Asks for fixtures `postprocessor` and `top_n`, the most nodes it returns."""

    @pytest.fixture
    def scored(self):
        return [NodeWithScore(node=node, score=0.1 * i) for i, node in enumerate(nodes_of("d0", "d1", "d2", "d3"))]

    def test_is_a_llamaindex_class(self, postprocessor):
        assert BaseNodePostprocessor.__name__ in [base.__name__ for base in type(postprocessor).__mro__]
        assert postprocessor.class_name() == type(postprocessor).__name__

    def test_best_first_and_no_more_than_asked(self, postprocessor, top_n, scored):
        found = postprocessor.postprocess_nodes(scored, query_str="the cat")
        assert len(found) == min(top_n, len(scored))
        assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)

    def test_input_is_not_changed(self, postprocessor, scored):
        before = copy.deepcopy(scored)
        postprocessor.postprocess_nodes(scored, query_str="the cat")
        assert scored == before

    def test_no_nodes(self, postprocessor):
        assert postprocessor.postprocess_nodes([], query_str="the cat") == []

    def test_a_query_is_needed(self, postprocessor, scored):
        with pytest.raises(ValueError, match="quer"):
            postprocessor.postprocess_nodes(scored)

    async def test_async_equals_sync(self, postprocessor, scored):
        one = await postprocessor.apostprocess_nodes(scored, query_str="the cat")
        other = postprocessor.postprocess_nodes(scored, query_str="the cat")
        assert ids_of(one) == ids_of(other)
        assert scores_of(one) == pytest.approx(scores_of(other), abs=1e-5)


def ids_of(found):
    return [one.node.node_id for one in found]


def scores_of(found):
    return [one.score for one in found]
