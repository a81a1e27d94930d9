"""What the tests of stores share."""

from __future__ import annotations

import pytest

from bgem3.stores.qdrant_collection import QdrantCollection


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failed requests be tried again at once."""
    monkeypatch.setattr(QdrantCollection.__init__, "__kwdefaults__", {"wait": 0.0})


@pytest.fixture(autouse=True)
def by_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Chroma's graph asked, also in small collections, whose dense vectors would all be compared."""
    monkeypatch.setattr("bgem3.stores.chroma_search.LIMIT", 0)
