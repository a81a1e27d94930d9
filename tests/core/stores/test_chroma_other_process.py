"""A process that reads while another one writes, and opens Chroma's graph anew only where it must."""

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_upkeep import Report, verify
from bgem3.types import SearchPlan
from tests.support.vectors import SETTINGS, embed

WRITER = """
import json, sys
from bgem3.stores.chroma import ChromaStore
from bgem3.types import Chunk
from tests.support.vectors import SETTINGS, embed
store = ChromaStore(sys.argv[1])
store.open(SETTINGS)
for line in sys.stdin:
    texts, deleted = json.loads(line)
    store.upsert([Chunk(id_, text) for id_, text in texts.items()], embed(list(texts.values())))
    store.delete(deleted)
    print("done", flush=True)
store.close()
"""


class Writer:
    """The other process, and what it was told to store."""

    def __init__(self, folder):
        arguments = [sys.executable, "-c", WRITER, str(folder)]
        root = Path(__file__).parents[3]
        self._process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=root
        )
        self.texts = {}

    def put(self, numbers, version=0, delete=()):
        texts = {f"id {i}": f"text {i}, version {version}" for i in numbers}
        deleted = [f"id {i}" for i in delete]
        self._process.stdin.write(json.dumps([texts, deleted]) + "\n")
        assert self._process.stdout.readline() == "done\n"
        self.texts = {id_: text for id_, text in (self.texts | texts).items() if id_ not in deleted}

    def close(self):
        with self._process:
            self._process.stdin.close()
            assert self._process.wait(60) == 0


@pytest.fixture(params=["alone", "beside another collection"])
def folder(tmp_path, request):
    """A folder whose other collection this process may have open: chromadb shares what it has loaded of a folder."""
    other = ChromaStore(tmp_path / "db", collection="other")
    if request.param != "alone":
        other.open(SETTINGS)
    store = ChromaStore(tmp_path / "db")
    store.open(SETTINGS)
    store.close()
    yield tmp_path / "db"
    other.close()


@pytest.fixture
def writer(folder):
    writer = Writer(folder)
    yield writer
    writer.close()


@pytest.fixture
def reader(folder):
    store = ChromaStore(folder)
    store.open(SETTINGS)
    yield store
    store.close()


def check(reader, writer, k=7):
    ids, texts = list(writer.texts), list(writer.texts.values())
    query = embed([texts[len(texts) // 2]])
    scores = embed(texts).dense @ query.dense[0]
    hits = reader.search(query, SearchPlan(k=k, mode="dense", fetch_k=k))
    assert [hit.id for hit in hits] == [ids[i] for i in np.argsort(-scores)[:k]]
    assert [hit.text for hit in hits] == [writer.texts[hit.id] for hit in hits]
    np.testing.assert_allclose([hit.score for hit in hits], np.sort(scores)[::-1][:k], atol=1e-3)
    assert reader.count() == len(texts)


def test_few_chunks_are_compared_without_the_graph(writer, reader, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 100)
    graph = reader._collection
    for changes in ((range(40),), (range(30, 50), 1), (range(60, 62), 0, range(45))):
        writer.put(*changes)
        check(reader, writer)
    assert reader._collection is graph


def test_many_chunks_are_looked_for_in_the_graph_and_among_those_it_lacks(folder, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 25)
    writer = Writer(folder)
    writer.put(range(60))
    reader = ChromaStore(folder)
    reader.open(SETTINGS)
    check(reader, writer)
    graph = reader._collection
    for changes in ((range(60, 70),), (range(20, 25), 1), (range(70, 72), 0, range(10, 60))):
        writer.put(*changes)
        check(reader, writer)
    # as many as the graph may lack: 10 and 5 and 2 of 22 chunks, then more than 25 of more than 25
    assert reader._collection is graph
    writer.put(range(100, 140))
    check(reader, writer)
    assert reader._collection is not graph
    reader.close()
    writer.close()


def test_whole_chunks_are_read_from_a_graph_that_has_them(writer, reader, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 100)
    writer.put(range(40))
    check(reader, writer)
    writer.put(range(20, 50), 1, range(5))
    check(reader, writer)
    read = {chunk.id: heads.dense[i] for part, heads in reader.scan() for i, chunk in enumerate(part)}
    expected = dict(zip(writer.texts, embed(list(writer.texts.values())).dense, strict=True))
    assert read.keys() == expected.keys()
    for id_, vector in expected.items():
        np.testing.assert_allclose(read[id_], vector, atol=1e-6)
    writer.put(range(50, 60))
    assert verify(reader) == Report(len(writer.texts))


def test_who_takes_over_writing_has_the_whole_graph(folder, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 25)
    writer = Writer(folder)
    writer.put(range(40))
    reader = ChromaStore(folder)
    reader.open(SETTINGS)
    writer.put(range(40, 50))
    check(reader, writer)
    writer.close()
    reader.delete(["id 3"])
    del writer.texts["id 3"]
    assert reader._searcher.graph_row is None
    check(reader, writer)
    assert reader._searcher.vectors is None
    assert verify(reader) == Report(49)
    reader.close()


def test_beside_a_damaged_vector_the_graph_is_opened_again_at_each_commit(folder, writer, monkeypatch):
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 100)
    writer.put(range(20))
    with closing(sqlite3.connect(folder / "bgem3-bgem3.sqlite3")) as database, database:
        database.execute("UPDATE rows SET dense = zeroblob(length(dense)) WHERE id = 'id 0'")
    reader = ChromaStore(folder)
    reader.open(SETTINGS)
    check(reader, writer, k=1)
    assert reader._searcher.damaged
    graph = reader._collection
    writer.put(range(20, 40))
    check(reader, writer, k=1)
    assert reader._collection is not graph
    reader.close()


class Interrupting:
    """A collection that another process changes just before its vectors are read."""

    def __init__(self, collection, change):
        self._collection, self._changes = collection, [change]

    def __getattr__(self, name):
        return getattr(self._collection, name)

    def dense(self, ids):
        if self._changes:
            self._changes.pop()()
        return self._collection.dense(ids)


def test_what_is_replaced_and_deleted_in_the_middle_of_a_scan_has_vectors_of_its_text(folder):
    """An export beside a writer ended in a KeyError, or kept vectors of a chunk's former text."""
    with closing(Writer(folder)) as writer, closing(ChromaStore(folder, codec="float16")) as reader:
        writer.put(range(20))
        reader.open()
        change = partial(writer.put, [3, 4], version=1, delete=[7])
        reader._searcher.collection = Interrupting(reader._collection, change)
        read = {}
        for chunks, embeddings in reader.scan():
            for i, chunk in enumerate(chunks):
                expected = embed([chunk.text])
                np.testing.assert_allclose(embeddings.dense[i], expected.dense[0], rtol=1e-3, atol=1e-3)
                assert abs(embeddings.sparse[[i]] - expected.sparse).max() < 1e-6
                read[chunk.id] = chunk.text
        assert read == writer.texts
