"""MaxSim of bits: what four dimensions add to a similarity is looked up, for 32 query vectors at once.

Four bits of a code select one of 16 sums of a query vector's four numbers. The sums of 32 query vectors lie side by side,
so that one load and one addition count four dimensions of all of them. That takes half as long as to unpack the bits and
multiply bytes; see docs/decisions/integer-products.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic
from numpy.typing import NDArray

from bgem3.index.compiling import compiled
from bgem3.types import FloatArray

Array = NDArray[Any]

# Query vectors side by side: a row of the table is 64 bytes, one line of a processor's cache.
LANES = 32
_ROW = ir.VectorType(ir.IntType(16), LANES)
# Token vectors at a time: their sums stay in the first cache, beside the part of the table that is read.
_BLOCK = 128
# The numbers that four bits select, the first bit the highest.
_CHOSEN = (np.arange(16)[:, None] >> np.arange(3, -1, -1) & 1).astype(np.float32)


def query_table(vectors: FloatArray) -> tuple[NDArray[np.int16], FloatArray]:
    """Return what every four bits of a code add, and the step of each query vector.

    Args:
        vectors: `(n, dim)` float32, in the order of the bits.

    Returns:
        `(blocks of 32 vectors, 4 for each byte of a code * 8, 32)` int16, and `(n,)` float32: a sum of
        looked-up rows times the step is the sum of a vector's numbers where a bit is 1, rounded.
    """
    n, dim = vectors.shape
    # No choice of numbers may add up to more than 16 bits hold, nor their rounding.
    largest = np.maximum(np.maximum(vectors, 0).sum(axis=1), np.maximum(-vectors, 0).sum(axis=1))
    step = np.maximum(largest, np.finfo(np.float32).tiny) / np.float32(32767 - dim // 2)
    blocks, groups = -(-n // LANES), 2 * -(-dim // 8)
    padded = np.zeros((blocks * LANES, groups * 4), dtype=np.float32)
    padded[:n, :dim] = np.rint(vectors / step[:, None])
    numbers = padded.reshape(blocks, LANES, groups, 4).transpose(0, 2, 3, 1)
    table = _aligned(blocks, groups * 16, LANES)
    table[:] = (_CHOSEN @ numbers).reshape(table.shape)
    return table, step.astype(np.float32)


def best_of_bits(codes: Array, table: Array, centres: Array, factors: Array, owners: Array) -> FloatArray:
    """Return the largest `(sum - centres[m]) * factors[i]` of each text's vectors, `(n_texts, query vectors)` float32.

    Args:
        codes: `(n, bytes)` uint8, one row a vector, all of a text together.
        table: Of `query_table`.
        centres: One a query vector, float32.
        factors: `(n,)` float32.
        owners: `(n,)` int64, the text that each vector belongs to, from 0, each with one at least.
    """
    best = np.full((int(owners[-1]) + 1, len(table) * LANES), -np.inf, dtype=np.float32)
    padded = np.zeros(best.shape[1], dtype=np.float32)
    padded[: len(centres)] = centres
    _match(codes, table, padded, factors, owners, _aligned(_BLOCK, LANES), best)
    return best[:, : len(centres)]


def _aligned(*shape: int) -> NDArray[np.int16]:
    """Return zeros whose rows begin with a line of the cache: rows across two lines take twice as long."""
    size = 2 * int(np.prod(shape))
    room = np.zeros(size + 64, dtype=np.uint8)
    first = -room.ctypes.data % 64
    return room[first : first + size].view(np.int16).reshape(shape)


def _typed_add_rows(typing: Any, total: Any, i: Any, table: Any, picked: Any) -> Any:
    """Add rows of a table, whose numbers are in a tuple, to `total[i]`; both `(n, 32)` int16.

    As vectors from the start: numba's loop over the 32 asks each time whether the arrays overlap, six times slower.
    """

    def generate(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        def row(which: int, number: Any) -> Any:
            array = context.make_array(signature.args[which])(context, builder, values[which])
            return builder.gep(builder.bitcast(array.data, _ROW.as_pointer()), [number])

        place = row(0, values[1])
        result = builder.load(place, align=2)
        for k in range(len(picked)):
            result = builder.add(result, builder.load(row(2, builder.extract_value(values[3], k)), align=2))
        builder.store(result, place, align=2)
        return context.get_dummy_value()

    return types.void(total, i, table, picked), generate


_add_rows: Any = intrinsic(_typed_add_rows)


@compiled()
def _match(
    codes: Array, table: Array, centres: Array, factors: Array, owners: Array, total: Array, best: Array
) -> None:
    fours = codes.shape[1] - codes.shape[1] % 4
    for block in range(len(table)):
        sums = table[block]
        for first in range(0, len(codes), len(total)):
            some = codes[first : first + len(total)]
            total[:] = 0
            for j in range(0, fours, 4):
                row = 32 * j
                for i in range(len(some)):
                    a, b, c, d = some[i, j], some[i, j + 1], some[i, j + 2], some[i, j + 3]
                    picked = (
                        row + (a >> 4), row + 16 + (a & 15), row + 32 + (b >> 4), row + 48 + (b & 15),
                        row + 64 + (c >> 4), row + 80 + (c & 15), row + 96 + (d >> 4), row + 112 + (d & 15),
                    )  # fmt: skip
                    _add_rows(total, i, sums, picked)
            for j in range(fours, codes.shape[1]):
                for i in range(len(some)):
                    a = some[i, j]
                    _add_rows(total, i, sums, (32 * j + (a >> 4), 32 * j + 16 + (a & 15)))
            for i in range(len(some)):
                owner, factor = owners[first + i], factors[first + i]
                for m in range(LANES):
                    k = block * LANES + m
                    best[owner, k] = max(best[owner, k], (np.float32(total[i, m]) - centres[k]) * factor)
