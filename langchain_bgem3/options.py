"""Search options as LangChain users pass them, and what a score means there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias, cast

from bgem3.errors import InvalidFilterError, InvalidInputError
from bgem3.types import HEADS, SearchOptions, SearchPlan, Weights, make_plan

WeightsLike: TypeAlias = Weights | Mapping[str, float]

# `explain` tells of stages, which a list of documents has no place for.
_NAMES = set(SearchOptions.__annotations__) - {"where", "explain"} | {"filter"}


def to_weights(weights: WeightsLike | None) -> Weights:
    """Return weights; a mapping such as `{"dense": 1, "sparse": 0.3}` leaves its missing heads at 0.

    Raises:
        InvalidInputError: an unknown head, a weight below 0, or all at 0.
    """
    if weights is None:
        return Weights.balanced
    if isinstance(weights, Weights):
        return weights
    if not isinstance(weights, Mapping) or not set(weights) <= set(HEADS):
        raise InvalidInputError(
            f"weights: got {weights!r}, expected Weights or a mapping with keys {', '.join(HEADS)}. Fix: {{'dense': 1}}"
        )
    return Weights(**{head: weights.get(head, 0.0) for head in HEADS})


def to_options(given: Mapping[str, Any]) -> SearchOptions:
    """Return LangChain's options as those of `HybridIndex.search`: `filter` is `where`, an empty one none.

    Raises:
        InvalidInputError: an option is unknown or out of range.
        InvalidFilterError: the filter is no mapping.
    """
    if unknown := set(given) - _NAMES:
        raise InvalidInputError(
            f"unknown search options {', '.join(sorted(unknown))}; expected some of {', '.join(sorted(_NAMES))}. "
            f"Fix: leave out what is unknown"
        )
    options = {name: value for name, value in given.items() if name != "filter"}
    where = given.get("filter")
    if where is not None and not isinstance(where, Mapping):
        raise InvalidFilterError(f"filter: expected a mapping, got {where!r}. Fix: filter={{'lang': 'zh'}}")
    options["where"] = where or None
    options["weights"] = None if given.get("weights") is None else to_weights(given["weights"])
    checked = cast("SearchOptions", options)
    make_plan(checked)
    return checked


def relevance(score: float, plan: SearchPlan) -> float:
    """Return a score as LangChain's relevance score, in [0, 1]; the order stays.

    Dense, multi-vector and hybrid scores are cosines or means of them and stand as they are, a negative
    one as 0; so does the sparse score, one above 1 as 1. A rank fusion score is divided by the
    highest one possible: 1 is first in every list.
    """
    return min(1.0, max(0.0, comparable(score, plan)))


def comparable(score: float, plan: SearchPlan) -> float:
    """Return a score that can be weighed against a cosine: a rank fusion score divided by the highest one possible."""
    if plan.mode == "hybrid" and plan.strategy == "rrf":
        return score * (plan.rrf_k + 1) / plan.weights.total
    return score
