"""One table of filters that every store must answer alike: Python, SQL, and both engines' own languages."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import HealthCheck, given, settings
from pymilvus import DataType, MilvusClient
from qdrant_client import QdrantClient, models

from bgem3.errors import InvalidFilterError
from bgem3.filters import matches, parse_filter
from bgem3.stores.facets import Contains, to_facets, to_test, word_name
from bgem3.stores.milvus_filters import both, keys_in, letters, to_milvus
from bgem3.stores.qdrant_filters import range_field, to_qdrant
from tests.core.test_filters import CHROMA_FILTERS, METADATAS, MORE, Table, cases

RECORDS = [
    *METADATAS, *MORE, {"s": "100% _a\\b"}, {"s": '") or key != "'}, {"s": "' or 1 == 1 --"}, {"s": "Ça va"}, {"s": "ÇA"},
    {"s": "a" * 40}, {"s": "a" * 29}, {"s": "a" * 29 + "b"}, {"s": "日本語"}, {"n": 2**62}, {"n": 2**62 + 1}, {"n": -1e300},
]  # fmt: skip

FILTERS = [
    *CHROMA_FILTERS,
    {"n": 1, "s": "Straße 2024-01"}, {"n": {"$gt": 0, "$lt": 5}}, {"n": {"$in": []}}, {"n": {"$nin": []}},
    {"n": {"$in": [1, "a", True]}}, {"n": {"$exists": True}}, {"n": {"$exists": False}}, {"t": {"$exists": True}},
    {"$not": {"n": {"$gt": 2}}}, {"$not": {"$or": [{"n": 1}, {"t": {"$contains": "a"}}]}},
    {"s": {"$gt": "STRASSE 2023-11", "$lt": "STRASSE 2024"}}, {"s": {"$text_match": "Straße"}}, {"s": {"$text_match": ""}},
    {"s": {"$text_match_insensitive": "straSSE"}}, {"$not": {"s": {"$text_match_insensitive": "straSSE"}}},
    {"s": {"$text_match_insensitive": "ça"}}, {"$not": {"s": {"$text_match": "Str"}}}, {"s": {"$text_match": "本"}},
    {"s": {"$text_match": "% _"}}, {"s": {"$text_match": "a\\b"}}, {"s": {"$text_match": '")'}}, {"s": {"$text_match": "'"}},
    {"s": '") or key != "'}, {"s": {"$in": ["' or 1 == 1 --", "100% _a\\b"]}}, {'") or key != "': 1}, {"x\\": {"$ne": 1}},
    {"$not": {"s": {"$gt": "STRASSE 2023-1"}}}, {"$not": {"x": {"$lte": 2**53}}}, {"x": {"$gte": 2**53 + 1}},
    {"n": {"$gt": 2**62}}, {"n": {"$lte": 2**62}}, {"n": {"$lt": 0}}, {"$not": {"n": {"$gte": 2**62 + 1}}},
    {"x": {"$gt": "a"}}, {"x": {"$lte": "abc"}}, {"$not": {"x": {"$gte": "abb"}}}, {"x": {"$gt": "a\0"}},
    {"x": {"$text_match": "\0"}}, {"s": {"$gt": "a" * 28}}, {"s": {"$gte": "a" * 29}}, {"s": {"$lte": "a" * 29}}, {"s": {"$lt": "日本語 "}},
]  # fmt: skip


class QdrantTable:
    """Metadata in Qdrant's local mode, as the store keeps it."""

    def __init__(self, metadatas):
        self.client = QdrantClient(":memory:")
        params = models.VectorParams(size=1, distance=models.Distance.DOT)
        self.client.create_collection("c", vectors_config=params)
        payloads = [{"_bgem3": {"facets": asdict(to_facets(one))}} for one in metadatas]
        points = [models.PointStruct(id=i, vector=[1.0], payload=one) for i, one in enumerate(payloads)]
        self.client.upsert("c", points)

    def find(self, where):
        chosen = models.Filter.model_validate(to_qdrant(where))
        return sorted(point.id for point in self.client.scroll("c", scroll_filter=chosen, limit=1000)[0])


class MilvusTable:
    """Metadata in milvus-lite, as the store keeps it."""

    def __init__(self, client, metadatas):
        self.client = client
        schema = client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("key", DataType.VARCHAR, is_primary=True, max_length=36)
        schema.add_field("tokens", DataType.ARRAY, element_type=DataType.VARCHAR, max_length=32, max_capacity=4096)
        for name in ("words", "texts", "folds"):
            schema.add_field(name, DataType.JSON)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
        if client.has_collection("c"):
            client.drop_collection("c")
        client.create_collection("c", schema=schema, consistency_level="Strong")
        index = client.prepare_index_params()
        index.add_index("vector", index_type="FLAT", metric_type="IP")
        client.create_index("c", index, sync=False)
        client.load_collection("c")
        client.upsert("c", [self._row(i, to_facets(one)) for i, one in enumerate(metadatas)])

    @staticmethod
    def _row(i, facets):
        written = {name: {k: letters(v) for k, v in getattr(facets, name).items()} for name in ("texts", "folds")}
        return {"key": str(i), "vector": [1.0, 0.0], "tokens": facets.tokens, "words": facets.words, **written}

    def find(self, where):
        found = self.client.query("c", filter=to_milvus(where), output_fields=["key"], limit=1000)
        return sorted(int(row["key"]) for row in found)


@pytest.fixture(scope="module")
def milvus_client(tmp_path_factory):
    client = MilvusClient(str(tmp_path_factory.mktemp("milvus") / "milvus.db"))
    yield client
    client.close()


@pytest.fixture(scope="module")
def tables(milvus_client):
    tables = {"sql": Table(RECORDS), "qdrant": QdrantTable(RECORDS), "milvus": MilvusTable(milvus_client, RECORDS)}
    yield tables
    tables["sql"].db.close()


@pytest.mark.parametrize("engine", ["sql", "qdrant", "milvus"])
@pytest.mark.parametrize("where", FILTERS, ids=[ascii(where) for where in FILTERS])
def test_every_store_answers_alike(tables, where, engine):
    parsed = parse_filter(where)
    assert tables[engine].find(where) == [i for i, one in enumerate(RECORDS) if matches(parsed, one)]


def answer(records, where):
    """Return the positions that match; None where the engine refuses to order by so long a string."""
    try:
        to_test(where)
    except InvalidFilterError:
        return None
    parsed = parse_filter(where)
    return [i for i, one in enumerate(records) if matches(parsed, one)]


@settings(max_examples=150, deadline=None)
@given(cases())
def test_qdrant_agrees_with_python(case):
    records, where = case
    if (expected := answer(records, where)) is not None:
        assert QdrantTable(records).find(where) == expected


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases())
def test_milvus_agrees_with_python(tmp_path_factory, case, milvus_of_its_own):
    records, where = case
    if (expected := answer(records, where)) is not None:
        assert MilvusTable(milvus_of_its_own, records).find(where) == expected


@pytest.fixture(scope="module")
def milvus_of_its_own(tmp_path_factory):
    client = MilvusClient(str(tmp_path_factory.mktemp("milvus") / "examples.db"))
    yield client
    client.close()


def test_strings_are_ordered_by_their_first_bytes_and_longer_operands_refused():
    with pytest.raises(
        InvalidFilterError, match=r"where\['s'\]: this engine orders strings .* at most 29 bytes, got 30"
    ):
        to_test({"s": {"$gt": "a" * 30}})


def test_nothing_of_a_users_text_reaches_milvus_as_it_is():
    hostile = '") or key != "'
    for where in ({hostile: hostile}, {hostile: {"$text_match": hostile}}, {hostile: {"$gt": hostile}}):
        assert hostile not in to_milvus(where)
    assert letters("a%") == "gBcF"
    assert set(letters('%_\\"é猫')) <= set("abcdefghijklmnopABCDEFGHIJKLMNOP")


def test_a_substring_cannot_match_across_bytes():
    assert b"6".hex() in b"c`".hex()
    assert letters("6") not in letters("c`")


def test_the_number_word_is_the_one_an_index_names():
    assert range_field("year") == f"_bgem3.facets.words.{word_name('year')}"
    assert list(to_facets({"year": 2020}).words) == [word_name("year")]


def test_expressions_joined():
    assert both("", "a") == "a" == both("a", "")
    assert both("a", "b") == "(a) and (b)"
    assert keys_in(["1f", "2e"]) == 'key in ["1f", "2e"]'


def test_a_fold_is_kept_only_where_it_differs():
    assert to_facets({"a": "abc"}).folds == {}
    assert list(to_facets({"a": "ABC"}).folds.values()) == ["abc"]
    assert isinstance(to_test({"a": {"$text_match": "x"}}).parts[1], Contains)
