"""Filters as Qdrant takes them, in the JSON form of its API. Pure: needs no client."""

from __future__ import annotations

from typing import Any

from bgem3.stores.facets import Compare, Contains, Every, Has, Order, Some, Test, to_test, word_name
from bgem3.types import Where

# Where the payload holds the facets; see `bgem3.stores.facets`.
FACETS = "_bgem3.facets"
TOKENS = f"{FACETS}.tokens"
_RANGES: dict[Order, str] = {">": "gt", ">=": "gte", "<": "lt", "<=": "lte"}


def to_qdrant(where: Where) -> dict[str, Any]:
    """Return a `where` as the JSON of a Qdrant `Filter`.

    `$text_match` and `$text_match_insensitive` need a server that knows `match.substring`.

    Raises:
        InvalidFilterError: as `bgem3.stores.facets.to_test`.
    """
    return {"must": [_condition(to_test(where))]}


def range_field(key: str) -> str:
    """Return the payload field by which numbers under a metadata key are compared."""
    return f"{FACETS}.words.{word_name(key)}"


def _condition(test: Test) -> dict[str, Any]:
    match test:
        case Every(parts):
            return {"must": [_condition(part) for part in parts]}
        case Some(parts):
            return {"should": [_condition(part) for part in parts]}
        case Has(tokens, present):
            return _signed({"key": TOKENS, "match": {"any": list(tokens)}}, present)
        case Contains(place, name, value, present):
            return _signed({"key": f"{FACETS}.{place}.{name}", "match": {"substring": value}}, present)
        case Compare(word, order, value):
            name = f"{FACETS}.words.{word}"
            if order in _RANGES:
                return {"key": name, "range": {_RANGES[order]: value}}
            return _signed({"key": name, "range": {"gte": value, "lte": value}}, order == "==")


def _signed(condition: dict[str, Any], present: bool) -> dict[str, Any]:
    return condition if present else {"must_not": [condition]}
