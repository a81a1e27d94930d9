"""Stores by their address."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import ClassVar

from bgem3 import HybridIndex, M3Encoder
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.chroma_embedded import delete_collection
from bgem3.stores.opening import collection_names, drop_collection, open_store
from bgem3.stores.qdrant import QdrantStore


class Qdrant(BaseHTTPRequestHandler):
    """Answers as Qdrant does when it is asked for its collections, or to delete one."""

    names: ClassVar[list[str]] = []

    def do_GET(self):
        assert self.path == "/collections"
        self.answer({"collections": [{"name": name} for name in self.names]})

    def do_DELETE(self):
        self.names.remove(self.path.removeprefix("/collections/"))
        self.answer(True)

    def answer(self, result):
        body = json.dumps({"result": result, "status": "ok", "time": 0})
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *arguments):
        pass


def test_a_folder_is_chroma(tmp_path):
    assert isinstance(open_store(str(tmp_path), "tea"), ChromaStore)
    (tmp_path / "bgem3-tea.sqlite3").touch()
    assert collection_names(str(tmp_path)) == ["tea"]
    assert collection_names(str(tmp_path / "nowhere")) == []


def test_an_address_is_qdrant():
    Qdrant.names[:] = ["tea", "cars"]
    with ThreadingHTTPServer(("127.0.0.1", 0), Qdrant) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert collection_names(address) == ["cars", "tea"]
        drop_collection(address, "tea")
        assert collection_names(address) == ["cars"]
        server.shutdown()
    assert isinstance(open_store("http://127.0.0.1:1", "tea"), QdrantStore)


def test_dropping_leaves_nothing_of_a_collection_and_all_of_the_others(tmp_path, checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    for name in ("tea", "tea.green"):
        with HybridIndex(encoder, ChromaStore(tmp_path, collection=name)) as index:
            index.add(["a text"], ids=["one"])
    drop_collection(str(tmp_path), "tea")
    assert collection_names(str(tmp_path)) == ["tea.green"]
    left = {path.name for path in tmp_path.glob("bgem3-tea.*") if "green" not in path.name}
    # lock files stay: another process may be waiting for one
    assert left <= {"bgem3-tea.lock", "bgem3-tea.graph.lock"}
    with HybridIndex(encoder, ChromaStore(tmp_path, collection="tea")) as index:
        assert index.count() == 0
        index.add(["another"])
        assert len(index.search("another")) == 1
    with HybridIndex(encoder, ChromaStore(tmp_path, collection="tea.green")) as index:
        assert index.get(["one"])[0].text == "a text"
    drop_collection(str(tmp_path), "nobody")


def test_a_drop_that_was_cut_off_can_be_made_again(tmp_path, checkpoint):
    with HybridIndex(M3Encoder.from_pretrained(checkpoint), ChromaStore(tmp_path, collection="tea")) as index:
        index.add(["a text"])
    delete_collection("tea", tmp_path)
    assert collection_names(str(tmp_path)) == ["tea"]
    drop_collection(str(tmp_path), "tea")
    assert collection_names(str(tmp_path)) == []
