"""Float weights to 8 and 4 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cholesky, inv

from bgem3.types import FloatArray, IntArray

# Input channels that share one scale in 4 bits.
BLOCK = 32
COLUMN_MAX = 127
# AVX2's `vpmaddubsw` adds two products in 16 bits and saturates: 2 * (2 * 64) * 127 = 32,512 still fits. Activations
# in 7 bits around 64 lose less than weights in 7 bits would. VNNI adds in 32 bits and takes all 8.
ACTIVATION_MAX = 64
ACTIVATION_MAX_VNNI = 127
# A channel beyond this many times the median stays in float32; of all channels at most this share does.
OUTLIER = 3.0
MOST_OUTLIERS = 1 / 64
_ROW_MAX = 127
# Of the mean of the inputs' second moments, added to each: few texts do not span all channels.
_DAMPING = 0.01
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


def quantize_table(table: FloatArray) -> tuple[NDArray[np.int8], FloatArray, FloatArray]:
    """Round an embedding table `(n, width)` to 8 bits with a scale a row, after each column was divided by its own.

    A dimension that is small everywhere may decide a lot: divided by its root mean square, it is rounded as finely as the others.

    Returns:
        `(n, width)` int8, the rows' scales `(n, 1)` and the columns' `(width,)`, float32: the table is their product.
    """
    squares = np.einsum("ij,ij->j", table, table, dtype=np.float32)  # no copy of a gigabyte
    columns = np.maximum(np.sqrt(squares / len(table)), 1e-12).astype(np.float32)
    even = table / columns
    largest = np.maximum(even.max(axis=1, keepdims=True), -even.min(axis=1, keepdims=True))
    scales: FloatArray = np.maximum(largest, 1e-12) / np.float32(_ROW_MAX)
    even /= scales
    return np.rint(even, out=even).astype(np.int8), scales, columns


def outlier_channels(ranges: FloatArray, weight: FloatArray) -> IntArray:
    """Return the few input channels that a product keeps in float32, because they would make all others coarse.

    Args:
        ranges: Largest magnitude of each input channel, `(in,)`.
        weight: `(out, in)`.

    Returns:
        Indices, ascending: what smoothing leaves is more than `OUTLIER` times the median's; at most a share `MOST_OUTLIERS`.

    Source:
        Outliers apart from an 8-bit product: LLM.int8() (Dettmers et al. 2022, arXiv 2208.07339).
    """
    left = np.sqrt(ranges * np.abs(weight).max(axis=0))
    largest = np.argsort(-left, kind="stable")[: int(len(left) * MOST_OUTLIERS)]
    return np.sort(largest[left[largest] > OUTLIER * np.median(left)])


def quantize_blocks(weight: FloatArray, inputs: FloatArray) -> tuple[NDArray[np.uint8], FloatArray]:
    """Round `(out, in)` to 4 bits, one scale for `BLOCK` input channels, in the layout of MatMulNBits.

    Channels are rounded one after another, and what rounding changes in the output for these inputs is made up for by those that
    are still to come. The scale of a block is the one of several that changes the output least.

    Args:
        weight: `(out, in)`.
        inputs: What the layer was seen to multiply, `(tokens, in)`.

    Returns:
        `(out, blocks, BLOCK / 2)` uint8, two numbers a byte, 8 standing for zero; and `(out, blocks)` float32.

    Source:
        GPTQ (Frantar et al. 2022, arXiv 2210.17323).
    """
    missing = -weight.shape[1] % BLOCK
    inputs = np.pad(inputs, ((0, 0), (0, missing)))
    left = np.ascontiguousarray(np.pad(weight, ((0, 0), (0, missing))).T)
    moments = (inputs.T @ inputs / len(inputs)).astype(np.float64)
    importance = moments.diagonal().astype(np.float32)
    moments[np.diag_indices_from(moments)] += max(_DAMPING * moments.diagonal().mean(), 1e-12)
    carried = cholesky(inv(moments)).astype(np.float32)
    numbers, scales = np.empty(left.shape, np.uint8), []
    for start in range(0, len(left), BLOCK):
        block, rest = left[start : start + BLOCK], left[start + BLOCK :]
        share = carried[start : start + BLOCK, start : start + BLOCK]
        scale = _block_scale(block, importance[start : start + BLOCK, None])
        errors = np.empty_like(block)
        for i, channel in enumerate(block):
            rounded = _round4(channel, scale)
            numbers[start + i] = rounded + 8
            errors[i] = (channel - rounded * scale) / share[i, i]
            block[i + 1 :] -= share[i, i + 1 :, None] * errors[i]
        rest -= carried[start : start + BLOCK, start + BLOCK :].T @ errors
        scales.append(scale)
    pairs = numbers.T.reshape(len(weight), -1, BLOCK)
    packed: NDArray[np.uint8] = pairs[..., 0::2] | pairs[..., 1::2] * np.uint8(16)
    return packed, np.stack(scales, axis=1)


def _block_scale(block: FloatArray, importance: FloatArray) -> FloatArray:
    """Return a scale for each column of `(BLOCK, out)`."""
    # the number of largest magnitude becomes -8, the one value that has no opposite
    full = np.take_along_axis(block, np.abs(block).argmax(axis=0, keepdims=True), axis=0)[0] / -8
    tried = full * _SHRINK[:, None]
    losses = [((_round4(block, scale) * scale - block) ** 2 * importance).sum(axis=0) for scale in tried]
    best: FloatArray = tried[np.argmin(losses, axis=0), np.arange(len(full))]
    return best


def _round4(values: FloatArray, scale: FloatArray) -> FloatArray:
    safe = np.where(scale == 0, np.float32(1), scale)
    rounded: FloatArray = np.clip(np.rint(values / safe), -8, 7)
    return rounded
