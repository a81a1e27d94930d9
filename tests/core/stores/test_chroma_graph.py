"""Chroma's graph, torn as a killed process leaves it, is made again; nothing else is touched."""

import json
import shutil
import sqlite3
from contextlib import closing, suppress

import chromadb
import numpy as np
import pytest

from bgem3.errors import StoreError
from bgem3.stores import chroma_client, chroma_database, chroma_graph, chroma_upkeep
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, backfill, compact, verify
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed

IDS = [f"id {i}" for i in range(30)]
DENSE = SearchPlan(k=30, mode="dense", fetch_k=30)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setitem(chroma_client._HNSW, "sync_threshold", 10)
    return tmp_path / "db"


def opened(folder):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    return store


def put(store, ids):
    chunks = [Chunk(id_, f"text of {id_}", {"n": int(id_[3:])}) for id_ in ids]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))


def segment(folder):
    with closing(sqlite3.connect(folder / "chroma.sqlite3")) as database:
        return folder / database.execute("SELECT id FROM segments WHERE scope = 'VECTOR'").fetchone()[0]


def saved(folder):
    return json.loads(opened_sidecar(folder, "SELECT value FROM meta WHERE key = 'graph'"))["saved"][0]


def opened_sidecar(folder, sql):
    with closing(sqlite3.connect(folder / "bgem3-bgem3.sqlite3")) as database:
        return database.execute(sql).fetchone()[0]


def killed_while_saving(folder, stage):
    """Return a copy of the folder as it is when the process dies within the second save of 30 chunks.

    `map`: the graph's files are new, the map of ids is old. `cut`: the map is cut off. `number`: all files are new,
    the number of the last record in them is old.
    """
    store = opened(folder)
    put(store, IDS[:22])
    store.delete(["id 3"])
    # the last save that is whole: 20 records; 3 are in the log alone
    before = folder.with_name("before")
    shutil.copytree(folder, before)
    put(store, IDS[22:])
    new = segment(folder)
    died = folder.with_name("died")
    shutil.copytree(before, died)
    assert saved(folder) > saved(died)
    for path in new.glob("*.bin"):
        shutil.copy2(path, died / new.name / path.name)
    if stage != "map":
        shutil.copy2(new / "index_metadata.pickle", died / new.name / "index_metadata.pickle")
    if stage == "cut":
        with (died / new.name / "index_metadata.pickle").open("r+b") as file:
            file.truncate(20)
    store.close()
    return died


@pytest.mark.parametrize("stage", ["map", "cut", "number"])
def test_a_graph_that_was_being_saved_is_made_again(folder, stage, caplog):
    died = killed_while_saving(folder, stage)
    store = opened(died)
    assert "'bgem3': its graph is made again" in caplog.text
    kept = [id_ for id_ in IDS[:22] if id_ != "id 3"]
    assert verify(store) == Report(21)
    hits = store.search(embed(["text of id 7"]), DENSE)
    assert {hit.id for hit in hits} == set(kept)
    assert (hits[0].id, hits[0].metadata) == ("id 7", {"n": 7})
    put(store, ["id 3", "id 29"])
    assert verify(store) == Report(23)
    store.close()
    caplog.clear()
    again = opened(died)
    assert (again.count(), caplog.text) == (23, "")
    again.close()


def test_a_reader_that_outlives_the_writer_mends_too(folder):
    died = killed_while_saving(folder, "map")
    with closing(sqlite3.connect(died / "bgem3-bgem3.sqlite3")) as database, database:
        note = database.execute("SELECT value FROM meta WHERE key = 'graph'").fetchone()[0]
        database.execute("DELETE FROM meta WHERE key = 'graph'")
    # opened before the writer began, so without anything to mend
    shutil.rmtree(died / segment(died).name)
    shutil.copytree(segment(folder.with_name("before")), died / segment(died).name)
    reader = opened(died)
    # has the graph loaded: no writer changes its files while that goes on
    assert reader.search(embed(["text of id 7"]), DENSE)
    for path in segment(folder).glob("*.bin"):
        shutil.copy2(path, died / segment(folder).name / path.name)
    with closing(sqlite3.connect(died / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("INSERT INTO meta VALUES ('graph', ?)", [note])
    assert reader.search(embed(["text of id 7"]), DENSE)[0].id == "id 7"
    assert opened_sidecar(died, "SELECT count(*) FROM meta WHERE key = 'graph'") == 0
    assert verify(reader) == Report(21)
    reader.close()


def test_a_graph_that_was_saved_and_not_noted_is_whole_and_looked_at_once(folder, monkeypatch):
    """Killed right after a save: the number in Chroma's database moved with the files."""
    store = opened(folder)
    put(store, IDS[:12])
    note = opened_sidecar(folder, "SELECT value FROM meta WHERE key = 'graph'")
    put(store, IDS[12:24])
    store.close()
    reader = opened(folder)
    with closing(sqlite3.connect(folder / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("INSERT INTO meta VALUES ('graph', ?)", [note])
    looks = []
    monkeypatch.setattr(chroma_graph, "run", lambda *task: looks.append(task) or chroma_database.run(*task))
    for _ in range(3):
        assert reader.search(embed(["text of id 7"]), DENSE)[0].id == "id 7"
    assert len(looks) == 1
    reader.close()


def test_a_mend_that_was_broken_off_begins_again(folder):
    died = killed_while_saving(folder, "map")
    with closing(sqlite3.connect(died / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("UPDATE meta SET value = '' WHERE key = 'graph'")
    shutil.rmtree(segment(died))
    with closing(sqlite3.connect(died / "chroma.sqlite3")) as database, database:
        database.execute("DELETE FROM max_seq_id WHERE segment_id = ?", [segment(died).name])
    store = opened(died)
    assert verify(store) == Report(21)
    store.close()


def test_a_graph_that_chroma_cannot_load_is_made_again(folder):
    killed_while_saving(folder, "map")
    before = folder.with_name("before")  # its writer is gone too, but its files agree
    saved_in_it = segment(before) / "index_metadata.pickle"
    saved_in_it.write_bytes(saved_in_it.read_bytes()[:20])
    store = opened(before)
    assert verify(store) == Report(21)
    store.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "header.bin").unlink(),
        # zeros: of a file that is too short Chroma takes what was in memory, by chance the vectors themselves
        lambda folder: (folder / "data_level0.bin").write_bytes(bytes((folder / "data_level0.bin").stat().st_size)),
        lambda folder: (folder / "index_metadata.pickle").write_bytes(b"x"),
        lambda folder: (folder / "index_metadata.pickle").unlink(),
    ],
)
def test_a_damaged_graph_is_made_again_by_backfill_without_encoding(folder, damage):
    store = opened(folder)
    put(store, IDS)
    store.close()
    damage(segment(folder))
    store = opened(folder)
    with suppress(StoreError):
        assert not verify(store).ok
    assert backfill(store, never) == {}
    assert verify(store) == Report(30)
    assert store.search(embed(["text of id 7"]), DENSE)[0].id == "id 7"
    store.close()


def test_compact_makes_a_graph_of_mostly_deleted_chunks_again(folder, monkeypatch):
    monkeypatch.setattr(chroma_upkeep, "_FEW", 150)
    store = opened(folder)
    ids = [f"id {i}" for i in range(200)]
    put(store, ids)
    compact(store)
    assert store._collection.vectors_kept() == 200
    store.delete(ids[:150])
    compact(store)
    assert store._collection.vectors_kept() < 150
    assert verify(store) == Report(50)
    put(store, ids[:5])
    assert store.search(embed(["text of id 3"]), DENSE)[0].id == "id 3"
    store.close()
    store = opened(folder)
    assert verify(store) == Report(55)
    store.close()


def never(texts):
    raise AssertionError(texts)


def test_a_closed_collection_may_be_copied_anywhere(folder, caplog):
    store = opened(folder)
    put(store, IDS)
    store.close()
    copied = shutil.copytree(folder, folder.with_name("copy"), copy_function=shutil.copyfile)
    store = opened(copied)
    assert (store.count(), caplog.text) == (30, "")
    np.testing.assert_array_equal(
        np.concatenate([heads.dense for _, heads in store.scan()]), embed([f"text of {id_}" for id_ in IDS]).dense
    )
    store.close()


def test_a_vector_that_neither_chroma_nor_the_sidecar_has_is_encoded_again(folder):
    died = killed_while_saving(folder, "map")
    with closing(sqlite3.connect(died / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("UPDATE rows SET dense = x'00' WHERE id = 'id 2'")
    store = opened(died)
    assert dict(verify(store).problems) == {"id 2": "damaged"}
    assert backfill(store, embed) == {"id 2": "damaged"}
    assert verify(store) == Report(21)
    store.close()


def test_chromas_database_without_tables_yet(folder):
    """As a process leaves it that is killed while Chroma opens its folder for the first time."""
    folder.mkdir()
    (folder / "chroma.sqlite3").touch()
    store = opened(folder)
    put(store, IDS[:3])
    assert store.count() == 3
    store.close()


def test_a_client_of_the_callers_is_guarded_and_not_mended(folder, caplog):
    died = killed_while_saving(folder, "map")
    client = chromadb.PersistentClient(str(died))
    store = ChromaStore(client=client, sidecar=died)
    with pytest.raises(StoreError, match=r"graph torn. Fix: close the client, open ChromaStore\(path="):
        store.open(SETTINGS)
    client.close()
    mended = opened(died)
    mended.close()
    client = chromadb.PersistentClient(str(died))
    store = ChromaStore(client=client, sidecar=died)
    store.open(SETTINGS)
    put(store, IDS[22:])
    assert opened_sidecar(died, "SELECT count(*) FROM meta WHERE key = 'graph'") == 1
    assert verify(store) == Report(29)
    store.close()
    assert opened_sidecar(died, "SELECT count(*) FROM meta WHERE key = 'graph'") == 0
    client.close()
