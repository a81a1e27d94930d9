"""`bgem3 serve` as a process: ready, interrupted in the middle of work, and unable to start."""

from __future__ import annotations

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress

import httpx
import pytest

from bgem3 import ChromaStore, HybridIndex, M3Encoder
from tests.server.conftest import MINI

pytestmark = pytest.mark.integration
COMMAND = [sys.executable, "-m", "bgem3", "serve", "--port", "0"]


def start(*options: str) -> tuple[subprocess.Popen[str], dict]:
    process = subprocess.Popen([*COMMAND, *options], stderr=subprocess.PIPE, text=True, env=os.environ)
    return process, next(lines(process, "listening"))


def lines(process: subprocess.Popen[str], event: str) -> Iterator[dict]:
    for line in process.stderr:
        if line.startswith("{") and (found := json.loads(line))["event"] == event:
            yield found


@pytest.mark.parametrize("end", [signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)])
def test_what_was_accepted_is_finished(tmp_path, end):
    inherited = signal.signal(end, signal.SIG_DFL)  # where the tests run under nohup, SIGHUP is ignored
    process, listening = start("--model", str(MINI), "--db", str(tmp_path / "db"), "--api-key", "key")
    signal.signal(end, inherited)
    with httpx.Client(base_url=listening["url"], headers={"Authorization": "Bearer key"}, timeout=60) as client:
        assert client.get("/health").json() == {"status": "ok"}
        next(lines(process, "ready"))
        assert client.get("/ready").json() == {"status": "ready"}
        assert client.get("/").text.startswith("<!doctype html>")
        statuses: list[int] = []
        body = {"input": ["a text of some length " * 20] * 64}
        ask = threading.Thread(target=lambda: statuses.append(client.post("/v1/embeddings", json=body).status_code))
        ask.start()
        metrics = ""
        while "bgem3_requests_under_way 2.0" not in metrics and ask.is_alive():
            metrics = httpx.get(f"{listening['url']}/metrics", headers={"X-API-Key": "key"}).text
        process.send_signal(end)
        ask.join()
    process.stderr.close()
    assert statuses == [200]
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)


def test_what_stores_log_is_lines_of_json_too(tmp_path):
    with HybridIndex(M3Encoder.from_pretrained(MINI), ChromaStore(tmp_path, collection="parts")) as index:
        index.add(["Part KX-220B fits the small pump."], ids=["pump"])
    with closing(sqlite3.connect(tmp_path / "bgem3-parts.sqlite3")) as sidecar, sidecar:
        sidecar.execute("UPDATE rows SET weights = x'00'")
    process, listening = start("--model", str(MINI), "--db", str(tmp_path))
    next(lines(process, "ready"))
    assert httpx.get(f"{listening['url']}/v1/collections/parts", timeout=60).json()["count"] == 1
    process.send_signal(signal.SIGTERM)
    logged = [json.loads(line) for line in process.communicate()[1].splitlines()]
    (warning,) = [line for line in logged if line["level"] == "warning"]
    assert "chunk 'pump' is damaged" in warning["event"]


def test_a_model_that_is_not_there_ends_the_server(tmp_path):
    done = subprocess.run([*COMMAND, "--model", str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "error: CheckpointNotFoundError" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_that_is_taken():
    process, listening = start("--model", str(MINI))
    port = listening["url"].rpartition(":")[2]
    done = subprocess.run([*COMMAND[:-1], port], capture_output=True, text=True, timeout=60)
    process.kill()
    process.communicate()
    assert done.returncode == 2
    assert "cannot listen" in done.stderr


def test_on_loopback_without_a_key_only_by_the_names_of_this_machine():
    process, listening = start("--model", str(MINI), "--allowed-host", "proxy.example")
    with httpx.Client(base_url=listening["url"]) as client:
        found = {
            host: client.get("/health", headers={"Host": host}).status_code
            for host in ("localhost:1", "127.0.0.1", "[::1]", "proxy.example", "evil.example")
        }
    process.kill()
    process.communicate()
    assert found == {"localhost:1": 200, "127.0.0.1": 200, "[::1]": 200, "proxy.example": 200, "evil.example": 403}


def test_the_variable_holds_one_key_and_the_log_has_only_json(monkeypatch):
    monkeypatch.setenv("BGEM3_API_KEY", "one two")
    process, listening = start("--model", str(MINI))
    host, port = listening["url"].removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(b"not HTTP at all\r\n\r\n")
        assert b"400 Bad Request" in connection.recv(1000)
    with httpx.Client(base_url=listening["url"]) as client:
        found = [
            client.get("/metrics", headers={"Authorization": f"Bearer {key}", "Host": "any.example"}).status_code
            for key in ("one", "two", "one two")
        ]
    process.terminate()
    logged = process.communicate(timeout=60)[1].splitlines()
    assert found == [401, 401, 200]
    (line,) = [line for line in map(json.loads, logged) if line["event"].startswith("Invalid HTTP")]
    assert (line["level"], line["logger"]) == ("warning", "uvicorn.error")


def test_an_empty_variable_is_no_key(monkeypatch):
    monkeypatch.setenv("BGEM3_API_KEY", "")
    process, listening = start("--model", str(MINI))
    status = httpx.get(f"{listening['url']}/metrics").status_code
    process.kill()
    process.communicate()
    assert status == 200


@pytest.mark.skipif(os.name == "nt", reason="a shell that closes streams")
def test_without_standard_streams_it_serves(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    closed = [
        "sh",
        "-c",
        'exec "$@" <&- >&- 2>&-',
        "sh",
        *COMMAND[:-1],
        port,
        "--model",
        str(MINI),
        "--db",
        str(tmp_path),
    ]
    process = subprocess.Popen(closed)
    url, body = f"http://127.0.0.1:{port}", {"documents": [{"id": "1", "text": "tea"}]}
    status = 0
    while status != 200 and process.poll() is None:
        with suppress(httpx.ConnectError):
            status = httpx.get(f"{url}/ready").status_code
    answer = httpx.post(f"{url}/v1/collections/parts/documents", json=body, timeout=60)
    process.terminate()
    process.wait(timeout=60)
    assert answer.json() == {"ids": ["1"], "count": 1}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such limit")
def test_collections_may_have_more_files_than_programs_are_started_with(tmp_path, monkeypatch):
    few = ["sh", "-c", 'ulimit -Sn 256; exec "$@"', "sh", *COMMAND]
    monkeypatch.setattr(sys.modules[__name__], "COMMAND", few)
    process, listening = start("--model", str(MINI), "--db", str(tmp_path))
    next(lines(process, "ready"))
    body = {"documents": [{"id": "1", "text": "tea"}]}
    with httpx.Client(base_url=listening["url"], timeout=60) as client:
        found = {client.post(f"/v1/collections/c-{n}/documents", json=body).status_code for n in range(20)}
        assert found == {200}
    process.terminate()
    process.communicate(timeout=60)
