"""LlamaIndex's metadata filters -> the filter language of the index. Pure functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from bgem3.errors import InvalidFilterError

_Where = dict[str, Any]

# Names the keys of a node that have a value which cannot be filtered by.
UNFILTERED = "_node_unfiltered"

_SCALAR = {
    FilterOperator.GT: "$gt",
    FilterOperator.LT: "$lt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LTE: "$lte",
    FilterOperator.TEXT_MATCH: "$text_match",
    FilterOperator.TEXT_MATCH_INSENSITIVE: "$text_match_insensitive",
}


def to_where(filters: MetadataFilters | None) -> _Where | None:
    """Return the `where` of LlamaIndex filters; None where nothing is filtered.

    Semantics are LlamaIndex's own (`build_metadata_filter_fn`): a missing key matches `!=`, `nin`
    and `is_empty` only, and condition `not` holds where no filter of its group does. A value of
    another type than the filter's does not match. `any`, `all` and `contains` look into lists.
    LlamaIndex filters hold no booleans, so 1 and 0 match true and false too.

    Raises:
        InvalidFilterError: an operator with a value it cannot take, or no `MetadataFilters`.
    """
    if filters is None:
        return None
    if not isinstance(filters, MetadataFilters):
        raise InvalidFilterError(
            f"filters: expected MetadataFilters, got {filters!r}. "
            f"Fix: MetadataFilters(filters=[MetadataFilter(key='lang', value='zh')])"
        )
    parts = [where for where in map(_part, filters.filters) if where is not None]
    if not parts:
        return None
    if filters.condition == FilterCondition.OR:
        return any_of(parts)
    if filters.condition == FilterCondition.NOT:
        return {"$not": any_of(parts)}
    return all_of(parts)


def all_of(parts: Sequence[_Where]) -> _Where:
    """Return a filter that asks for every part; there is at least one."""
    return parts[0] if len(parts) == 1 else {"$and": list(parts)}


def any_of(parts: Sequence[_Where]) -> _Where:
    """Return a filter that asks for one of the parts; there is at least one."""
    return parts[0] if len(parts) == 1 else {"$or": list(parts)}


def _part(part: MetadataFilter | MetadataFilters) -> _Where | None:
    return to_where(part) if isinstance(part, MetadataFilters) else _one(part)


def _one(part: MetadataFilter) -> _Where:
    if part.operator in _SCALAR:
        return {part.key: {_SCALAR[part.operator]: _scalar(part)}}
    return _SPECIAL[part.operator](part)


def _equal(part: MetadataFilter) -> _Where:
    values = _with_booleans([_scalar(part)])
    return {part.key: {"$in": values} if len(values) > 1 else {"$eq": values[0]}}


def _not_equal(part: MetadataFilter) -> _Where:
    return {"$not": _equal(part)}


def _in(part: MetadataFilter) -> _Where:
    return {part.key: {"$in": _with_booleans(_items(part))}}


def _not_in(part: MetadataFilter) -> _Where:
    return {"$not": _in(part)}


def _any(part: MetadataFilter) -> _Where:
    items = [_contains(part.key, item) for item in _items(part)]
    return any_of(items) if items else {part.key: {"$in": []}}


def _all(part: MetadataFilter) -> _Where:
    return all_of([{part.key: {"$exists": True}}, *(_contains(part.key, item) for item in _items(part))])


def _contains(key: str, item: Any) -> _Where:
    return any_of([{key: {"$contains": one}} for one in _with_booleans([item])])


def _is_empty(part: MetadataFilter) -> _Where:
    # None, [] and what cannot be filtered by are not stored as filterable metadata, so those keys are missing.
    missing = {"$and": [{part.key: {"$exists": False}}, {"$not": {UNFILTERED: {"$contains": part.key}}}]}
    return {"$or": [missing, {part.key: {"$eq": ""}}]}


_SPECIAL: dict[FilterOperator, Callable[[MetadataFilter], _Where]] = {
    FilterOperator.EQ: _equal,
    FilterOperator.NE: _not_equal,
    FilterOperator.IN: _in,
    FilterOperator.NIN: _not_in,
    FilterOperator.CONTAINS: lambda part: _contains(part.key, _scalar(part)),
    FilterOperator.ANY: _any,
    FilterOperator.ALL: _all,
    FilterOperator.IS_EMPTY: _is_empty,
}


def _scalar(part: MetadataFilter) -> Any:
    if part.value is None or isinstance(part.value, list):
        raise InvalidFilterError(
            f"filters[{part.key!r}]: {part.operator.value} expects one value, got {part.value!r}. "
            f"Fix: use in, nin, any or all with a list, is_empty for a missing value"
        )
    return part.value


def _items(part: MetadataFilter) -> list[Any]:
    if not isinstance(part.value, list):
        raise InvalidFilterError(
            f"filters[{part.key!r}]: {part.operator.value} expects a list, got {part.value!r}. Fix: value=[...]"
        )
    return list(part.value)


def _with_booleans(values: Sequence[Any]) -> list[Any]:
    return [*values, *(bool(value) for value in values if not isinstance(value, str) and value in (0, 1))]
