"""What a user can rely on, whatever store is behind the index."""

from __future__ import annotations

import random
from threading import Thread

import numpy as np
import pytest

from bgem3.encoder import M3Encoder
from bgem3.errors import (
    DuplicateIdError,
    IndexMismatchError,
    InvalidFilterError,
    InvalidInputError,
    InvalidMetadataError,
    InvalidTextError,
    SettingsWarning,
    StoreClosedError,
)
from bgem3.hybrid import HybridIndex
from bgem3.scoring import score
from bgem3.types import HEADS, Chunk, Weights
from tests.contract.conftest import ENGINES, PERSISTENT

WORDS = [
    "the",
    "a",
    "red",
    "blue",
    "cat",
    "dog",
    "sat",
    "ran",
    "on",
    "under",
    "mat",
    "tree",
    "hello",
    "world",
    "猫",
    "狗",
    "水",
    "مرحبا",
    "мир",
    "KX-220B",
    "E-4107",
    "😀",
]


def make_texts(n: int, seed: int = 0) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=chosen.randint(1, 12))) + f" {i}" for i in range(n)]


TEXTS = make_texts(60)
IDS = [f"chunk {i}" for i in range(60)]
METADATAS = [{"n": i, "even": i % 2 == 0, "lang": "zh" if i % 3 else "en", "half": i / 2} for i in range(60)]


@pytest.fixture
def filled(index):
    index.add(TEXTS, ids=IDS, metadatas=METADATAS)
    return index


def brute_force(encoder, query, weights, rows):
    """Score rows by all heads, straight from the formulas."""
    scores = score(encoder.encode([query]), encoder.encode([TEXTS[i] for i in rows]))
    total = sum(getattr(scores, head)[0] * getattr(weights, head) for head in HEADS if getattr(weights, head))
    return scores, total / weights.total


def test_an_empty_index(index):
    assert index.count() == 0
    assert index.search("anything") == []
    assert index.get(["no"]) == []
    assert index.delete(ids=["no"]) == 0
    assert index.add([]) == []


def test_add_returns_ids_in_order(index):
    assert index.add(["x", "y"], ids=["b", "a"]) == ["b", "a"]
    made = index.add(["z", ""])
    assert len(set(made)) == 2
    assert index.count() == 4


def test_get_in_the_order_asked_without_the_missing(filled):
    got = filled.get(["chunk 9", "no", "chunk 3", "chunk 9"])
    assert got == [Chunk(IDS[i], TEXTS[i], METADATAS[i]) for i in (9, 3, 9)]


def test_add_replaces_text_vectors_and_metadata_whole(filled):
    filled.add(["completely different KX-220B"], ids=["chunk 5"], metadatas=[{"new": True}])
    assert filled.count() == 60
    assert filled.get(["chunk 5"]) == [Chunk("chunk 5", "completely different KX-220B", {"new": True})]
    assert filled.search("x", k=60, where={"n": 5}) == []
    hit = filled.search("completely different KX-220B", k=1, where={"new": True})[0]
    assert hit.id == "chunk 5"
    assert hit.scores["dense"] == pytest.approx(1, abs=2e-3)


def test_metadata_can_be_emptied(filled):
    filled.add([TEXTS[1]], ids=["chunk 1"])
    assert filled.get(["chunk 1"]) == [Chunk("chunk 1", TEXTS[1], {})]


def test_every_metadata_type_comes_back(index):
    metadata = {
        "text": "ü 'quoted\" \\ line\n", "int": -(2**63), "big": 2**63 - 1, "float": 0.1, "true": True, "false": False,
        "texts": ["a", "b"], "ints": [1, 2], "floats": [0.5, 1.5], "bools": [True, False], "key with \"' . and 猫": 1,
    }  # fmt: skip
    index.add(["x"], ids=["1"], metadatas=[metadata])
    (got,) = index.get(["1"])
    assert got.metadata == metadata
    assert {k: type(v) for k, v in got.metadata.items()} == {k: type(v) for k, v in metadata.items()}


def test_floats_come_back_to_the_last_bit(index):
    chosen = random.Random(0)
    floats = {str(i): chosen.random() for i in range(100)}
    metadatas = [{"one": value, "list": [value, -value]} for value in floats.values()]
    index.add(["x"] * 100, ids=list(floats), metadatas=metadatas)
    assert [chunk.metadata for chunk in index.get(list(floats))] == metadatas
    for hit in index.search("x", k=100):
        assert hit.metadata["one"] == floats[hit.id]
    assert [hit.id for hit in index.search("x", where={"one": floats["7"]})] == ["7"]
    for i, value in enumerate(sorted(floats.values())):
        found = [len(index.store.find({"one": {operator: value}})) for operator in ("$lt", "$lte", "$gt", "$gte")]
        assert found == [i, i + 1, 99 - i, 100 - i]


@pytest.mark.parametrize("start", [-5, 2**50, 2**52, 2**53 - 8, 2**60 + 1, 2**63 - 21, -(2**63), -(2**54)])
def test_large_integers_are_ordered_exactly(index, start):
    numbers = list(range(start, start + 20))
    index.add(["x"] * 20, ids=[str(n) for n in numbers], metadatas=[{"n": n} for n in numbers])
    for i, n in enumerate(numbers):
        found = [len(index.store.find({"n": {operator: n}})) for operator in ("$lt", "$lte", "$gt", "$gte")]
        assert found == [i, i + 1, 19 - i, 20 - i]


def test_delete_by_id_counts_what_went(filled):
    assert filled.delete(ids=["chunk 1", "no", "chunk 2", "chunk 1"]) == 2
    assert filled.count() == 58
    assert filled.get(["chunk 1", "chunk 2"]) == []
    found = {hit.id for hit in filled.search(TEXTS[1], k=60, fetch_k=60)}
    assert not found & {"chunk 1", "chunk 2"}


def test_delete_by_filter(filled):
    assert filled.delete(where={"n": {"$lt": 10}}) == 10
    assert filled.count() == 50
    assert filled.delete(where={"n": {"$lt": 10}}) == 0


def test_a_deleted_id_can_come_back(filled):
    filled.delete(ids=["chunk 7"])
    filled.add(["again"], ids=["chunk 7"])
    assert filled.get(["chunk 7"])[0].text == "again"


@pytest.mark.parametrize("weights", [Weights(), Weights.long_document, Weights.lexical, Weights(0, 0, 1)])
def test_union_of_everything_is_brute_force(filled, encoder, weights):
    for query in ["red cat", "猫 sat", "KX-220B", ""]:
        _, expected = brute_force(encoder, query, weights, range(60))
        hits = filled.search(query, k=60, fetch_k=60, weights=weights)
        assert len(hits) == 60
        np.testing.assert_allclose([hit.score for hit in hits], np.sort(expected)[::-1], atol=2e-3)
        for hit in hits:
            assert hit.score == pytest.approx(expected[IDS.index(hit.id)], abs=2e-3)


@pytest.mark.parametrize("mode", ["dense", "sparse", "multi_vector"])
def test_single_heads_are_brute_force(filled, encoder, mode):
    scores, _ = brute_force(encoder, "red cat 猫", Weights(), range(60))
    expected = getattr(scores, mode)[0]
    hits = filled.search("red cat 猫", k=60, mode=mode, fetch_k=60)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    for hit in hits:
        assert hit.scores == {mode: hit.score}
        assert hit.score == pytest.approx(expected[IDS.index(hit.id)], abs=2e-3)
    assert len(hits) == (np.count_nonzero(expected) if mode == "sparse" else 60)


def test_every_hit_has_every_head(filled, encoder):
    for strategy in ("union", "cascade", "rrf"):
        for hit in filled.search("blue dog", k=7, strategy=strategy):
            scores, _ = brute_force(encoder, "blue dog", Weights(), [IDS.index(hit.id)])
            for head in HEADS:
                assert hit.scores[head] == pytest.approx(getattr(scores, head)[0, 0], abs=2e-3)


def test_cascade_fills_up_from_dense(filled):
    hits = filled.search("zzzz", k=5, strategy="cascade", cascade=(20, 10))
    assert len(hits) == 5


def test_rrf_scores_are_the_sum_of_ranks(filled):
    hits = filled.search("red cat", k=60, strategy="rrf", fetch_k=60, weights=Weights(1, 0, 0), rrf_k=60)
    assert [hit.score for hit in hits[:3]] == pytest.approx([1 / 61, 1 / 62, 1 / 63])
    dense = filled.search("red cat", k=60, mode="dense", fetch_k=60)
    assert [hit.id for hit in hits] == [hit.id for hit in dense]


FILTERS = [
    ({"n": 7}, lambda m: m["n"] == 7),
    ({"even": True}, lambda m: m["even"]),
    ({"lang": {"$ne": "zh"}}, lambda m: m["lang"] != "zh"),
    ({"n": {"$in": [1, 2, 99]}}, lambda m: m["n"] in (1, 2)),
    ({"n": {"$gte": 10, "$lt": 20}}, lambda m: 10 <= m["n"] < 20),
    ({"$or": [{"n": 1}, {"$and": [{"even": False}, {"half": {"$gt": 25}}]}]},
     lambda m: m["n"] == 1 or (not m["even"] and m["half"] > 25)),
    ({"$not": {"lang": "zh"}}, lambda m: m["lang"] != "zh"),
    ({"missing": {"$ne": 1}}, lambda m: True),
    ({"missing": {"$exists": True}}, lambda m: False),
]  # fmt: skip


@pytest.mark.parametrize(("where", "predicate"), FILTERS, ids=[str(where) for where, _ in FILTERS])
@pytest.mark.parametrize(
    "options", [{}, {"mode": "dense"}, {"mode": "multi_vector"}, {"strategy": "cascade"}, {"strategy": "rrf"}]
)
def test_filters_return_k_when_k_match(filled, where, predicate, options):
    matching = {IDS[i] for i in range(60) if predicate(METADATAS[i])}
    hits = filled.search("red cat", k=5, where=where, **options)
    assert {hit.id for hit in hits} <= matching
    assert len(hits) == min(5, len(matching))


def test_equal_texts_are_ranked_by_id(index):
    ids = [f"{i:02}" for i in range(40)]
    index.add(["the same red cat"] * 40, ids=ids)
    hits = index.search("red cat", k=40, strategy="rrf", weights=Weights(1, 1, 1))
    assert [hit.id for hit in hits] == ids
    assert [hit.score for hit in hits] == pytest.approx([3 / (60 + rank) for rank in range(1, 41)])


def test_search_does_not_depend_on_k_or_order_of_adding(filled):
    ten = filled.search("red cat", k=10)
    assert filled.search("red cat", k=3) == ten[:3]


@pytest.mark.parametrize(
    "options", [{}, {"strategy": "rrf"}, {"mode": "dense"}, {"mode": "sparse"}, {"mode": "multi_vector"}]
)
def test_search_many_is_search(filled, options):
    queries = ["red cat", "猫", "", "red cat"]
    many = filled.search_many(queries, k=4, **options)
    for query, hits in zip(queries, many, strict=True):
        single = filled.search(query, k=4, **options)
        assert [(hit.id, pytest.approx(hit.score, abs=1e-5)) for hit in hits] == [(hit.id, hit.score) for hit in single]
    assert filled.search_many([], **options) == []


async def test_async_is_sync(index):
    assert await index.aadd(TEXTS, ids=IDS, metadatas=METADATAS) == IDS
    hits = await index.asearch("red cat", k=5, where={"even": True})
    assert [hit.id for hit in hits] == [hit.id for hit in index.search("red cat", k=5, where={"even": True})]
    assert await index.aget(["chunk 1"]) == index.get(["chunk 1"])
    assert await index.adelete(ids=["chunk 1"]) == 1


@pytest.mark.parametrize("mode", ["sparse", "hybrid"])
def test_bm25_finds_the_exact_word_first(make_store, store_name, encoder, mode):
    if store_name in ENGINES:
        with pytest.raises(InvalidInputError, match="lexical: .* keeps the model's learned weights, got 'bm25'"):
            HybridIndex(encoder, make_store(), lexical="bm25")
        return
    with HybridIndex(encoder, make_store(), lexical="bm25") as index:
        index.add(["filter KX-220B fits", "filter AB-100 fits", "something else"], ids=["1", "2", "3"])
        hits = index.search("KX-220B", k=3, mode=mode, weights=Weights(0, 1, 0) if mode == "hybrid" else None)
        assert hits[0].id == "1"
        assert all(0 <= hit.scores["sparse"] < 1 for hit in hits)


BAD_ADDS = [
    ({"texts": ["a", "b"], "ids": ["1"]}, InvalidInputError, "differ in length"),
    ({"texts": ["a"], "ids": ["1", "2"]}, InvalidInputError, "differ in length"),
    ({"texts": ["a"], "metadatas": []}, InvalidInputError, "differ in length"),
    ({"texts": "a"}, InvalidInputError, r"Fix: pass \[text\]"),
    ({"texts": ["a", "b"], "ids": ["new", "new"]}, DuplicateIdError, "'new' stands twice"),
    ({"texts": ["a"], "ids": [""]}, InvalidInputError, "not empty"),
    ({"texts": ["a"], "ids": [3]}, InvalidInputError, "expected strings"),
    ({"texts": [None]}, InvalidTextError, r"texts\[0\]"),
    ({"texts": ["\ud800"]}, InvalidTextError, "not valid Unicode"),
    ({"texts": ["a"], "metadatas": [{"x": {"y": 1}}]}, InvalidMetadataError, r"metadatas\[0\]\['x'\]"),
    ({"texts": ["a"], "metadatas": [{"x": float("nan")}]}, InvalidMetadataError, "finite"),
    ({"texts": ["a"], "metadatas": [{"x": None}]}, InvalidMetadataError, "NoneType"),
    ({"texts": ["a"], "metadatas": [{"x": []}]}, InvalidMetadataError, "not empty"),
    ({"texts": ["a"], "metadatas": [{"x": [1, "a"]}]}, InvalidMetadataError, "one type"),
    ({"texts": ["a"], "metadatas": [{"x": 2**63}]}, InvalidMetadataError, "64 bits"),
    ({"texts": ["a"], "metadatas": [{"_bgem3_row": 1}]}, InvalidMetadataError, "reserved"),
    ({"texts": ["a"], "metadatas": [{1: 1}]}, InvalidMetadataError, "keys that are strings"),
]


@pytest.mark.parametrize(("options", "error", "message"), BAD_ADDS, ids=[str(o)[:60] for o, _, _ in BAD_ADDS])
def test_bad_input_leaves_what_was_stored(filled, options, error, message):
    with pytest.raises(error, match=message):
        filled.add(**options)
    assert filled.count() == 60
    assert filled.get(["chunk 3"]) == [Chunk("chunk 3", TEXTS[3], METADATAS[3])]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"k": 0}, InvalidInputError, "k: expected a whole number >= 1, got 0"),
        ({"fetch_k": -1}, InvalidInputError, "fetch_k"),
        ({"mode": "magic"}, InvalidInputError, "mode: got 'magic', expected one of dense"),
        ({"cascade": (1,)}, InvalidInputError, "cascade"),
        ({"where": {"a": {"$near": 1}}}, InvalidFilterError, r"unknown operator '\$near'"),
        ({"where": {}}, InvalidFilterError, "not empty"),
        ({"where": {"a": None}}, InvalidFilterError, "got None"),
    ],
)
def test_bad_search(filled, options, error, message):
    with pytest.raises(error, match=message):
        filled.search("x", **options)


def test_bad_query(filled):
    with pytest.raises(InvalidTextError, match="expected a str, got int"):
        filled.search(3)


def test_delete_wants_one_of_ids_and_where(filled):
    with pytest.raises(InvalidInputError, match="exactly one"):
        filled.delete()
    with pytest.raises(InvalidInputError, match="exactly one"):
        filled.delete(ids=["a"], where={"n": 1})
    with pytest.raises(InvalidInputError, match="one str"):
        filled.delete(ids="chunk 1")
    assert filled.count() == 60


def test_closed(filled):
    filled.close()
    filled.close()
    for call in (filled.count, lambda: filled.search("x"), lambda: filled.add(["x"]), lambda: filled.get(["x"])):
        with pytest.raises(StoreClosedError, match="closed"):
            call()


def test_another_checkpoint_is_refused(filled, store_name, checkpoint_factory):
    other = M3Encoder.from_pretrained(checkpoint_factory(seed=99))
    store = filled.store
    with pytest.raises(IndexMismatchError, match="fingerprint: the index was made with"):
        HybridIndex(other, store)
    with pytest.raises(IndexMismatchError, match="lexical: the index was made with 'm3'"):
        HybridIndex(filled.encoder, store, lexical="bm25")


def test_other_lengths_search_with_a_warning_and_do_not_add(filled, checkpoint):
    shorter = M3Encoder.from_pretrained(checkpoint, max_length=32)
    index = HybridIndex(shorter, filled.store)
    with pytest.warns(SettingsWarning, match="max_length=128, now 32"):
        assert len(index.search("red cat", k=3)) == 3
    with pytest.raises(IndexMismatchError, match="other lengths: max_length=128, now 32"):
        index.add(["x"])


def test_another_backend_is_only_warned_about(filled, checkpoint, encoder):
    other = M3Encoder.from_pretrained(checkpoint, backend="onnx" if encoder.backend == "torch" else "torch")
    index = HybridIndex(other, filled.store)
    with pytest.warns(SettingsWarning, match=f"backend={encoder.backend!r}, now {other.backend!r}"):
        index.search("red cat")
    index.add(["x"], ids=["new"])
    assert filled.count() == 61


def test_everything_is_there_after_reopening(make_store, store_name, encoder):
    if store_name not in PERSISTENT:
        pytest.skip("this store lives as long as the process")
    with HybridIndex(encoder, make_store(codec="float32")) as index:
        index.add(TEXTS, ids=IDS, metadatas=METADATAS)
        index.delete(ids=["chunk 0"])
        index.add(["changed"], ids=["chunk 1"])
        before = index.search("red cat", k=20)
    with HybridIndex(encoder, make_store()) as index:
        assert index.count() == 59
        assert index.get(["chunk 0", "chunk 1"]) == [Chunk("chunk 1", "changed", {})]
        assert index.search("red cat", k=20) == before


def test_threads_search_while_one_writes(filled):
    errors: list[BaseException] = []

    def run(action):
        try:
            for number in range(15):
                action(number)
        except BaseException as error:
            errors.append(error)

    def write(number):
        filled.add([f"thread text {number}"], ids=[f"t{number}"])
        filled.delete(ids=[f"t{number - 1}"])

    threads = [Thread(target=run, args=(lambda _: filled.search("red cat", k=5),)) for _ in range(4)]
    threads.append(Thread(target=run, args=(write,)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert filled.count() == 61


def test_a_generator_is_taken_in_slices(index):
    ids = index.add((f"text {i}" for i in range(600)), metadatas=({"i": i} for i in range(600)))
    assert index.count() == len(ids) == 600
    assert index.get([ids[599]])[0].metadata == {"i": 599}


def test_dense_vectors_of_chunks_that_exist(index, encoder):
    index.add(TEXTS[:3], ids=IDS[:3])
    vectors = index.dense_vectors([IDS[2], "missing", IDS[0]])
    assert set(vectors) == {IDS[0], IDS[2]}
    np.testing.assert_allclose(vectors[IDS[2]], encoder.encode(TEXTS[2:3]).dense[0], atol=1e-3)
    assert index.dense_vectors(["missing"]) == {} == index.dense_vectors([])


def test_explain_tells_what_each_stage_did(filled):
    assert filled.search("red cat", k=3).stages == ()
    stages = {stage.name: stage for stage in filled.search("red cat", k=3, where={"even": True}, explain=True).stages}
    assert stages["filter"].candidates == 30
    assert stages["chunks"].candidates == 3
