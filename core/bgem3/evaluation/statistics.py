"""How sure a difference is: intervals and paired tests over questions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

_RESAMPLES = 2000
_PERMUTATIONS = 10_000


def mean_interval(values: Values, *, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval (percentile) of the mean of one value a question.

    Source: Efron, Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    from scipy.stats import bootstrap

    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    found = bootstrap((values,), np.mean, method="percentile", n_resamples=_RESAMPLES, batch=100, rng=seed)
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def paired_p(left: Values, right: Values, *, seed: int = 0) -> float:
    """Return the two-sided p value of the mean difference over the same questions, by random sign flips.

    At least 0.0002, twice one in 10,001, since 10,000 flips are drawn; all of them where there are fewer.

    Source: Smucker, Allan, Carterette, "A comparison of statistical significance tests for
        information retrieval evaluation", CIKM 2007.
    """
    from scipy.stats import permutation_test

    difference = left - right
    if len(difference) < 2 or not difference.any():
        return 1.0
    found = permutation_test(
        (difference,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_PERMUTATIONS,
        batch=500,
        rng=seed,
    )
    return float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for asking several questions at once, in the order given.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    order = np.argsort(p_values, kind="stable")
    steps = np.asarray(p_values, dtype=np.float64)[order] * np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(p_values) else steps
    return [float(p) for p in corrected]
