"""Embeddings without a model: random unit vectors that follow from the text alone."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.types import IndexSettings

DIM, MULTI_DIM, VOCAB = 32, 16, 500
SETTINGS = IndexSettings(fingerprint="fake", dim=DIM, multi_dim=MULTI_DIM, vocab_size=VOCAB)


def embed(texts: Sequence[str]) -> M3Embeddings:
    """Return all three heads; equal texts have equal ones, others have hardly anything in common."""
    dense, tokens, sparse = [], [], np.zeros((len(texts), VOCAB), dtype=np.float32)
    for i, text in enumerate(texts):
        rng = np.random.default_rng(zlib.crc32(text.encode()))
        dense.append(_unit(rng.standard_normal((1, DIM)))[0])
        tokens.append(_unit(rng.standard_normal((int(rng.integers(1, 9)), MULTI_DIM))))
        sparse[i, rng.choice(VOCAB, 8, replace=False)] = rng.random(8) + 0.1
    return M3Embeddings(
        dense=np.array(dense, dtype=np.float32).reshape(len(texts), DIM),
        sparse=csr_array(sparse),
        multi_vector=MultiVectors.from_list(tokens, MULTI_DIM),
    )


def _unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
