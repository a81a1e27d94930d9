"""Intervals and p values on numbers that can be checked by hand."""

import numpy as np
import pytest

from bgem3.evaluation.statistics import holm, mean_interval, paired_p


def test_all_sign_flips_of_few_questions():
    # five differences of one sign: 2 of the 32 sign patterns are as extreme
    assert paired_p(np.full(5, 0.5), np.zeros(5)) == pytest.approx(2 / 32)
    # 0.2 - 0.2 = 0 is the least extreme mean there is
    assert paired_p(np.array([0.2, 0.0]), np.array([0.0, 0.2])) == pytest.approx(1)


def test_a_clear_and_an_absent_difference():
    random = np.random.default_rng(0)
    base = random.random(200)
    assert paired_p(base + random.normal(0.1, 0.1, 200), base) < 0.001
    assert paired_p(base + random.normal(0.0, 0.1, 200), base) > 0.05
    assert paired_p(base, base) == 1


def test_the_interval_is_that_of_the_normal_distribution_for_many_questions():
    values = np.random.default_rng(0).normal(0.5, 0.2, 1000)
    low, high = mean_interval(values)
    half = 1.96 * values.std() / np.sqrt(1000)
    assert (low, high) == (
        pytest.approx(values.mean() - half, abs=0.002),
        pytest.approx(values.mean() + half, abs=0.002),
    )
    assert mean_interval(np.array([0.3])) == (0.3, 0.3)


def test_holm():
    # sorted 0.01, 0.02, 0.04 times 3, 2, 1 = 0.03, 0.04, 0.04
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.9, 0.8]) == [1, 1]
    assert holm([]) == []
