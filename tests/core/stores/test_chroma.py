"""What only the Chroma store has: two programs in step. The contract suite tests the rest."""

import sqlite3
import subprocess
import sys
from contextlib import closing

import chromadb
import numpy as np
import pytest
from chromadb.api.shared_system_client import SharedSystemClient

from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    InvalidMetadataError,
    MissingExtraError,
    StoreClosedError,
    StoreCorruptError,
    StoreError,
    StoreLockedError,
    StoreWriteError,
)
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, compact, verify
from bgem3.types import HEADS, Chunk, SearchPlan
from tests.support import chroma_writer
from tests.support.full_disk import file_size_limit
from tests.support.read_only import open_folder, without_rights
from tests.support.vectors import SETTINGS, embed


def opened(*args, **options):
    store = ChromaStore(*args, **options)
    store.open(SETTINGS)
    return store


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "db"


@pytest.fixture
def store(folder):
    store = opened(folder, codec="float16")
    yield store
    store.close()


def put(store, *ids, version=1):
    chunks = [chroma_writer.make_chunk(id_, version) for id_ in ids]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))
    return chunks


def assert_whole(store, chunk):
    """Every part of a chunk is of one version: text, metadata, and each head's vectors."""
    assert store.get([chunk.id]) == [chunk]
    query = embed([chunk.text])
    for mode in HEADS:
        (hit,) = store.search(query, SearchPlan(k=1, mode=mode, where=chunk.metadata))
        assert (hit.id, hit.text, hit.metadata) == (chunk.id, chunk.text, chunk.metadata)
        expected = float((query.sparse @ query.sparse.T).toarray()[0, 0]) if mode == "sparse" else 1.0
        assert hit.score == pytest.approx(expected, abs=0.02)


@pytest.fixture
def writers(folder):
    writers = chroma_writer.Writers(folder)
    yield writers
    writers.close()


def test_a_reader_sees_what_another_process_commits(folder, writers):
    opened(folder, collection="one", codec="int8").close()
    reader = opened(folder, collection="one")
    writers.start(1)
    for _ in range(6):
        writers.acknowledge(2)
        hits = reader.search(embed(["x"]), SearchPlan(k=60, fetch_k=60))
        assert all(hit.text.startswith(hit.id) for hit in hits)
    writers.kill()
    for key, versions in writers.state.items():
        name, id_ = key.split("/")
        if name == "one" and key not in writers.began.get(name, {}):
            assert_whole(reader, chroma_writer.make_chunk(id_, *versions))
    # the lock went with the process; what it left pending is settled before the first write
    put(reader, *chroma_writer.IDS, version=10_000)
    assert reader.count() == 60
    reader.close()


def test_a_second_writer_is_refused_and_reads(folder, writers):
    writers.start(1)
    while not any(key.startswith("one/") for key in writers.state):
        writers.acknowledge(1)
    second = opened(folder, collection="one")
    with pytest.raises(StoreLockedError, match=r"another process is writing to collection 'one'. Fix: close it"):
        put(second, "a")
    with pytest.raises(StoreLockedError, match="another process"):
        second.delete(["chunk 1"])
    second.search(embed(["x"]), SearchPlan(k=60, fetch_k=60))
    writers.kill()
    known = {key for key in set(writers.state) - set(writers.began.get("one", {})) if key.startswith("one/")}
    assert second.count() >= len(known)
    put(second, "a")
    assert second.get(["a"])
    second.close()


@pytest.mark.parametrize("full", ["sidecar", "chroma"])
def test_a_full_disk(folder, store, full):
    kept = put(store, "a", "b")
    big = "x" * 3_000_000 if full == "chroma" else ""
    chunks = [Chunk(id_, f"{id_} {big}", {"new": True}) for id_ in ("a", *map(str, range(3_000 if not big else 2)))]
    embeddings = embed([chunk.text for chunk in chunks])
    limit = 2_000_000 if full == "chroma" else 300_000
    with file_size_limit(limit), pytest.raises(StoreWriteError, match=r"Nothing was changed|Chroma refused"):
        store.upsert(chunks, embeddings)
    for chunk in kept:
        assert_whole(store, chunk)
    assert store.count() == 2
    put(store, "a", version=2)
    store.close()
    again = opened(folder)
    assert_whole(again, chroma_writer.make_chunk("a", 2))
    assert again.count() == 2
    again.close()


@pytest.mark.parametrize("limit", [50_000, 450_000, 700_000, 1_300_000])
def test_a_disk_that_is_full_at_any_write(folder, limit):
    """The sidecar's first write, its last, Chroma's log, Chroma's own tables: each leaves chunks old or new, and whole."""
    store = opened(folder, codec="float16")
    old = [Chunk(f"id {i}", f"old {i} " + "x" * 50, {"old": i}) for i in range(200)]
    store.upsert(old, embed([chunk.text for chunk in old]))
    store.close()
    new = [Chunk(f"id {i}", f"new {i} " + "y" * 400, {"new": i}) for i in range(100, 1300)]
    embeddings = embed([chunk.text for chunk in new])
    store = opened(folder)
    refused = 0
    with file_size_limit(limit):
        for change in (lambda: store.upsert(new, embeddings), lambda: store.delete(["id 1"]), lambda: compact(store)):
            try:
                change()
            except StoreError:
                refused += 1
    assert refused
    report = verify(store)  # the same store, once there is room again
    assert (report.ok, report.pending) == (True, 0)
    for chunk in store.get([chunk.id for chunk in old]):
        number = int(chunk.id[3:])
        assert chunk == old[number] or (number >= 100 and chunk == new[number - 100])
    store.upsert(new, embeddings)
    assert store.delete(["id 1", "id 2"]) in (1, 2)
    store.close()
    again = opened(folder)
    assert verify(again) == Report(1298)
    assert_whole(again, new[0])
    again.close()


def test_a_read_only_folder():
    with open_folder() as folder:
        with without_rights(folder), pytest.raises(StoreWriteError, match="Fix: choose a writable path"):
            opened(folder / "db")
        store = opened(folder)
        kept = put(store, "a")
        store.close()
        with without_rights(folder), pytest.raises(StoreWriteError, match="Fix: make the folder writable"):
            opened(folder)
        again = opened(folder)
        assert_whole(again, kept[0])
        again.close()


def test_what_chroma_refuses_changes_nothing(folder, store):
    kept = put(store, "a")
    wrong = embed(["new a", "new b"])
    wrong._dense = wrong.dense[:, :5]
    with pytest.raises(StoreWriteError, match=r"Chroma refused .* dimension"):
        store.upsert([Chunk("a", "new a"), Chunk("b", "new b")], wrong)
    assert_whole(store, kept[0])
    assert (store.count(), store.get(["b"])) == (1, [])
    put(store, "a", "b", version=2)
    assert_whole(store, chroma_writer.make_chunk("b", 2))


@pytest.mark.parametrize("metadata", [{f"key {i}": i for i in range(5_001)}, {"a": [1] * 2_501, "b": [1] * 2_500}])
def test_metadata_that_chroma_could_never_read_again_is_refused(folder, store, metadata):
    """Chroma takes it into its log, and every later call on the collection fails."""
    put(store, "a")
    same = store.get(["a"])[0]
    with pytest.raises(InvalidMetadataError, match=r"metadata of 'b': Chroma keeps at most 5,000 .* got .*5,001.*Fix:"):
        store.upsert([same, Chunk("b", "b", metadata)], embed([same.text, "b"]))
    with pytest.raises(InvalidMetadataError, match="metadata of 'a'"):
        store.replace_metadata([Chunk("a", same.text, metadata)])
    store.close()
    store = opened(folder)
    assert (store.count(), store.get(["a"])) == (1, [same])
    store.close()


def test_as_much_metadata_as_chroma_keeps(folder, store):
    for own in ({f"key {i}": i for i in range(5_000)}, {"tags": list(range(5_000))}, {}):
        chunk = Chunk("a", "a", own)
        store.upsert([chunk], embed(["a"]))
        assert store.get(["a"]) == [chunk]
    store.close()
    again = opened(folder)
    assert again.get(["a"]) == [chunk]
    again.close()


@pytest.mark.parametrize("bound", [1, 3, 40, 200, 400, 401])
def test_filtered_dense_search_misses_nothing(store, bound):
    chunks = [Chunk(str(i), f"text {i}", {"n": i}) for i in range(400)]
    embeddings = embed([chunk.text for chunk in chunks])
    store.upsert(chunks, embeddings)
    query = embed(["a question"])
    # up to 40 are compared with all, the others looked for in Chroma's graph
    for k in (2, 30):
        hits = store.search(query, SearchPlan(k=k, mode="dense", fetch_k=k, where={"n": {"$lt": bound}}))
        exact = np.sort(embeddings.dense[:bound] @ query.dense[0])[::-1][:k]
        np.testing.assert_allclose([hit.score for hit in hits], exact, atol=1e-3)


@pytest.mark.parametrize("limit", [0, 9, 10, 100])
def test_few_chunks_are_all_compared_and_many_by_the_graph(store, limit, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", limit)
    texts = [f"text {i}" for i in range(12)]

    def check(left):
        # the graph is asked for fewer than there are, and never for a number that Chroma cannot read
        for k in (len(left) - 1, len(left), 2**63):
            hits = store.search(embed(["text 3"]), SearchPlan(k=k, mode="dense", fetch_k=1))
            assert hits[0].id == "3"
            assert {hit.id for hit in hits} <= {str(i) for i in left}
            assert len(hits) == min(k, len(left))
        assert (store._searcher.vectors is None) == (len(left) > limit)

    for i in range(12):
        store.upsert([Chunk(str(i), texts[i])], embed([texts[i]]))
        if i >= 3:
            check(range(i + 1))
    store.delete(["0", "1", "2", "11"])
    check(range(3, 11))


def test_a_damaged_dense_vector_leaves_the_others_to_be_found(store, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 100)
    chunks = [Chunk(str(i), f"text {i}") for i in range(9)]
    store.upsert(chunks, embed([chunk.text for chunk in chunks]))
    store._sidecar.database.run("UPDATE rows SET dense = zeroblob(length(dense)) WHERE id = '8'")
    plan = SearchPlan(k=1, mode="dense", fetch_k=1)
    assert [hit.id for hit in store.search(embed(["text 3"]), plan)] == ["3"]
    with pytest.raises(StoreCorruptError, match="chunk '8' is damaged"):
        store.search(embed(["text 8"]), plan)


def test_a_filter_asked_again_sees_what_changed_meanwhile(store):
    def found(value):
        plan = SearchPlan(k=20, where={"n": value})
        return sorted(hit.id for hit in store.search(embed(["a question"]), plan))

    def write(id_, n):
        store.upsert([Chunk(id_, f"text of {id_}", {"n": n})], embed([f"text of {id_}"]))

    for id_, n in (("a", 1), ("b", 1), ("c", True), ("d", 2)):
        write(id_, n)
    for _ in range(2):  # the second time from memory, where 1 and True must not be taken for each other
        assert (found(1), found(True), found(2)) == (["a", "b"], ["c"], ["d"])
    write("b", 2)
    assert (found(1), found(2)) == (["a"], ["b", "d"])
    store.delete(["d"])
    assert (found(1), found(2)) == (["a"], ["b"])
    for n in range(3, 30):  # more filters than are kept
        assert found(n) == []
    assert (found(1), found(2)) == (["a"], ["b"])


def test_users_do_not_see_the_pointer_and_others_do_not_see_a_merge(folder, store):
    put(store, "a", version=1)
    put(store, "a", version=2)
    assert store.get(["a"])[0].metadata == {"version": 2, "only 2": "a"}
    store.close()
    client = chromadb.PersistentClient(str(folder))
    raw = client.get_collection("bgem3", embedding_function=None).get(ids=["a"])
    assert raw["metadatas"] == [{"version": 2, "only 2": "a", "_bgem3_row": 2}]
    client.close()


def test_an_opening_that_fails_lets_go_of_chroma(folder, store):
    put(store, "a")
    store.close()
    path = folder / "bgem3-bgem3.sqlite3"
    with closing(sqlite3.connect(path)) as database:
        page, size = database.execute(
            "SELECT rootpage, page_size FROM sqlite_master, pragma_page_size WHERE name = 'rows'"
        ).fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * size)
        file.write(b"x" * size)
    with pytest.raises(StoreCorruptError, match="damaged, or not a sidecar"):
        opened(folder)
    folder.rename(folder.with_name("foreign"))
    client = chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))
    client.create_collection("bgem3")
    client.close()
    with pytest.raises(IndexMismatchError, match="belongs to another program"):
        opened(folder)
    assert not [spelled for spelled in SharedSystemClient._identifier_to_system if spelled.startswith(str(folder))]


def test_over_a_client(tmp_path):
    client = chromadb.EphemeralClient(chromadb.Settings(anonymized_telemetry=False))
    store = opened(client=client, sidecar=tmp_path / "side", collection="over-a-client")
    (chunk,) = put(store, "a")
    assert_whole(store, chunk)
    store.close()
    assert client.get_collection("over-a-client", embedding_function=None).count() == 1
    with pytest.raises(IndexMismatchError, match="belongs to another sidecar"):
        opened(client=client, sidecar=tmp_path / "another", collection="over-a-client")
    client.create_collection("foreign", embedding_function=None)
    with pytest.raises(IndexMismatchError, match="belongs to another program"):
        opened(client=client, sidecar=tmp_path / "side", collection="foreign")
    client.delete_collection("foreign")
    client.delete_collection("over-a-client")
    with pytest.raises(IndexMismatchError, match="Chroma's files are gone"):
        opened(client=client, sidecar=tmp_path / "side", collection="over-a-client")
    client.delete_collection("over-a-client")


def test_two_collections_in_one_folder(folder, store):
    other = opened(folder, collection="other")
    put(store, "a")
    put(other, "b")
    assert (store.count(), other.count()) == (1, 1)
    assert store.get(["b"]) == []
    other.close()


def test_another_program_changed_a_chunk(folder, store):
    put(store, "a", "b")
    client = store._collection._client
    collection = client.get_collection("bgem3", embedding_function=None)
    collection.update(ids=["a"], documents=["changed"], embeddings=[[0.0] * 31 + [1.0]])
    with pytest.raises(StoreCorruptError, match="'a' was changed by another program. Fix: add its text again"):
        store.search(embed(["x"]), SearchPlan(k=5))
    collection.delete(ids=["a"])
    with pytest.raises(StoreCorruptError, match="'a' was removed by another program"):
        store.search(embed(["a, version 1"]), SearchPlan(k=5, mode="sparse"))
    put(store, "a", version=3)
    assert len(store.search(embed(["x"]), SearchPlan(k=5))) == 2


def test_arguments(tmp_path):
    with pytest.raises(InvalidInputError, match="exactly one of path and client. Fix: ChromaStore"):
        ChromaStore()
    with pytest.raises(InvalidInputError, match="sidecar: a client needs a folder"):
        ChromaStore(client=object())
    with pytest.raises(InvalidInputError, match="codec"):
        ChromaStore(tmp_path, codec="zip")
    with pytest.raises(StoreClosedError, match="not opened yet"):
        ChromaStore(tmp_path).count()


def test_chroma_is_loaded_only_when_a_store_opens(tmp_path, monkeypatch):
    code = "import sys, bgem3.stores.chroma; sys.exit('chromadb' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    monkeypatch.setitem(sys.modules, "chromadb", None)
    with pytest.raises(MissingExtraError, match=r'pip install "bgem3\[chroma\]"'):
        opened(tmp_path / "db")


def test_dense_vectors_come_from_the_sidecar(store):
    put(store, "a", "b")
    vectors = store.dense_vectors(["b", "no"])
    assert list(vectors) == ["b"]
    np.testing.assert_allclose(vectors["b"], embed([store.get(["b"])[0].text]).dense[0], atol=1e-3)


def test_a_relative_path_means_the_folder_it_meant(tmp_path, monkeypatch):
    stores = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        stores.append(ChromaStore("./db"))
        monkeypatch.chdir(tmp_path)
        stores[-1].open(SETTINGS)
        put(stores[-1], name)
    assert [[chunk.id for chunk in store.get(["here", "there"])] for store in stores] == [["here"], ["there"]]
    for store in stores:
        store.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "there"]


def test_names_that_a_disk_takes_for_one(folder):
    """Where News and news are one file, a collection would be opened over the vectors of another."""
    with closing(opened(folder, collection="News")) as store:
        kept = put(store, "a")
    (folder / "bgem3-News.sqlite3").rename(folder / "bgem3-news.sqlite3")
    with pytest.raises(
        InvalidInputError, match=r"got 'news', whose file on this disk is that of 'News'. Fix: that one, or"
    ):
        opened(folder, collection="news")
    (folder / "bgem3-news.sqlite3").rename(folder / "bgem3-News.sqlite3")
    with closing(opened(folder, collection="News")) as store:
        assert store.get(["a"]) == kept
    with closing(chromadb.PersistentClient(str(folder))) as client:
        assert [one.name for one in client.list_collections()] == ["News"]
