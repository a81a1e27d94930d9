"""The stores that the contract runs over: each as a function that opens it again and again."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
from pymilvus import MilvusClient
from qdrant_client import QdrantClient

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.hybrid import HybridIndex
from bgem3.stores.base import Store
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.memory import MemoryStore
from bgem3.stores.milvus import MilvusStore
from bgem3.stores.qdrant import QdrantStore
from bgem3.types import Chunk

# What an engine scores it must be able to score alone: it takes the model's own lexical weights only.
ENGINES = {"qdrant", "milvus"}
PERSISTENT = {"chroma", "qdrant", "milvus"}


@pytest.fixture(params=["memory", "chroma", "qdrant", "milvus"])
def store_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def encoder(checkpoint: Path) -> Iterator[M3Encoder]:
    encoder = M3Encoder.from_pretrained(checkpoint)
    yield encoder
    encoder.close()


@pytest.fixture(scope="session")
def milvus_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    """Return a client of milvus-lite, one for all tests; of a server where BGEM3_TEST_MILVUS_URI names one."""
    here = str(tmp_path_factory.mktemp("milvus") / "milvus.db")
    client = MilvusClient(os.environ.get("BGEM3_TEST_MILVUS_URI", here))
    yield client
    client.close()


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantClient | None]:
    """Return a client of the server that BGEM3_TEST_QDRANT_URL names; None where it names none."""
    url = os.environ.get("BGEM3_TEST_QDRANT_URL")
    client = QdrantClient(url=url, prefer_grpc=True, timeout=60) if url else None
    yield client
    if client:
        client.close()


@pytest.fixture
def make_store(store_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Store]]:
    """Return a function that makes a store over the same place each time."""
    name = f"c{uuid4().hex}"
    if store_name == "memory":
        yield lambda **options: MemoryStore(**options)
    elif store_name == "chroma":
        yield lambda **options: ChromaStore(tmp_path / "db", **options)
    elif store_name == "milvus":
        client = request.getfixturevalue("milvus_client")
        yield lambda **options: MilvusStore(client=client, collection=name, **options)
        client.drop_collection(name)
    else:
        client = request.getfixturevalue("qdrant_server") or QdrantClient(":memory:")
        yield lambda codec="float16": QdrantStore(client=client, collection=name, token_datatype=codec)
        client.delete_collection(name)


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
