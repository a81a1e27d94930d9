"""Float weights to 8 and 4 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bgem3.types import FloatArray

# Input channels that share one scale in 4 bits.
BLOCK = 32
COLUMN_MAX = 127
# AVX2's `vpmaddubsw` adds two products in 16 bits and saturates: 2 * (2 * 64) * 127 = 32,512 still fits. Activations
# in 7 bits around 64 lose less than weights in 7 bits would. VNNI adds in 32 bits and takes all 8.
ACTIVATION_MAX = 64
ACTIVATION_MAX_VNNI = 127
_ROW_MAX = 127
_SHRINK = np.linspace(1.0, 0.7, 7, dtype=np.float32)


def smoothing(ranges: FloatArray, weight: FloatArray) -> FloatArray:
    """Return what to divide each input channel by, so that outliers move into the weights.

    Args:
        ranges: Largest magnitude of each input channel, `(in,)`.
        weight: `(out, in)`.

    Source:
        SmoothQuant (Xiao et al. 2022, arXiv 2211.10438), alpha 0.5.
    """
    largest = np.abs(weight).max(axis=0)
    scale: FloatArray = np.sqrt(np.maximum(ranges, 1e-5) / np.maximum(largest, 1e-5)).astype(np.float32)
    return scale


def activation_constants(most: int) -> dict[str, NDArray[np.generic]]:
    """Return the constants of an int8 graph that set how finely a row of activations is rounded, by name.

    Args:
        most: What the largest magnitude of a row becomes; zero becomes `most` too.
    """
    return {"finest": np.array(1 / most, np.float32), "middle": np.array(most, np.uint8)}


def quantize_columns(weight: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Round `(in, out)` to 8 bits with one scale a column: `(in, out)` int8 and `(out,)` float32."""
    scales = (np.maximum(np.abs(weight).max(axis=0), 1e-12) / COLUMN_MAX).astype(np.float32)
    return np.rint(weight / scales).astype(np.int8), scales


def quantize_rows(table: FloatArray) -> tuple[NDArray[np.int8], FloatArray]:
    """Round an embedding table `(n, width)` to 8 bits with one scale a row: int8 and `(n, 1)` float32."""
    scales = (np.maximum(np.abs(table).max(axis=1, keepdims=True), 1e-12) / _ROW_MAX).astype(np.float32)
    return np.rint(table / scales).astype(np.int8), scales


def quantize_blocks(weight: FloatArray, ranges: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """Round `(out, in)` to 4 bits, one scale for `BLOCK` input channels, in the layout of MatMulNBits.

    The scale of a block is the one of several that changes the layer's output least, channels weighed by
    how large their activations are.

    Returns:
        `(out, blocks, BLOCK / 2)` uint8, two numbers a byte, 8 standing for zero; and `(out, blocks)` float32.
    """
    missing = -weight.shape[1] % BLOCK
    blocks = np.pad(weight, ((0, 0), (0, missing))).reshape(len(weight), -1, BLOCK)
    importance = np.pad(ranges, (0, missing)).reshape(1, -1, BLOCK) ** 2
    # the number of largest magnitude becomes -8, the one value that has no opposite
    at = np.abs(blocks).argmax(axis=2, keepdims=True)
    full = np.take_along_axis(blocks, at, axis=2) / -8
    best, error = full, np.full_like(full, np.inf)
    for shrink in _SHRINK:
        scale = full * shrink
        loss = (((_round4(blocks, scale) * scale - blocks) ** 2) * importance).sum(axis=2, keepdims=True)
        best, error = np.where(loss < error, scale, best), np.minimum(loss, error)
    scales: NDArray[np.float32] = best.astype(np.float32)
    numbers = (_round4(blocks, scales) + 8).astype(np.uint8)
    packed: NDArray[np.uint8] = np.bitwise_or(numbers[..., 0::2], numbers[..., 1::2] * np.uint8(16))
    return packed, scales[..., 0]


def _round4(blocks: FloatArray, scale: FloatArray) -> FloatArray:
    safe = np.where(scale == 0, np.float32(1), scale)
    rounded: FloatArray = np.clip(np.rint(blocks / safe), -8, 7)
    return rounded
