"""What the tests of stores share."""

from __future__ import annotations

import pytest

from bgem3.stores.qdrant_collection import QdrantCollection


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failed requests be tried again at once."""
    monkeypatch.setattr(QdrantCollection.__init__, "__kwdefaults__", {"wait": 0.0})
