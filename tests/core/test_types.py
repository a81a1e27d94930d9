"""The value types refuse what makes no sense, and say what would."""

from dataclasses import FrozenInstanceError

import pytest

from bgem3.errors import InvalidInputError
from bgem3.types import Chunk, Hit, Hits, SearchPlan, Stage, Weights, make_plan


def test_presets():
    assert Weights() == Weights.balanced == Weights(1, 0.3, 1)
    assert Weights.long_document == Weights(0.15, 0.5, 0.35)
    assert Weights.lexical.heads == ("dense", "sparse")
    assert Weights(1, 2, 3).total == 6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 0, 0), "sum must be > 0"),
        ((-1, 1, 1), "dense must be a finite number >= 0, got -1"),
        ((1, float("nan"), 1), "sparse must be a finite number"),
        ((1, 1, float("inf")), "multi_vector must be a finite number"),
    ],
)
def test_bad_weights(values, message):
    with pytest.raises(InvalidInputError, match=message):
        Weights(*values)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k: expected a whole number >= 1, got 0"),
        ({"k": 2.0}, r"k: .* got 2\.0"),
        ({"k": True}, "k: .* got True"),
        ({"fetch_k": 0}, "fetch_k"),
        ({"rrf_k": -60}, "rrf_k"),
        ({"rrf_k": 10**5000}, "rrf_k: expected a whole number of 64 bits, got a larger one"),
        ({"mode": "colbert"}, "mode: got 'colbert', expected one of dense, sparse, multi_vector, hybrid"),
        ({"strategy": "sum"}, "strategy: got 'sum', expected one of union, cascade, rrf"),
        ({"cascade": (100,)}, "two depths"),
        ({"cascade": (100, 0)}, "cascade: expected a whole number >= 1"),
        ({"strategy": "cascade", "exhaustive": True}, "exhaustive: a cascade pre-selects"),
        ({"weights": {"dense": 1}}, r"weights: got \{'dense': 1\}, expected Weights. Fix: Weights"),
        ({"weights": (1, 0.3, 1)}, "weights: got .* expected Weights"),
        ({"top_k": 3}, "unknown search options top_k"),
    ],
)
def test_bad_plans(options, message):
    with pytest.raises(InvalidInputError, match=message):
        make_plan(options)


def test_make_plan_fills_in():
    assert make_plan({}) == SearchPlan()
    assert make_plan({"weights": None}).weights == Weights.balanced
    assert make_plan({"k": 3, "mode": "dense", "where": {"a": 1}}) == SearchPlan(k=3, mode="dense", where={"a": 1})


@pytest.mark.parametrize(
    ("plan", "heads"),
    [
        (SearchPlan(mode="dense"), ("dense",)),
        (SearchPlan(mode="sparse"), ("sparse",)),
        (SearchPlan(mode="multi_vector"), ("dense", "sparse", "multi_vector")),
        (SearchPlan(), ("dense", "sparse", "multi_vector")),
        (SearchPlan(weights=Weights.lexical), ("dense", "sparse")),
        (SearchPlan(weights=Weights(0, 0, 1), strategy="rrf"), ("dense", "sparse", "multi_vector")),
        (SearchPlan(weights=Weights(1, 0, 0), strategy="rrf"), ("dense", "sparse")),
    ],
)
def test_heads_a_query_needs(plan, heads):
    assert plan.heads == heads


def test_hits_are_a_list_with_stages():
    hit = Hit("1", "text", {}, 0.5, {"dense": 0.5})
    hits = Hits([hit], [Stage("dense top", 1, 0.1)])
    assert hits == [hit]
    assert hits.stages[0].candidates == 1
    assert Hits() == []


def test_values_are_frozen():
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        Chunk("1", "text").text = "other"
