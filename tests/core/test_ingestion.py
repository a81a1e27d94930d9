import threading
import time
from contextlib import nullcontext

import pytest

from bgem3.errors import StoreWriteError
from bgem3.hybrid import HybridIndex
from bgem3.ingestion import SLICE_CHARACTERS, SLICE_TEXTS, aoverlapped, overlapped, text_slices
from bgem3.stores.memory import MemoryStore
from bgem3.types import Chunk
from tests.support.fake_encoder import FakeEncoder


def test_slices_are_bounded_by_texts_and_by_characters():
    short = [Chunk(str(i), "x") for i in range(SLICE_TEXTS + 1)]
    assert [len(part) for part in text_slices(short)] == [SLICE_TEXTS, 1]
    long = [Chunk(str(i), "x" * size) for i, size in enumerate([SLICE_CHARACTERS - 1, 1, 1, 3 * SLICE_CHARACTERS, 5])]
    assert [[chunk.id for chunk in part] for part in text_slices(long)] == [["0", "1"], ["2"], ["3"], ["4"]]
    assert list(text_slices([])) == []


def test_one_item_is_written_while_the_next_is_prepared():
    both = threading.Barrier(2, timeout=10)

    def prepare(item):
        if item:
            both.wait()
        return item

    def write(item):
        if item < 2:
            both.wait()
        return item * 10

    assert list(overlapped(range(3), prepare, write)) == [0, 10, 20]


def test_no_more_than_two_items_are_held():
    held, most = set(), 0

    def items():
        nonlocal most
        for i in range(10):
            held.add(i)
            most = max(most, len(held))
            yield i

    def write(item):
        time.sleep(0.005)
        held.remove(item)

    list(overlapped(items(), lambda item: item, write))
    assert most <= 3  # one is written, one is prepared, and the next is read
    assert held == set()


def test_an_error_while_preparing_lets_the_item_before_be_written():
    written = []

    def prepare(item):
        if item == 2:
            raise ValueError("third")
        return item

    def write(item):
        time.sleep(0.02)
        written.append(item)

    with pytest.raises(ValueError, match="third"):
        list(overlapped(range(5), prepare, write))
    assert written == [0, 1]


async def test_errors_beside_the_loop():
    written, told = [], []

    async def prepare(item):
        if item == broken:
            raise ValueError("in preparing")
        return item

    def write(item):
        time.sleep(0.02)
        if item == full:
            raise StoreWriteError("in writing")
        written.append(item)
        return item

    for broken, full, expected in ((2, 9, [0, 1]), (9, 1, [0]), (2, 1, [0]), (9, 9, [0, 1, 2, 3])):
        written.clear()
        told.clear()
        with pytest.raises((ValueError, StoreWriteError)) if min(broken, full) < 9 else nullcontext() as error:
            await aoverlapped(iter(range(4)), prepare, write, told.append)
        assert written == told == expected
        assert error is None or isinstance(error.value, StoreWriteError if full == 1 else ValueError)


def test_an_error_while_writing_stops_the_rest():
    prepared = []

    def write(item):
        if item == 1:
            raise StoreWriteError("full")

    def prepare(item):
        prepared.append(item)
        return item

    with pytest.raises(StoreWriteError, match="full"):
        list(overlapped(range(9), prepare, write))
    assert prepared == [0, 1, 2]


def test_an_iterator_of_any_length_is_read_as_it_is_stored():
    store = MemoryStore()
    with HybridIndex(FakeEncoder(), store) as index:

        def texts():
            for i in range(4 * SLICE_TEXTS):
                if i and i % SLICE_TEXTS == 0:
                    # what was read two slices ago is stored
                    assert index.count() >= i - 2 * SLICE_TEXTS
                yield f"text {i}"

        index.add(texts())
        assert index.count() == 4 * SLICE_TEXTS


def test_a_text_that_another_thread_replaced_meanwhile_is_encoded_after_all(monkeypatch):
    encoder = FakeEncoder()
    with HybridIndex(encoder, MemoryStore()) as index:
        index.add(["old"], ids=["a"])
        replace = index.store.replace_metadata

        def late(chunks):
            index.store.upsert([Chunk("a", "other")], encoder.encode(["other"]))
            return replace(chunks)

        monkeypatch.setattr(index.store, "replace_metadata", late)
        index.add(["old"], ids=["a"], metadatas=[{"n": 1}])
        assert index.get(["a"]) == [Chunk("a", "old", {"n": 1})]
        assert index.search("old", mode="sparse")[0].id == "a"
