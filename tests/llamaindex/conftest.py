"""A model and a spy on its forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from llamaindex_bgem3 import BGEM3Embedding


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
def embed_model(checkpoint: Path) -> Iterator[BGEM3Embedding]:
    model = BGEM3Embedding(model_name=str(checkpoint), backend="onnx")
    yield model
    model.shared.encoder.close()


@pytest.fixture
def passes(embed_model: BGEM3Embedding) -> Iterator[CountingBackend]:
    """Return the counter of forward passes, at 0, with nothing remembered."""
    shared = embed_model.shared
    shared._memory.clear()
    shared._bytes = 0
    inner = shared.encoder._backend
    counting = shared.encoder._backend = CountingBackend(inner)
    yield counting
    shared.encoder._backend = inner
