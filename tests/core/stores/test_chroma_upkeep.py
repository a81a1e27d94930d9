"""What verify finds and backfill mends, and collections that other programs made."""

import sqlite3
from contextlib import closing
from unittest.mock import ANY

import chromadb
import numpy as np
import pytest

from bgem3.errors import IndexMismatchError, StoreCorruptError, StoreNotFoundError
from bgem3.hybrid import HybridIndex
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, backfill, verify
from bgem3.types import HEADS, Chunk, SearchPlan
from tests.support.fake_encoder import DIM, FakeEncoder
from tests.support.vectors import SETTINGS, embed

IDS = [f"id {i}" for i in range(9)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def store(folder):
    store = ChromaStore(folder, codec="float16")
    store.open(SETTINGS)
    chunks = [Chunk(id_, f"text of {id_}", {"n": i, "tags": ["x", "y"]}) for i, id_ in enumerate(IDS)]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))
    yield store
    store.close()


def raw(store):
    return store._collection._collection


def damage_row(store):
    store._sidecar.database.run("UPDATE rows SET multi_vector = x'00' WHERE id = 'id 3'")


def damage_metadata(store):
    store._sidecar.database.run("UPDATE rows SET metadata = '{broken' WHERE id = 'id 3'")


def damage_filter(store):
    store._sidecar.database.run("DELETE FROM fields WHERE key = 'n' AND value = 3")


def lose_row(store):
    store._sidecar.database.run("DELETE FROM live WHERE id = 'id 3'")


def change_text(store):
    raw(store).update(ids=["id 3"], documents=["other"], embeddings=embed(["other"]).dense)


def change_metadata(store):
    raw(store).update(ids=["id 3"], metadatas=[{"n": 30}])


def change_vector(store):
    raw(store).update(ids=["id 3"], embeddings=embed(["other"]).dense)


def delete_chunk(store):
    raw(store).delete(ids=["id 3"])


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (damage_row, "damaged"),
        (damage_metadata, "damaged"),
        (damage_filter, "damaged"),
        (lose_row, "missing"),
        (change_text, "changed"),
        (change_metadata, "changed"),
        (change_vector, "changed"),
        (delete_chunk, "gone"),
    ],
)
def test_what_is_wrong_is_found_and_mended(store, harm, problem):
    assert verify(store) == Report(9)
    harm(store)
    report = verify(store)
    assert (report.chunks, dict(report.problems), report.ok) == (9 - (problem == "gone"), {"id 3": problem}, False)
    encoded = []

    def encode(texts):
        encoded.extend(texts)
        return embed(texts)

    assert backfill(store, encode) == {"id 3": problem}
    assert len(encoded) == (problem != "gone")
    assert verify(store) == Report(9 - (problem == "gone"))
    kept = {chunk.id: (chunk, heads[[i]]) for part, heads in store.scan() for i, chunk in enumerate(part)}
    assert set(kept) == {chunk.id for chunk in store.get(IDS)}
    for chunk, heads in kept.values():
        expected = embed([chunk.text])
        np.testing.assert_allclose(heads.dense, expected.dense, atol=1e-6)
        np.testing.assert_array_equal(heads.sparse.toarray(), expected.sparse.toarray())
    if problem != "gone":
        chunk = kept["id 3"][0]
        assert chunk.metadata == {"n": 30 if harm is change_metadata else 3, "tags": ["x", "y"]}
        assert store.find({"n": chunk.metadata["n"]}) == ["id 3"]


def test_damaged_words_of_a_chunk_leave_the_collection_to_be_opened_and_mended(folder, store, caplog):
    store.close()
    with closing(sqlite3.connect(folder / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("UPDATE rows SET weights = zeroblob(length(weights)) WHERE id = 'id 3'")
    again = ChromaStore(folder)
    again.open(SETTINGS)
    assert "1 damaged chunks are not found by their words" in caplog.text
    assert "chunk 'id 3' is damaged" in caplog.text

    def search(i, **options):
        return [(hit.id, hit.scores) for hit in again.search(embed([f"text of id {i}"]), SearchPlan(k=9, **options))]

    assert search(4, mode="sparse")[0][0] == "id 4"
    assert "id 3" not in [id_ for id_, _ in search(3, mode="sparse")]
    for exhaustive in (False, True):
        assert search(3, exhaustive=exhaustive)[0] == ("id 3", {"dense": ANY, "sparse": 0.0, "multi_vector": ANY})
    assert dict(verify(again).problems) == {"id 3": "damaged"}
    assert backfill(again, embed) == {"id 3": "damaged"}
    assert verify(again) == Report(9)
    assert search(3, mode="sparse")[0][0] == "id 3"
    again.close()


def test_values_that_chroma_keeps_in_another_form_are_no_damage(store):
    rounded = 2.7715077941825975e-163  # Chroma gives ...978e-163 back
    metadata = {
        "old": True,
        "new": False,
        "zero": -0.0,
        "marks": [True, False],
        "part": rounded,
        "parts": [0.5, rounded],
    }
    store.upsert([Chunk("id 0", "text", metadata)], embed(["text"]))
    assert raw(store).get(ids=["id 0"])["metadatas"][0]["part"] != rounded
    assert verify(store) == Report(9)
    assert backfill(store, embed) == {}


def in_chroma(folder, sql, values=()):
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database, database:
        database.execute("PRAGMA writable_schema = ON")
        return database.execute(sql, values).fetchall()


def test_nothing_is_thrown_away_while_chromas_database_is_damaged(store, folder):
    store.close()
    index, *_ = in_chroma(folder, "SELECT * FROM sqlite_master WHERE name = 'embedding_metadata_int_value'")
    in_chroma(folder, "DELETE FROM sqlite_master WHERE name = 'embedding_metadata_int_value'")
    in_chroma(folder, "INSERT INTO embedding_metadata (id, key, int_value) VALUES (999, 'n', 1)")
    in_chroma(folder, "INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", index)
    store = ChromaStore(folder)
    store.open(SETTINGS)
    assert "chroma.sqlite3: " in str(verify(store).file)
    with pytest.raises(StoreCorruptError, match="nothing was changed. Fix: restore a backup of the folder"):
        backfill(store, embed)
    assert store.count() == 9
    store.close()


def test_rows_of_no_chunk_are_only_counted_and_cleared_away(store):
    database = store._sidecar.database
    columns = "id, text_hash, metadata, sparse_checksum, dense_checksum, multi_vector_checksum, tokens, weights, dense, multi_vector"
    database.run(f"INSERT INTO rows ({columns}) SELECT {columns} FROM rows WHERE id = 'id 1'")
    report = verify(store)
    assert (report.orphans, report.ok) == (1, True)
    assert backfill(store, embed) == {}
    assert verify(store) == Report(9)


def foreign(folder, *, space="l2", dim=DIM, ids=("a", "b", "c")):
    """Make a collection as langchain-chroma does, with vectors of another model."""
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    metadata = {"hnsw:space": space, "owner": "me"}
    collection = client.get_or_create_collection("langchain", embedding_function=None, metadata=metadata)
    collection.upsert(
        ids=list(ids),
        documents=[f"text {id_}" for id_ in ids],
        metadatas=[{"lang": "en", "name": id_} if id_ != "c" else None for id_ in ids],
        embeddings=np.random.default_rng(1).normal(size=(len(ids), dim)),
    )
    return client, collection


@pytest.mark.parametrize("space", ["l2", "cosine", "ip"])
def test_a_collection_of_another_program_is_adopted_in_place(folder, space):
    client, collection = foreign(folder, space=space)
    before = collection.get(include=["documents", "metadatas"])
    client.close()
    encoder = FakeEncoder()
    with pytest.raises(IndexMismatchError, match=r"belongs to another program. Fix: ChromaStore.adopt to add"):
        HybridIndex(encoder, ChromaStore(folder, collection="langchain"))
    store = ChromaStore.adopt(folder, encoder=encoder, collection="langchain")
    assert verify(store) == Report(3)
    with HybridIndex(encoder, store) as index:
        assert index.count() == 3
        for mode in HEADS:
            assert index.search("text b", mode=mode, where={"lang": "en"})[0].id == "b"
        assert index.get(["c"]) == [Chunk("c", "text c")]
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    collection = client.get_collection("langchain", embedding_function=None)
    assert collection.get(include=["documents", "metadatas"]) == before
    assert collection.metadata["owner"] == "me"
    assert collection.configuration["hnsw"]["space"] == space
    # the other program's search, with the new model's query vector
    assert collection.query(query_embeddings=encoder.encode(["text b"]).dense, n_results=1)["ids"] == [["b"]]
    client.close()
    # from then on it opens like any other
    with HybridIndex(encoder, ChromaStore(folder, collection="langchain")) as index:
        assert index.count() == 3


def test_adopting_goes_on_where_it_broke_off_and_follows_the_other_program(folder):
    client, _ = foreign(folder)
    client.close()
    encoder = FakeEncoder()
    ChromaStore.adopt(folder, encoder=encoder, collection="langchain").close()
    client, _ = foreign(folder, ids=("b", "d"))  # b has a vector of the other model again, d is new
    client.close()
    encoder.calls.clear()
    store = ChromaStore.adopt(folder, encoder=encoder, collection="langchain")
    assert sorted(text for texts, _ in encoder.calls for text in texts) == ["text b", "text d"]
    assert verify(store) == Report(4)
    with HybridIndex(encoder, store) as index:
        index.add(["text a", "new"], ids=["a", "b"], metadatas=[{"lang": "zh"}, None])
        assert index.delete(ids=["c"]) == 1
        assert index.get(["a", "b", "c"]) == [Chunk("a", "text a", {"lang": "zh"}), Chunk("b", "new")]
        assert verify(store).ok


def test_what_cannot_be_adopted(folder):
    encoder = FakeEncoder()
    with pytest.raises(StoreNotFoundError, match="no Chroma database"):
        ChromaStore.adopt(folder, encoder=encoder, collection="langchain")
    client, _ = foreign(folder, dim=5)
    client.close()
    with pytest.raises(StoreNotFoundError, match="none is called 'other', there are langchain"):
        ChromaStore.adopt(folder, encoder=encoder, collection="other")
    with pytest.raises(IndexMismatchError, match=r"its vectors have 5 dimensions, this encoder gives 24"):
        ChromaStore.adopt(folder, encoder=encoder, collection="langchain")


def test_another_passage_than_the_text(folder):
    client, _ = foreign(folder)
    client.close()
    encoder = FakeEncoder()
    store = ChromaStore.adopt(folder, encoder=encoder, collection="langchain", passage=lambda c: f"title: {c.text}")
    with HybridIndex(encoder, store) as index:
        assert [hit.text for hit in index.search("title: text a", k=1)] == ["text a"]
        assert len(index.search("title:", mode="sparse")) == 3
