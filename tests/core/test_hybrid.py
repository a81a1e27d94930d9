"""What HybridIndex itself does, beside the contract that it and every store keep."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings

import numpy as np
import pytest

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.encoder import M3Encoder
from bgem3.errors import (
    DuplicateIdError,
    HeadNotEncodedError,
    IndexMismatchError,
    InvalidInputError,
    InvalidMetadataError,
    InvalidTextError,
    SettingsWarning,
    StoreClosedError,
    TextTooLongError,
)
from bgem3.hybrid import HybridIndex
from bgem3.stores.memory import MemoryStore
from bgem3.types import HEADS, Chunk, Weights
from tests.support.embeddings import random_embeddings
from tests.support.fake_encoder import FakeEncoder
from tests.support.heartbeat import heartbeat


@pytest.fixture
def encoder():
    return FakeEncoder()


@pytest.fixture
def index(encoder):
    with HybridIndex(encoder, MemoryStore()) as index:
        yield index


TEXTS = ["red cat", "blue dog", "red dog runs", "green tree"]


def test_one_pass_a_text_and_one_a_query(index, encoder):
    index.add(TEXTS)
    assert encoder.calls == [(TEXTS, HEADS)]
    encoder.calls.clear()
    index.search("red cat", k=2)
    index.search_many(["red", "dog", "cat"], k=2)
    assert encoder.calls == [(["red cat"], HEADS), (["red", "dog", "cat"], HEADS)]


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        ({"mode": "dense"}, ("dense",)),
        ({"mode": "sparse"}, ("sparse",)),
        ({"weights": Weights.lexical}, ("dense", "sparse")),
        ({"mode": "multi_vector"}, HEADS),
    ],
)
def test_only_the_heads_a_search_needs_are_encoded(index, encoder, options, heads):
    index.search("red", **options)
    assert encoder.calls == [(["red"], heads)]


def test_bm25_asks_the_model_for_no_weights(encoder):
    index = HybridIndex(encoder, MemoryStore(), lexical="bm25")
    index.add(TEXTS)
    hits = index.search("red cat", mode="sparse")
    assert encoder.calls == [(TEXTS, ("dense", "multi_vector"))]
    assert [hit.text for hit in hits] == ["red cat", "red dog runs"]
    hybrid = index.search("red cat", k=4)
    assert encoder.calls[1:] == [(["red cat"], ("dense", "multi_vector"))]
    assert {hit.text: hit.scores["sparse"] for hit in hybrid}["red cat"] == hits[0].score
    assert index.search("red", mode="dense")[0].scores.keys() == {"dense"}


def test_an_endless_iterator_is_taken_in_slices(index, encoder):
    def endless():
        number = 0
        while True:
            if number == 1000:
                raise OSError("the source broke")
            yield f"text {number}"
            number += 1

    with pytest.raises(OSError, match="the source broke"):
        index.add(endless())
    assert [len(texts) for texts, _ in encoder.calls] == [256, 256, 256]
    assert index.count() == 768


LONG = [f"text {i}" for i in range(600)]
LATE_MISTAKES = [
    ({"ids": [*map(str, range(599)), "5"]}, DuplicateIdError, "'5' stands twice"),
    ({"ids": [str(i) for i in range(599)]}, InvalidInputError, "one ends at 599"),
    ({"metadatas": [{}] * 599 + [{"a": object()}]}, InvalidMetadataError, r"metadatas\[599\]\['a'\]"),
    ({"ids": [*map(str, range(599)), "\ud800"]}, InvalidInputError, "not valid Unicode"),
    ({"ids": "x" * 600}, InvalidInputError, "expected a list of strings, got one str"),
    ({"ids": {"5"}}, InvalidInputError, "got a set, which has no order"),
]


@pytest.mark.parametrize(("options", "error", "message"), LATE_MISTAKES, ids=lambda value: str(value)[:20])
def test_a_mistake_near_the_end_of_lists_changes_nothing(index, encoder, options, error, message):
    index.add(["before"], ids=["5"])
    encoder.calls.clear()
    with pytest.raises(error, match=message):
        index.add(LONG, **options)
    assert encoder.calls == []
    assert index.get(["5"]) == [Chunk("5", "before", {})]
    assert index.count() == 1


def test_a_dictionary_gives_ids_and_texts(index):
    texts = {"a": "tea", "b": "rye bread"}
    assert index.add(texts.values(), ids=texts.keys()) == ["a", "b"]
    assert [chunk.text for chunk in index.get(["a", "b"])] == ["tea", "rye bread"]


def test_a_duplicate_in_another_slice_of_an_iterator(index):
    with pytest.raises(DuplicateIdError, match="'0' stands twice"):
        index.add((f"text {i}" for i in range(300)), ids=[str(i % 299) for i in range(300)])
    assert index.count() == 256


def test_metadata_is_copied(index):
    metadata = {"tags": ["a"], "n": 1}
    index.add(["x"], ids=["1"], metadatas=[metadata])
    metadata["n"] = 2
    metadata["tags"].append("b")
    for chunk in (*index.get(["1"]), *index.search("x"), *next(index.store.scan())[0], *index.store.export()[0]):
        assert chunk.metadata == {"tags": ["a"], "n": 1}
        chunk.metadata["n"] = 2
        chunk.metadata["tags"].append("b")
    assert index.get(["1"])[0].metadata == {"tags": ["a"], "n": 1}


def test_embedded_chunks_and_queries(index, encoder):
    embeddings = encoder.encode(TEXTS)
    index.add_embedded([Chunk(str(i), text, {"i": i}) for i, text in enumerate(TEXTS)], embeddings)
    encoder.calls.clear()
    for number, hits in enumerate(index.search_embedded(embeddings[1:3], k=2), start=1):
        assert [hit.id for hit in hits] == [hit.id for hit in index.search(TEXTS[number], k=2)]
    assert len(encoder.calls) == 2
    with pytest.raises(InvalidInputError, match="got 4 for 1 chunks"):
        index.add_embedded([Chunk("9", "x")], embeddings)
    with pytest.raises(DuplicateIdError, match="'9' stands twice"):
        index.add_embedded([Chunk("9", "x"), Chunk("9", "y")], embeddings[:2])
    assert index.count() == 4
    index.add_embedded([], embeddings[:0])


@pytest.mark.parametrize(
    ("chunk", "error", "message"),
    [
        (Chunk("1", None), InvalidTextError, r"texts\[0\]: expected a str, got NoneType"),
        (Chunk("1", "\ud800"), InvalidTextError, "not valid Unicode"),
        (Chunk("", "x"), InvalidInputError, "ids: expected strings, not empty"),
        (Chunk("1", "x", {"a": None}), InvalidMetadataError, r"metadatas\[0\]\['a'\]"),
    ],
)
def test_embedded_chunks_are_checked_as_texts_are(index, encoder, chunk, error, message):
    index.add(["before"], ids=["1"])
    with pytest.raises(error, match=message):
        index.add_embedded([chunk], encoder.encode(["x"]))
    assert index.get(["1"]) == [Chunk("1", "before")]


@pytest.mark.parametrize("head", HEADS)
def test_embeddings_of_another_width_are_refused(index, encoder, head):
    index.add(["before"], ids=["1"])
    there, other = encoder.encode(["x"]), random_embeddings(1)
    heads = {one: getattr(other if one == head else there, one) for one in HEADS}
    message = f"embeddings: {head} is [0-9]+ wide, the index holds [0-9]+. Fix: encode with the index's own encoder"
    with pytest.raises(InvalidInputError, match=message):
        index.add_embedded([Chunk("1", "x")], M3Embeddings(**heads))
    with pytest.raises(InvalidInputError, match=message):
        index.search_embedded(M3Embeddings(**heads))
    assert index.get(["1"]) == [Chunk("1", "before")]
    with pytest.raises(HeadNotEncodedError, match="sparse: this head was not encoded"):
        index.add_embedded([Chunk("1", "x")], M3Embeddings(dense=there.dense))


def harmed(embeddings, head, value):
    dense, sparse, tokens = embeddings.dense.copy(), embeddings.sparse.copy(), embeddings.multi_vector.vectors.copy()
    {"dense": dense[0], "sparse": sparse.data, "multi_vector": tokens[-1]}[head][0] = value
    return M3Embeddings(dense=dense, sparse=sparse, multi_vector=MultiVectors(tokens, embeddings.multi_vector.offsets))


@pytest.mark.parametrize(
    ("head", "value", "problem"),
    [
        ("dense", np.nan, "dense has others than finite numbers"),
        ("dense", np.inf, "dense has others than finite numbers"),
        ("sparse", np.nan, "sparse.data has others than finite numbers >= 0"),
        ("sparse", -0.5, "sparse.data has others than finite numbers >= 0"),
        ("multi_vector", np.nan, "multi_vector.vectors has others than finite numbers"),
    ],
)
def test_embeddings_that_would_hide_other_chunks_are_refused(index, encoder, head, value, problem):
    index.add(["before", "x y"], ids=["1", "2"])
    bad = harmed(encoder.encode(["x"]), head, value)
    with pytest.raises(InvalidInputError, match=f"embeddings: {problem}. Fix: encode with the index's own encoder"):
        index.add_embedded([Chunk("1", "x")], bad)
    with pytest.raises(InvalidInputError, match=f"embeddings: {problem}"):
        index.search_embedded(bad)
    assert [hit.id for hit in index.search("x y")] == ["2", "1"]


def test_a_text_without_token_vectors_is_refused(index, encoder):
    there = encoder.encode(["a", "b c"])
    tokens = MultiVectors.from_list([there.multi_vector[0], there.multi_vector[1][:0]])
    bad = M3Embeddings(dense=there.dense, sparse=there.sparse, multi_vector=tokens)
    with pytest.raises(
        InvalidInputError, match=r"embeddings: multi_vector\[1\] is empty, expected a vector a token. Fix"
    ):
        index.add_embedded([Chunk("1", "a"), Chunk("2", "b c")], bad)
    with pytest.raises(InvalidInputError, match=r"embeddings: multi_vector\[1\] is empty"):
        index.search_embedded(bad)
    assert index.count() == 0


def test_other_settings_are_warned_about_once_and_refuse_to_add():
    store = MemoryStore()
    HybridIndex(FakeEncoder(), store).add(TEXTS)
    index = HybridIndex(FakeEncoder(max_length=64, backend="other"), store)
    with pytest.warns(SettingsWarning, match="max_length=128, now 64, window=128, now 64, backend='fake', now 'other'"):
        index.search("red")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(index.search("red")) == 4
    with pytest.raises(IndexMismatchError, match=r"max_length=128, now 64.*from_pretrained"):
        index.add(["new"])
    assert index.count() == 4


def test_another_fingerprint_or_weighting_is_refused():
    store = MemoryStore()
    HybridIndex(FakeEncoder(), store)
    with pytest.raises(IndexMismatchError, match="fingerprint: the index was made with 'aaa"):
        HybridIndex(FakeEncoder(fingerprint="b" * 64), store)
    with pytest.raises(IndexMismatchError, match="lexical: the index was made with 'm3'"):
        HybridIndex(FakeEncoder(), store, lexical="bm25")
    with pytest.raises(InvalidInputError, match="lexical: got 'tfidf', expected one of m3, bm25"):
        HybridIndex(FakeEncoder(), MemoryStore(), lexical="tfidf")


async def test_async_methods_let_the_loop_run():
    encoder = FakeEncoder()
    index = HybridIndex(encoder, SlowStore(0.1))
    async with heartbeat():
        await index.aadd(TEXTS, ids=["0", "1", "2", "3"], metadatas=[{"i": i} for i in range(4)])
    async with heartbeat():
        hits = await index.asearch("red cat", k=1)
    await index.aget(["0"])
    await index.adelete(where={"i": {"$gte": 2}})
    assert hits[0].id == "0"
    assert await asyncio.to_thread(index.count) == 2


async def test_an_iterator_is_added_beside_the_loop_one_slice_while_the_next_is_encoded():
    encoder, store = FakeEncoder(), SlowStore(0.0)
    both = threading.Barrier(2, timeout=10)
    encode, upsert = encoder.encode, store.upsert
    encoder.encode = lambda texts, **options: (both.wait() if "text 256" in texts else 0, encode(texts, **options))[1]
    store.upsert = lambda chunks, made: (both.wait() if chunks[0].text == "text 0" else 0, upsert(chunks, made))[1]
    index = HybridIndex(encoder, store)
    ids = await index.aadd((f"text {i}" for i in range(300)), ids=map(str, range(300)))
    assert ids == [str(i) for i in range(300)]
    assert index.count() == 300
    both.reset()
    with pytest.raises(DuplicateIdError, match="'0' stands twice"):
        await index.aadd((f"new {i}" for i in range(300)), ids=[str(i % 299) for i in range(300)])
    assert index.get(["0", "255", "256"])[1:] == [Chunk("255", "new 255"), Chunk("256", "text 256")]


async def test_many_texts_are_checked_beside_the_loop():
    index = HybridIndex(FakeEncoder(), MemoryStore())
    texts, metadatas = ["x"] * 200_000, [*[{}] * 199_999, {"a": None}]
    async with heartbeat():
        with pytest.raises(InvalidMetadataError, match=r"metadatas\[199999\]\['a'\]"):
            await index.aadd(texts, metadatas=metadatas)


async def test_async_errors_come_before_any_work():
    index = HybridIndex(FakeEncoder(), MemoryStore())
    with pytest.raises(InvalidInputError, match="mode: got 'magic'"):
        await index.asearch("x", mode="magic")
    with pytest.raises(DuplicateIdError, match="stands twice"):
        await index.aadd(["a", "b"], ids=["1", "1"])
    with pytest.raises(InvalidInputError, match="exactly one"):
        await index.adelete()
    index.close()
    for call in (index.asearch("x"), index.aadd(["x"]), index.aget(["x"]), index.adelete(ids=["x"])):
        with pytest.raises(StoreClosedError, match="closed"):
            await call
    assert index.encoder.calls == []


class SlowStore(MemoryStore):
    """A memory store that takes its time."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def upsert(self, chunks, embeddings):
        time.sleep(self._seconds)
        super().upsert(chunks, embeddings)

    def search(self, query, plan):
        time.sleep(self._seconds)
        return super().search(query, plan)


def test_leaving_the_context_closes_the_store(encoder):
    store = MemoryStore()
    with HybridIndex(encoder, store) as index:
        index.add(TEXTS)
    with pytest.raises(StoreClosedError, match="HybridIndex: closed"):
        index.count()
    with pytest.raises(StoreClosedError, match="MemoryStore: closed"):
        store.count()


def test_a_chat_sized_collection_feels_instant(encoder):
    random = np.random.default_rng(0)
    words = [f"w{i}" for i in range(3000)]
    index = HybridIndex(encoder, MemoryStore())
    index.add(" ".join(random.choice(words, 8)) for _ in range(3000))
    index.search("w1 w2")
    start = time.perf_counter()
    assert len(index.search("w5 w17 w230", k=10)) == 10
    # A few milliseconds on two cores; loose, so that a busy machine does not fail it.
    assert time.perf_counter() - start < 0.5


def test_a_bad_text_or_key_behind_whole_slices_changes_nothing(index):
    texts = [f"text {i}" for i in range(600)]
    with pytest.raises(InvalidTextError, match=r"texts\[600\]: not valid Unicode"):
        index.add([*texts, "\ud800"])
    for key in ("#a", "$a", "chroma:document"):
        with pytest.raises(InvalidMetadataError, match=r"metadatas\[599\]: keys beginning #, \$, chroma: are refused"):
            index.add(texts, metadatas=[*[{}] * 599, {key: 1}])
    assert index.count() == 0


def test_a_text_that_is_too_long_is_named_by_its_id(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="error")
    with HybridIndex(encoder, MemoryStore()) as index:
        index.add(["short"], ids=["s"])
        with pytest.raises(TextTooLongError, match=r"text of id 'l': \d+ tokens, max_length is 8"):
            index.add(["short", "a long text " * 9], ids=["s", "l"])
        with pytest.raises(TextTooLongError, match="text of id 'l'"):
            asyncio.run(index.aadd(["short", "a long text " * 9], ids=["s", "l"]))


async def test_a_query_that_is_too_long_is_called_one(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="error")
    with HybridIndex(encoder, MemoryStore()) as index:
        with pytest.raises(TextTooLongError, match=r"^query: \d+ tokens"):
            index.search("a long text " * 9)
        with pytest.raises(TextTooLongError, match=r"^query: \d+ tokens"):
            await index.asearch("a long text " * 9)
        with pytest.raises(TextTooLongError, match=r"^queries\[1\]: \d+ tokens"):
            index.search_many(["short", "a long text " * 9])


@pytest.mark.parametrize(
    ("encoder", "store"), [("BAAI/bge-m3", MemoryStore()), (FakeEncoder(), "./db")], ids=["encoder", "store"]
)
def test_what_is_no_encoder_or_no_store(encoder, store):
    with pytest.raises(InvalidInputError, match="HybridIndex: expected an encoder and a store"):
        HybridIndex(encoder, store)
