import json
import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bgem3.errors import InvalidFilterError
from bgem3.filters import FIELDS_SCHEMA, OPERATORS, matches, parse_filter, to_fields, to_sql
from bgem3.metadata import check_metadata


class Table:
    """Metadata in real SQLite, as the sidecar keeps it."""

    def __init__(self, metadatas):
        self.db = sqlite3.connect(":memory:")
        self.db.create_function("casefold", 1, str.casefold, deterministic=True)
        self.db.executescript(f"CREATE TABLE live (row INTEGER PRIMARY KEY); {FIELDS_SCHEMA}")
        for row, metadata in enumerate(metadatas):
            self.db.execute("INSERT INTO live VALUES (?)", [row])
            values = [(key, row, *rest) for key, *rest in to_fields(metadata)]
            self.db.executemany("INSERT INTO fields VALUES (?, ?, ?, ?, ?)", values)

    def find(self, where):
        sql, values = to_sql(parse_filter(where))
        return [row for (row,) in self.db.execute(f"SELECT row FROM live WHERE {sql} ORDER BY row", values)]


def find(metadatas, where):
    """Return the positions that match, and make sure that Python and SQL agree."""
    parsed = parse_filter(where)
    found = [i for i, metadata in enumerate(metadatas) if matches(parsed, metadata)]
    table = Table(metadatas)
    assert table.find(where) == found
    table.db.close()
    return found


METADATAS = [
    {"x": 1}, {"x": 1.0}, {"x": True}, {"x": "1"}, {"x": 2}, {"x": 2.5}, {"y": "a"}, {"z": 1}, {"x": ["a", "b"]},
    {"x": [1, 2]}, {"x": [1.5]}, {"x": [True]}, {"x": False}, {"x": "abc"}, {"x": ""}, {"x": 2**53 + 1}, {"x": -3},
    {"x": 2.0}, {"x": 0.1 + 0.2}, {"x": "a\0b"}, {"a.b": 1}, {"q'\"": "it's \"so\""}, {"猫": "狗"}, {"a\0b": 1},
]  # fmt: skip

CHROMA_FILTERS = [
    {"x": 1}, {"x": 1.0}, {"x": True}, {"x": "1"}, {"x": {"$eq": 1}}, {"x": {"$ne": 1}}, {"x": {"$ne": 1.0}},
    {"x": {"$ne": True}}, {"x": {"$ne": "1"}}, {"x": {"$gt": 1}}, {"x": {"$gt": 1.5}}, {"x": {"$gte": 1}},
    {"x": {"$lt": 2}}, {"x": {"$lt": 2.0}}, {"x": {"$lte": 2.5}}, {"x": {"$lte": -3.0}}, {"x": {"$in": [1, 2]}},
    {"x": {"$in": [1.0]}}, {"x": {"$in": ["1", "abc"]}}, {"x": {"$in": [True]}}, {"x": {"$nin": [1]}},
    {"x": {"$nin": ["abc"]}}, {"x": {"$nin": [True]}}, {"x": {"$contains": "a"}}, {"x": {"$contains": 1}},
    {"x": {"$contains": 1.5}}, {"x": {"$contains": True}}, {"x": {"$contains": ""}}, {"x": {"$not_contains": "a"}},
    {"x": {"$not_contains": 1}}, {"$and": [{"x": 1}, {"x": {"$gt": 0}}]}, {"$or": [{"x": 1}, {"y": "a"}]},
    {"$or": [{"y": {"$ne": "a"}}, {"$and": [{"y": "a"}, {"x": {"$ne": 1}}]}]}, {"x": 2**53}, {"x": 2**53 + 1},
    {"x": {"$gt": 2**53}}, {"x": 0.3}, {"x": 0.1 + 0.2}, {"x": "a\0b"}, {"x": "a"}, {"a.b": 1}, {"q'\"": "it's \"so\""},
    {"猫": "狗"}, {"a\0b": 1}, {"missing": 1}, {"missing": {"$ne": 1}}, {"missing": {"$not_contains": 1}},
]  # fmt: skip


@pytest.fixture(scope="module")
def chroma_collection():
    import chromadb

    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    collection = client.create_collection("filters", embedding_function=None)
    ids = [str(i) for i in range(len(METADATAS))]
    collection.add(ids=ids, embeddings=[[1.0, 0.0]] * len(ids), metadatas=METADATAS)
    yield collection
    client.delete_collection("filters")


@pytest.mark.parametrize("where", CHROMA_FILTERS, ids=str)
def test_chromas_operators_mean_what_chroma_does(chroma_collection, where):
    assert find(METADATAS, where) == sorted(map(int, chroma_collection.get(where=where)["ids"]))


def test_an_int_compares_with_a_float_where_chroma_cuts_the_float(chroma_collection):
    assert find(METADATAS, {"x": {"$lt": 2.5}}) == [0, 1, 4, 16, 17, 18]
    # 2 < 2.5 becomes 2 < 2
    assert "4" not in chroma_collection.get(where={"x": {"$lt": 2.5}})["ids"]


def test_an_item_equals_an_int_or_a_float_where_chroma_tells_them_apart():
    assert find([{"x": [1, 2]}, {"x": [1.0]}, {"x": [True]}], {"x": {"$contains": 1.0}}) == [0, 1]


MORE = [{"n": 1, "s": "Straße 2024-01"}, {"n": 5, "s": "STRASSE 2023-12"}, {"t": ["a"]}, {}]


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({"n": 1, "s": "Straße 2024-01"}, [0]),
        ({"n": {"$gt": 0, "$lt": 5}}, [0]),
        ({"n": {"$in": []}}, []),
        ({"n": {"$nin": []}}, [0, 1, 2, 3]),
        ({"n": {"$in": [1, "a", True]}}, [0]),
        ({"n": {"$exists": True}}, [0, 1]),
        ({"n": {"$exists": False}}, [2, 3]),
        ({"t": {"$exists": True}}, [2]),
        ({"$not": {"n": {"$gt": 2}}}, [0, 2, 3]),
        ({"$not": {"$or": [{"n": 1}, {"t": {"$contains": "a"}}]}}, [1, 3]),
        ({"s": {"$gt": "STRASSE 2023-11", "$lt": "STRASSE 2024"}}, [1]),
        ({"s": {"$text_match": "Straße"}}, [0]),
        ({"s": {"$text_match": ""}}, [0, 1]),
        ({"s": {"$text_match_insensitive": "straSSE"}}, [0, 1]),
        ({"$and": [{"n": 5}]}, [1]),
    ],
    ids=str,
)
def test_operators_of_our_own(where, expected):
    assert find(MORE, where) == expected


KEYS = st.sampled_from(["a", "a.b", "q'\"", "猫", "[0]", "a\0b", "%"])
SCALARS = st.one_of(
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2),
    st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([0.0, 1.0, 0.3, 0.1 + 0.2, 2.0**53]),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=4) | st.sampled_from(["ß", "SS", "İ", "x\0y", "x"]),
)
LISTS = st.one_of(
    *(st.lists(kind, min_size=1, max_size=3) for kind in (st.booleans(), st.integers(-2, 2), st.floats(-1, 1), st.text(st.sampled_from("ab\0"))))
)  # fmt: skip
RECORDS = st.lists(st.dictionaries(KEYS, SCALARS | LISTS, max_size=4), min_size=1, max_size=4)


def operations(scalar):
    """Return strategies for the operators, over values drawn from `scalar`."""
    ordered = scalar.filter(lambda value: not isinstance(value, bool))
    return st.one_of(
        st.builds(lambda op, v: {op: v}, st.sampled_from(["$eq", "$ne", "$contains", "$not_contains"]), scalar),
        st.builds(lambda op, v: {op: v}, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), ordered),
        st.builds(lambda op, v: {op: v}, st.sampled_from(["$in", "$nin"]), st.lists(scalar, max_size=3)),
        st.builds(lambda v: {"$exists": v}, st.booleans()),
        st.builds(lambda op, v: {op: v}, st.sampled_from(["$text_match", "$text_match_insensitive"]), st.text(max_size=2)),
    )  # fmt: skip


@st.composite
def cases(draw):
    records = draw(RECORDS)
    stored = [item for r in records for value in r.values() for item in (value if isinstance(value, list) else [value])]
    # values that are there, so that an equality is often true
    scalar = SCALARS | st.sampled_from(stored) if stored else SCALARS
    field = st.dictionaries(KEYS, operations(scalar), min_size=1, max_size=2)
    where = st.recursive(
        field,
        lambda inner: st.one_of(
            st.builds(lambda op, parts: {op: parts}, st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3)),
            inner.map(lambda part: {"$not": part}),
        ),
        max_leaves=6,
    )  # fmt: skip
    return records, draw(where)


@settings(max_examples=600, deadline=None)
@given(cases())
def test_python_and_sql_agree(case):
    records, where = case
    assert [check_metadata(record, "record") for record in records] == records
    find(records, where)


BAD = [
    ("lang", "expected a mapping"),
    ({}, "not empty, got {}"),
    ({"a": {}}, "expected an operator"),
    ({"a": {"$near": 1}}, r"unknown operator '\$near', expected one of \$eq"),
    ({"$nor": [{"a": 1}]}, r"one of \$and, \$or, \$not, got '\$nor'"),
    ({1: 1}, "expected a metadata key"),
    ({"\ud800": 1}, "expected a metadata key"),
    ({"a": None}, r"\$eq expects .* got None"),
    ({"a": {"$eq": [1]}}, r"got \[1\]"),
    ({"a": float("nan")}, "finite float"),
    ({"a": float("inf")}, "finite float"),
    ({"a": 2**63}, "64-bit int"),
    ({"a": "\ud800"}, "valid str"),
    ({"a": {"$gt": True}}, "a number or a string, got True"),
    ({"a": {"$in": "abc"}}, "expects a list, got 'abc'"),
    ({"a": {"$in": [None]}}, "got None"),
    ({"a": {"$exists": 1}}, "true or false, got 1"),
    ({"a": {"$text_match": 1}}, "a string, got 1"),
    ({"$and": []}, "list of filters, not empty"),
    ({"$or": {"a": 1}}, "list of filters"),
    ({"$not": [{"a": 1}]}, "expected a mapping"),
    ({"a": {"$in": list(range(30_001))}}, "at most 30000 values, got 30001"),
    ({"$or": [{"a": i} for i in range(2_001)]}, "at most 2000 conditions, got 2001"),
]


@pytest.mark.parametrize(
    ("where", "message"), BAD, ids=[str(where)[:40].encode("ascii", "replace") for where, _ in BAD]
)
def test_what_is_refused(where, message):
    with pytest.raises(InvalidFilterError, match=message):
        parse_filter(where)


def test_too_deep_is_refused_and_deep_is_not():
    where = {"a": 1}
    for _ in range(32):
        where = {"$not": where}
    assert find([{"a": 1}, {}], where) == [0]
    with pytest.raises(InvalidFilterError, match="more than 32 deep"):
        parse_filter({"$not": where})


def test_the_largest_filter_runs_in_sqlite():
    wide = {"$or": [{"k": {"$ne": i}} for i in range(1_000)] + [{"n": {"$in": list(range(14_000)) + ["x"] * 14_000}}]}
    assert find([{"n": 3, "k": 5}, {}], wide) == [0, 1]


def test_every_operator_is_in_the_list():
    assert {operator.lstrip("$") for operator in OPERATORS} == {
        "eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "contains", "not_contains", "exists", "text_match",
        "text_match_insensitive",
    }  # fmt: skip
    assert json.dumps(OPERATORS)
