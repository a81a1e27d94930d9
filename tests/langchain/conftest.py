"""A model, a spy on its forward pass, and the settings of both in one place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bgem3 import HybridIndex, M3Encoder, MemoryStore
from langchain_bgem3 import BGEM3Embeddings

TEXTS = [
    "The key lies under the mat.",
    "Der Schlüssel liegt unter der Matte.",
    "Order 4711-B left the warehouse on Monday.",
    "Honey never spoils.",
    "钥匙在垫子下面。",
]


class CountingBackend:
    """A real backend that notes how many token sequences it was given."""

    def __init__(self, inner):
        self.inner, self.sequences = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def forward(self, sequences, heads):
        self.sequences += len(sequences)
        return self.inner.forward(sequences, heads)


@pytest.fixture(scope="session")
def settings(checkpoint: Path) -> dict[str, object]:
    """Return what chooses the model in every class."""
    return {"model_name": str(checkpoint), "backend": "onnx"}


@pytest.fixture(scope="session")
def embeddings(settings) -> BGEM3Embeddings:
    return BGEM3Embeddings(**settings)


@pytest.fixture(scope="session")
def encoder(embeddings) -> Iterator[M3Encoder]:
    yield embeddings.encoder
    embeddings.encoder.close()


@pytest.fixture
def passes(embeddings: BGEM3Embeddings) -> Iterator[CountingBackend]:
    """Return the counter of forward passes, at 0, with nothing remembered."""
    shared = embeddings.shared
    shared._memory.clear()
    shared._bytes = 0
    inner = shared.encoder._backend
    counting = shared.encoder._backend = CountingBackend(inner)
    yield counting
    shared.encoder._backend = inner


@pytest.fixture
def index(encoder: M3Encoder) -> HybridIndex:
    """Return an index in memory that holds TEXTS under the ids 0 to 4."""
    index = HybridIndex(encoder, MemoryStore())
    index.add(TEXTS, ids=[str(i) for i in range(len(TEXTS))], metadatas=[{"n": i} for i in range(len(TEXTS))])
    return index
