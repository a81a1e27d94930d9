"""Qdrant's REST API on loopback over the client's own local mode: a server to be broken in every way."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread
from urllib.parse import urlsplit

from pydantic import BaseModel
from qdrant_client import QdrantClient, models


def _upsert(client, name, body):
    return client.upsert(name, models.PointsList.model_validate(body).points)


def _operate(client, name, body):
    return client.batch_update_points(name, models.UpdateOperations.model_validate(body).operations)


def _scroll(client, name, body):
    asked = models.ScrollRequest.model_validate(body)
    options = asked.model_dump(exclude={"filter", "with_vector", "order_by", "shard_key"}, exclude_none=True)
    points, offset = client.scroll(name, scroll_filter=asked.filter, with_vectors=asked.with_vector, **options)
    return {"points": [_plain(point) for point in points], "next_page_offset": offset}


def _retrieve(client, name, body):
    asked = models.PointRequest.model_validate(body)
    return client.retrieve(name, asked.ids, with_payload=asked.with_payload, with_vectors=asked.with_vector)


def _query(client, name, body):
    return client.query_batch_points(name, models.QueryRequestBatch.model_validate(body).searches)


def _count(client, name, body):
    return client.count(name, models.CountRequest.model_validate(body).filter)


def _create(client, name, body):
    asked = models.CreateCollection.model_validate(body)
    return client.create_collection(
        name, asked.vectors, sparse_vectors_config=asked.sparse_vectors, metadata=asked.metadata
    )


def _delete(client, name, body):
    return client.delete(name, models.PointIdsList.model_validate(body))


ROUTES: list[tuple[str, str, Callable]] = [
    ("GET", r"/collections()", lambda client, name, body: client.get_collections()),
    ("GET", r"/collections/(\w+)/exists", lambda client, name, body: {"exists": client.collection_exists(name)}),
    ("GET", r"/collections/(\w+)", lambda client, name, body: client.get_collection(name)),
    ("PUT", r"/collections/(\w+)", _create),
    ("DELETE", r"/collections/(\w+)", lambda client, name, body: client.delete_collection(name)),
    ("PUT", r"/collections/(\w+)/index", lambda client, name, body: {"operation_id": 0, "status": "completed"}),
    ("PUT", r"/collections/(\w+)/points", _upsert),
    ("POST", r"/collections/(\w+)/points", _retrieve),
    ("POST", r"/collections/(\w+)/points/batch", _operate),
    ("POST", r"/collections/(\w+)/points/scroll", _scroll),
    ("POST", r"/collections/(\w+)/points/count", _count),
    ("POST", r"/collections/(\w+)/points/delete", _delete),
    ("POST", r"/collections/(\w+)/points/query/batch", _query),
]


class QdrantServer:
    """A server at `url`, and what to do wrong.

    Attributes:
        version: What it says of itself.
        requests: Method, path and body of each request.
        answers: Statuses for the next writes of points; 0 is the right answer, -1 a connection that breaks.
        status: Answer every request with it, where it is not None.
    """

    def __init__(self) -> None:
        self.client = QdrantClient(":memory:")
        self.version = "1.20.0"
        self.requests: list[tuple[str, str, dict]] = []
        self.answers: list[int] = []
        self.status: int | None = None
        self._lock = Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self._thread = Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._http.server_port}"

    def bodies(self, method: str, end: str) -> list[dict]:
        """Return the bodies of the requests whose path ends so."""
        return [body for asked, path, body in self.requests if asked == method and path.endswith(end)]

    def answer(self, method: str, path: str, body: dict) -> tuple[int, object]:
        """Return status and body for one request; a status of -1 breaks the connection."""
        with self._lock:
            self.requests.append((method, path, body))
            status = self.status
            if status is None and method == "PUT" and path.endswith("/points") and self.answers:
                status = self.answers.pop(0) or None
            if status is not None:
                return status, {"status": {"error": "said the server"}, "time": 0}
            if path == "/":
                return 200, {"title": "qdrant", "version": self.version, "commit": None}
            for known, pattern, function in ROUTES:
                if known == method and (found := re.fullmatch(pattern, path)):
                    result = _plain(function(self.client, found[1], body))
                    return 200, {"result": result, "status": "ok", "time": 0}
            return 404, {"status": {"error": f"{method} {path}"}, "time": 0}

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()
        self.client.close()


def _handler(server: QdrantServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            status, answer = server.answer(self.command, urlsplit(self.path).path, body)
            if status == -1:
                self.close_connection = True
                return
            written = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, format: str, *args: object) -> None:
            pass

    for method in ("GET", "PUT", "POST", "DELETE"):
        setattr(Handler, f"do_{method}", Handler._serve)
    return Handler


def _plain(value: object) -> object:
    """Return what the local mode answered as JSON."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json", exclude_none=True)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    return value
