"""An exact inverted index over sparse rows: learned weights, or BM25 over token counts.

Postings lie in segments of up to 65,536 rows, in memory or mapped from a snapshot. New rows become small
segments, which are merged as rows are added, so that a query touches few of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array

from bgem3.index.segment import SEGMENT_ROWS, Segment, invert, merge
from bgem3.index.threads import run_all, thread_count
from bgem3.types import FloatArray, IntArray, Lexical

# Robertson et al. 1994; the values Lucene ships with.
_K1 = np.float32(1.2)
_B = np.float32(0.75)
# A segment is merged into its left neighbour when that is less than this many times larger.
_GROWTH = 4
# Rows that wait to be inverted at most.
_WAITING = 4096
_NOTHING = np.empty(0, dtype=np.float32)
_EVERY = np.empty(0, dtype=np.bool_)


@dataclass(slots=True, eq=False)
class _Part:
    """A segment and which of its documents live."""

    segment: Segment
    alive: NDArray[np.bool_]
    dead: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Query:
    """Token ids, rising, and what a weight of each is multiplied with."""

    tokens: NDArray[np.uint32]
    factors: FloatArray
    mean_length: float = 0.0


class LexicalIndex:
    """Scores sparse rows by a dot product of learned weights (`m3`) or by BM25 over token counts.

    The scores of `bm25` are divided by what a chunk could reach at most for the query, which puts
    them in [0, 1) beside the other heads. Not thread-safe: queries settle what was added.

    Args:
        weighting: `m3` or `bm25`.
        segments: Rows to begin with, e.g. from a snapshot; none of them in two segments.

    Source: BM25 as in Lucene's BM25Similarity (idf = ln(1 + (N - df + 0.5) / (df + 0.5)), k1 = 1.2,
        b = 0.75), without its rounding of lengths.
    """

    def __init__(self, weighting: Lexical = "m3", segments: Iterable[Segment] = ()) -> None:
        self.weighting = weighting
        self._parts = [_part(segment) for segment in segments]
        self._waiting: list[tuple[IntArray, csr_array]] = []

    def __len__(self) -> int:
        """Return the number of rows that can be found."""
        return sum(len(part.segment) - part.dead for part in self._parts) + self._count_waiting()

    def rows(self) -> IntArray:
        """Return all rows that can be found, sorted, `(n,)` int64."""
        settled = [part.segment.rows[part.alive] if part.dead else part.segment.rows for part in self._parts]
        found = [*settled, *(rows for rows, _ in self._waiting), np.empty(0, dtype=np.int64)]
        return np.sort(np.concatenate(found), kind="stable")

    def segments(self) -> list[Segment]:
        """Return what a snapshot keeps: not the last rows, that wait, but removed ones too."""
        return [part.segment for part in self._parts]

    def add(self, rows: IntArray, sparse: csr_array) -> None:
        """Add new rows.

        Args:
            rows: `(n,)` row numbers >= 0, none of them ever used before, removed ones included.
            sparse: `(n, vocab_size)`, values > 0: weights for `m3`, token counts for `bm25`.
        """
        if not len(rows):
            return
        self._waiting.append((np.asarray(rows, dtype=np.int64), sparse))
        if self._count_waiting() >= _WAITING:
            self.settle()
        self._merge()

    def remove(self, rows: IntArray) -> None:
        """Remove rows; those that are not there are left out."""
        if not len(rows):
            return
        self.settle()
        for part in self._parts:
            _, docs = part.segment.places(rows)
            part.alive[docs] = False
            part.dead = len(part.segment) - int(np.count_nonzero(part.alive))
        self._parts = [part for part in self._parts if part.dead < len(part.segment)]

    def settle(self) -> None:
        """Bring what waits into a segment, as the first search would: until something changes, threads may share it."""
        if self._waiting:
            self._parts += [_part(segment) for segment in invert(self._waiting)]
            self._waiting = []

    def compact(self) -> None:
        """Leave removed rows out of memory, and merge segments until each is as large as it may be."""
        self.settle()
        groups: list[list[_Part]] = []
        size = SEGMENT_ROWS
        for part in self._parts:
            living = len(part.segment) - part.dead
            if size + living > SEGMENT_ROWS:
                groups.append([])
                size = 0
            groups[-1].append(part)
            size += living
        self._parts = [
            group[0] if len(group) == 1 and not group[0].dead else _part(merge([(p.segment, p.alive) for p in group]))
            for group in groups
        ]

    def top(self, query: csr_array, n: int, allowed: IntArray | None = None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows with a score above 0, and their scores, best first; ties by row.

        Args:
            query: `(1, vocab_size)` row: weights for `m3`, token counts for `bm25`.
            n: How many rows at most.
            allowed: Only these rows, sorted; None: all.
        """
        self.settle()
        search = _Search(self._prepare(query), self.weighting, n, allowed)
        if len(self._parts) > 2:
            # The largest first: its best rows spare the others work.
            order = sorted(self._parts, key=lambda part: -len(part.segment))
            run_all(search.visit, [order[i :: thread_count()] for i in range(thread_count())])
        else:
            search.visit(self._parts)
        return search.best()

    def scores(self, query: csr_array, rows: IntArray) -> FloatArray:
        """Return the scores of `rows`, `(n,)` float32 >= 0 in their order; 0 for a row that is not there."""
        self.settle()
        return self._scores(self._prepare(query), rows)

    def parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the score of `rows`, in their order."""
        self.settle()
        whole = self._prepare(query)
        result: list[dict[int, float]] = [{} for _ in range(len(rows))]
        for i, token in enumerate(whole.tokens.tolist()):
            one = _Query(whole.tokens[i : i + 1], whole.factors[i : i + 1], whole.mean_length)
            for part, score in zip(result, self._scores(one, rows).tolist(), strict=True):
                if score > 0:
                    part[token] = score
        return result

    def _scores(self, query: _Query, rows: IntArray) -> FloatArray:
        from bgem3.index.kernels import score_docs

        result = np.zeros(len(rows), dtype=np.float32)
        for part in self._parts:
            here, docs = part.segment.places(rows)
            here, docs = here[part.alive[docs]], docs[part.alive[docs]]
            if len(docs):
                segment, found = part.segment, np.empty(len(docs), dtype=np.float32)
                damping, lists = _damping(segment, query, self.weighting), _lists(segment, query.tokens)
                score_docs(docs, segment.docs, segment.weights, damping, lists, query.factors, found)
                result[here] = found
        return result

    def _prepare(self, query: csr_array) -> _Query:
        terms = query.tocoo()
        order = np.argsort(terms.coords[1])
        tokens = terms.coords[1][order].astype(np.uint32)
        factors = terms.data[order].astype(np.float32)
        if self.weighting == "m3":
            return _Query(tokens, factors)
        count = len(self)
        frequency = np.sum([_frequency(part, tokens) for part in self._parts], axis=0, dtype=np.float64)
        factors = factors * np.log1p((count - frequency + 0.5) / (frequency + 0.5))
        lengths = sum(float(part.segment.lengths.sum(where=part.alive, dtype=np.float64)) for part in self._parts)
        bound = factors.sum() or 1.0
        return _Query(tokens, (factors / bound).astype(np.float32), max(lengths / max(count, 1), 1e-9))

    def _count_waiting(self) -> int:
        return sum(len(rows) for rows, _ in self._waiting)

    def _merge(self) -> None:
        """Merge segments until each is much larger than the next or as large as it may be."""
        self._parts = [_part(merge([(p.segment, p.alive)])) if 2 * p.dead > len(p.segment) else p for p in self._parts]
        while len(self._parts) > 1:
            left, right = (len(part.segment) - part.dead for part in self._parts[-2:])
            if left >= _GROWTH * right or left + right > SEGMENT_ROWS:
                return
            self._parts[-2:] = [_part(merge([(part.segment, part.alive) for part in self._parts[-2:]]))]


class _Search:
    """One search over several segments, in several threads; the n best so far set what is worth finding."""

    def __init__(self, query: _Query, weighting: Lexical, n: int, allowed: IntArray | None) -> None:
        self.query, self.weighting, self.n, self.allowed = query, weighting, n, allowed
        self.threshold = 0.0
        self.found: list[tuple[IntArray, FloatArray]] = []

    def visit(self, parts: Sequence[_Part]) -> None:
        """Search some segments one after another."""
        from bgem3.index.kernels import search

        total = np.zeros(SEGMENT_ROWS, dtype=np.float32)
        docs, scores = np.empty(SEGMENT_ROWS, dtype=np.int64), np.empty(SEGMENT_ROWS, dtype=np.float32)
        for part in parts:
            segment = part.segment
            mask = self._mask(part)
            if mask is None:
                continue
            lists, damping = _lists(segment, self.query.tokens), _damping(segment, self.query, self.weighting)
            count = search(
                segment.docs, segment.weights, damping, lists, self.query.factors,
                self._bounds(segment, lists, damping), mask, self.threshold, total[: len(segment)], docs, scores,
            )  # fmt: skip
            rows, found = _cut(segment.rows[docs[:count]], scores[:count].copy(), self.n)
            self.found.append((rows, found))
            if len(found) >= self.n:
                self.threshold = max(self.threshold, float(found.min()))

    def best(self) -> tuple[IntArray, FloatArray]:
        """Return the n best rows and their scores, best first; ties by row."""
        rows = np.concatenate([np.empty(0, dtype=np.int64), *(rows for rows, _ in self.found)])
        scores = np.concatenate([_NOTHING, *(scores for _, scores in self.found)])
        rows, scores = _cut(rows, scores, self.n)
        order = np.lexsort((rows, -scores))[: self.n]
        return rows[order], scores[order]

    def _mask(self, part: _Part) -> NDArray[np.bool_] | None:
        """Return which documents may be found, an empty array where all may, None where none may."""
        if self.allowed is None:
            return part.alive if part.dead else _EVERY
        from bgem3.index.kernels import mark

        rows = part.segment.rows
        within = self.allowed[slice(*np.searchsorted(self.allowed, [rows[0], rows[-1] + 1]))]
        mask = np.empty(len(rows), dtype=np.bool_)
        return mask if mark(rows, part.alive, within, mask) else None

    def _bounds(self, segment: Segment, lists: IntArray, damping: FloatArray) -> FloatArray:
        """Return the most that each query token can add to a document."""
        starts = segment.starts[:-1]
        places = np.minimum(np.searchsorted(starts, lists[:, 0]), max(len(starts) - 1, 0))
        highest = np.where(lists[:, 1] > lists[:, 0], segment.highest[places], 0) if len(starts) else lists[:, 0] * 0.0
        if len(damping):
            highest = highest / (highest + damping.min())
        return (self.query.factors * highest).astype(np.float32)


def _part(segment: Segment) -> _Part:
    return _Part(segment, np.ones(len(segment), dtype=np.bool_))


def _lists(segment: Segment, tokens: NDArray[np.uint32]) -> IntArray:
    from bgem3.index.kernels import find_lists

    lists = np.empty((len(tokens), 2), dtype=np.int64)
    find_lists(segment.tokens, segment.starts, tokens, lists)
    return lists


def _frequency(part: _Part, tokens: NDArray[np.uint32]) -> IntArray:
    """Return how many living documents have each token."""
    lists = _lists(part.segment, tokens)
    if not part.dead:
        return lists[:, 1] - lists[:, 0]
    return np.array([np.count_nonzero(part.alive[part.segment.docs[a:b]]) for a, b in lists], dtype=np.int64)


def _damping(segment: Segment, query: _Query, weighting: Lexical) -> FloatArray:
    if weighting == "m3":
        return _NOTHING
    return _K1 * (1 - _B + _B * segment.lengths / np.float32(query.mean_length))


def _cut(rows: IntArray, scores: FloatArray, n: int) -> tuple[IntArray, FloatArray]:
    """Leave out what is below the n-th best score."""
    if len(rows) <= n:
        return rows, scores
    kept = scores >= np.partition(scores, -n)[-n]
    return rows[kept], scores[kept]
