"""Bulk ingestion on a local Ray with two workers; needs the `ray` extra."""

from __future__ import annotations

import numpy as np

from bgem3.ray_ingest import pack, unpack
from bgem3.types import Chunk
from tests.support.vectors import MULTI_DIM, VOCAB, embed


def test_columns_and_back():
    chunks = [Chunk(text, text, {"n": 1, "tags": ["a"]}) for text in ("x", "y", "猫")]
    embeddings = embed(["x", "y", "猫"])
    found, same = unpack(pack(chunks, embeddings), VOCAB, MULTI_DIM)
    assert found == chunks
    np.testing.assert_array_equal(same.dense, embeddings.dense)
    np.testing.assert_array_equal(same.sparse.toarray(), embeddings.sparse.toarray())
    np.testing.assert_allclose(same.multi_vector.vectors, embeddings.multi_vector.vectors, atol=1e-3)
    assert unpack(pack([], embed([])), VOCAB, MULTI_DIM)[0] == []
