"""The rotation keeps norms and products, and can be undone."""

import numpy as np
import pytest

from bgem3.index.rotation import rotate, rotate_back


@pytest.mark.parametrize("dim", [1, 2, 3, 24, 100, 192, 1024])
def test_it_is_orthogonal(dim):
    matrix = rotate(np.eye(dim, dtype=np.float32))
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(dim), atol=1e-5)
    vectors = np.random.default_rng(0).normal(size=(5, dim)).astype(np.float32)
    np.testing.assert_allclose(rotate(vectors), vectors @ matrix, atol=1e-5)
    np.testing.assert_allclose(rotate_back(rotate(vectors)), vectors, atol=1e-5)


def test_a_single_large_number_is_spread_over_all():
    peak = np.zeros((1, 1024), dtype=np.float32)
    peak[0, 17] = 1
    assert np.abs(rotate(peak)).max() < 5 / 32


def test_what_is_rotated_stays_as_it_was():
    vectors = np.ones((2, 8), dtype=np.float32)
    rotate(vectors)
    rotate_back(vectors)
    assert (vectors == 1).all()
