"""What `add` does with what is there already, and what a store streams out, whatever store it is."""

from __future__ import annotations

import numpy as np
import pytest

from bgem3.errors import InvalidMetadataError, StoreClosedError, StoreNotFoundError
from bgem3.hybrid import HybridIndex
from bgem3.types import HEADS, Chunk
from tests.contract.conftest import ENGINES, PERSISTENT, stored_heads
from tests.support.fake_encoder import FakeEncoder


@pytest.fixture
def fake():
    return FakeEncoder()


@pytest.fixture
def small(make_store, fake):
    with HybridIndex(fake, make_store(codec="float32")) as index:
        yield index


TEXTS = [f"text number {i}" for i in range(20)]
IDS = [str(i) for i in range(20)]


def encoded(fake):
    return [text for texts, _ in fake.calls for text in texts]


def test_what_is_streamed_is_what_was_encoded(small, fake):
    metadatas = [{"n": i} for i in range(20)]
    small.add(TEXTS, ids=IDS, metadatas=metadatas)
    small.delete(ids=["3"])
    found = stored_heads(small.store)
    assert set(found) == set(IDS) - {"3"}
    for id_, (chunk, heads) in found.items():
        assert chunk == Chunk(id_, TEXTS[int(id_)], {"n": int(id_)})
        expected = fake.encode([chunk.text])
        np.testing.assert_array_equal(heads.dense, expected.dense)
        np.testing.assert_array_equal(heads.sparse.toarray(), expected.sparse.toarray())
        np.testing.assert_array_equal(heads.multi_vector.vectors, expected.multi_vector.vectors)


def test_streaming_an_empty_store_and_a_closed_one(small):
    assert list(small.store.scan()) == []
    small.close()
    with pytest.raises(StoreClosedError, match="closed"):
        list(small.store.scan())


def test_chunks_that_come_and_go_while_streaming(small):
    small.add(TEXTS, ids=IDS)
    seen = {}
    for chunks, _ in small.store.scan(batch_size=4):
        if not seen:
            small.delete(ids=["19"])
            small.add(["newer"], ids=["18"])
        seen |= {chunk.id: chunk.text for chunk in chunks}
    assert seen == {id_: text for id_, text in zip(IDS, TEXTS, strict=True) if id_ != "19"} | {"18": "newer"}


def test_unchanged_texts_are_not_encoded_again(small, fake):
    small.add(TEXTS, ids=IDS)
    before = stored_heads(small.store)
    fake.calls.clear()
    assert small.add([*TEXTS, "one more"], ids=[*IDS, "new"]) == [*IDS, "new"]
    assert encoded(fake) == ["one more"]
    after = stored_heads(small.store)
    assert after.keys() == before.keys() | {"new"}
    assert all(after[id_][0] == before[id_][0] for id_ in before)


@pytest.mark.parametrize("lexical", ["m3", "bm25"])
def test_new_metadata_for_an_unchanged_text(make_store, store_name, fake, lexical):
    if lexical == "bm25" and store_name in ENGINES:
        pytest.skip("engines keep the model's own lexical weights only")
    with HybridIndex(fake, make_store(), lexical=lexical) as index:
        index.add(TEXTS, ids=IDS, metadatas=[{"old": True, "n": i} for i in range(20)])
        heads = stored_heads(index.store)["7"][1]
        fake.calls.clear()
        index.add(["text number 7", "text number 8, changed"], ids=["7", "8"], metadatas=[{"n": 70}, {"n": 80}])
        assert encoded(fake) == ["text number 8, changed"]
        assert [chunk.metadata for chunk in index.get(["7", "8"])] == [{"n": 70}, {"n": 80}]
        for mode in HEADS:
            assert [hit.id for hit in index.search("text number 7", mode=mode, where={"n": 70})] == ["7"]
            assert index.search("text number 7", mode=mode, where={"old": True, "n": 7}) == []
        after = stored_heads(index.store)["7"][1]
        np.testing.assert_array_equal(after.dense, heads.dense)
        np.testing.assert_array_equal(after.sparse.toarray(), heads.sparse.toarray())
        np.testing.assert_array_equal(after.multi_vector.vectors, heads.multi_vector.vectors)
        assert index.count() == 20


async def test_the_async_way_skips_too(small, fake):
    await small.aadd(TEXTS, ids=IDS)
    fake.calls.clear()
    await small.aadd(["text number 0", "new"], ids=["0", "1"], metadatas=[{"a": 1}, None])
    assert encoded(fake) == ["new"]
    assert small.get(["0", "1"]) == [Chunk("0", "text number 0", {"a": 1}), Chunk("1", "new")]


def test_bad_metadata_leaves_an_unchanged_text_as_it_was(small):
    small.add(["a"], ids=["a"], metadatas=[{"n": 1}])
    with pytest.raises(InvalidMetadataError, match="expected a finite number"):
        small.add(["a"], ids=["a"], metadatas=[{"n": float("nan")}])
    assert small.get(["a"]) == [Chunk("a", "a", {"n": 1})]


def test_metadata_of_what_is_not_stored_is_not_replaced(small):
    small.add(["a", "b"], ids=["a", "b"])
    asked = [Chunk("a", "another text", {"n": 1}), Chunk("no", "a", {"n": 1}), Chunk("b", "b", {"n": 1})]
    assert small.store.unchanged(asked) == {"b"}
    assert small.store.replace_metadata(asked) == asked[:2]
    assert small.get(["a", "b"]) == [Chunk("a", "a"), Chunk("b", "b", {"n": 1})]


def test_opening_without_an_encoder(make_store, store_name, fake, small):
    if store_name in PERSISTENT:
        small.add(["a"], ids=["a"])
        small.close()
        again = make_store()
        assert again.open() == small.settings
        assert again.get(["a"]) == [Chunk("a", "a")]
        again.close()
    else:
        assert small.store.open() == small.settings


def test_opening_what_is_not_there(make_store):
    with pytest.raises(StoreNotFoundError, match="Fix: "):
        make_store().open()
