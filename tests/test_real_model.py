"""The real checkpoint against the values FlagEmbedding publishes for its README's sentences.

Run with BGEM3_TEST_MODEL=/folder/of/bge-m3; the values were made in float16, hence the tolerance.
"""

from __future__ import annotations

import os

import numpy as np
import pytest

from bgem3 import M3Encoder, score

MODEL = os.environ.get("BGEM3_TEST_MODEL")
pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(not MODEL, reason="set BGEM3_TEST_MODEL to a folder with BAAI/bge-m3 (2.3 GB) to run this"),
]

QUESTIONS = ["What is BGE M3?", "Defination of BM25"]
PASSAGES = [
    "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction.",
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms appearing "
    "in each document",
]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def encoder(request):
    return M3Encoder.from_pretrained(MODEL, backend=request.param)


def test_scores(encoder):
    scores = score(encoder.encode(QUESTIONS), encoder.encode(PASSAGES))
    np.testing.assert_allclose(scores.dense, [[0.6265, 0.3477], [0.3499, 0.678]], atol=2e-3)
    assert scores.sparse[0, 0] == pytest.approx(0.19554901123046875, abs=2e-3)
    np.testing.assert_allclose(scores.multi_vector[0], [0.7797, 0.4620], atol=2e-3)


def test_lexical_weights(encoder):
    embeddings = encoder.encode(QUESTIONS[:1])
    weights = embeddings.lexical_weights(0)
    found = dict(zip(encoder.tokenizer.tokens(list(weights)), weights.values(), strict=True))
    expected = {"What": 0.08356, "is": 0.0814, "B": 0.1296, "GE": 0.252, "M": 0.1702, "3": 0.2695, "?": 0.04092}
    for token, weight in expected.items():
        assert found.get(token, found.get(f"▁{token}")) == pytest.approx(weight, abs=2e-3)
