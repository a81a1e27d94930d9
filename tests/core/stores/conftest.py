"""What the tests of both engines share."""

from __future__ import annotations

import pytest

from bgem3.stores.milvus_collection import MilvusCollection
from bgem3.stores.qdrant_collection import QdrantCollection


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let failed requests be tried again at once."""
    for kind in (QdrantCollection, MilvusCollection):
        monkeypatch.setattr(kind.__init__, "__kwdefaults__", {**kind.__init__.__kwdefaults__, "wait": 0.0})
