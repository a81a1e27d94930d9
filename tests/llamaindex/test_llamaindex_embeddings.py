from __future__ import annotations

import multiprocessing
import pickle  # noqa: TID251  # what LlamaIndex's pipelines do with transformations
from copy import deepcopy

import numpy as np
import pytest
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from bgem3.errors import CheckpointNotFoundError, InvalidInputError, InvalidTextError
from bgem3.scoring import sparse_scores
from llamaindex_bgem3 import BGEM3Embedding, BGEM3SparseEmbedding
from tests.llamaindex.conformance import TEXTS, EmbeddingConformance, SparseEmbeddingConformance


class TestBGEM3Embedding(EmbeddingConformance):
    @pytest.fixture
    def embedding(self, embed_model):
        return embed_model


class TestBGEM3SparseEmbedding(SparseEmbeddingConformance):
    @pytest.fixture
    def sparse(self, embed_model):
        return BGEM3SparseEmbedding(model_name=embed_model.model_name, backend="onnx")


@pytest.fixture
def sparse(embed_model):
    return BGEM3SparseEmbedding(model_name=embed_model.model_name, backend="onnx")


def test_vectors_are_the_encoder_s(embed_model, sparse):
    reference = embed_model.shared.encoder.encode(TEXTS)
    np.testing.assert_allclose(embed_model.get_text_embedding_batch(TEXTS), reference.dense, atol=1e-5)
    assert sparse.get_text_embedding_batch(TEXTS)[1] == pytest.approx(reference.lexical_weights(1), abs=1e-5)


def test_sparse_similarity_is_a_dot_product(sparse):
    assert sparse.similarity({1: 0.5, 2: 0.25, 9: 3.0}, {2: 0.5, 1: 0.5}) == 0.5 * 0.5 + 0.25 * 0.5
    assert sparse.similarity({1: 0.5}, {}) == 0
    left, right = sparse.get_text_embedding_batch(["the cat sat", "the cat ran"])
    rows = sparse.shared.encoder.encode(["the cat sat", "the cat ran"]).sparse
    assert sparse.similarity(left, right) == pytest.approx(float(sparse_scores(rows[[0]], rows[[1]])[0, 0]), abs=1e-5)


def test_empty_text_has_no_words(sparse):
    assert sparse.get_text_embedding("") == {}


def test_names_of_huggingface_embedding(checkpoint):
    model = BGEM3Embedding(
        model_name=str(checkpoint),
        max_length=64,
        query_instruction="query: ",
        text_instruction="text: ",
        normalize=True,
        embed_batch_size=10,
        cache_folder=None,
        device="cpu",
        trust_remote_code=True,
        parallel_process=False,
        show_progress_bar=True,
    )
    encoder = model.shared.encoder
    assert encoder.lengths.max_length == 64
    assert model.get_query_embedding("a") == pytest.approx(encoder.encode(["query: a"]).dense[0].tolist(), abs=1e-5)
    assert model.get_text_embedding("a") == pytest.approx(encoder.encode(["text: a"]).dense[0].tolist(), abs=1e-5)


def test_model_name_may_come_first(checkpoint, embed_model):
    model = BGEM3Embedding(str(checkpoint), backend="onnx")
    assert model.shared is embed_model.shared


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"normalize": False}, InvalidInputError, "normalize: got False, expected True.*Fix"),
        ({"parallel_process": True}, InvalidInputError, "parallel_process: got True, expected False.*Fix"),
        ({"model_name": "/nowhere"}, CheckpointNotFoundError, "/nowhere"),
        ({"max_length": 10**6}, InvalidInputError, "max_length"),
        ({"overflow": "cut"}, InvalidInputError, "overflow"),
        ({"misspelt": 1}, ValueError, "misspelt"),
        ({"embed_batch_size": 0}, ValueError, "embed_batch_size"),
    ],
)
def test_bad_settings(checkpoint, options, error, match):
    with pytest.raises(error, match=match):
        BGEM3Embedding(**{"model_name": str(checkpoint), "backend": "onnx", **options})


def test_bad_text(embed_model):
    with pytest.raises(InvalidTextError, match=r"texts\[0\]"):
        embed_model.get_text_embedding("\ud800")


@pytest.mark.parametrize("kind", [BGEM3Embedding, BGEM3SparseEmbedding])
@pytest.mark.parametrize(
    "copy", [lambda model: pickle.loads(pickle.dumps(model)), deepcopy], ids=["pickle", "deepcopy"]
)
def test_a_copy_leaves_the_model_behind(kind, copy, embed_model):
    model = kind(model_name=embed_model.model_name, backend="onnx", device="cpu")
    assert len(pickle.dumps(model)) < 10_000
    again = copy(model)
    assert again._shared is None
    assert again == model or again.model_dump() == model.model_dump()
    assert again.device == "cpu"
    assert again.get_text_embedding("a") == pytest.approx(model.get_text_embedding("a"), abs=1e-5)
    assert model._shared is not None


def test_a_worker_process_loads_its_own_model(embed_model):
    nodes = [TextNode(text=text) for text in TEXTS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        embedded = pool.apply(embed_model, (nodes,))
    expected = embed_model.get_text_embedding_batch(TEXTS)
    for node, vector in zip(embedded, expected, strict=True):
        assert node.embedding == pytest.approx(vector, abs=1e-5)


def test_an_embedding_over_a_loaded_encoder(embed_model):
    model = BGEM3Embedding.from_encoder(embed_model.shared.encoder, embed_batch_size=7)
    assert model.shared is embed_model.shared
    assert model.embed_batch_size == 7
    assert model.max_length == embed_model.shared.encoder.lengths.max_length


def test_models_do_not_share_an_embeddings_cache(checkpoint, embed_model):
    cache = SimpleKVStore()
    short = BGEM3Embedding(str(checkpoint), backend="onnx", max_length=16, embeddings_cache=cache)
    full = BGEM3Embedding(str(checkpoint), backend="onnx", embeddings_cache=cache)
    text = "the cat sat on the mat " * 8
    first = short.get_text_embedding(text)
    assert full.get_text_embedding(text) == pytest.approx(embed_model.get_text_embedding(text), abs=1e-5)
    assert short.get_text_embedding(text) == first
    assert full.get_text_embedding_batch([text])[0] != pytest.approx(first, abs=1e-3)


async def test_models_do_not_share_an_embeddings_cache_in_async_code(checkpoint, embed_model, passes):
    cache = SimpleKVStore()
    model = BGEM3Embedding(str(checkpoint), backend="onnx", embeddings_cache=cache)
    await model.aget_text_embedding_batch(TEXTS)
    await model.aget_text_embedding_batch(TEXTS)
    assert passes.sequences == len(TEXTS)


def test_a_copy_with_other_lengths_has_its_own_cached_vectors(checkpoint):
    text = "word " * 60
    first = BGEM3Embedding(model_name=str(checkpoint), embeddings_cache=SimpleKVStore())
    short = first.model_copy(update={"max_length": 16})
    expected = BGEM3Embedding(model_name=str(checkpoint), max_length=16).get_text_embedding(text)
    assert first.get_text_embedding(text) != expected
    for _ in range(2):
        assert short.get_text_embedding(text) == expected
