"""An encoder without a model: every word has a fixed random vector and weight."""

from __future__ import annotations

import asyncio
import zlib

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.lengths import Lengths
from bgem3.types import HEADS
from tests.support.embeddings import unit

DIM, MULTI_DIM, VOCABULARY = 24, 16, 30_011


class FakeEncoder:
    """Has the attributes and methods of `M3Encoder` that an index uses, and records each call in `calls`."""

    def __init__(self, *, fingerprint: str = "a" * 64, max_length: int = 128, backend: str = "fake") -> None:
        self.fingerprint, self.backend, self.precision = fingerprint, backend, "float32"
        self.dim, self.multi_dim, self.vocab_size = DIM, MULTI_DIM, VOCABULARY
        self.lengths = Lengths(max_length=max_length, overflow="window", window=max_length, window_overlap=8)
        self.calls: list[tuple[list[str], tuple[str, ...]]] = []

    def encode(self, texts, *, heads=HEADS, show_progress=False):
        self.calls.append((list(texts), tuple(heads)))
        tokens = [["", *text.split()] for text in texts]
        vectors = [unit(np.stack([_vector(word, MULTI_DIM) for word in words])) for words in tokens]
        dense = [unit(sum(_vector(word, DIM) for word in words)) for words in tokens]
        return M3Embeddings(
            dense=np.stack(dense) if "dense" in heads else None,
            sparse=self._rows(tokens, lambda count, word: _weight(word)) if "sparse" in heads else None,
            multi_vector=MultiVectors.from_list(vectors, MULTI_DIM) if "multi_vector" in heads else None,
        )

    encode_queries = encode_passages = encode

    async def aencode(self, texts, *, heads=HEADS):
        return await asyncio.to_thread(self.encode, texts, heads=heads)

    aencode_queries = aencode_passages = aencode

    def reading_as(self, settings):
        return self

    def describe(self):
        return {"model": "fake", "fingerprint": self.fingerprint}

    def token_counts(self, texts):
        return self._rows([["", *text.split()] for text in texts], lambda count, word: count)

    def _rows(self, tokens, value):
        result = np.zeros((len(tokens), VOCABULARY), dtype=np.float32)
        for row, words in enumerate(tokens):
            for word in words[1:]:
                result[row, _token(word)] = value(words[1:].count(word), word)
        return csr_array(result)


def _token(word: str) -> int:
    return zlib.crc32(word.encode()) % VOCABULARY


def _vector(word: str, dim: int) -> np.ndarray:
    return np.random.default_rng(_token(word)).normal(size=dim)


def _weight(word: str) -> float:
    return 0.05 + _token(word) % 20 / 100
