"""Products of small integers, near the machine's rate: onnxruntime's kernel, and loops compiled by numba around it.

numpy multiplies integers one by one. onnxruntime's `MatMulInteger` uses what the processor has for bytes
(on x86 vpmaddubsw or VNNI, on ARM the dot product instructions).
"""

from __future__ import annotations

from base64 import b64decode
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numba import njit
from numpy.typing import NDArray

Array = NDArray[Any]

# An ONNX model of one node, MatMulInteger: a (n, k) uint8, b (k, m) int8 -> c (n, m) int32.
# Its test makes it anew with the onnx package.
MODEL = b64decode(
    "CAgSBWJnZW0zOlYKGAoBYQoBYhIBYyINTWF0TXVsSW50ZWdlchIHcHJvZHVjdFoPCgFhEgoKCAgCEgQKAAoAWg8KAWISCgoICAMSBAoACgBiDwoBYxIKCggIBhIECgAKAEIECgAQDQ=="
)


@cache
def _session() -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Callers split their work over threads themselves.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])


def multiply(left: NDArray[np.uint8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return `(n, k)` uint8 times `(k, m)` int8, `(n, m)` int32. Safe in several threads at once.

    Exact while two neighbouring products add up to less than 32,768: older x86 processors add pairs in 16 bits.
    """
    product: NDArray[np.int32] = _session().run(None, {"a": left, "b": right})[0]
    return product


@njit(nogil=True, cache=True)
def unpack(records: Array, start: int, table: Array, out: Array) -> None:
    """Turn each byte of the records, from `start` on, into the codes it holds.

    Args:
        records: `(n, bytes)` uint8.
        start: Where the codes begin in a record.
        table: The codes of each byte, packed into one unsigned integer, `(256,)`.
        out: `(n, bytes - start)` of the table's type.
    """
    for i in range(len(out)):
        for j in range(out.shape[1]):
            out[i, j] = table[records[i, start + j]]


@njit(nogil=True, cache=True)
def best_matches(products: Array, centres: Array, factors: Array, first: int, owners: Array, best: Array) -> None:
    """Raise `best[owner, m]` to the largest `(products[i, m] - centres[m]) * factors[i]` of an owner's vectors.

    Args:
        products: `(n, m)` int32.
        centres: `(m,)` float32.
        factors: One a vector, float32; `factors[first]` belongs to `products[0]`.
        first: Number of the first vector.
        owners: The text that each vector belongs to.
        best: `(n_texts, m)` float32.
    """
    for i in range(len(products)):
        owner, factor = owners[first + i], factors[first + i]
        for m in range(products.shape[1]):
            best[owner, m] = max(best[owner, m], (np.float32(products[i, m]) - centres[m]) * factor)
