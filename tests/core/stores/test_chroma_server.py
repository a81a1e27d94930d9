"""`ChromaStore(client=chromadb.HttpClient(...))` against a server that `chroma run` starts, behind a proxy with a key."""

import http.client
import shutil
import socket
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import chromadb
import pytest

from bgem3.errors import (
    IndexMismatchError,
    StoreAccessError,
    StoreConnectionError,
    StoreLockedError,
)
from bgem3.stores.chroma import ChromaStore
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed

pytestmark = pytest.mark.integration
KEY = {"Authorization": "Bearer right"}


class Server:
    """`chroma run` on loopback."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = shutil.which("chroma", path=str(Path(sys.executable).parent))
        arguments = ["run", "--path", str(folder), "--host", "127.0.0.1", "--port", str(self.port)]
        self._process = subprocess.Popen([command, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                chromadb.HttpClient(host="127.0.0.1", port=self.port)
            except Exception:  # chromadb has no one error for a server that is not there yet
                time.sleep(0.05)
            else:
                return
        self.stop()
        raise TimeoutError("chroma run: no answer in 60 s")

    def stop(self):
        self._process.terminate()
        self._process.wait()


class Proxy:
    """Passes on what has the key; anything else gets 401."""

    def __init__(self, port):
        class Handler(BaseHTTPRequestHandler):
            def pass_on(self):
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                if self.headers.get("Authorization") != KEY["Authorization"]:
                    self.answer(401, "application/json", b'{"error": "Unauthorized"}')
                    return
                connection = http.client.HTTPConnection("127.0.0.1", port)
                connection.request(self.command, self.path, body, {"Content-Type": "application/json"})
                found = connection.getresponse()
                self.answer(found.status, found.headers["Content-Type"] or "application/json", found.read())
                connection.close()

            def answer(self, status, kind, body):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST = do_PUT = do_DELETE = pass_on  # noqa: N815  # names that http.server asks for

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    server.stop()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.stop()


def client(port, headers=KEY):
    return chromadb.HttpClient(host="127.0.0.1", port=port, headers=headers)


def opened(folder, port, name):
    store = ChromaStore(client=client(port), sidecar=folder, collection=name, codec="float16")
    store.open(SETTINGS)
    return store


def put(store, *ids):
    store.upsert(
        [Chunk(id_, f"text of {id_}", {"n": i}) for i, id_ in enumerate(ids)], embed([f"text of {id_}" for id_ in ids])
    )


def test_everything_goes_through_the_server_with_the_key(tmp_path, proxy):
    store = opened(tmp_path / "side", proxy.port, "whole")
    put(store, *(f"id {i}" for i in range(20)))
    put(store, "id 3")
    store.delete(["id 4"])
    for mode in ("dense", "sparse", "multi_vector", "hybrid"):
        assert store.search(embed(["text of id 7"]), SearchPlan(k=1, mode=mode))[0].id == "id 7"
    assert store.find({"n": 5}) == ["id 5"]
    store.close()
    assert sorted(path.name for path in (tmp_path / "side").iterdir() if path.suffix == ".sqlite3") == [
        "bgem3-whole.sqlite3"
    ]
    assert not (tmp_path / "side" / "chroma.sqlite3").exists()
    again = opened(tmp_path / "side", proxy.port, "whole")
    assert again.count() == 19
    assert [chunk.metadata for chunk in again.get(["id 3"])] == [{"n": 0}]
    again.close()


def test_a_second_writer_is_refused(tmp_path, proxy):
    first = opened(tmp_path / "side", proxy.port, "shared")
    put(first, "a")
    reader = opened(tmp_path / "side", proxy.port, "shared")
    assert [chunk.id for chunk in reader.get(["a"])] == ["a"]
    with pytest.raises(
        StoreLockedError, match="another store of this process is writing to collection 'shared'. Fix: use that one"
    ):
        put(reader, "b")
    put(first, "c")
    assert reader.count() == 2
    # a second host, with a sidecar of its own
    with pytest.raises(
        IndexMismatchError, match="belongs to another sidecar. Fix: the sidecar folder it was made with"
    ):
        opened(tmp_path / "other", proxy.port, "shared")
    first.close()
    reader.close()


def test_a_wrong_key_and_a_server_that_went(tmp_path, server):
    proxy = Proxy(server.port)
    store = opened(tmp_path / "side", proxy.port, "lost")
    put(store, "a")
    right = dict(KEY)
    try:
        KEY["Authorization"] = "Bearer another"
        with pytest.raises(StoreAccessError, match="refused the key"):
            store.get(["a"])
    finally:
        KEY.update(right)
    proxy.stop()
    with pytest.raises(StoreConnectionError, match="server cannot be reached"):
        put(store, "b")
    store.close()
    again = opened(tmp_path / "side", server.port, "lost")
    assert [chunk.id for chunk in again.get(["a", "b"])] == ["a"]
    again.close()
