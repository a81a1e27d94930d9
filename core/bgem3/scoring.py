"""The model's three scores, as formulas in one place.

Source: M3-Embedding (arXiv 2402.03216), section 3.2, and FlagEmbedding's `compute_score`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.errors import HeadNotEncodedError, InvalidInputError
from bgem3.types import HEADS, FloatArray, Head, Weights

# Token vectors of either side that are multiplied at once: 64 MB of similarities at most, unless one text has more.
_BLOCK = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """Scores of every query against every passage, one `(n_queries, n_passages)` array a head.

    A head is None where queries or passages were encoded without it. Higher is better.
    Dense and multi-vector lie in [-1, 1]; sparse is >= 0 and rarely above 0.5.
    """

    dense: FloatArray | None = None
    sparse: FloatArray | None = None
    multi_vector: FloatArray | None = None

    def pair(self, row: int, column: int) -> dict[Head, float]:
        """Return the scores of query `row` and passage `column`, of each head that was scored."""
        parts = ((head, getattr(self, head)) for head in HEADS)
        return {head: float(part[row, column]) for head, part in parts if part is not None}

    def combine(self, weights: Weights = Weights.balanced) -> FloatArray:
        """Return the weighted mean of the heads, `(n_queries, n_passages)` float32.

        Raises:
            HeadNotEncodedError: a head with a weight above zero was not scored.

        Source: FlagEmbedding `compute_score`, "colbert+sparse+dense".
        """
        total: FloatArray | None = None
        for head in weights.heads:
            part: FloatArray | None = getattr(self, head)
            if part is None:
                raise HeadNotEncodedError(
                    f"weights: {head} has a weight but was not encoded. Fix: encode with heads=(..., {head!r}) "
                    f"or set its weight to 0"
                )
            weighted = part * np.float32(getattr(weights, head) / weights.total)
            total = weighted if total is None else total + weighted
        assert total is not None  # Weights has at least one head above zero
        return total


def score(queries: M3Embeddings, passages: M3Embeddings) -> Scores:
    """Score every query against every passage, by each head that both have.

    Args:
        queries: `n_queries` encoded texts.
        passages: `n_passages` encoded texts.

    Returns:
        `(n_queries, n_passages)` float32 per head.

    Raises:
        InvalidInputError: the two come from models of different sizes, or a text has no token vectors.
    """
    shared = [head for head in HEADS if head in queries.heads and head in passages.heads]
    return Scores(
        dense=dense_scores(queries.dense, passages.dense) if "dense" in shared else None,
        sparse=sparse_scores(queries.sparse, passages.sparse) if "sparse" in shared else None,
        multi_vector=max_sim(queries.multi_vector, passages.multi_vector) if "multi_vector" in shared else None,
    )


def score_pairs(embeddings: M3Embeddings, rows: Sequence[int], columns: Sequence[int]) -> Scores:
    """Score text `rows[i]` against text `columns[i]` by all heads, all pairs of one row at once.

    Returns:
        `(n_pairs, 1)` float32 per head.
    """
    places: dict[int, list[int]] = {}
    for place, row in enumerate(rows):
        places.setdefault(row, []).append(place)
    result = {head: np.empty((len(rows), 1), dtype=np.float32) for head in HEADS}
    for row, found in places.items():
        scores = score(embeddings[[row]], embeddings[[columns[place] for place in found]])
        for head in HEADS:
            result[head][found, 0] = getattr(scores, head)[0]
    return Scores(**result)


def dense_scores(queries: FloatArray, passages: FloatArray) -> FloatArray:
    """Return dot products, `(n_queries, dim)` x `(n_passages, dim)` -> `(n_queries, n_passages)` float32."""
    _check_width("dense", queries.shape[1], passages.shape[1])
    return queries @ passages.T


def dense_row_scores(vector: FloatArray, rows: FloatArray) -> FloatArray:
    """Return dot products, `(dim,)` x `(n, dim)` -> `(n,)` float32.

    A row's score is the same to the last bit in any company: a matrix product rounds by place and count.
    """
    products: FloatArray = np.vecdot(rows, vector)
    return products


def sparse_scores(queries: csr_array, passages: csr_array) -> FloatArray:
    """Return sums over shared token ids of the two weights' product, `(n_queries, n_passages)` float32."""
    _check_width("sparse", queries.shape[1], passages.shape[1])
    return np.asarray((queries @ passages.T).toarray(), dtype=np.float32)


def max_sim(queries: MultiVectors, passages: MultiVectors) -> FloatArray:
    """Return MaxSim: for each query vector its best match in the passage, averaged over the query.

    Args:
        queries: Token vectors of `n_queries` texts; every text has at least one.
        passages: Token vectors of `n_passages` texts; every text has at least one.

    Returns:
        `(n_queries, n_passages)` float32 in [-1, 1]. It is a mean: engines that return the sum
        are divided by the number of query vectors. No padding is ever compared.

    Source: ColBERT (arXiv 2004.12832), averaged as in M3-Embedding, equation 5.
    """
    _check_width("multi_vector", queries.dim, passages.dim)
    for name, part in (("queries", queries), ("passages", passages)):
        if np.any(part.lengths == 0):
            raise InvalidInputError(f"{name}: text {int(np.argmin(part.lengths))} has no token vectors")
    result = np.empty((len(queries), len(passages)), dtype=np.float32)
    if not result.size:
        return result
    for some in _blocks(queries):
        begin, end = queries.offsets[some.start], queries.offsets[some.stop]
        for others in _blocks(passages):
            first, last = passages.offsets[others.start], passages.offsets[others.stop]
            similarity = queries.vectors[begin:end] @ passages.vectors[first:last].T
            best = np.maximum.reduceat(similarity, passages.offsets[others] - first, axis=1)
            result[some, others] = np.add.reduceat(best, queries.offsets[some] - begin, axis=0)
    result /= queries.lengths[:, None].astype(np.float32)
    return result


def _blocks(texts: MultiVectors) -> Iterator[slice]:
    """Cut texts into runs of about `_BLOCK` token vectors."""
    start = 0
    while start < len(texts):
        stop = int(np.searchsorted(texts.offsets, texts.offsets[start] + _BLOCK, side="right")) - 1
        yield slice(start, start := max(stop, start + 1))


def _check_width(head: str, left: int, right: int) -> None:
    if left != right:
        raise InvalidInputError(
            f"{head}: queries are {left} wide and passages {right}. Fix: encode both with the same checkpoint"
        )
