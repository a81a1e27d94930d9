"""What the memory store does beyond the contract that all stores share."""

from threading import Thread

import numpy as np
import pytest

from bgem3.errors import InvalidInputError, StoreClosedError
from bgem3.stores.memory import MemoryStore
from bgem3.types import Chunk, SearchPlan
from tests.support.embeddings import SETTINGS, random_embeddings


def chunks(names: range) -> list[Chunk]:
    return [Chunk(f"{i}", f"text {i}", {"n": i}) for i in names]


@pytest.fixture
def store():
    store = MemoryStore()
    store.open(SETTINGS)
    return store


def test_replacing_many_times_keeps_memory_and_answers(store):
    """Dead rows are cleared out; what is left is found as before."""
    for seed in range(60):
        store.upsert(chunks(range(50)), random_embeddings(50, seed))
    assert store.count() == 50
    assert len(store._dense) < 60 * 50
    latest = random_embeddings(50, 59)
    for i in (0, 17, 49):
        hit = store.search(latest[[i]], SearchPlan(k=1, mode="dense"))[0]
        assert (hit.id, hit.score) == (f"{i}", pytest.approx(1, abs=1e-6))
        assert store.search(latest[[i]], SearchPlan(k=1, mode="multi_vector", exhaustive=True))[0].id == f"{i}"
        products = (latest.sparse @ latest.sparse[[i]].T).toarray()[:, 0]
        lexical = [hit.score for hit in store.search(latest[[i]], SearchPlan(k=50, mode="sparse"))]
        np.testing.assert_allclose(lexical, np.sort(products[products > 0])[::-1], atol=1e-6)


def test_everything_deleted_after_much_was_stored(store):
    store.upsert(chunks(range(3000)), random_embeddings(3000))
    assert store.delete([f"{i}" for i in range(3000)]) == 3000
    assert store.count() == 0
    store.upsert(chunks(range(1)), random_embeddings(1))
    assert [hit.id for hit in store.search(random_embeddings(1), SearchPlan())] == ["0"]


@pytest.mark.parametrize(("codec", "tolerance"), [("float32", 1e-6), ("int8", 1e-2), ("binary", 0.5)])
def test_codecs(codec, tolerance):
    store = MemoryStore(codec=codec)
    store.open(SETTINGS)
    passages = random_embeddings(20)
    store.upsert(chunks(range(20)), passages)
    hits = store.search(passages[[4]], SearchPlan(mode="multi_vector", exhaustive=True))
    assert hits[0].score == pytest.approx(1, abs=tolerance)


def test_an_unknown_codec():
    with pytest.raises(InvalidInputError, match="got 'zip', expected one of float32"):
        MemoryStore(codec="zip")


def test_find(store):
    store.upsert(chunks(range(5)), random_embeddings(5))
    assert sorted(store.find({"n": {"$gte": 3}})) == ["3", "4"]
    assert store.find({"n": 9}) == []


def test_export_gives_back_what_was_stored(store):
    passages = random_embeddings(6)
    store.upsert(chunks(range(6)), passages)
    store.delete(["2"])
    got, embeddings = store.export()
    left = [0, 1, 3, 4, 5]
    assert got == [chunks(range(6))[i] for i in left]
    np.testing.assert_array_equal(embeddings.dense, passages.dense[left])
    np.testing.assert_array_equal(embeddings.sparse.toarray(), passages.sparse.toarray()[left])
    np.testing.assert_array_equal(embeddings.multi_vector.vectors, passages[left].multi_vector.vectors)


def test_every_method_refuses_after_close(store):
    store.close()
    one = random_embeddings(1)
    calls = [
        store.count, store.export, lambda: list(store.scan()), lambda: store.get(["1"]), lambda: store.find({"n": 1}), lambda: store.delete(["1"]),
        lambda: store.upsert(chunks(range(1)), one), lambda: store.search(one, SearchPlan()),
        lambda: store.open(SETTINGS),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(StoreClosedError, match="MemoryStore: closed"):
            call()


def test_writers_and_readers_in_threads(store):
    errors: list[BaseException] = []

    def write(first: int) -> None:
        try:
            for i in range(20):
                store.upsert(chunks(range(first, first + 10)), random_embeddings(10, i))
                assert len(store.search(random_embeddings(1, i), SearchPlan(k=5))) == 5
        except BaseException as error:
            errors.append(error)

    threads = [Thread(target=write, args=(100 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert store.count() == 40
