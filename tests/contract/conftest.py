"""The stores that the contract runs over: each as a function that opens it again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgem3.encoder import M3Encoder
from bgem3.hybrid import HybridIndex
from bgem3.stores.base import Store
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.memory import MemoryStore

PERSISTENT = {"chroma"}


@pytest.fixture(params=["memory", "chroma"])
def store_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Iterator[M3Encoder]:
    encoder = M3Encoder.from_pretrained(checkpoint)
    yield encoder
    encoder.close()


@pytest.fixture
def make_store(store_name: str, tmp_path: Path) -> Callable[..., Store]:
    """Return a function that makes a store over the same place each time."""
    if store_name == "memory":
        return lambda **options: MemoryStore(**options)
    return lambda **options: ChromaStore(tmp_path / "db", **options)


@pytest.fixture
def index(make_store: Callable[..., Store], encoder) -> Iterator[HybridIndex]:
    with HybridIndex(encoder, make_store(codec="float32")) as index:
        yield index
