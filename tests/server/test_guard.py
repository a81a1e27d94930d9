"""Keys, limits and errors: what is refused, how it is said, and that nothing else is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import threading
import time
from contextlib import closing, suppress

import pytest
from fastapi.testclient import TestClient

from bgem3.chat import ChatModel
from bgem3.errors import (
    BackendError,
    CheckpointError,
    InvalidInputError,
    MissingExtraError,
    RemoteAccessError,
    RemoteConnectionError,
    StoreAccessError,
    StoreConnectionError,
    StoreNotFoundError,
)
from bgem3_server.app import create_app
from bgem3_server.collections import Collections
from bgem3_server.guard import Observe
from bgem3_server.logs import log
from bgem3_server.metrics import Metrics
from bgem3_server.settings import Limits, ServerSettings


def error_of(answer) -> dict:
    return answer.json()["error"]


def test_without_a_key_nothing_of_the_api_is_answered(make_client):
    client = make_client(api_keys=("first-key", "second-key"))
    for path in ("/v1/models", "/v1/info", "/v1/collections", "/metrics", "/v1/nonsense"):
        answer = client.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == "Bearer"
        assert error_of(answer)["type"] == "authentication_error"
    for path in ("/health", "/ready", "/", "/openapi.json"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [{"Authorization": "Bearer second-key"}, {"authorization": "bearer first-key"}, {"X-API-Key": "first-key"}],
)
def test_any_of_the_keys_opens(make_client, headers):
    assert make_client(api_keys=("first-key", "second-key")).get("/v1/models", headers=headers).status_code == 200


@pytest.mark.parametrize(
    "value", ["Bearer first-ke", "Bearer first-key2", "Basic first-key", "first-key", "Bearer ", "Bearer schlüssel"]
)
def test_a_wrong_key_does_not(make_client, value):
    headers = {"Authorization": value.encode()}
    assert make_client(api_keys=("first-key",)).get("/v1/models", headers=headers).status_code == 401


def test_an_empty_key_is_no_key():
    with pytest.raises(InvalidInputError, match="empty key"):
        ServerSettings(api_keys=("",))


def test_a_file_is_no_folder_of_collections(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InvalidInputError, match="db: .*file is a file, expected a folder"):
        ServerSettings(db=str(tmp_path / "file"))


def test_a_folder_that_must_hold_collections(tmp_path):
    for db in (None, str(tmp_path), str(tmp_path / "no")):
        with pytest.raises(
            StoreNotFoundError, match="holds no collections, and must_exist is set. Fix: mount the disk"
        ):
            ServerSettings(db=db, must_exist=True)
    ServerSettings(db="http://qdrant:6333", must_exist=True)
    (tmp_path / "chroma.sqlite3").touch()
    ServerSettings(db=str(tmp_path), must_exist=True)


def test_a_limit_below_one():
    with pytest.raises(InvalidInputError, match="max_texts: got 0"):
        Limits(max_texts=0)


def test_too_many_texts(make_client):
    client = make_client(limits=Limits(max_texts=2))
    answer = client.post("/v1/embeddings", json={"input": ["a", "b", "c"]})
    assert answer.status_code == 422
    assert error_of(answer)["limit"] == {"name": "max_texts", "value": 2, "got": 3}
    assert "got 3 texts, this server takes 2" in error_of(answer)["message"]


def test_a_text_too_long(make_client):
    client = make_client(limits=Limits(max_tokens=5))
    assert client.post("/v1/embeddings", json={"input": ["a a"]}).status_code == 200
    answer = client.post("/v1/embeddings", json={"input": ["a", "tea " * 40]})
    assert answer.status_code == 422
    assert error_of(answer)["code"] == "max_tokens"
    assert "tokens in text 1" in error_of(answer)["message"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large(make_client, chunked):
    client = make_client(limits=Limits(max_body_bytes=1000))
    body = json.dumps({"input": "a" * 2000}).encode()
    content = iter([body[:900], body[900:]]) if chunked else body
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert error_of(answer)["limit"]["value"] == 1000


def test_too_many_at_once(make_client, held):
    client = make_client(limits=Limits(max_queue=2))
    begun, go = held
    statuses: list[int] = []

    def ask() -> None:
        statuses.append(client.post("/v1/embeddings", json={"input": "tea"}).status_code)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    begun.wait()
    while client.app.state.parts.metrics.under_way._value.get() < 2:
        time.sleep(0.01)
    refused = client.post("/v1/embeddings", json={"input": "tea"})
    go.set()
    for thread in threads:
        thread.join()
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"
    assert error_of(refused)["limit"]["name"] == "max_queue"
    assert statuses == [200, 200]
    assert client.post("/v1/embeddings", json={"input": "tea"}).status_code == 200


def test_a_client_that_never_finishes_its_request(base_url, monkeypatch):
    monkeypatch.setattr(Limits, "body_timeout", property(lambda self: 0.1))
    host, port = base_url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        assert connection.recv(1000).startswith(b"HTTP/1.1 408")


def test_a_client_that_goes_while_it_sends_is_no_invalid_request(make_client):
    client = make_client()
    went = {"type": "http.disconnect"}
    scope = {"type": "http", "method": "POST", "path": "/v1/embeddings", "headers": [], "query_string": b""}
    sent: list[dict] = []

    async def receive() -> dict:
        return went

    async def send(message: dict) -> None:
        sent.append(message)

    client.portal.call(client.app, scope, receive, send)
    counted = client.get("/metrics").text
    assert sent == []
    assert 'bgem3_requests_total{method="POST",route="other",status="499"} 1.0' in counted
    assert 'status="422"' not in counted


def test_a_request_that_the_end_cuts_off_is_told():
    sent: list[dict] = []

    async def send(message: dict) -> None:
        sent.append(message)

    async def wait(scope: dict, receive: object, send: object) -> None:
        await asyncio.Event().wait()

    async def cut_off() -> None:
        task = asyncio.create_task(Observe(wait, Metrics())({"type": "http", "method": "GET"}, None, send))
        await asyncio.sleep(0)
        task.cancel()
        await task

    asyncio.run(cut_off())
    assert sent[0]["status"] == 503
    assert (
        json.loads(sent[1]["body"])["error"]["message"] == "The server is stopping. Fix: ask again once it has started"
    )


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the device that is always full")
def test_a_log_that_takes_nothing_stops_no_request(client, monkeypatch):
    with open("/dev/full", "w", buffering=1) as full:
        monkeypatch.setattr("sys.stderr", full)
        for path, status in (("/v1/models", 200), ("/v1/nonsense", 404)):
            assert client.get(path).status_code == status
        monkeypatch.undo()
        with suppress(OSError):
            full.close()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "not JSON"),
        (b'{"input": NaN}', "not JSON"),
        (b'{"input": "\\ud800"}', "not JSON"),
        (b'{"input": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"", "Field required"),
        (b"[]", "valid dictionary"),
        (b'{"input": 1e400}', "not JSON"),
        (b'{"input": "a", "dimensions": 123456789012345678901234567890}', "dimensions"),
    ],
)
def test_bodies_that_are_no_request(client, content, said):
    answer = client.post("/v1/embeddings", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 422
    assert said in error_of(answer)["message"]


def test_an_error_repeats_no_text(client):
    answer = client.post("/v1/embeddings", json={"input": ["a secret", 3]})
    assert answer.status_code == 422
    assert "secret" not in answer.text


def test_an_unknown_place_and_method(client):
    assert error_of(client.get("/v1/nonsense"))["message"] == "Not Found: GET /v1/nonsense"
    assert client.get("/v1/embeddings").status_code == 405


def test_a_failure_nobody_foresaw_says_where_and_not_what(client, encoder, monkeypatch, capsys):
    def broken(*arguments):
        raise ZeroDivisionError("a secret")

    monkeypatch.setattr(encoder._backend, "forward", broken)
    answer = client.post("/v1/embeddings", json={"input": "tea"})
    assert answer.status_code == 500
    assert error_of(answer)["message"] == "The server failed (ZeroDivisionError); its log says where"
    logged = capsys.readouterr().err
    assert "encoder.py" in logged
    assert "secret" not in logged


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreConnectionError("http://qdrant:6333: no answer"), 503),
        (StoreAccessError("http://qdrant:6333: refused the key"), 502),
        (RemoteConnectionError("http://gpu:8080: no answer"), 503),
        (RemoteAccessError("http://gpu:8080: refused the key"), 502),
        (MissingExtraError("qdrant-client", "qdrant", "QdrantStore"), 501),
    ],
)
def test_a_server_behind_this_one_that_fails_is_said(client, monkeypatch, error, status):
    def broken(self):
        raise error

    monkeypatch.setattr(Collections, "_names", broken)
    answer = client.get("/v1/collections")
    assert (answer.status_code, error_of(answer)["message"]) == (status, str(error))
    assert str(status) in client.get("/openapi.json").json()["paths"]["/v1/collections"]["get"]["responses"]


@pytest.mark.parametrize("error", [CheckpointError("torn"), OSError("no disk")])
def test_a_model_that_cannot_be_loaded_is_told(monkeypatch, capsys, error):
    def broken(settings):
        raise error

    monkeypatch.setattr("bgem3_server.engine._load", broken)
    failures: list[Exception] = []
    app = create_app(ServerSettings(model="m\udcff"), on_failure=failures.append)
    with TestClient(app) as client:
        while not failures:
            time.sleep(0.01)
        assert client.get("/ready").json() == {"status": "failed"}
        assert error_of(client.get("/v1/info"))["message"].startswith("The model could not be loaded")
    assert failures == [error]
    (line,) = [line for line in map(json.loads, capsys.readouterr().err.splitlines()) if line["level"] == "error"]
    assert line["error"] == f"{type(error).__name__}: {error}"


def test_a_path_that_is_no_unicode_can_be_logged(capsys):
    log("ready", model="/models/m\udcff")
    assert json.loads(capsys.readouterr().err)["model"] == "/models/m\udcff"


def test_keys_are_not_shown():
    shown = repr(ServerSettings(api_keys=("first-key",), encoder_options={"api_key": "second-key"}))
    assert "-key" not in shown


def test_a_store_that_fails_is_named_to_client_and_log(make_client, tmp_path, capsys):
    client = make_client(db=str(tmp_path / "db"))
    client.post("/v1/collections/parts/documents", json={"documents": [{"id": "1", "text": "tea"}]})
    with closing(sqlite3.connect(tmp_path / "db" / "bgem3-parts.sqlite3")) as sidecar, sidecar:
        sidecar.execute("UPDATE rows SET multi_vector = x'00'")
    capsys.readouterr()
    answer = client.post("/v1/collections/parts/search", json={"query": "tea"})
    said = "chunk '1' is damaged. Fix: bgem3 repair, or add its text again"
    assert (answer.status_code, error_of(answer)["type"]) == (500, "server_error")
    assert said in error_of(answer)["message"]
    first, _ = map(json.loads, capsys.readouterr().err.splitlines())
    assert (first["event"], first["error"]) == ("request failed", "StoreCorruptError")
    assert said in first["message"]


def test_methods_that_are_none_are_counted_as_one(client):
    for i in range(5):
        assert client.request(f"MADE-UP-{i}", "/health").status_code == 405
    counted = [line for line in client.get("/metrics").text.splitlines() if line.startswith("bgem3_requests_total")]
    assert counted == ['bgem3_requests_total{method="other",route="/health",status="405"} 5.0']


def test_a_forward_pass_that_fails(client, encoder, monkeypatch):
    def broken(*arguments):
        raise BackendError("out of memory. Fix: free it")

    monkeypatch.setattr(encoder._backend, "forward", broken)
    answer = client.post("/v1/embeddings", json={"input": "tea"})
    assert (answer.status_code, error_of(answer)["message"]) == (500, "out of memory. Fix: free it")


def test_the_log_has_lines_of_json_without_texts_and_keys(make_client, capsys):
    client = make_client(api_keys=("the-key",))
    capsys.readouterr()
    client.post(
        "/v1/embeddings",
        json={"input": "a secret"},
        headers={"Authorization": "Bearer the-key"},
        params={"q": "secret"},
    )
    logged = capsys.readouterr().err
    (line,) = map(json.loads, logged.splitlines())
    assert {name: line[name] for name in ("event", "method", "route", "status")} == {
        "event": "request",
        "method": "POST",
        "route": "/v1/embeddings",
        "status": 200,
    }
    assert "secret" not in logged
    assert "the-key" not in logged


def test_metrics_count_requests_texts_and_tokens(client):
    client.post("/v1/embeddings", json={"input": ["tea", "tea"]})
    client.get("/v1/nonsense")
    client.request("NONSENSE", "/v1/embeddings")
    lines = client.get("/metrics").text.splitlines()
    assert 'bgem3_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0' in lines
    assert "bgem3_texts_total 2.0" in lines
    assert "bgem3_ready 1.0" in lines
    assert not any("nonsense" in line.lower() for line in lines)


def test_other_pages_may_not_call_unless_they_are_named(make_client):
    asked = {"Origin": "https://example.org", "Access-Control-Request-Method": "POST"}
    assert "access-control-allow-origin" not in make_client().options("/v1/embeddings", headers=asked).headers
    client = make_client(cors_origins=("https://example.org",), api_keys=("key",))
    answer = client.options("/v1/embeddings", headers=asked)
    assert answer.headers["access-control-allow-origin"] == "https://example.org"
    refused = client.options("/v1/embeddings", headers={**asked, "Origin": "https://example.com"})
    assert "access-control-allow-origin" not in refused.headers


@pytest.mark.parametrize("path", ["/", "/health", "/page/main.js", "/v1/info", "/openapi.json"])
def test_only_by_the_names_of_the_server(make_client, path):
    client = make_client(hosts=("localhost", "[::1]", "Proxy.example"))
    for host in ("localhost", "LOCALHOST:8080", "[::1]:8080", "[::1]", "proxy.example"):
        assert client.get(path, headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "[::2]:8080", ""):
        answer = client.get(path, headers={"Host": host})
        assert answer.status_code == 403
        assert "expected one of localhost, ::1, proxy.example. Fix: --allowed-host" in error_of(answer)["message"]


def test_the_page_answers_head(client):
    answer = client.head("/")
    assert answer.status_code == 200
    assert answer.headers["content-length"] == str(len(client.get("/").content))


def test_security_headers(client):
    headers = client.get("/").headers
    assert "default-src 'self'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"


def test_info_tells_the_limits_and_no_key(make_client):
    client = make_client(chat=ChatModel("llama", "http://localhost:1/v1", "sk-secret"))
    answer = client.get("/v1/info")
    assert answer.json()["chat_model"] == "llama"
    assert answer.json()["limits"]["max_texts"] == 2048
    assert "secret" not in answer.text
