"""Maximal marginal relevance over hits that are scored already."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import numpy as np

from bgem3.errors import InvalidInputError
from bgem3.types import FloatArray, make_plan


def most_diverse(relevances: Sequence[float], vectors: FloatArray, *, k: int, lambda_mult: float) -> list[int]:
    """Choose hits that are relevant and unlike those chosen before them.

    Each next one has the highest `lambda_mult * relevance - (1 - lambda_mult) * similarity`, where
    similarity is the cosine to the nearest hit chosen.

    Args:
        relevances: One score a hit, comparable with a cosine.
        vectors: Dense vectors of the hits, `(n, dim)` float32, rows of norm 1.
        k: How many to choose.
        lambda_mult: 1 is relevance alone, 0 diversity alone.

    Returns:
        Positions, in the order they were chosen.

    Raises:
        InvalidInputError: `lambda_mult` is outside [0, 1].

    Source: Carbonell and Goldstein, SIGIR 1998.
    """
    if not isinstance(lambda_mult, Real) or not 0 <= lambda_mult <= 1:
        raise InvalidInputError(f"lambda_mult: got {lambda_mult}, expected 0 to 1. Fix: lambda_mult=0.5")
    worth = lambda_mult * np.asarray(relevances, dtype=np.float32)
    nearest = np.full(len(worth), -1.0, dtype=np.float32)
    chosen: list[int] = []
    left = np.ones(len(worth), dtype=bool)
    while len(chosen) < min(k, len(worth)):
        gain = worth - (1 - lambda_mult) * nearest if chosen else np.asarray(relevances, dtype=np.float32)
        best = int(np.argmax(np.where(left, gain, -np.inf)))
        chosen.append(best)
        left[best] = False
        nearest = np.maximum(nearest, vectors @ vectors[best])
    return chosen


def pool_size(k: int, fetch_k: int) -> int:
    """Return how many hits to choose `k` from.

    Raises:
        InvalidInputError: one of them is no whole number above 0.
    """
    make_plan({"k": k, "fetch_k": fetch_k})
    return max(k, fetch_k)
