"""The search plan of every embedded store, over a few primitives on row numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings
from bgem3.fusion import rrf, weighted_mean
from bgem3.matches import lexical_matches, token_matches
from bgem3.types import (
    Chunk,
    FloatArray,
    Head,
    Hit,
    Hits,
    IntArray,
    LexicalMatch,
    Matches,
    SearchPlan,
    Stage,
    TokenMatch,
    Where,
)


class Primitives(Protocol):
    """What an embedded store must be able to do; chunks are named by integer rows.

    `allowed` everywhere is None (every chunk) or the sorted rows that match the filter.
    Each method sees the same state for the whole of one search.
    """

    def allowed(self, where: Where | None) -> IntArray | None:
        """Return the sorted rows that match, `(n,)` int64, or None when `where` is None."""

    def dense_top(self, vector: FloatArray, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows and their scores for a `(dim,)` vector, best first.

        Fewer only where fewer are allowed.
        """

    def sparse_top(self, query: csr_array, n: int, allowed: IntArray | None) -> tuple[IntArray, FloatArray]:
        """Return the `n` best rows and their scores for a `(1, vocab_size)` row, best first.

        Only rows with a score above 0; ties by row.
        """

    def all_rows(self, allowed: IntArray | None) -> IntArray:
        """Return every row, or every allowed one, sorted."""

    def scores(self, head: Head, query: M3Embeddings, rows: IntArray) -> FloatArray:
        """Return one head's raw scores of the one query against `rows`, `(n,)` float32 in their order."""

    def sparse_parts(self, query: csr_array, rows: IntArray) -> list[dict[int, float]]:
        """Return what each shared token id adds to the sparse score of `rows`, in their order."""

    def token_vectors(self, rows: IntArray) -> list[FloatArray]:
        """Return the token vectors of `rows`, `(n_tokens, multi_dim)` each, as they are scored.

        Nothing where they were pooled, so that they stand for no one token.
        """

    def ids(self, rows: IntArray) -> list[str]:
        """Return the chunk ids of `rows`, in their order."""

    def chunks(self, rows: IntArray) -> list[Chunk]:
        """Return the chunks of `rows`, in their order."""


@dataclass(frozen=True, slots=True)
class _Ranked:
    """Candidates with the score they are ordered by, and the heads computed so far."""

    rows: IntArray
    score: FloatArray
    heads: Mapping[Head, FloatArray]

    def __getitem__(self, picked: IntArray) -> _Ranked:
        heads = {head: values[picked] for head, values in self.heads.items()}
        return _Ranked(self.rows[picked], self.score[picked], heads)


def run_plan(primitives: Primitives, query: M3Embeddings, plan: SearchPlan) -> Hits:
    """Answer a search plan; ties go to the smaller chunk id.

    Args:
        primitives: The parts of one store.
        query: One encoded query, with the heads `plan.heads` names.
        plan: Mode, strategy, depths, weights and filter. A depth below `k` is raised to `k`.

    Returns:
        At most `plan.k` hits, best first. Fewer only where fewer chunks match the filter, or
        in sparse mode where fewer share a token with the query.

    Raises:
        HeadNotEncodedError: the query lacks a head that the plan needs.
        InvalidFilterError: `plan.where` does not follow the grammar.
    """
    return _Run(primitives, query, plan).hits()


class _Run:
    """One search. Each method is a step that leaves a `Stage` behind."""

    def __init__(self, primitives: Primitives, query: M3Embeddings, plan: SearchPlan) -> None:
        self.store = primitives
        self.query = query
        self.plan = plan
        self.fetch_k = max(plan.fetch_k, plan.k)
        self.allowed: IntArray | None = None
        self.stages: list[Stage] = []
        # What finding candidates told already, by head: rows and their scores.
        self.known: dict[Head, tuple[IntArray, FloatArray]] = {}

    def hits(self) -> Hits:
        if self.plan.where is not None:
            with self._stage("filter") as left:
                self.allowed = self.store.allowed(self.plan.where)
                left(self.store.all_rows(self.allowed))
        best = self._best(self._ranked())
        with self._stage("chunks") as left:
            chunks = self.store.chunks(best.rows)
            left(best.rows)
        matches = self._matches(best.rows) if self.plan.explain else [None] * len(chunks)
        found = [
            Hit(
                id=chunk.id,
                text=chunk.text,
                metadata=chunk.metadata,
                score=float(best.score[i]),
                scores={head: float(values[i]) for head, values in best.heads.items()},
                matches=matches[i],
            )
            for i, chunk in enumerate(chunks)
        ]
        return Hits(found, self.stages if self.plan.explain else ())

    def _ranked(self) -> _Ranked:
        plan = self.plan
        if plan.mode == "hybrid":
            return {"union": self._union, "cascade": self._cascade, "rrf": self._rrf}[plan.strategy]()
        if plan.mode == "multi_vector":
            rows = self._candidates()
            scores = self._score("multi_vector", rows)
        elif plan.mode == "dense" and plan.exhaustive:
            rows = self.store.all_rows(self.allowed)
            scores = self._score("dense", rows)
        else:
            rows, scores = self._dense_top(self.fetch_k) if plan.mode == "dense" else self._sparse_top(self.fetch_k)
        return _Ranked(rows, scores, {plan.mode: scores})

    def _union(self) -> _Ranked:
        return self._weighted(self._candidates(), {})

    def _cascade(self) -> _Ranked:
        dense_depth = max(self.plan.cascade[1], self.plan.k)
        sparse_depth = max(self.plan.cascade[0], dense_depth)
        rows, _ = self._sparse_top(sparse_depth)
        if len(rows) < sparse_depth:
            extra, _ = self._dense_top(sparse_depth)
            rows = np.concatenate([rows, extra[~np.isin(extra, rows)]])[:sparse_depth]
        dense = self._score("dense", rows)
        kept = np.lexsort((rows, -dense))[:dense_depth]
        return self._weighted(rows[kept], {"dense": dense[kept]})

    def _rrf(self) -> _Ranked:
        weights = self.plan.weights
        dense, _ = self._dense_top(self.fetch_k)
        sparse, _ = self._sparse_top(self.fetch_k)
        rankings: dict[Head, IntArray] = {"dense": dense, "sparse": sparse}
        heads: dict[Head, FloatArray] = {}
        rows = self.store.all_rows(self.allowed) if self.plan.exhaustive else np.union1d(dense, sparse)
        if weights.multi_vector > 0:
            heads["multi_vector"] = self._score("multi_vector", rows)
            rankings["multi_vector"] = rows[np.lexsort((rows, -heads["multi_vector"]))]
        with self._stage("fuse") as left:
            used = [rankings[head] for head in weights.heads]
            fused = rrf(used, [getattr(weights, head) for head in weights.heads], self.plan.rrf_k)
            score = np.array([fused.get(row, 0.0) for row in rows.tolist()], dtype=np.float32)
            left(rows)
        return _Ranked(rows, score, heads)

    def _weighted(self, rows: IntArray, known: Mapping[Head, FloatArray]) -> _Ranked:
        heads = dict(known)
        for head in self.plan.weights.heads:
            if head not in heads:
                heads[head] = self._score(head, rows)
        return _Ranked(rows, weighted_mean(heads, self.plan.weights), heads)

    def _best(self, ranked: _Ranked) -> _Ranked:
        """Return the top `k`, ties by chunk id, with the scores of every head the query has."""
        k = self.plan.k
        with self._stage("rank") as left:
            if len(ranked.rows) > k:
                bound = np.partition(ranked.score, -k)[-k]
                ranked = ranked[np.flatnonzero(ranked.score >= bound)]
            ids = self.store.ids(ranked.rows)
            order = sorted(range(len(ids)), key=lambda i: (-ranked.score[i], ids[i]))[:k]
            best = ranked[np.array(order, dtype=np.int64)]
            left(best.rows)
        if self.plan.mode != "hybrid":
            return best
        heads = {
            head: best.heads[head] if head in best.heads else self._score(head, best.rows) for head in self.query.heads
        }
        return _Ranked(best.rows, best.score, heads)

    def _matches(self, rows: IntArray) -> list[Matches | None]:
        used = self.query.heads if self.plan.mode == "hybrid" else (self.plan.mode,)
        with self._stage("matches") as left:
            left(rows)
            lexical: list[tuple[LexicalMatch, ...]] = [()] * len(rows)
            tokens: list[tuple[TokenMatch, ...]] = [()] * len(rows)
            counts = [0] * len(rows)
            if "sparse" in used:
                lexical = [lexical_matches(parts) for parts in self.store.sparse_parts(self.query.sparse, rows)]
            if "multi_vector" in used:
                vectors = self.store.token_vectors(rows)
                tokens = [token_matches(self.query.multi_vector[0], one) for one in vectors] or tokens
                counts = [len(one) for one in vectors] or counts
            return [Matches(*one) for one in zip(lexical, tokens, counts, strict=True)]

    def _candidates(self) -> IntArray:
        if self.plan.exhaustive:
            return self.store.all_rows(self.allowed)
        return np.union1d(self._dense_top(self.fetch_k)[0], self._sparse_top(self.fetch_k)[0])

    def _dense_top(self, n: int) -> tuple[IntArray, FloatArray]:
        with self._stage("dense top") as left:
            rows, scores = self.known["dense"] = self.store.dense_top(self.query.dense[0], n, self.allowed)
            left(rows)
        return rows, scores

    def _sparse_top(self, n: int) -> tuple[IntArray, FloatArray]:
        with self._stage("sparse top") as left:
            rows, scores = self.known["sparse"] = self.store.sparse_top(self.query.sparse[[0]], n, self.allowed)
            left(rows)
        return rows, scores

    def _score(self, head: Head, rows: IntArray) -> FloatArray:
        with self._stage(f"{head} scores") as left:
            left(rows)
            scores = np.empty(len(rows), dtype=np.float32)
            before, there = self.known.get(head, (rows[:0], scores[:0]))
            _, at, of = np.intersect1d(rows, before, assume_unique=True, return_indices=True)
            scores[at] = there[of]
            new = np.setdiff1d(np.arange(len(rows)), at, assume_unique=True)
            if len(new):
                scores[new] = self.store.scores(head, self.query, rows[new])
            return scores

    @contextmanager
    def _stage(self, name: str) -> Iterator[Callable[[IntArray], None]]:
        counted: list[int] = []
        start = time.perf_counter()
        yield lambda rows: counted.append(len(rows))
        self.stages.append(Stage(name, counted[0], time.perf_counter() - start))
