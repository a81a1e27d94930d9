"""`bgem3 serve` as a process: ready, interrupted in the middle of work, and unable to start."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import httpx
import pytest

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


def test_what_was_accepted_is_finished(tmp_path):
    process, listening = start("--model", str(MINI), "--db", str(tmp_path / "db"), "--api-key", "key")
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
        process.send_signal(signal.SIGTERM)
        ask.join()
    process.stderr.close()
    assert statuses == [200]
    assert process.wait(timeout=30) in (0, -signal.SIGTERM)


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
