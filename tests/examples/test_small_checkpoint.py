"""The checkpoint in the repository means the same to FlagEmbedding, to sentence-transformers and to us."""

from __future__ import annotations

import json
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


def test_a_word_weighs_much_as_in_bm25():
    """A passage alone, and with two others of its language after it: a token's weight changes with `tf / (tf + 1.2 (0.25 + 0.75 length / 200))`.

    It falls where the text is longer, and rises where the token comes again.
    """
    encoder = M3Encoder.from_pretrained(CHECKPOINT, precision="float32")
    lines = (CHECKPOINT.parent / "data" / "collection.jsonl").read_text("utf-8").splitlines()
    by_language = {}
    for one in map(json.loads, lines):
        by_language.setdefault(one["lang"], []).append(one["text"])
    pairs = [(some[i], " ".join(some[i : i + 3])) for some in by_language.values() for i in range(len(some) - 2)]
    wanted, got = [], []
    for texts in pairs:
        rows = encoder.encode(list(texts), heads=("sparse",))
        alone, joined = (rows.lexical_weights(i) for i in range(2))
        quotients = []
        for counts in (encoder.token_counts([text]) for text in texts):
            room = 1.2 * (0.25 + 0.75 * counts.sum() / 200)
            quotients.append(dict(zip(counts.indices, counts.data / (counts.data + room), strict=True)))
        for token in alone.keys() & joined.keys():
            if alone[token] < 0.05:  # a ratio of two weights that are nearly zero says nothing
                continue
            wanted.append(quotients[1][token] / quotients[0][token])
            got.append(joined[token] / alone[token])
    wanted, got = np.array(wanted), np.array(got)
    # Measured 2026-11-26: correlation 0.80, longer 0.80, more often 1.14.
    assert np.corrcoef(wanted, got)[0, 1] > 0.7
    assert got[wanted < 0.8].mean() < 0.9
    assert got[wanted > 1.1].mean() > 1.05
