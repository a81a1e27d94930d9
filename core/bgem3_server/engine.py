"""The encoder of the process: loaded beside the event loop, asked within limits."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from typing_extensions import TypeIs

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.errors import BGEM3Error
from bgem3.hybrid import HybridIndex
from bgem3.stores.memory import MemoryStore
from bgem3.types import HEADS, Head, IntArray
from bgem3_server.metrics import Metrics
from bgem3_server.problems import ApiError, over_limit
from bgem3_server.settings import Limits, ServerSettings

# Texts handed to the encoder at a time: a large request lets small ones in between.
_SLICE = 64


@dataclass(frozen=True, slots=True)
class Encoded:
    """The representations of a request's texts, and how many tokens they have, specials included."""

    embeddings: M3Embeddings
    tokens: int


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
        self.failure: BGEM3Error | None = None
        metrics.ready.set(encoder is not None)

    @property
    def ready(self) -> bool:
        """Whether the model is loaded."""
        return self._encoder is not None

    @property
    def encoder(self) -> M3Encoder:
        """The encoder, once it is loaded."""
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
        except BGEM3Error as error:
            self.failure = error
        else:
            self._metrics.ready.set(1)

    async def encode(
        self,
        texts: Sequence[str] | Sequence[IntArray],
        heads: Collection[Head] = HEADS,
        *,
        max_numbers: int | None = None,
    ) -> Encoded:
        """Encode texts or their token ids within the limits; those of concurrent requests share forward passes.

        `max_numbers` is how many numbers the token vectors may have together, if they are asked for.

        Raises:
            ApiError: the model is not loaded yet, there are too many texts, one is too long, or all together are.
            InvalidTextError, BackendError: as `M3Encoder.encode`.
        """
        encoder = self.encoder
        tokens = await self.check(texts, max_numbers=max_numbers if "multi_vector" in heads else None)
        slices = [texts[start : start + _SLICE] for start in range(0, len(texts), _SLICE)] or [[]]
        parts = [await _encode(encoder, part, heads) for part in slices]
        return Encoded(parts[0] if len(parts) == 1 else M3Embeddings.concatenate(parts), tokens)

    async def check(self, texts: Sequence[str] | Sequence[IntArray], *, max_numbers: int | None = None) -> int:
        """Count the tokens of texts, and refuse too many texts, one that is too long, or too many token vectors."""
        limits = self._settings.limits
        if len(texts) > limits.max_texts:
            raise over_limit(422, "max_texts", limits.max_texts, len(texts), "texts")
        if sum(map(len, texts)) < _SHORT:
            tokens = _count(self.encoder, texts, limits)
        else:
            tokens = await asyncio.to_thread(_count, self.encoder, texts, limits)
        numbers = tokens * self.encoder.multi_dim
        if max_numbers is not None and numbers > max_numbers:
            raise over_limit(422, "max_numbers", max_numbers, numbers, "numbers in token vectors")
        self._metrics.texts.inc(len(texts))
        self._metrics.tokens.inc(tokens)
        return tokens

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


def _count(encoder: M3Encoder, texts: Sequence[str] | Sequence[IntArray], limits: Limits) -> int:
    lengths = [len(ids) for ids in (texts if _is_read(texts) else encoder.tokenizer.encode(texts))]
    if limits.max_tokens is not None and lengths and max(lengths) > limits.max_tokens:
        raise over_limit(422, "max_tokens", limits.max_tokens, max(lengths), f"tokens in text {_longest(lengths)}")
    return sum(lengths)


def _longest(lengths: Sequence[int]) -> int:
    return max(range(len(lengths)), key=lengths.__getitem__)
