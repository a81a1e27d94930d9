"""Qdrant's own engine, embedded (qdrant-edge-py), behind the methods of `QdrantClient` that `QdrantStore` calls.

What the local mode of the client computes in Python is computed here by the engine that servers run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import qdrant_edge as edge
from qdrant_client import models
from qdrant_client.http.models import QueryResponse

_RANGES = ("gt", "gte", "lt", "lte")


class EdgeClient:
    """One shard a collection, each in its folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._shards: dict[str, edge.EdgeShard] = {}
        self._made: dict[str, models.CollectionInfo] = {}

    def info(self):
        return models.VersionInfo(title="qdrant-edge", version="1.20.0")

    def optimize(self):
        """Build the graphs, as a server does by itself in the background."""
        for shard in self._shards.values():
            shard.optimize()

    def collection_exists(self, name):
        return name in self._shards

    def create_collection(self, name, vectors_config, sparse_vectors_config, metadata=None, **options):
        self._shards[name] = edge.EdgeShard.create(
            str(self._folder / name),
            edge.EdgeConfig(
                vectors={one: _vector_params(params) for one, params in vectors_config.items()},
                sparse_vectors={one: edge.EdgeSparseVectorParams() for one in sparse_vectors_config},
            ),
        )
        params = models.CollectionParams(vectors=vectors_config, sparse_vectors=sparse_vectors_config)
        self._made[name] = models.CollectionConfig.model_construct(params=params, metadata=metadata)

    def get_collection(self, name):
        return models.CollectionInfo.model_construct(config=self._made[name])

    def delete_collection(self, name):
        self._made.pop(name, None)
        if shard := self._shards.pop(name, None):
            shard.close()

    def create_payload_index(self, name, field, schema, wait=True):
        kind = (
            edge.PayloadSchemaType.Keyword
            if schema == models.PayloadSchemaType.KEYWORD
            else edge.PayloadSchemaType.Float
        )
        self._shards[name].update(edge.UpdateOperation.create_field_index(field, kind))

    def upsert(self, name, points, wait=True):
        made = [edge.Point(one.id, _vectors(one.vector), one.payload) for one in points]
        self._shards[name].update(edge.UpdateOperation.upsert_points(made))

    def batch_update_points(self, name, operations, wait=True):
        for one in operations:
            change = one.overwrite_payload
            self._shards[name].update(edge.UpdateOperation.overwrite_payload(change.points, change.payload))

    def delete(self, name, selector, wait=True):
        self._shards[name].update(edge.UpdateOperation.delete_points(selector.points))

    def count(self, name, count_filter=None, exact=True):
        return models.CountResult(count=self._shards[name].count(edge.CountRequest(exact, _filter(count_filter))))

    def retrieve(self, name, ids, with_payload=True, with_vectors=False):
        return [_record(one) for one in self._shards[name].retrieve(ids, with_payload, with_vectors)]

    def scroll(self, name, scroll_filter=None, limit=10, offset=None, with_vectors=False):
        asked = edge.ScrollRequest(
            offset=offset, limit=limit, filter=_filter(scroll_filter), with_payload=True, with_vector=with_vectors
        )
        found, following = self._shards[name].scroll(asked)
        return [_record(one) for one in found], None if following is None else str(following)

    def query_batch_points(self, name, requests):
        asked = [
            edge.QueryRequest(
                one.limit,
                query=_query(one.query, one.using),
                prefetches=[_prefetch(part) for part in one.prefetch or []],
                filter=_filter(one.filter),
                params=_params(one.params),
                with_payload=True if one.with_payload else None,
            )
            for one in requests
        ]
        answers = self._shards[name].query_batch(edge.QueryBatchRequest(asked))
        return [QueryResponse(points=[_scored(one) for one in points]) for points in answers]

    def close(self):
        for name in list(self._shards):
            self.delete_collection(name)


def _vector_params(params: models.VectorParams) -> edge.EdgeVectorParams:
    multi = edge.MultiVectorConfig(edge.MultiVectorComparator.MaxSim) if params.multivector_config else None
    datatype = params.datatype and getattr(edge.VectorStorageDatatype, models.Datatype(params.datatype).value.title())
    # Without this the engine would build a graph over token vectors too, as a server would.
    graph = edge.HnswIndexConfig(0, 0, 0) if params.hnsw_config and params.hnsw_config.m == 0 else None
    return edge.EdgeVectorParams(
        params.size, edge.Distance.Dot, multivector_config=multi, datatype=datatype, hnsw_config=graph
    )


def _vectors(vectors: dict[str, Any]) -> dict[str, Any]:
    return {name: _vector(one) for name, one in vectors.items()}


def _vector(value: Any) -> Any:
    return edge.SparseVector(value.indices, value.values) if isinstance(value, models.SparseVector) else value


def _query(query: Any, using: str | None) -> Any:
    if isinstance(query, models.FormulaQuery):
        terms = [edge.Expression.Variable(one) for one in query.formula.sum]
        return edge.Formula(edge.Expression.Sum(terms), query.defaults)
    return edge.Query.Nearest(_vector(query), using)


def _prefetch(one: models.Prefetch) -> edge.Prefetch:
    return edge.Prefetch(
        one.limit,
        query=_query(one.query, one.using),
        prefetches=[_prefetch(part) for part in one.prefetch or []],
        params=_params(one.params),
        filter=_filter(one.filter),
    )


def _params(params: models.SearchParams | None) -> edge.SearchParams | None:
    return params and edge.SearchParams(hnsw_ef=params.hnsw_ef, exact=bool(params.exact))


def _filter(one: Any) -> edge.Filter | None:
    if one is None:
        return None
    parts = {name: getattr(one, name) for name in ("must", "should", "must_not")}
    return edge.Filter(**{name: [_condition(part) for part in found] for name, found in parts.items() if found})


def _condition(one: Any) -> Any:
    if isinstance(one, models.Filter):
        return _filter(one)
    if one.range is not None:
        return edge.FieldCondition(
            one.key, range=edge.RangeFloat(**{name: getattr(one.range, name) for name in _RANGES})
        )
    if isinstance(one.match, models.MatchAny):
        return edge.FieldCondition(one.key, match=edge.MatchAny(one.match.any))
    return edge.FieldCondition(one.key, match=edge.MatchSubstring(one.match.substring))


def _record(one: edge.Record) -> models.Record:
    return models.Record(id=str(one.id), payload=one.payload, vector=_plain(one.vector))


def _scored(one: edge.ScoredPoint) -> models.ScoredPoint:
    return models.ScoredPoint(id=str(one.id), version=0, score=one.score, payload=one.payload)


def _plain(vectors: Any) -> Any:
    if vectors is None:
        return None
    return {
        name: models.SparseVector(indices=one.indices, values=one.values) if isinstance(one, edge.SparseVector) else one
        for name, one in vectors.items()
    }
