"""Scores of all vectors in memory, beside a plain product."""

import numpy as np
import pytest

from bgem3.index.dense import LIMIT, DenseRows

DIM = 48
VECTORS = np.random.default_rng(0).normal(size=(12_000, DIM)).astype(np.float32)
QUERY = np.random.default_rng(1).normal(size=DIM).astype(np.float32)


def read(rows):
    """Row 2 i has vector i: numbers with gaps, as deleted chunks leave them."""
    return VECTORS[np.asarray(rows) // 2]


def rows_of(numbers):
    return 2 * np.asarray(numbers, dtype=np.int64)


def following(*states):
    dense = DenseRows.none(DIM)
    for live in states:
        dense = dense.follow(rows_of(live), read)
    return dense


def exact_top(numbers, n):
    scores = VECTORS[numbers] @ QUERY
    return rows_of(numbers)[np.argsort(-scores)[:n]], np.sort(scores)[::-1][:n]


def check(dense, numbers, n=20):
    rows, scores = dense.top(QUERY, n)
    expected = exact_top(np.asarray(numbers), n)
    np.testing.assert_array_equal(rows, expected[0])
    np.testing.assert_allclose(scores, expected[1], atol=2e-3)


@pytest.mark.parametrize("count", [1, 19, 20, 21, 1000, 1001, 12_000])
def test_the_best_of_all(count):
    check(following(range(count)), range(count))


def test_a_step_is_a_32767th_of_the_largest_number():
    dense = following(range(50))
    error = np.abs(dense.scores(QUERY, rows_of(range(50))) - VECTORS[:50] @ QUERY)
    # each number is off by half a step at most
    steps = np.abs(VECTORS[:50]).max(axis=1) / 32767
    assert np.all(error <= steps / 2 * np.abs(QUERY).sum() + 1e-5)


def test_scores_come_in_the_order_asked_and_do_not_depend_on_the_company():
    dense = following(range(9000))
    asked = rows_of([8000, 3, 500])
    every = dict(zip(dense.rows.tolist(), dense.scores(QUERY, dense.rows).tolist(), strict=True))
    assert dense.scores(QUERY, asked).tolist() == [every[row] for row in asked.tolist()]


def test_rows_come_and_go():
    states = [range(700), range(300, 700), range(300, 2500), [*range(400), *range(2400, 2600)], [5], range(40)]
    for i in range(len(states)):
        check(following(*states[: i + 1]), states[i])


def test_a_state_stays_as_it_is_while_later_ones_are_made():
    first = following(range(1000))
    before = first.top(QUERY, 20)
    later = first.follow(rows_of(range(500, 1800)), read).follow(rows_of(range(900, 5000)), read)
    np.testing.assert_array_equal(first.top(QUERY, 20), before)
    check(later, range(900, 5000))


def test_only_allowed_rows():
    dense = following(range(600))
    allowed = np.array([-7, 4, 8, 9, 10, 5000])
    rows, _ = dense.top(QUERY, 20, allowed)
    np.testing.assert_array_equal(np.sort(rows), [4, 8, 10])


def test_ties_go_to_the_smaller_row():
    same = np.ones((40, 3), dtype=np.float32)
    dense = DenseRows.none(3).follow(np.arange(40), lambda rows: same[rows])
    assert dense.top(same[0], 5)[0].tolist() == [0, 1, 2, 3, 4]


def test_nothing_and_zeros():
    assert [part.shape for part in DenseRows.none(DIM).top(QUERY, 5)] == [(0,), (0,)]
    zeros = DenseRows.none(3).follow(np.arange(2), lambda rows: np.zeros((len(rows), 3), np.float32))
    assert zeros.top(np.ones(3, np.float32), 5)[1].tolist() == [0, 0]


def test_the_most_rows_take_64_mib():
    assert LIMIT * 1024 * 2 == 64 * 2**20
