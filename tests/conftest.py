"""A checkpoint, every store, a hub on loopback, and an environment in which nothing of the user's own is read or changed."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from atexit import register
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from tests.support.hub import Hub

if TYPE_CHECKING:
    from pymilvus import MilvusClient
    from qdrant_client import QdrantClient

    from bgem3.stores.base import Store

# huggingface_hub reads its environment once, when it is imported
_HOME = Path(tempfile.mkdtemp(prefix="bgem3-tests-"))
register(shutil.rmtree, _HOME, ignore_errors=True)
_HUB = Hub()
for name in [name for name in os.environ if name.startswith(("HF_", "HUGGING_FACE_", "BGEM3_CACHE"))]:
    del os.environ[name]
os.environ |= {
    "BGEM3_CACHE": str(_HOME / "bgem3"),
    "HF_ENDPOINT": _HUB.url,
    "HF_HOME": str(_HOME / "huggingface"),
    "HF_HUB_DISABLE_TELEMETRY": "1",
    # models of this size lose more time to threads waiting for each other than they gain
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}

# Without it LlamaIndex's synchronous calls make the main thread a loop that nobody closes.
asyncio.set_event_loop(None)

STORES = ("memory", "chroma", "qdrant", "milvus")
CheckpointFactory = Callable[..., Path]


@pytest.fixture(scope="session")
def checkpoint_factory(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFactory:
    """Return a function that makes a small checkpoint; see `make_checkpoint` for its arguments."""
    from tests.support.checkpoints import make_checkpoint

    def make(**options: object) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp("checkpoint"), **options)

    return make


@pytest.fixture(scope="session")
def checkpoint(checkpoint_factory: CheckpointFactory) -> Path:
    """Return the folder of a checkpoint that tests share and leave as it is."""
    return checkpoint_factory()


@pytest.fixture
def hub() -> Iterator[Hub]:
    """Return the hub that HF_ENDPOINT names, empty."""
    _HUB.reset()
    yield _HUB
    _HUB.reset()


@pytest.fixture(params=STORES)
def store_name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def milvus_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MilvusClient]:
    """Return a client of milvus-lite, one for all tests; of a server where BGEM3_TEST_MILVUS_URI names one."""
    from pymilvus import MilvusClient

    here = str(tmp_path_factory.mktemp("milvus") / "milvus.db")
    client = MilvusClient(os.environ.get("BGEM3_TEST_MILVUS_URI", here))
    yield client
    client.close()


@pytest.fixture(scope="session")
def qdrant_server() -> Iterator[QdrantClient | None]:
    """Return a client of the server that BGEM3_TEST_QDRANT_URL names; None where it names none.

    It speaks gRPC, or REST where BGEM3_TEST_QDRANT_REST is set.
    """
    from qdrant_client import QdrantClient

    url = os.environ.get("BGEM3_TEST_QDRANT_URL")
    client = QdrantClient(url=url, prefer_grpc="BGEM3_TEST_QDRANT_REST" not in os.environ, timeout=60) if url else None
    yield client
    if client:
        client.close()


@pytest.fixture
def make_store(store_name: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Store]]:
    """Return a function that makes a store of that name over the same place each time."""
    from bgem3 import ChromaStore, MemoryStore, MilvusStore, QdrantStore

    name = f"c{uuid4().hex}"
    if store_name == "memory":
        yield MemoryStore
    elif store_name == "chroma":
        yield partial(ChromaStore, tmp_path / "db")
    elif store_name == "edge":
        from tests.support.qdrant_edge import EdgeClient

        client = EdgeClient(tmp_path)
        yield lambda codec="float16": QdrantStore(client=client, collection=name, token_datatype=codec)
        client.close()
    elif store_name == "milvus":
        client = request.getfixturevalue("milvus_client")
        yield partial(MilvusStore, client=client, collection=name)
        client.drop_collection(name)
    else:
        from qdrant_client import QdrantClient

        client = request.getfixturevalue("qdrant_server") or QdrantClient(":memory:")
        yield lambda codec="float16": QdrantStore(client=client, collection=name, token_datatype=codec)
        client.delete_collection(name)


@pytest.fixture
def store(make_store: Callable[..., Store]) -> Store:
    """Return an empty store of each kind."""
    return make_store()
