from __future__ import annotations

import pytest
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from bgem3.errors import InvalidFilterError
from bgem3.filters import matches, parse_filter
from llamaindex_bgem3.filters import to_where
from llamaindex_bgem3.nodes import node_filter, to_chunk, to_node

METADATA = [
    {"lang": "en", "year": 2020, "score": 0.5, "tags": ["a", "b"], "title": "The Cat", "draft": True},
    {"lang": "de", "year": 2021, "score": 1.0, "tags": ["b"], "title": "die katze", "draft": False},
    {"lang": "", "year": 2022, "score": 1.5, "tags": ["c", "a"], "title": "STRASSE"},
    {"year": 2020, "score": 2, "title": "cat", "flags": [True]},
    {"lang": "zh", "flags": [False, True]},
    {},
]

# Every operator, with values that hold for some of the rows and not for others.
CASES = [
    ("lang", "==", "en"),
    ("year", "==", 2020),
    ("score", "==", 2.0),
    ("draft", "==", 1),
    ("draft", "==", 0),
    ("lang", "!=", "en"),
    ("year", "!=", 2020),
    ("draft", "!=", 1),
    ("year", ">", 2020),
    ("score", ">", 1),
    ("year", "<", 2021),
    ("year", ">=", 2021),
    ("score", "<=", 1.0),
    ("lang", ">", "de"),
    ("lang", "in", ["en", "zh"]),
    ("year", "in", [2020, 2022]),
    ("draft", "in", [1, 7]),
    ("lang", "in", []),
    ("lang", "nin", ["en", "zh"]),
    ("year", "nin", [2020]),
    ("lang", "nin", []),
    ("tags", "any", ["a", "z"]),
    ("tags", "any", []),
    ("tags", "all", ["a", "b"]),
    ("tags", "all", []),
    ("tags", "contains", "a"),
    ("flags", "contains", 1),
    ("flags", "any", [0]),
    ("flags", "all", [1, 0]),
    ("title", "text_match", "at"),
    ("title", "text_match", "Cat"),
    ("title", "text_match_insensitive", "CAT"),
    ("lang", "is_empty", None),
    ("tags", "is_empty", None),
]


def one(key, operator, value):
    return MetadataFilter(key=key, value=value, operator=FilterOperator(operator))


def ours(filters):
    where = to_where(filters)
    return [where is None or matches(parse_filter(where), row) for row in METADATA]


def reference(filters):
    """Answer by LlamaIndex's own function, which knows no nesting, and by plain Python around it."""
    if isinstance(filters, MetadataFilter):
        check = build_metadata_filter_fn(lambda i: METADATA[int(i)], MetadataFilters(filters=[filters]))
        return [check(str(i)) for i in range(len(METADATA))]
    columns = list(zip(*(reference(part) for part in filters.filters), strict=True))
    join = {
        FilterCondition.AND: all,
        FilterCondition.OR: any,
        FilterCondition.NOT: lambda parts: not any(parts),
        None: all,
    }
    return [join[filters.condition](column) for column in columns]


def test_every_operator_is_covered():
    assert {operator for _, operator, _ in CASES} == {operator.value for operator in FilterOperator}


@pytest.mark.parametrize(("key", "operator", "value"), CASES)
def test_operator_equals_llamaindex(key, operator, value):
    part = one(key, operator, value)
    assert ours(MetadataFilters(filters=[part])) == reference(part)


@pytest.mark.parametrize("condition", [*FilterCondition, None])
@pytest.mark.parametrize("nested", [*FilterCondition])
def test_conditions_nest(condition, nested):
    inner = MetadataFilters(filters=[one("lang", "==", "en"), one("year", ">", 2020)], condition=nested)
    outer = MetadataFilters(filters=[inner, one("tags", "any", ["a"]), one("score", "<=", 1.0)], condition=condition)
    single = MetadataFilters(filters=[inner], condition=condition)
    for filters in (inner, outer, single):
        assert ours(filters) == reference(filters)


def test_values_of_other_types_do_not_match():
    for operator in (">", "<", ">=", "<=", "==", "text_match", "contains"):
        assert not any(ours(MetadataFilters(filters=[one("year", operator, "x")])))


def test_no_filters_restrict_nothing():
    empty = MetadataFilters(filters=[])
    assert to_where(None) is None
    assert to_where(empty) is None
    assert to_where(MetadataFilters(filters=[empty, empty])) is None
    assert node_filter(empty, doc_ids=[], node_ids=[]) is None


@pytest.mark.parametrize(
    ("key", "operator", "value", "match"),
    [
        ("a", "==", ["x"], "== expects one value.*Fix"),
        ("a", ">", None, "> expects one value"),
        ("a", "in", "x", r"in expects a list.*Fix: value=\[...\]"),
        ("a", "all", 1, "all expects a list"),
    ],
)
def test_bad_values(key, operator, value, match):
    with pytest.raises(InvalidFilterError, match=match):
        to_where(MetadataFilters(filters=[one(key, operator, value)]))


def test_filters_of_another_framework():
    with pytest.raises(
        InvalidFilterError, match=r"expected MetadataFilters, got \{'lang': 'en'\}. Fix: MetadataFilters"
    ):
        to_where({"lang": "en"})


def test_what_cannot_be_filtered_by_is_not_empty():
    values = [{"z": 1}, ["a", 1], None, [], "", 0]
    nodes = [TextNode(text="x", metadata={"k": value}) for value in values]
    where = parse_filter(to_where(MetadataFilters(filters=[one("k", "is_empty", None)])))
    empty = [matches(where, to_chunk(node).metadata) for node in nodes]
    assert empty == [False, False, True, True, True, False]
    assert [to_node(to_chunk(node)).metadata for node in nodes] == [node.metadata for node in nodes]
