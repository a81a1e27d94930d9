"""Servers over the small checkpoint: in the process for most tests, on loopback for real clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event

import pytest
from fastapi.testclient import TestClient

from bgem3 import M3Encoder
from bgem3_server.app import create_app
from bgem3_server.settings import ServerSettings
from tests.support.servers import serve_encoder

MINI = Path(__file__).parents[2] / "examples" / "bge-m3-mini"

ClientFactory = Callable[..., TestClient]


@pytest.fixture(scope="session")
def encoder() -> Iterator[M3Encoder]:
    """Return the small checkpoint, loaded once."""
    encoder = M3Encoder.from_pretrained(MINI)
    yield encoder
    encoder.close()


@pytest.fixture
def make_client(encoder: M3Encoder) -> Iterator[ClientFactory]:
    """Return a function that starts an application with some settings and returns a client for it."""
    clients: list[TestClient] = []

    def make(**settings: object) -> TestClient:
        app = create_app(ServerSettings(model=str(MINI), **settings), encoder=encoder)
        clients.append(TestClient(app, raise_server_exceptions=False))
        return clients[-1].__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


@pytest.fixture
def client(make_client: ClientFactory) -> TestClient:
    """Return a client of an application with default settings."""
    return make_client()


@pytest.fixture
def held(encoder: M3Encoder, monkeypatch: pytest.MonkeyPatch) -> tuple[Event, Event]:
    """Hold forward passes: the first event tells that one has begun, the second lets them go on."""
    forward, begun, go = encoder._backend.forward, Event(), Event()

    def slow(*arguments: object) -> object:
        begun.set()
        go.wait(timeout=60)
        return forward(*arguments)

    monkeypatch.setattr(encoder._backend, "forward", slow)
    return begun, go


@pytest.fixture(scope="module")
def base_url(encoder: M3Encoder) -> Iterator[str]:
    """Return the address of a server on loopback."""
    with serve_encoder(MINI, encoder) as url:
        yield url
