"""What the encoder returns can be cut, joined and read."""

import numpy as np
import pytest
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import HeadNotEncodedError, InvalidInputError
from bgem3.types import HEADS
from tests.support.embeddings import random_embeddings


def assert_equal(left: M3Embeddings, right: M3Embeddings) -> None:
    assert left.heads == right.heads
    np.testing.assert_array_equal(left.dense, right.dense)
    np.testing.assert_array_equal(left.sparse.toarray(), right.sparse.toarray())
    np.testing.assert_array_equal(left.multi_vector.vectors, right.multi_vector.vectors)
    np.testing.assert_array_equal(left.multi_vector.offsets, right.multi_vector.offsets)


def test_multi_vectors_are_views_of_one_array():
    parts = [np.float32([[1, 2], [3, 4]]), np.float32([[5, 6]])]
    vectors = MultiVectors.from_list(parts)
    assert (len(vectors), vectors.dim, vectors.lengths.tolist()) == (2, 2, [2, 1])
    assert vectors[-1].tolist() == [[5, 6]]
    assert np.shares_memory(vectors[0], vectors.vectors)
    assert [part.tolist() for part in vectors] == [part.tolist() for part in parts]
    assert vectors[1:].offsets.tolist() == [0, 1]
    assert MultiVectors.from_list([], 7).dim == 7
    with pytest.raises(IndexError, match="text 2 of 2"):
        vectors[2]


@pytest.mark.parametrize("offsets", [[0, 2], [1, 3], [0, 2, 1, 3]])
def test_offsets_must_cover_the_vectors(offsets):
    with pytest.raises(InvalidInputError, match="expected to rise from 0 to 3"):
        MultiVectors(np.zeros((3, 2), np.float32), np.array(offsets))


def test_slices_and_lists_of_positions():
    every = random_embeddings(6)
    some = every[[4, 0]]
    assert len(some) == 2
    np.testing.assert_array_equal(some.dense, every.dense[[4, 0]])
    np.testing.assert_array_equal(some.multi_vector[0], every.multi_vector[4])
    assert some.lexical_weights(1) == every.lexical_weights(0)
    assert len(every[2:]) == 4
    assert every.lexical_weights(-1) == every.lexical_weights(5)
    with pytest.raises(IndexError):
        every.lexical_weights(6)
    assert_equal(every[-2], every[4:5])
    assert_equal(M3Embeddings.concatenate([*every]), every)
    assert len(every[[]]) == 0


def test_concatenate_undoes_slicing():
    every = random_embeddings(6)
    assert_equal(M3Embeddings.concatenate([every[:1], every[1:1], every[1:4], every[4:]]), every)
    with pytest.raises(InvalidInputError, match="with the same heads"):
        M3Embeddings.concatenate([every, M3Embeddings(dense=every.dense)])
    with pytest.raises(InvalidInputError, match="one or more"):
        M3Embeddings.concatenate([])


def test_a_head_that_was_not_encoded():
    only = M3Embeddings(sparse=random_embeddings(2).sparse)
    assert only.heads == ("sparse",)
    assert len(only[[1]]) == 1
    for head in ("dense", "multi_vector"):
        with pytest.raises(HeadNotEncodedError, match=f"{head}: this head was not encoded. Fix: pass it to encode"):
            getattr(only, head)


def test_heads_of_different_lengths_are_refused():
    with pytest.raises(InvalidInputError, match=r"of equal length, got {'dense': 2, 'sparse': 3}"):
        M3Embeddings(dense=random_embeddings(2).dense, sparse=random_embeddings(3).sparse)
    with pytest.raises(InvalidInputError, match="one or more"):
        M3Embeddings()


def test_to_flag():
    embeddings = M3Embeddings(
        dense=np.float32([[1, 0]]),
        sparse=csr_array(np.float32([[0, 0.5, 0, 0.25]])),
        multi_vector=MultiVectors.from_list([np.float32([[0, 1], [1, 0]])]),
    )
    flag = embeddings.to_flag()
    assert flag["dense_vecs"].tolist() == [[1, 0]]
    assert flag["lexical_weights"] == [{"1": 0.5, "3": 0.25}]
    assert flag["lexical_weights"][0]["2"] == 0  # FlagEmbedding's are of this kind, and code relies on it
    assert flag["colbert_vecs"][0].tolist() == [[0, 1], [1, 0]]
    assert M3Embeddings(dense=embeddings.dense).to_flag()["lexical_weights"] is None
    assert repr(embeddings) == f"M3Embeddings(1 texts, heads={HEADS})"


def test_only_some_heads():
    both = M3Embeddings(dense=np.eye(2, dtype=np.float32), sparse=csr_array(np.float32([[0, 1], [2, 0]])))
    assert both.only(["sparse"]).heads == ("sparse",)
    assert both.only(["sparse", "multi_vector"]).sparse is both.sparse
    assert both.only(["multi_vector", "sparse", "dense"]) is both
