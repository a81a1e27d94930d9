"""The three heads over hidden states, in numpy, for engines that end at the hidden state."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from bgem3.backends.base import HeadOutputs
from bgem3.checkpoint import LinearHead
from bgem3.types import FloatArray, Head, IntArray

# The smallest norm divided by, as in torch.nn.functional.normalize.
_EPSILON = np.float32(1e-12)


def normalize(vectors: FloatArray) -> FloatArray:
    """Return rows of norm 1, `(n, dim)` float32."""
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    unit: FloatArray = vectors / np.maximum(norms, _EPSILON)
    return unit


def apply_heads(
    hidden: FloatArray, lengths: IntArray, heads: Collection[Head], sparse: LinearHead, multi_vector: LinearHead
) -> HeadOutputs:
    """Compute the heads that are asked for.

    Args:
        hidden: Hidden states of all tokens without padding, `(total_tokens, hidden_size)` float32.
        lengths: Tokens of each sequence, `(n,)`.
        heads: Which to compute.
        sparse: `sparse_linear`, weight `(1, hidden_size)`.
        multi_vector: `colbert_linear`, weight `(multi_dim, hidden_size)`.

    Source: FlagEmbedding, `EncoderOnlyEmbedderM3ModelForInference`.
    """
    first = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    dense = token_weights = token_vectors = None
    if "dense" in heads:
        dense = normalize(hidden[first])
    if "sparse" in heads:
        token_weights = np.maximum(hidden @ sparse.weight[0] + sparse.bias[0], 0)
    if "multi_vector" in heads:
        rest = np.ones(len(hidden), dtype=bool)
        rest[first] = False
        token_vectors = normalize(hidden[rest] @ multi_vector.weight.T + multi_vector.bias)
    return HeadOutputs(dense, token_weights, token_vectors)
