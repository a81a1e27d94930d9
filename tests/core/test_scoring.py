"""The three scores by hand, and MaxSim against plain loops."""

import tracemalloc

import numpy as np
import pytest
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import HeadNotEncodedError, InvalidInputError
from bgem3.scoring import Scores, dense_row_scores, dense_scores, max_sim, score, sparse_scores
from bgem3.types import HEADS, Weights
from tests.support.embeddings import head_scores, random_embeddings, unit


def test_dense():
    assert dense_scores(np.float32([[1, 0], [0.6, 0.8]]), np.float32([[0, 1]])).tolist() == [[0], [np.float32(0.8)]]


@pytest.mark.parametrize("dim", [2, 256, 1024])
def test_a_dense_score_is_the_same_bits_in_any_company(dim):
    random = np.random.default_rng(0)
    rows, vector = random.normal(size=(70, dim)).astype(np.float32), random.normal(size=dim).astype(np.float32)
    scores = dense_row_scores(vector, rows)
    np.testing.assert_allclose(scores, rows.astype(np.float64) @ vector, rtol=0, atol=1e-4)
    for first, last in [(0, 1), (1, 6), (3, 70), (69, 70)]:
        assert dense_row_scores(vector, rows[first:last].copy()).tolist() == scores[first:last].tolist()


def test_sparse_counts_shared_tokens_only():
    query = csr_array(np.float32([[0.5, 0, 0.25, 0]]))
    passages = csr_array(np.float32([[2, 8, 4, 0], [0, 1, 0, 1], [0, 0, 0, 0]]))
    assert sparse_scores(query, passages).tolist() == [[0.5 * 2 + 0.25 * 4, 0, 0]]


def test_max_sim_is_a_mean_over_query_vectors():
    query = MultiVectors.from_list([np.float32([[1, 0], [0, 1]])])
    passage = MultiVectors.from_list([np.float32([[0.6, 0.8], [0.8, 0.6], [-1, 0]])])
    assert max_sim(query, passage)[0, 0] == pytest.approx((0.8 + 0.8) / 2)


def test_max_sim_is_negative_where_every_vector_points_away():
    """A padded implementation would return 0 here."""
    query = MultiVectors.from_list([np.float32([[1, 0]])])
    passages = MultiVectors.from_list([np.float32([[-1, 0]]), np.float32([[-0.6, 0.8], [-0.8, 0.6], [-1, 0]])])
    assert max_sim(query, passages).tolist() == [[-1, np.float32(-0.6)]]


@pytest.mark.parametrize("lengths", [[1], [5000, 1, 4096, 4097, 3], [4096, 4096], [1] * 300])
def test_max_sim_does_not_depend_on_its_blocks(lengths):
    random = np.random.default_rng(0)
    passages = MultiVectors.from_list([random.normal(size=(n, 3)).astype(np.float32) for n in lengths])
    queries = MultiVectors.from_list([random.normal(size=(n, 3)).astype(np.float32) for n in (1, 4)])
    expected = [[(q @ p.T).max(axis=1).mean() for p in passages] for q in queries]
    np.testing.assert_allclose(max_sim(queries, passages), expected, atol=1e-5)


def test_score_agrees_with_plain_loops():
    queries, passages = random_embeddings(3, seed=1), random_embeddings(7, seed=2)
    scores = score(queries, passages)
    for i in range(3):
        expected = head_scores(queries[[i]], passages)
        for head in HEADS:
            assert getattr(scores, head).dtype == np.float32
            np.testing.assert_allclose(getattr(scores, head)[i], expected[head], atol=1e-6)


def test_score_of_the_heads_that_both_have():
    queries, passages = random_embeddings(2), random_embeddings(3)
    scores = score(M3Embeddings(dense=queries.dense, sparse=queries.sparse), passages)
    assert scores.dense.shape == (2, 3)
    assert scores.multi_vector is None
    assert scores.combine(Weights(1, 1, 0)) == pytest.approx((scores.dense + scores.sparse) / 2)
    with pytest.raises(HeadNotEncodedError, match="multi_vector has a weight but was not encoded"):
        scores.combine()


def test_combine_is_the_weighted_mean():
    one = Scores(np.float32([[0.6]]), np.float32([[0.2]]), np.float32([[0.7]]))
    assert one.combine()[0, 0] == pytest.approx((0.6 + 0.3 * 0.2 + 0.7) / 2.3)


def test_combinations_published_for_the_model():
    """The five score lists of `compute_score` in FlagEmbedding's README, weights 0.4, 0.2, 0.4."""
    scores = Scores(
        dense=np.float32([[0.6259765625, 0.347412109375], [0.349853515625, 0.67822265625]]),
        sparse=np.float32([[0.195556640625, 0.00879669189453125], [0.0, 0.1802978515625]]),
        multi_vector=np.float32([[0.7796499729156494, 0.4621465802192688], [0.4523794651031494, 0.7898575067520142]]),
    )
    np.testing.assert_allclose(
        scores.combine(Weights(0.4, 0.2, 0.4)),
        [[0.6013619303703308, 0.3255828022956848], [0.32089319825172424, 0.6232916116714478]],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        scores.combine(Weights(0.4, 0.2, 0)),
        [[0.482503205537796, 0.23454029858112335], [0.2332356721162796, 0.5122477412223816]],
        atol=1e-6,
    )


def test_no_queries_or_no_passages():
    some, none = random_embeddings(2), random_embeddings(2)[[]]
    assert score(some, none).multi_vector.shape == (2, 0)
    assert score(none, some).combine().shape == (0, 2)


def test_different_models_are_refused():
    ours, other = random_embeddings(1), np.ones((1, 5), dtype=np.float32)
    with pytest.raises(InvalidInputError, match="dense: queries are 12 wide and passages 5"):
        dense_scores(ours.dense, other)
    with pytest.raises(InvalidInputError, match="multi_vector: queries are 8 wide and passages 5"):
        max_sim(ours.multi_vector, MultiVectors.from_list([other]))


def test_a_text_without_token_vectors_is_refused():
    empty = MultiVectors.from_list([np.ones((2, 8), np.float32), np.ones((0, 8), np.float32)])
    with pytest.raises(InvalidInputError, match="passages: text 1 has no token vectors"):
        max_sim(random_embeddings(1).multi_vector, empty)


def test_max_sim_needs_memory_for_a_block_of_either_side():
    random = np.random.default_rng(0)
    many = MultiVectors(unit(random.normal(size=(60_000, 8)).astype(np.float32)), np.arange(0, 60_001, 20))
    tracemalloc.start()
    found = max_sim(many, MultiVectors(many.vectors[:8000], many.offsets[:401]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.shape == (3000, 400)
    assert peak < 250e6  # 60,000 x 4,096 similarities would be 983 MB
