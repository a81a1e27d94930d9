"""The encoder of the process: loaded beside the event loop, asked within limits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass

from typing_extensions import TypeIs

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.hybrid import HybridIndex
from bgem3.stores.memory import MemoryStore
from bgem3.types import HEADS, Head, IntArray
from bgem3_server.metrics import Metrics
from bgem3_server.problems import ApiError, over_limit
from bgem3_server.settings import ServerSettings

# Texts handed to the encoder at a time: a large request lets small ones in between.
_SLICE = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """The representations of a request's texts, and how many tokens they have, specials included."""

    embeddings: M3Embeddings
    tokens: int

    @property
    def usage(self) -> dict[str, int]:
        """The tokens as OpenAI tells them."""
        return {"prompt_tokens": self.tokens, "total_tokens": self.tokens}


class Room:
    """Room for so many numbers; who needs more than are free waits, in the order of coming."""

    def __init__(self, size: int) -> None:
        self._size = self._free = size
        self._turn = asyncio.Lock()
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def taking(self, count: int) -> AsyncIterator[None]:
        """Take room until the block ends; who takes none waits for nobody."""
        count = min(count, self._size)
        async with self._turn if count else nullcontext():
            while self._free < count:
                self._freed.clear()
                await self._freed.wait()
            self._free -= count
        try:
            yield
        finally:
            self._free += count
            self._freed.set()


class Engine:
    """Holds the encoder; `encoder` raises 503 until it is loaded.

    Attributes:
        failure: What went wrong when the model was loaded, if anything.
    """

    def __init__(self, settings: ServerSettings, metrics: Metrics, encoder: M3Encoder | None = None) -> None:
        self._settings = settings
        self._metrics = metrics
        self._encoder = encoder
        self._owns = encoder is None
        self._room = Room(settings.limits.max_held)
        self.failure: Exception | None = None
        metrics.ready.set(encoder is not None)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._encoder is not None

    @property
    def encoder(self) -> M3Encoder:
        """The encoder, once it is loaded."""
        if self.failure is not None:
            raise ApiError(503, "The model could not be loaded. Fix: what the server's log says")
        if self._encoder is None:
            raise ApiError(503, "The model is being loaded. Fix: ask /ready until it answers 200", headers=_RETRY)
        return self._encoder

    @property
    def names(self) -> tuple[str, ...]:
        """The names a request may call the model by; the first one is shown."""
        whole = str(self.encoder.describe()["model"])
        return tuple(dict.fromkeys((whole.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1], whole)))

    async def load(self) -> None:
        """Load the model, unless one was given; a failure is kept in `failure`."""
        if self._encoder is not None:
            return
        try:
            self._encoder = await asyncio.to_thread(_load, self._settings)
        except Exception as error:  # whatever it is, nobody should wait for a model that does not come
            self.failure = error
        else:
            self._metrics.ready.set(1)

    @asynccontextmanager
    async def encode(
        self,
        texts: Sequence[str] | Sequence[IntArray],
        heads: Collection[Head] = HEADS,
        *,
        max_numbers: int | None = None,
    ) -> AsyncIterator[Encoded]:
        """Encode texts or their token ids within the limits; those of concurrent requests share forward passes.

        `max_numbers` is how many numbers the token vectors may have together, if they are asked for. They count
        towards `Limits.max_held` until the block ends.

        Raises:
            ApiError: the model is not loaded yet, there are too many texts, one is too long, or all together are.
            InvalidTextError, BackendError: as `M3Encoder.encode`.
        """
        encoder = self.encoder
        tokens = await self.check(texts, max_numbers=max_numbers if "multi_vector" in heads else None)
        slices = [texts[start : start + _SLICE] for start in range(0, len(texts), _SLICE)] or [[]]
        async with self._room.taking(tokens * encoder.multi_dim if "multi_vector" in heads else 0):
            parts = [await _encode(encoder, part, heads) for part in slices]
            yield Encoded(parts[0] if len(parts) == 1 else M3Embeddings.concatenate(parts), tokens)

    async def check(self, texts: Sequence[str] | Sequence[IntArray], *, max_numbers: int | None = None) -> int:
        """Count the tokens of texts, and refuse too many texts, one that is too long, or too many token vectors."""
        limits = self._settings.limits
        if len(texts) > limits.max_texts:
            raise over_limit(422, "max_texts", limits.max_texts, len(texts), "texts")
        lengths = await self.lengths(texts)
        if limits.max_tokens is not None and lengths and max(lengths) > limits.max_tokens:
            raise over_limit(422, "max_tokens", limits.max_tokens, max(lengths), f"tokens in text {_longest(lengths)}")
        tokens = sum(lengths)
        numbers = tokens * self.encoder.multi_dim
        if max_numbers is not None and numbers > max_numbers:
            raise over_limit(422, "max_numbers", max_numbers, numbers, "numbers in token vectors")
        self._metrics.texts.inc(len(texts))
        self._metrics.tokens.inc(tokens)
        return tokens

    async def lengths(self, texts: Sequence[str] | Sequence[IntArray]) -> list[int]:
        """Return how many tokens each text has, specials included."""
        if sum(map(len, texts)) < _SHORT:
            return _lengths(self.encoder, texts)
        return await asyncio.to_thread(_lengths, self.encoder, texts)

    def close(self) -> None:
        """End the encoder's worker, if this engine loaded it."""
        if self._owns and self._encoder is not None:
            self._encoder.close()


_RETRY = {"Retry-After": "1"}
# Characters that are counted faster than a thread is called.
_SHORT = 2000


def _load(settings: ServerSettings) -> M3Encoder:
    encoder = M3Encoder.from_pretrained(settings.model, **settings.encoder_options)
    # the first search loads what is compiled, which would keep the first visitor waiting for seconds
    index = HybridIndex(encoder, MemoryStore())
    index.add(["warm"])
    index.search("warm")
    return encoder


async def _encode(
    encoder: M3Encoder, part: Sequence[str] | Sequence[IntArray], heads: Collection[Head]
) -> M3Embeddings:
    if _is_read(part):
        return await encoder.aencode_tokens(part, heads=heads)
    return await encoder.aencode(part, heads=heads)


def _is_read(texts: Sequence[str] | Sequence[IntArray]) -> TypeIs[Sequence[IntArray]]:
    """Tell token ids from texts; both of one kind."""
    return len(texts) > 0 and not isinstance(texts[0], str)


def _lengths(encoder: M3Encoder, texts: Sequence[str] | Sequence[IntArray]) -> list[int]:
    return [len(ids) for ids in (texts if _is_read(texts) else encoder.tokenizer.encode(texts))]


def _longest(lengths: Sequence[int]) -> int:
    return max(range(len(lengths)), key=lengths.__getitem__)
