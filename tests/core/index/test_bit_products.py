"""Sums by table, beside the same sums number by number."""

import numpy as np
import pytest

from bgem3.index.bit_products import best_of_bits, query_table


def chosen(codes, dim):
    return np.unpackbits(codes, axis=1)[:, :dim].astype(np.float64)


def best(codes, query, lengths):
    table, step = query_table(query)
    owners = np.repeat(np.arange(len(lengths)), lengths)
    factors = np.ones(len(codes), dtype=np.float32)
    return best_of_bits(codes, table, np.zeros(len(query), np.float32), factors, owners) * step


@pytest.mark.parametrize("dim", [1, 7, 8, 24, 36, 100, 1024])
@pytest.mark.parametrize("n", [1, 5, 32, 33, 70])
def test_the_best_of_each_text(dim, n):
    random = np.random.default_rng(dim * n)
    lengths = [1, 130, 3, 257]
    codes = random.integers(0, 256, (sum(lengths), -(-dim // 8)), dtype=np.uint8)
    query = random.normal(size=(n, dim)).astype(np.float32)
    sums = chosen(codes, dim) @ query.T
    expected = [part.max(axis=0) for part in np.split(sums, np.cumsum(lengths)[:-1])]
    # a number is off by half a step at most, and a step is a 32,000th of the largest sum
    np.testing.assert_allclose(
        best(codes, query, lengths), expected, atol=dim / 2 * np.abs(query).sum() / n / 32_000 + 1e-4
    )


@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sums_fit_16_bits(sign):
    """All numbers as large as the largest, all chosen: nothing else adds up to more."""
    query = np.full((1, 1024), sign * 0.49999, dtype=np.float32)
    codes = np.full((1, 128), 255, dtype=np.uint8)
    assert best(codes, query, [1])[0, 0] == pytest.approx(sign * 512, rel=0.02)


def test_centre_and_factor():
    query = np.array([[1, 2, 3, 4, 5, 6, 7, 8]], dtype=np.float32)
    table, step = query_table(query)
    codes = np.array([[0b11000000], [0b00000001]], dtype=np.uint8)
    centres, factors = np.array([2], np.float32) / step, np.array([10, 0.5], np.float32)
    each = best_of_bits(codes, table, centres, factors, np.array([0, 1])) * step
    np.testing.assert_allclose(each[:, 0], [(1 + 2 - 2) * 10, (8 - 2) * 0.5], rtol=1e-3)
    both = best_of_bits(codes, table, centres, factors, np.array([0, 0])) * step
    assert both[0, 0] == pytest.approx(10, rel=1e-3)


def test_a_query_of_zeros():
    assert best(np.full((1, 3), 255, np.uint8), np.zeros((2, 24), np.float32), [1]).tolist() == [[0, 0]]
