"""Rounding, by visible arithmetic."""

import numpy as np

from bgem3.quantize import (
    ACTIVATION_MAX,
    BLOCK,
    COLUMN_MAX,
    quantize_blocks,
    quantize_columns,
    quantize_rows,
    smoothing,
)


def test_columns_have_a_scale_each():
    numbers, scales = quantize_columns(np.array([[127, 0.5], [-63.5, 1]], dtype=np.float32))
    np.testing.assert_allclose(scales, [1, 1 / 127])
    assert numbers.tolist() == [[127, 64], [-64, 127]]


def test_rows_have_a_scale_each():
    numbers, scales = quantize_rows(np.array([[127, -127], [0, 0]], dtype=np.float32))
    assert numbers.tolist() == [[127, -127], [0, 0]]
    assert scales[0] == 1


def test_no_sum_of_two_products_leaves_sixteen_bits():
    assert 2 * (2 * ACTIVATION_MAX) * COLUMN_MAX <= 2**15 - 1


def test_smoothing_shares_the_outlier():
    """Ranges 16 and 1 over weights of 1: dividing by 4 and 1 leaves 4 on both sides of the first channel."""
    scale = smoothing(np.array([16, 1], np.float32), np.ones((3, 2), np.float32))
    np.testing.assert_allclose(scale, [4, 1])


def test_four_bits_hold_sixteen_values_exactly():
    """Multiples of one step from -8 to 7 come back as they were."""
    weight = (np.arange(BLOCK) % 16 - 8).astype(np.float32)[None] * 0.25
    packed, scales = quantize_blocks(weight, np.ones(BLOCK, np.float32))
    low, high = packed & 15, packed >> 4
    numbers = np.stack([low, high], axis=-1).reshape(1, BLOCK).astype(np.float32) - 8
    np.testing.assert_array_equal(numbers * scales, weight)


def test_a_width_that_blocks_do_not_divide():
    packed, scales = quantize_blocks(np.ones((2, BLOCK + 1), np.float32), np.ones(BLOCK + 1, np.float32))
    assert packed.shape == (2, 2, BLOCK // 2)
    assert scales.shape == (2, 2)
