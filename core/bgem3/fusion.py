"""Two ways to merge the heads: by score and by rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from bgem3.types import FloatArray, Head, Weights


def weighted_mean(scores: Mapping[Head, FloatArray], weights: Weights) -> FloatArray:
    """Return the weighted mean of the heads' scores of the same candidates, `(n,)` float32.

    Args:
        scores: `(n,)` scores for every head whose weight is above zero.
        weights: How much each head counts.

    Source: Bruch et al. 2023 (arXiv 2210.11934): a convex combination beats rank fusion; raw
        scores need no normalisation here, since the heads were trained on their raw sum.
    """
    parts = [scores[head] * np.float32(getattr(weights, head) / weights.total) for head in weights.heads]
    total: FloatArray = np.sum(parts, axis=0, dtype=np.float32)
    return total


def rrf(rankings: Sequence[NDArray[np.int64]], weights: Sequence[float], rrf_k: int = 60) -> dict[int, float]:
    """Return reciprocal rank fusion scores: the sum over rankings of `weight / (rrf_k + rank)`.

    Args:
        rankings: Row ids, best first; rank 1 is the best. A row missing from a list adds nothing.
        weights: One a ranking, >= 0.
        rrf_k: Dampens the first ranks; 60 in the source.

    Source: Cormack, Clarke, Buettcher, SIGIR 2009.
    """
    fused: dict[int, float] = {}
    for ranking, weight in zip(rankings, weights, strict=True):
        for rank, row in enumerate(ranking.tolist(), start=1):
            fused[row] = fused.get(row, 0.0) + weight / (rrf_k + rank)
    return fused
