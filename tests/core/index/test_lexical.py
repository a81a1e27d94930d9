"""The inverted index against dense linear algebra, and BM25 against its formula."""

from math import log

import numpy as np
import pytest
from scipy.sparse import csr_array, vstack

from bgem3.index.lexical import LexicalIndex

VOCABULARY = 40


def row(weights: dict[int, float]) -> csr_array:
    data = np.array(list(weights.values()), dtype=np.float32)
    return csr_array((data, (np.zeros(len(weights), int), list(weights))), shape=(1, VOCABULARY))


def random_rows(n: int, seed: int, counts: bool = False) -> csr_array:
    random = np.random.default_rng(seed)
    values = random.integers(1, 5, (n, VOCABULARY)) if counts else random.random((n, VOCABULARY))
    return csr_array((values * (random.random((n, VOCABULARY)) < 0.2)).astype(np.float32))


def reference_top(scores: np.ndarray, n: int, allowed) -> list[int]:
    return sorted((i for i in allowed if scores[i] > 0), key=lambda i: (-scores[i], i))[:n]


def test_scores_are_dot_products_by_hand():
    index = LexicalIndex()
    index.add(np.array([0, 1, 2]), vstack([row({1: 0.5, 2: 0.25}), row({2: 1.0}), row({3: 1.0})], format="csr"))
    rows, scores = index.top(row({1: 2.0, 2: 4.0}), 10)
    assert rows.tolist() == [1, 0]
    assert scores.tolist() == [4.0 * 1.0, 2.0 * 0.5 + 4.0 * 0.25]
    assert index.scores(row({3: 0.5}), np.array([2, 0, 99])).tolist() == [0.5, 0, 0]


def test_ties_go_to_the_smaller_row():
    index = LexicalIndex()
    index.add(np.array([9, 3, 5]), vstack([row({1: 1.0})] * 3, format="csr"))
    assert index.top(row({1: 1.0}), 2)[0].tolist() == [3, 5]


@pytest.mark.parametrize("seed", range(5))
def test_adds_and_removes_in_any_order_agree_with_a_matrix(seed):
    random = np.random.default_rng(seed)
    every = random_rows(300, seed)
    index, alive, added = LexicalIndex(), set(), 0
    while added < 300:
        size = min(int(random.integers(1, 40)), 300 - added)
        index.add(np.arange(added, added + size), every[added : added + size])
        alive |= set(range(added, added + size))
        added += size
        gone = random.choice(added, size=int(random.integers(0, 25)))
        index.remove(gone)
        alive -= set(gone.tolist())
        query = random_rows(1, added)
        expected = (every @ query.T).toarray()[:, 0]
        assert len(index) == len(alive)
        for allowed in (None, np.sort(random.choice(300, 60, replace=False))):
            rows, scores = index.top(query, 10, allowed)
            candidates = alive if allowed is None else alive & set(allowed.tolist())
            np.testing.assert_allclose(
                scores, [expected[i] for i in reference_top(expected, 10, candidates)], atol=1e-6
            )
            np.testing.assert_allclose(scores, expected[rows], atol=1e-6)
            assert set(rows.tolist()) <= candidates


def bm25(counts: np.ndarray, query: np.ndarray) -> np.ndarray:
    """BM25 written out from the formula, divided by what a chunk could reach at most."""
    lengths = counts.sum(axis=1)
    scores, bound = np.zeros(len(counts)), 0.0
    for token in np.flatnonzero(query):
        frequency = np.count_nonzero(counts[:, token])
        idf = log(1 + (len(counts) - frequency + 0.5) / (frequency + 0.5))
        tf = counts[:, token]
        scores += query[token] * idf * tf * 2.2 / (tf + 1.2 * (0.25 + 0.75 * lengths / lengths.mean()))
        bound += query[token] * idf * 2.2
    return scores / bound


def test_bm25_is_its_formula_after_removals():
    counts = random_rows(100, 1, counts=True)
    index = LexicalIndex("bm25")
    index.add(np.arange(60), counts[:60])
    index.add(np.arange(60, 100), counts[60:])
    gone = np.arange(0, 100, 7)
    index.remove(gone)
    left = np.setdiff1d(np.arange(100), gone)
    query = row({3: 1.0, 8: 2.0, 39: 1.0})
    expected = bm25(counts.toarray()[left], query.toarray()[0])
    scores = index.scores(query, left)
    np.testing.assert_allclose(scores, expected, atol=1e-6)
    assert np.all((scores >= 0) & (scores < 1))
    assert index.top(query, 3)[0].tolist() == left[np.argsort(-expected, kind="stable")[:3]].tolist()


@pytest.mark.parametrize("weighting", ["m3", "bm25"])
def test_nothing_stored_nothing_asked(weighting):
    index = LexicalIndex(weighting)
    assert index.top(row({1: 1.0}), 5)[0].tolist() == []
    index.add(np.array([0, 1]), csr_array((2, VOCABULARY), dtype=np.float32))
    assert index.top(row({1: 1.0}), 5)[0].tolist() == []
    assert index.top(row({}), 5)[0].tolist() == []
    assert index.scores(row({}), np.array([0, 1])).tolist() == [0, 0]


def test_everything_removed_and_added_again():
    index = LexicalIndex()
    index.add(np.array([0]), row({1: 1.0}))
    index.top(row({1: 1.0}), 1)
    index.remove(np.array([0, 0, 7]))
    assert len(index) == 0
    assert index.top(row({1: 1.0}), 1)[0].tolist() == []
    index.add(np.array([1]), row({1: 1.0}))
    assert index.top(row({1: 1.0}), 1)[0].tolist() == [1]


@pytest.mark.parametrize("weighting", ["m3", "bm25"])
def test_parts_add_up_to_the_score(weighting):
    index = LexicalIndex(weighting)
    index.add(np.arange(30), random_rows(30, 0, counts=weighting == "bm25"))
    query = random_rows(1, 1, counts=weighting == "bm25")
    rows = np.array([4, 29, 0, 77])
    parts = index.parts(query, rows)
    assert all(set(part) <= set(query.indices.tolist()) for part in parts)
    np.testing.assert_allclose([sum(part.values()) for part in parts], index.scores(query, rows), rtol=1e-5)
    assert parts[3] == {}


def test_parts_by_hand():
    index = LexicalIndex()
    index.add(np.array([0]), row({1: 0.5, 2: 0.25, 5: 1.0}))
    assert index.parts(row({1: 2.0, 2: 4.0, 3: 1.0}), np.array([0])) == [{1: 1.0, 2: 1.0}]


def test_compacting_leaves_removed_rows_out_and_answers_alike(monkeypatch):
    monkeypatch.setattr("bgem3.index.lexical._WAITING", 1)
    monkeypatch.setattr("bgem3.index.lexical.SEGMENT_ROWS", 8)
    random = np.random.default_rng(3)
    dense = random.random((20, 30)).astype(np.float32) * (random.random((20, 30)) < 0.3)
    index = LexicalIndex()
    for start in range(0, 20, 4):
        index.add(np.arange(start, start + 4), csr_array(dense[start : start + 4]))
    index.remove(np.array([1, 2, 9]))
    query = csr_array(random.random((1, 30)).astype(np.float32))
    before = index.top(query, 20)
    assert sum(len(segment) for segment in index.segments()) > 17
    index.compact()
    assert [len(segment) for segment in index.segments()] == [6, 7, 4]
    for old, new in zip(before, index.top(query, 20), strict=True):
        np.testing.assert_array_equal(old, new)
