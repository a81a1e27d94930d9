"""An orthogonal map that spreads any vector evenly over all dimensions, before a codec takes few bits of each.

Random signs and Hadamard transforms, in turn on the first and the last power of two of the dimensions. Written to
disk in every code: neither the seed nor the order may change.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from bgem3.types import FloatArray

_SEED = 20241
# Signs and transform, on the first power of two and on the last, so often.
_ROUNDS = 3


def rotate(vectors: FloatArray) -> FloatArray:
    """Return the rotated rows, `(n, dim)` float32."""
    turned: FloatArray = vectors.astype(np.float32)
    for signs, part in _steps(vectors.shape[1]):
        turned *= signs
        turned[:, part] = _hadamard(turned[:, part])
    return turned


def rotate_back(vectors: FloatArray) -> FloatArray:
    """Return the rows that `rotate` turned into these, `(n, dim)` float32."""
    turned: FloatArray = vectors.astype(np.float32)
    for signs, part in reversed(_steps(vectors.shape[1])):
        turned[:, part] = _hadamard(turned[:, part])
        turned *= signs
    return turned


@cache
def _steps(dim: int) -> list[tuple[FloatArray, slice]]:
    # NOTE: RandomState, not Generator: only its stream is promised never to change (NEP 19).
    random = np.random.RandomState(_SEED)
    size = 1 << (dim.bit_length() - 1)
    parts = (slice(0, size), slice(dim - size, dim))
    return [((2 * random.randint(0, 2, dim) - 1).astype(np.float32), part) for _ in range(_ROUNDS) for part in parts]


def _hadamard(vectors: FloatArray) -> FloatArray:
    """Return the Walsh-Hadamard transform of each row, `(n, power of two)`, scaled to keep its norm."""
    # As two small products instead of one by `(size, size)`: H(a * b) is the Kronecker product of H(a) and H(b).
    n, size = vectors.shape
    rows = 1 << (size.bit_length() - 1) // 2
    square = vectors.reshape(n, rows, size // rows)
    turned: FloatArray = np.matmul(_matrix(rows) @ square, _matrix(size // rows), dtype=np.float32)
    return turned.reshape(n, size)


@cache
def _matrix(size: int) -> FloatArray:
    """Return the Hadamard matrix of a power of two, scaled to be orthogonal."""
    ids = np.arange(size)
    odd = np.bitwise_count(ids[:, None] & ids) % 2 == 1
    matrix: FloatArray = (np.where(odd, -1, 1) / np.sqrt(size)).astype(np.float32)
    return matrix
