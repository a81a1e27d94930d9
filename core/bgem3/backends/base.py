"""What a backend does: token ids in, head outputs out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from bgem3.types import FloatArray, Head, IntArray

# What helps where an engine fails, which says in its own words why.
FAILED = "Fix: free memory or a lower max_length= where it ran out; otherwise another backend= or precision="


@dataclass(frozen=True, slots=True, eq=False)
class HeadOutputs:
    """The heads of one batch of token sequences; a head that was not asked for is None.

    Attributes:
        dense: `(n, dim)` float32, rows of norm 1.
        token_weights: `(total_tokens,)` float32 >= 0, one per input id, sequences joined.
        token_vectors: `(total_tokens - n, multi_dim)` float32, rows of norm 1, the first
            token of each sequence left out.
        finite: Whether every number is one; None: it was not looked at.
    """

    dense: FloatArray | None
    token_weights: FloatArray | None
    token_vectors: FloatArray | None
    finite: bool | None = None

    @classmethod
    def join(cls, parts: Sequence[HeadOutputs]) -> HeadOutputs:
        """Put the sequences of several batches with the same heads one after another."""
        columns = zip(*((part.dense, part.token_weights, part.token_vectors) for part in parts), strict=True)
        joined = [[array for array in column if array is not None] for column in columns]
        dense, weights, vectors = (np.concatenate(arrays) if arrays else None for arrays in joined)
        return cls(dense, weights, vectors)

    def is_finite(self) -> bool:
        """Tell whether every number is one."""
        if self.finite is not None:
            return self.finite
        arrays = (self.dense, self.token_weights, self.token_vectors)
        return all(bool(np.isfinite(array).all()) for array in arrays if array is not None)


class Model(Protocol):
    """What is known of a model besides its forward pass: a `Checkpoint`, or what a server says of its own."""

    @property
    def name(self) -> str:
        """What `M3Encoder.describe` shows."""
        ...

    @property
    def tokenizer_path(self) -> Path:
        """Its `tokenizer.json`."""
        ...

    @property
    def vocab_size(self) -> int:
        """Width of a sparse row."""
        ...

    @property
    def positions(self) -> int:
        """The longest input in tokens, special tokens included."""
        ...

    @property
    def fingerprint(self) -> str:
        """64 hex digits; the same for every form of one checkpoint."""
        ...


class Backend(Protocol):
    """Runs the forward pass.

    Attributes:
        name, precision, device: What `M3Encoder.describe` shows.
        dim, multi_dim: Width of a dense vector and of a token vector.
        batch_tokens: Tokens of a forward pass that suit the machine: more leave its cache, fewer leave it idle.
        concurrency: Threads that may call `forward` at a time. One on a CPU, whose cores a single call fills.
    """

    name: str
    precision: str
    device: str
    dim: int
    multi_dim: int
    batch_tokens: int
    concurrency: int

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences with their special tokens, longest first.

        Raises:
            BackendError: the forward pass failed.
        """
