"""LlamaIndex's cache of embeddings, kept apart for each model and its settings."""

from __future__ import annotations

from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore


class ScopedKVStore(BaseKVStore):
    """A part of a key-value store. LlamaIndex's keys are bare texts, the same for every model.

    Args:
        store: Where values are kept.
        scope: Put before each key.
    """

    def __init__(self, store: BaseKVStore, scope: str) -> None:
        self.store = store
        self._scope = scope

    def put(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        self.store.put(self._key(key), val, collection)

    async def aput(self, key: str, val: dict[str, Any], collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        await self.store.aput(self._key(key), val, collection)

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return self.store.get(self._key(key), collection)

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> dict[str, Any] | None:
        """Return a value, or None."""
        return await self.store.aget(self._key(key), collection)

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return this part's values."""
        return self._own(self.store.get_all(collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, dict[str, Any]]:
        """Return this part's values."""
        return self._own(await self.store.aget_all(collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value and say whether it was there."""
        return self.store.delete(self._key(key), collection)

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Remove a value and say whether it was there."""
        return await self.store.adelete(self._key(key), collection)

    def _key(self, key: str) -> str:
        return f"{self._scope}:{key}"

    def _own(self, values: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        prefix = self._key("")
        return {key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)}
