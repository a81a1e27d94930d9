"""A search plan as one batch of Qdrant queries: the engine finds the candidates and scores them by each head."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from bgem3.embeddings import M3Embeddings
from bgem3.stores.qdrant_filters import FACETS, to_qdrant
from bgem3.types import HEADS, Head, SearchPlan

if TYPE_CHECKING:
    from qdrant_client import models

# Under this score a point was missing from the sparse list; no dense score is that low.
_ABSENT = -10.0


@dataclass(frozen=True)
class QueryBuilder:
    """Builds the queries of one search.

    Every head that the plan names gives one query, and each query repeats the same prefetch, which
    finds the candidates: so all heads score all of them, in one request. A filter stands at the leaves.

    Args:
        query: One encoded query.
        plan: Mode, strategy, depths and filter.
        names: The collection's vector name of each head.
        n_shards: Every shard takes its own candidates; the lists that come back must hold them all.
        n_chunks: Number of chunks, where the plan is exhaustive.
        ef: Width of the search in the dense graph; None: the collection's own.
        is_local: The local mode always compares with everything, and warns of parameters.
    """

    query: M3Embeddings
    plan: SearchPlan
    names: Mapping[Head, str]
    n_shards: int = 1
    n_chunks: int = 0
    ef: int | None = None
    is_local: bool = False

    def build(self) -> dict[Head, models.QueryRequest]:
        """Return the queries by head, the one whose answer carries the payload first; none where nothing can match."""
        plan = self.plan
        if plan.mode != "hybrid":
            return self._single(plan.mode)
        heads = [head for head in HEADS if head in plan.heads and (head != "sparse" or self._has_sparse)]
        requests = {head: self._request(head, self._depth, None if plan.exhaustive else self._found) for head in heads}
        for head in heads[1:]:
            requests[head].with_payload = False
        return requests

    def _single(self, head: Head) -> dict[Head, models.QueryRequest]:
        if head == "sparse" and not self._has_sparse:
            return {}
        found = self._found if head == "multi_vector" and not self.plan.exhaustive else None
        return {head: self._request(head, self.plan.k, found)}

    def _request(self, head: Head, limit: int, found: list[models.Prefetch] | None) -> models.QueryRequest:
        from qdrant_client import models

        return models.QueryRequest(
            query=self._vectors[head],
            using=self.names[head],
            prefetch=found,
            filter=None if found else self._filter,
            params=None if found else self._params(head),
            limit=limit,
            with_payload=models.PayloadSelectorExclude(exclude=[FACETS]),
        )

    @property
    def _depth(self) -> int:
        """Return how many candidates there can be."""
        if self.plan.exhaustive:
            return max(1, self.n_chunks)
        if self.plan.strategy == "cascade":
            return max(self.plan.cascade[1], self.plan.k) * self.n_shards
        return 2 * max(self.plan.fetch_k, self.plan.k) * self.n_shards

    @cached_property
    def _found(self) -> list[models.Prefetch]:
        if self.plan.mode == "hybrid" and self.plan.strategy == "cascade":
            return [self._cascade()]
        return self._leaves(max(self.plan.fetch_k, self.plan.k))

    def _leaves(self, n: int) -> list[models.Prefetch]:
        """Return the best `n` by dense and by sparse, which comes first."""
        heads: list[Head] = ["sparse", "dense"] if self._has_sparse else ["dense"]
        return [self._prefetch(head, n) for head in heads]

    def _prefetch(self, head: Head, n: int, found: list[models.Prefetch] | None = None) -> models.Prefetch:
        from qdrant_client import models

        return models.Prefetch(
            query=self._vectors[head],
            using=self.names[head],
            limit=n,
            prefetch=found,
            filter=None if found else self._filter,
            params=None if found else self._params(head),
        )

    def _cascade(self) -> models.Prefetch:
        """Return sparse pre-selection, filled up from dense, then the best of those by dense."""
        from qdrant_client import models

        dense_depth = max(self.plan.cascade[1], self.plan.k)
        sparse_depth = max(self.plan.cascade[0], dense_depth)
        leaves = self._leaves(sparse_depth)
        if len(leaves) == 1:
            return self._prefetch("dense", dense_depth)
        filled = models.Prefetch(
            prefetch=leaves,
            query=models.FormulaQuery(
                formula=models.SumExpression(sum=["$score[0]", "$score[1]"]),
                defaults={"$score[0]": _ABSENT, "$score[1]": 0.0},
            ),
            limit=sparse_depth,
        )
        return self._prefetch("dense", dense_depth, [filled])

    @cached_property
    def _vectors(self) -> dict[Head, Any]:
        from qdrant_client import models

        vectors: dict[Head, Any] = {}
        for head in self.query.heads:
            if head == "sparse":
                row = self.query.sparse[[0]]
                vectors[head] = models.SparseVector(indices=row.indices.tolist(), values=row.data.tolist())
            else:
                vectors[head] = (self.query.dense if head == "dense" else self.query.multi_vector)[0].tolist()
        return vectors

    @property
    def _has_sparse(self) -> bool:
        return "sparse" in self.query.heads and self.query.sparse[[0]].nnz > 0

    @cached_property
    def _filter(self) -> models.Filter | None:
        from qdrant_client import models

        return None if self.plan.where is None else models.Filter.model_validate(to_qdrant(self.plan.where))

    def _params(self, head: Head) -> models.SearchParams | None:
        from qdrant_client import models

        if self.is_local:
            return None
        if self.plan.exhaustive and head != "sparse":
            return models.SearchParams(exact=True)
        return models.SearchParams(hnsw_ef=self.ef) if self.ef and head == "dense" else None
