"""How long a call takes; what a system of the encoding benchmarks gives, and how near that is to the reference."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from bgem3.embeddings import MultiVectors

Result = dict[str, Any]
Encode = Callable[[Sequence[str]], Result]


def timed(run: Callable[..., object], *over: Any) -> float:
    start = time.perf_counter()
    run(*over)
    return time.perf_counter() - start


def save(path: Path, result: Result) -> None:
    arrays = {"dense": np.asarray(result["dense"], np.float32)}
    if "sparse" in result:
        sparse = result["sparse"]
        vectors = MultiVectors.from_list([np.asarray(text, np.float32) for text in result["vectors"]])
        arrays |= {"tokens": np.concatenate([np.array([*row], np.int64) for row in sparse])}
        arrays |= {"weights": np.concatenate([np.array([*row.values()], np.float32) for row in sparse])}
        arrays |= {"rows": np.cumsum([len(row) for row in sparse])}
        arrays |= {"vectors": vectors.vectors, "offsets": vectors.offsets}
    np.savez(path, **arrays)


def errors(got: Any, exact: Any) -> str:
    """Return dense cosine, mean and lowest; sparse overlap; the largest error of MaxSim between neighbouring texts."""
    cosines = np.einsum("ij,ij->i", got["dense"], exact["dense"])
    said = f"{cosines.mean():.5f} / {cosines.min():.5f}"
    if "tokens" not in got:
        return f"{said} | - | -"
    overlaps = [overlap(*pair) for pair in zip(rows(got), rows(exact), strict=True)]
    left, right = maxsims(got), maxsims(exact)
    return f"{said} | {np.mean(overlaps):.4f} | {np.abs(left - right).max():.1e}"


def rows(part: Any) -> list[dict[int, float]]:
    ends = [0, *part["rows"]]
    tokens, weights = part["tokens"], part["weights"]
    return [dict(zip(tokens[a:b].tolist(), weights[a:b].tolist(), strict=True)) for a, b in pairwise(ends)]


def overlap(one: dict[int, float], other: dict[int, float]) -> float:
    """Return the weight that two rows share, over the weight that either has: 1 where they are equal."""
    keys = one.keys() | other.keys()
    most = sum(max(one.get(key, 0.0), other.get(key, 0.0)) for key in keys)
    return sum(min(one.get(key, 0.0), other.get(key, 0.0)) for key in keys) / most if most else 1.0


def maxsims(part: Any) -> np.ndarray:
    texts = [*MultiVectors(part["vectors"], part["offsets"])]
    return np.array([(one @ other.T).max(axis=1).mean() for one, other in pairwise(texts)])
