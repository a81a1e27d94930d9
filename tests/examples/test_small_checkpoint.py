"""The checkpoint in the repository means the same to FlagEmbedding, to sentence-transformers and to us."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from FlagEmbedding import BGEM3FlagModel
from sentence_transformers import SentenceTransformer

from bgem3 import M3Encoder
from bgem3.embeddings import M3Embeddings

CHECKPOINT = Path(__file__).parents[2] / "examples" / "bge-m3-mini"
TEXTS = [
    "A farmer saw a new volcano start in his field. Where was that?",
    "龙井茶产于浙江杭州一带，属于绿茶。",
    "بركان نشط في شرق آسيا <pad>",
    "E-4107: der Drucker meldet einen Papierstau; E-4170 nicht.",
    "",
]
TOLERANCE = 1e-4


@pytest.fixture(scope="module", params=["onnx", "torch"])
def ours(request) -> M3Embeddings:
    return M3Encoder.from_pretrained(CHECKPOINT, backend=request.param, precision="float32").encode(TEXTS)


@pytest.fixture(scope="module")
def flag() -> dict:
    model = BGEM3FlagModel(str(CHECKPOINT), use_fp16=False, devices="cpu")
    return model.encode(TEXTS, return_dense=True, return_sparse=True, return_colbert_vecs=True)


def test_flag_embedding_gives_the_same_three_heads(ours, flag):
    mine = ours.to_flag()
    np.testing.assert_allclose(mine["dense_vecs"], flag["dense_vecs"], rtol=0, atol=TOLERANCE)
    for got, expected in zip(mine["lexical_weights"], flag["lexical_weights"], strict=True):
        assert got == pytest.approx(dict(expected), abs=TOLERANCE)
    for got, expected in zip(mine["colbert_vecs"], flag["colbert_vecs"], strict=True):
        np.testing.assert_allclose(got, expected, rtol=0, atol=TOLERANCE)
    assert len(mine["lexical_weights"][0]) > 5


def test_sentence_transformers_gives_the_same_dense_vectors(ours):
    model = SentenceTransformer(str(CHECKPOINT), device="cpu").float()
    np.testing.assert_allclose(ours.dense, model.encode(TEXTS), rtol=0, atol=TOLERANCE)


def test_a_word_weighs_nearly_as_in_bm25():
    """`tf / (tf + 1.2 (0.25 + 0.75 length / 200))`, learnt: more the more often it stands, less the longer the text is."""
    encoder = M3Encoder.from_pretrained(CHECKPOINT, precision="float32")
    others = ["red", "green", "blue", "black", "white", "brown", "grey", "pink", "north", "south", "east", "west"]
    counts, lengths = (1, 1, 4, 1, 8), (13, 100, 100, 300, 300)
    texts = [
        " ".join(["volcano"] * count + [others[i % 12] for i in range(length - count)])
        for count, length in zip(counts, lengths, strict=True)
    ]
    rows = encoder.encode(texts, heads=("sparse",))
    (token,) = encoder.token_counts(["volcano"]).indices
    weights = [rows.lexical_weights(row)[int(token)] for row in range(len(texts))]
    quotients = [n / (n + 1.2 * (0.25 + 0.75 * length / 200)) for n, length in zip(counts, lengths, strict=True)]
    np.testing.assert_allclose(np.array(weights) / weights[0], np.array(quotients) / quotients[0], rtol=0.4)
    short, once, often, longer, longer_often = weights
    assert longer < once < short
    assert often > once
    assert longer_often > longer
