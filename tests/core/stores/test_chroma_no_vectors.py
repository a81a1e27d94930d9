"""`codec="none"`: no token vectors on disk, candidates are encoded again by the index's own encoder."""

import sqlite3
from contextlib import closing

import numpy as np
import pytest

from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError, SettingsWarning, StoreError
from bgem3.hybrid import HybridIndex
from bgem3.moving import copy_store
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, backfill, verify
from bgem3.stores.memory import MemoryStore
from bgem3.types import HEADS, SearchPlan, Weights, make_plan
from tests.support.fake_encoder import FakeEncoder

TEXTS = [f"red{i % 5} cat{i % 3} dog{i}" for i in range(20)]
IDS = [f"id {i}" for i in range(20)]
PLANS = [
    {"mode": "dense"},
    {"mode": "sparse"},
    {"mode": "multi_vector"},
    {"strategy": "union"},
    {"strategy": "cascade", "cascade": (8, 4)},
    {"strategy": "rrf"},
    {"exhaustive": True, "where": {"n": {"$lt": 10}}},
]


@pytest.fixture
def index(tmp_path):
    with HybridIndex(FakeEncoder(), ChromaStore(tmp_path / "db", codec="none")) as index:
        index.add(TEXTS, ids=IDS, metadatas=[{"n": i} for i in range(20)])
        yield index


@pytest.fixture
def exact():
    with HybridIndex(FakeEncoder(), MemoryStore()) as index:
        index.add(TEXTS, ids=IDS, metadatas=[{"n": i} for i in range(20)])
        yield index


@pytest.mark.parametrize("options", PLANS, ids=str)
def test_searches_answer_as_with_exact_vectors(index, exact, options):
    query, plan = (
        index.encoder.encode_queries(["red1 dog7"]),
        make_plan({**options, "k": 4, "fetch_k": 6, "explain": True}),
    )
    found, expected = index.store.search(query, plan), exact.store.search(query, plan)
    assert [hit.id for hit in found] == [hit.id for hit in expected]
    for hit, other in zip(found, expected, strict=True):
        assert hit.scores == pytest.approx(other.scores, abs=1e-3)  # dense is kept as float16
        assert [one.passage for one in hit.matches.tokens] == [one.passage for one in other.matches.tokens]
        assert hit.matches.vectors == other.matches.vectors


def test_nothing_is_kept_and_a_reopened_collection_knows(index, tmp_path):
    index.close()
    with closing(sqlite3.connect(tmp_path / "db" / "bgem3-bgem3.sqlite3")) as database:
        assert database.execute("SELECT count(*), sum(length(multi_vector)) FROM rows").fetchone() == (20, 0)
    with HybridIndex(encoder := FakeEncoder(), ChromaStore(tmp_path / "db")) as again:
        assert again.search("dog7", mode="multi_vector", k=1)[0].id == "id 7"
        assert encoder.calls[-1][1] == ("multi_vector",)
        encoder.calls.clear()
        again.search("dog7", weights=Weights.lexical)
        assert [heads for _, heads in encoder.calls] == [("dense", "sparse")]


def test_candidates_are_read_as_the_index_was_made(checkpoint, tmp_path):
    """With windows of four tokens, also where the encoder that asks has others."""

    def opened(path, codec, **lengths):
        encoder = M3Encoder.from_pretrained(checkpoint, backend="torch", **lengths)
        return HybridIndex(encoder, ChromaStore(path, codec=codec))

    found = []
    for codec in ("none", "float32"):
        with opened(tmp_path / codec, codec, max_length=6, window_overlap=0) as index:
            index.add(["one two three four five six seven eight nine ten"], ids=["a"])
        with pytest.warns(SettingsWarning), opened(tmp_path / codec, codec) as index:
            found.append(index.search("four five", mode="multi_vector")[0].scores["multi_vector"])
    assert found[0] == pytest.approx(found[1], abs=1e-5)


def test_it_is_verified_and_mended_like_any_other(index):
    index.store._sidecar.database.run("UPDATE rows SET weights = x'00' WHERE id = 'id 3'")
    assert verify(index.store).problems == {"id 3": "damaged"}
    backfill(index.store, lambda texts: index.encoder.encode_passages(texts, heads=HEADS))
    assert verify(index.store) == Report(20)


def test_a_copy_encodes_again_where_there_is_an_encoder(index, exact):
    with closing(MemoryStore()) as target:
        assert copy_store(index.store, target).copied == 20
    found = {chunk.id: heads[[i]] for chunks, heads in index.store.scan() for i, chunk in enumerate(chunks)}
    (chunks, heads), *_ = exact.store.scan()
    for i, chunk in enumerate(chunks):
        np.testing.assert_allclose(found[chunk.id].multi_vector[0], heads.multi_vector[i], atol=1e-6)


def test_a_store_alone_says_what_it_lacks(index, tmp_path):
    query = index.encoder.encode_queries(["dog7"])
    index.close()
    with closing(ChromaStore(tmp_path / "db")) as store:
        store.open()
        assert store.search(query, SearchPlan(mode="dense", k=1))[0].id == "id 7"
        for read in (lambda: store.search(query, SearchPlan()), lambda: next(store.scan())):
            with pytest.raises(StoreError, match="codec='none'.*Fix: pass the store to HybridIndex"):
                read()


def test_only_chroma_can_encode_again():
    with pytest.raises(InvalidInputError, match="codec: got 'none'"):
        MemoryStore(codec="none")
