"""Products near the machine's rate in one thread: onnxruntime's kernels, and loops compiled by numba around them.

numpy multiplies integers one by one. onnxruntime's `MatMulInteger` uses what the processor has for bytes
(on x86 vpmaddubsw or VNNI, on ARM the dot product instructions). numpy multiplies floats in threads of its own,
which go on spinning for milliseconds after a product and take the processors from the threads of a search.
"""

from __future__ import annotations

from base64 import b64decode
from functools import cache
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from bgem3.index.compiling import compiled
from bgem3.types import FloatArray

Array = NDArray[Any]

# ONNX models of one node; their test makes them anew with the onnx package.
# MatMulInteger: a (n, k) uint8, b (k, m) int8 -> c (n, m) int32.
INTEGERS = b64decode(
    "CAgSBWJnZW0zOlYKGAoBYQoBYhIBYyINTWF0TXVsSW50ZWdlchIHcHJvZHVjdFoPCgFhEgoKCAgCEgQKAAoAWg8KAWISCgoICAMSBAoACgBiDwoBYxIKCggIBhIECgAKAEIECgAQDQ=="
)
# MatMul: the same with float32.
FLOATS = b64decode(
    "CAgSBWJnZW0zOk8KEQoBYQoBYhIBYyIGTWF0TXVsEgdwcm9kdWN0Wg8KAWESCgoICAESBAoACgBaDwoBYhIKCggIARIECgAKAGIPCgFjEgoKCAgBEgQKAAoAQgQKABAN"
)


@cache
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Callers split their work over threads themselves.
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def multiply(left: NDArray[np.uint8], right: NDArray[np.int8]) -> NDArray[np.int32]:
    """Return `(n, k)` uint8 times `(k, m)` int8, `(n, m)` int32. Safe in several threads at once.

    Exact while two neighbouring products add up to less than 32,768: older x86 processors add pairs in 16 bits.
    """
    product: NDArray[np.int32] = _session(INTEGERS).run(None, {"a": left, "b": right})[0]
    return product


def multiply_floats(left: FloatArray, right: FloatArray) -> FloatArray:
    """Return `(n, k)` times `(k, m)`, `(n, m)` float32, in this thread; other float types are rounded to float32."""
    sides = {"a": left.astype(np.float32, copy=False), "b": right.astype(np.float32, copy=False)}
    product: FloatArray = _session(FLOATS).run(None, sides)[0]
    return product


@compiled()
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


@compiled()
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
