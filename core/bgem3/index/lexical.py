"""An exact inverted index over sparse rows: learned weights, or BM25 over token counts.

Postings lie in a few segments. New rows wait until the next query, become a small segment, and
segments of like size are merged, so that adding stays cheap and a query touches few of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array, vstack

from bgem3.types import FloatArray, IntArray, Lexical

# Robertson et al. 1994; the values Lucene ships with.
_K1 = np.float32(1.2)
_B = np.float32(0.75)
# A segment is merged into its left neighbour when that is less than this many times larger.
_GROWTH = 4


@dataclass(frozen=True, slots=True, eq=False)
class _Segment:
    """Posting lists one after the other: `tokens[i]` has the postings `starts[i]:starts[i + 1]`."""

    tokens: NDArray[np.uint32]
    starts: IntArray
    rows: NDArray[np.uint32]
    weights: FloatArray

    def find(self, token: int) -> slice:
        """Return where the postings of a token are; an empty slice where it has none."""
        at = int(np.searchsorted(self.tokens, token))
        if at == len(self.tokens) or self.tokens[at] != token:
            return slice(0, 0)
        return slice(int(self.starts[at]), int(self.starts[at + 1]))


class LexicalIndex:
    """Scores sparse rows by a dot product of learned weights (`m3`) or by BM25 over token counts.

    The scores of `bm25` are divided by what a chunk could reach at most for the query, which puts
    them in [0, 1) beside the other heads. Not thread-safe: queries settle what was added.

    Source: BM25 as in Lucene's BM25Similarity (idf = ln(1 + (N - df + 0.5) / (df + 0.5)), k1 = 1.2,
        b = 0.75), without its rounding of lengths.
    """

    def __init__(self, weighting: Lexical = "m3") -> None:
        self.weighting = weighting
        self._segments: list[_Segment] = []
        self._waiting: list[tuple[IntArray, csr_array]] = []
        self._alive = np.zeros(0, dtype=bool)
        self._lengths = np.zeros(0, dtype=np.float32)
        self._count = 0
        self._buried = 0

    def __len__(self) -> int:
        """Return the number of rows that can be found."""
        return self._count

    def add(self, rows: IntArray, sparse: csr_array) -> None:
        """Add new rows.

        Args:
            rows: `(n,)` row numbers >= 0, none of them ever used before, removed ones included.
            sparse: `(n, vocab_size)`, values > 0: weights for `m3`, token counts for `bm25`.
        """
        if not len(rows):
            return
        self._grow(int(rows.max()) + 1)
        self._alive[rows] = True
        self._lengths[rows] = sparse.sum(axis=1)
        self._count += len(rows)
        self._waiting.append((np.asarray(rows, dtype=np.int64), sparse))

    def remove(self, rows: IntArray) -> None:
        """Remove rows; those that are not there are left out."""
        rows = np.unique(rows)
        rows = rows[rows < len(self._alive)]
        gone = rows[self._alive[rows]]
        self._alive[gone] = False
        self._lengths[gone] = 0
        self._count -= len(gone)
        self._buried += len(gone)

    def top(self, query: csr_array, n: int, allowed: IntArray | None = None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows with a score above 0, and their scores, best first; ties by row.

        Args:
            query: `(1, vocab_size)` row: weights for `m3`, token counts for `bm25`.
            n: How many rows at most.
            allowed: Only these rows; None: all.
        """
        scores = self._score_all(query)
        if allowed is None:
            rows = np.flatnonzero(scores)
        else:
            allowed = allowed[allowed < len(scores)]
            rows = allowed[scores[allowed] > 0]
        found = scores[rows]
        if len(rows) > n:
            kept = found >= np.partition(found, -n)[-n]
            rows, found = rows[kept], found[kept]
        order = np.lexsort((rows, -found))[:n]
        return rows[order], found[order]

    def scores(self, query: csr_array, rows: IntArray) -> FloatArray:
        """Return the scores of `rows`, `(n,)` float32 >= 0 in their order; 0 for a row that is not there."""
        every = self._score_all(query)
        result = np.zeros(len(rows), dtype=np.float32)
        known = rows < len(every)
        result[known] = every[rows[known]]
        return result

    def parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the score of `rows`, in their order."""
        terms = query.tocoo()
        self._settle()
        result: list[dict[int, float]] = [{} for _ in range(len(rows))]
        bounds = self._bounds(query)
        for token, weight in zip(terms.coords[1].tolist(), terms.data.tolist(), strict=True):
            one = csr_array((np.array([weight], np.float32), np.array([token]), np.array([0, 1])), shape=query.shape)
            share = bounds[token] / (sum(bounds.values()) or 1.0) if self.weighting == "bm25" else 1.0
            for part, score in zip(result, self.scores(one, rows).tolist(), strict=True):
                if score > 0:
                    part[token] = score * share
        return result

    def _bounds(self, query: csr_array) -> dict[int, float]:
        """Return what each token adds at most under BM25."""
        terms = query.tocoo()
        pairs = zip(terms.coords[1].tolist(), terms.data.tolist(), strict=True)
        return {token: repeats * self._idf([*self._postings(token)]) for token, repeats in pairs}

    def _idf(self, lists: Sequence[tuple[NDArray[np.uint32], FloatArray]]) -> float:
        frequency = sum(int(np.count_nonzero(self._alive[rows])) for rows, _ in lists)
        return float(np.log1p((self._count - frequency + 0.5) / (frequency + 0.5)))

    def _score_all(self, query: csr_array) -> FloatArray:
        self._settle()
        total = np.zeros(len(self._alive), dtype=np.float32)
        terms = query.tocoo()
        pairs = sorted(zip(terms.coords[1].tolist(), terms.data.tolist(), strict=True))
        if self.weighting == "bm25":
            self._add_bm25(total, pairs)
        else:
            for token, weight in pairs:
                for rows, weights in self._postings(token):
                    total[rows] += weights * np.float32(weight)
        if self._buried:
            total[~self._alive] = 0
        return total

    def _add_bm25(self, total: FloatArray, pairs: Sequence[tuple[int, float]]) -> None:
        mean_length = max(float(self._lengths.sum(dtype=np.float64)) / max(self._count, 1), 1e-9)
        bound = 0.0
        for token, repeats in pairs:
            lists = [*self._postings(token)]
            idf = self._idf(lists)
            bound += repeats * idf
            for rows, counts in lists:
                damping = _K1 * (1 - _B + _B * self._lengths[rows] / np.float32(mean_length))
                total[rows] += np.float32(repeats * idf) * counts / (counts + damping)
        if bound:
            total /= np.float32(bound)

    def _postings(self, token: int) -> Iterator[tuple[NDArray[np.uint32], FloatArray]]:
        for segment in self._segments:
            part = segment.find(token)
            if part.start < part.stop:
                yield segment.rows[part], segment.weights[part]

    def _grow(self, size: int) -> None:
        if size > len(self._alive):
            more = max(size, 2 * len(self._alive)) - len(self._alive)
            self._alive = np.concatenate([self._alive, np.zeros(more, dtype=bool)])
            self._lengths = np.concatenate([self._lengths, np.zeros(more, dtype=np.float32)])

    def _settle(self) -> None:
        """Bring what waits into a segment, and merge segments until each is much larger than the next."""
        if self._waiting:
            self._segments.append(_invert(self._waiting))
            self._waiting = []
            while len(self._segments) > 1 and len(self._segments[-2].rows) < _GROWTH * len(self._segments[-1].rows):
                self._segments[-2:] = [_merge(self._segments[-2:], self._alive)]
        if self._buried > self._count:
            self._segments = [_merge(self._segments, self._alive)] if self._count else []
            self._buried = 0


def _invert(blocks: Sequence[tuple[IntArray, csr_array]]) -> _Segment:
    rows = np.concatenate([block_rows for block_rows, _ in blocks])
    columns = vstack([block for _, block in blocks], format="csr").tocsc()
    sizes = np.diff(columns.indptr)
    tokens = np.flatnonzero(sizes)
    return _Segment(
        tokens.astype(np.uint32),
        np.concatenate([[0], np.cumsum(sizes[tokens])]).astype(np.int64),
        rows[columns.indices].astype(np.uint32),
        columns.data.astype(np.float32),
    )


def _merge(segments: Sequence[_Segment], alive: NDArray[np.bool_]) -> _Segment:
    """Join segments into one and leave out the postings of removed rows."""
    rows = np.concatenate([segment.rows for segment in segments])
    tokens = np.concatenate([np.repeat(segment.tokens, np.diff(segment.starts)) for segment in segments])
    weights = np.concatenate([segment.weights for segment in segments])
    kept = np.flatnonzero(alive[rows])
    # The segments are sorted runs, which a stable sort merges in linear time.
    order = kept[np.argsort(tokens[kept], kind="stable")]
    distinct, first = np.unique(tokens[order], return_index=True)
    return _Segment(distinct, np.append(first, len(order)).astype(np.int64), rows[order], weights[order])
