"""Stores by their address."""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from bgem3.stores.chroma import ChromaStore
from bgem3.stores.opening import collection_names, open_store
from bgem3.stores.qdrant import QdrantStore


class Qdrant(BaseHTTPRequestHandler):
    """Answers as Qdrant does when it is asked which collections it has."""

    def do_GET(self):
        assert self.path == "/collections"
        body = json.dumps({"result": {"collections": [{"name": "tea"}, {"name": "cars"}]}, "status": "ok", "time": 0})
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
    with ThreadingHTTPServer(("127.0.0.1", 0), Qdrant) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        assert collection_names(f"http://127.0.0.1:{server.server_port}") == ["cars", "tea"]
        server.shutdown()
    assert isinstance(open_store("http://127.0.0.1:1", "tea"), QdrantStore)
