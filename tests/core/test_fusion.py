"""Fusion by score and by rank, by hand."""

import numpy as np
import pytest

from bgem3.fusion import rrf, weighted_mean
from bgem3.types import Weights


def test_weighted_mean():
    scores = {
        "dense": np.float32([0.8, 0.2]),
        "sparse": np.float32([0.1, 0.4]),
        "multi_vector": np.float32([0.6, 0.5]),
    }
    result = weighted_mean(scores, Weights(2, 1, 1))
    assert result.dtype == np.float32
    assert result == pytest.approx([(2 * 0.8 + 0.1 + 0.6) / 4, (2 * 0.2 + 0.4 + 0.5) / 4])


def test_only_ratios_of_weights_matter():
    scores = {head: np.float32([0.3, 0.9]) * (i + 1) for i, head in enumerate(("dense", "sparse", "multi_vector"))}
    assert weighted_mean(scores, Weights(1, 2, 3)) == pytest.approx(weighted_mean(scores, Weights(10, 20, 30)))


def test_a_head_without_weight_need_not_be_there():
    assert weighted_mean({"sparse": np.float32([0.4])}, Weights(0, 5, 0)) == pytest.approx([0.4])


def test_rrf():
    first, second = np.array([7, 3, 9]), np.array([3, 5])
    assert rrf([first, second], [1.0, 0.5], rrf_k=60) == pytest.approx(
        {7: 1 / 61, 3: 1 / 62 + 0.5 / 61, 9: 1 / 63, 5: 0.5 / 62}
    )


def test_rrf_of_nothing():
    assert rrf([], []) == {}
    assert rrf([np.array([], dtype=np.int64)], [1.0]) == {}
