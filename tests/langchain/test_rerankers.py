from __future__ import annotations

import copy

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker, DocumentCompressorPipeline
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document

from bgem3 import Weights, score
from bgem3.errors import InvalidInputError
from langchain_bgem3 import BGEM3CrossEncoder, BGEM3Reranker, BGEM3Retriever
from tests.langchain.compressors import CompressorSuite
from tests.langchain.conftest import TEXTS

QUERY = "The key lies under the mat."
DOCUMENTS = [Document(text, id=str(i)) for i, text in enumerate(TEXTS)]


class TestReranker(CompressorSuite):
    @pytest.fixture
    def make(self, settings):
        return lambda top_n: BGEM3Reranker(**settings, top_n=top_n)


def test_scores_are_the_weighted_mean_of_the_heads(settings, encoder):
    heads = score(encoder.encode([QUERY]), encoder.encode(TEXTS))
    reranker = BGEM3Reranker(**settings, top_n=None, weights={"dense": 1, "sparse": 3}, head_scores=True)
    for document in reranker.compress_documents(DOCUMENTS, QUERY):
        row = int(document.id)
        expected = (heads.dense[0, row] + 3 * heads.sparse[0, row]) / 4
        assert document.metadata["relevance_score"] == pytest.approx(expected, abs=1e-5)
        assert document.metadata["scores"]["multi_vector"] == pytest.approx(heads.multi_vector[0, row], abs=1e-5)


def test_threshold(settings):
    every = BGEM3Reranker(**settings, top_n=None).compress_documents(DOCUMENTS, QUERY)
    second = every[1].metadata["relevance_score"]
    kept = BGEM3Reranker(**settings, top_n=None, threshold=second).compress_documents(DOCUMENTS, QUERY)
    assert [document.id for document in kept] == [document.id for document in every[:2]]


def test_one_pass_for_each_text_and_the_query(settings, passes):
    BGEM3Reranker(**settings).compress_documents(DOCUMENTS, QUERY)
    assert passes.sequences == len(TEXTS) + 1


def test_it_shares_the_model_and_travels_without_it(settings, embeddings):
    reranker = BGEM3Reranker(**settings, weights=Weights.lexical)
    assert reranker.shared is embeddings.shared
    twin = copy.deepcopy(reranker)
    assert twin._shared is None
    assert twin.compress_documents(DOCUMENTS, QUERY) == reranker.compress_documents(DOCUMENTS, QUERY)
    assert BGEM3Reranker.from_encoder(embeddings.encoder, top_n=2).encoder is embeddings.encoder


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"top_n": 0}, "top_n: got 0, expected a whole number >= 1. Fix: top_n=3"),
        ({"weights": {"dense": 0}}, "the sum must be > 0"),
        ({"weights": [1, 1, 1]}, "expected Weights or a mapping"),
    ],
    ids=str,
)
def test_bad_options(settings, fields, message):
    with pytest.raises(InvalidInputError, match=message):
        BGEM3Reranker(**settings, **fields)


@pytest.mark.parametrize("kind", ["reranker", "cross encoder", "pipeline"])
async def test_behind_a_retriever(settings, index, kind):
    reranker = BGEM3Reranker(**settings, top_n=2)
    compressor = {
        "reranker": reranker,
        "cross encoder": CrossEncoderReranker(model=BGEM3CrossEncoder(**settings), top_n=2),
        "pipeline": DocumentCompressorPipeline(transformers=[reranker]),
    }[kind]
    retriever = ContextualCompressionRetriever(
        base_compressor=compressor, base_retriever=BGEM3Retriever(index=index, k=5, mode="dense")
    )
    expected = [hit.id for hit in index.search(QUERY, k=2, exhaustive=True)]
    assert [document.id for document in retriever.invoke(QUERY)] == expected
    assert [document.id for document in await retriever.ainvoke(QUERY)] == expected


def test_cross_encoder_scores(settings, encoder):
    cross_encoder = BGEM3CrossEncoder(**settings)
    assert isinstance(cross_encoder, BaseCrossEncoder)
    pairs = [(QUERY, TEXTS[0]), (QUERY, TEXTS[3]), (TEXTS[3], TEXTS[0])]
    combined = score(encoder.encode([QUERY, TEXTS[3]]), encoder.encode(TEXTS)).combine()
    scores = cross_encoder.score(pairs)
    assert scores == pytest.approx([combined[0, 0], combined[0, 3], combined[1, 0]], abs=1e-5)
    assert all(type(one) is float for one in scores)
    assert cross_encoder.score([]) == []


def test_cross_encoder_weights(settings, encoder):
    dense = BGEM3CrossEncoder(**settings, weights={"dense": 1}).score([(QUERY, TEXTS[1])])
    assert dense == pytest.approx([float(encoder.encode([QUERY]).dense[0] @ encoder.encode(TEXTS).dense[1])], abs=1e-5)
    with pytest.raises(InvalidInputError, match="dense must be a finite number"):
        BGEM3CrossEncoder(**settings, weights={"dense": -1})
