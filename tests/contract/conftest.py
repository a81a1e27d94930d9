"""What the contract suite opens its stores with; `tests/conftest.py` makes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.hybrid import HybridIndex
from bgem3.stores.base import Store
from bgem3.types import Chunk
from tests.conftest import STORES

# What an engine scores it must be able to score alone: it takes the model's own lexical weights only.
ENGINES = {"qdrant", "edge", "milvus"}
PERSISTENT = {"chroma", "qdrant", "edge", "milvus"}


@pytest.fixture(params=(*STORES, "edge", "graph"))
def store_name(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the name of a store.

    `edge` is QdrantStore over the embedded engine of a Qdrant server, `graph` ChromaStore where dense vectors are too many
    to be all compared.
    """
    if request.param == "graph":
        monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 0)
        return "chroma"
    return request.param


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Iterator[M3Encoder]:
    encoder = M3Encoder.from_pretrained(checkpoint)
    yield encoder
    encoder.close()


@pytest.fixture
def index(make_store: Callable[..., Store], encoder) -> Iterator[HybridIndex]:
    with HybridIndex(encoder, make_store(codec="float32")) as index:
        yield index


def stored_heads(store: Store) -> dict[str, tuple[Chunk, M3Embeddings]]:
    """Return every chunk that a store streams with its heads, by id; each may come once only."""
    found: dict[str, tuple[Chunk, M3Embeddings]] = {}
    for chunks, embeddings in store.scan(batch_size=7):
        assert 0 < len(chunks) <= 7
        for i, chunk in enumerate(chunks):
            assert chunk.id not in found
            found[chunk.id] = chunk, embeddings[[i]]
    return found
