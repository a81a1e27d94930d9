"""Rounding, by visible arithmetic."""

import numpy as np
import onnx
import onnxruntime

from bgem3.checkpoint import Config
from bgem3.packed_graph import _Graph
from bgem3.quantize import (
    ACTIVATION_MAX,
    BLOCK,
    COLUMN_MAX,
    outlier_channels,
    quantize_blocks,
    quantize_columns,
    quantize_table,
    smoothing,
)


def test_columns_have_a_scale_each():
    numbers, scales = quantize_columns(np.array([[127, 0.5], [-63.5, 1]], dtype=np.float32))
    np.testing.assert_allclose(scales, [1, 1 / 127])
    assert numbers.tolist() == [[127, 64], [-64, 127]]


def test_a_table_has_a_scale_a_row_and_a_column():
    """The second column is a thousandth of the first everywhere, and keeps as many steps."""
    table = np.array([[3, 0.004], [4, -0.003], [0, 0]], dtype=np.float32)
    numbers, rows, columns = quantize_table(table)
    np.testing.assert_allclose(columns, [np.sqrt(25 / 3), np.sqrt(25e-6 / 3)], rtol=1e-6)
    assert numbers.tolist() == [[95, 127], [127, -95], [0, 0]]
    np.testing.assert_allclose(numbers * rows * columns, table, rtol=3e-3)


def test_no_sum_of_two_products_leaves_sixteen_bits():
    assert 2 * (2 * ACTIVATION_MAX) * COLUMN_MAX <= 2**15 - 1


def test_smoothing_shares_the_outlier():
    """Ranges 16 and 1 over weights of 1: dividing by 4 and 1 leaves 4 on both sides of the first channel."""
    scale = smoothing(np.array([16, 1], np.float32), np.ones((3, 2), np.float32))
    np.testing.assert_allclose(scale, [4, 1])


def test_outliers_are_the_channels_far_beyond_the_median():
    """Smoothed magnitudes are 2, 1, ..., 1, and 4 for channel 5: only that is beyond three times the median."""
    ranges = np.ones(128, np.float32)
    ranges[[0, 5]] = 4, 16
    assert outlier_channels(ranges, np.ones((3, 128), np.float32)).tolist() == [5]
    ranges[:9] = 100 + np.arange(9)
    assert outlier_channels(ranges, np.ones((3, 128), np.float32)).tolist() == [7, 8]  # 128 / 64 of them


def test_four_bits_hold_sixteen_values_exactly():
    """Multiples of one step from -8 to 7 come back as they were."""
    weight = (np.arange(BLOCK) % 16 - 8).astype(np.float32)[None] * 0.25
    packed, scales = quantize_blocks(weight, np.eye(BLOCK, dtype=np.float32))
    np.testing.assert_array_equal(_numbers(packed) * scales, weight)


def test_channels_make_up_for_what_rounding_changed_in_those_before():
    """Two channels are always equal: 0.6 steps each are 1.2 together, rounded one by one 2, made up for 1."""
    inputs = np.zeros((2, BLOCK), np.float32)
    inputs[0, :2], inputs[1, 2] = 1, 2
    weight = np.zeros((1, BLOCK), np.float32)
    weight[0, :3] = 0.6, 0.6, -8  # the third sets the scale: a step is 1
    packed, scales = quantize_blocks(weight, inputs)
    numbers = _numbers(packed)[0] * scales[0]
    assert numbers[:3].tolist() == [1, 0, -8]


def test_four_bits_change_the_output_less_than_rounding_alone():
    random = np.random.default_rng(0)
    inputs = (random.standard_normal((500, 16)) @ random.standard_normal((16, 96))).astype(np.float32)
    inputs += 0.1 * random.standard_normal(inputs.shape).astype(np.float32)
    weight = random.standard_normal((32, 96)).astype(np.float32)
    errors = []
    for seen in (inputs, np.eye(96, dtype=np.float32)):  # channels that have nothing in common: nothing to make up for
        packed, scales = quantize_blocks(weight, seen)
        near = (_numbers(packed).reshape(32, -1, BLOCK) * scales[..., None]).reshape(32, -1)
        errors.append(np.square(inputs @ (near - weight).T).mean())
    assert 0 < errors[0] < 0.3 * errors[1]


def test_a_width_that_blocks_do_not_divide():
    packed, scales = quantize_blocks(np.ones((2, BLOCK + 1), np.float32), np.ones((3, BLOCK + 1), np.float32))
    assert packed.shape == (2, 2, BLOCK // 2)
    assert scales.shape == (2, 2)


def test_an_outlier_does_not_make_the_others_coarse(tmp_path):
    """One channel a thousand times as large: its product is exact, and the others keep all steps."""
    random = np.random.default_rng(0)
    states = random.standard_normal((50, 256)).astype(np.float32)
    states[:, 7] *= 1000
    weight = random.standard_normal((32, 256)).astype(np.float32)
    exact = states @ weight.T
    for precision, most in (("int8", 0.02), ("int4", 0.12)):
        graph = _graph(precision, tmp_path)
        out = graph.linear("states", "one", weight, states)
        graph.file.close()
        error = _run(graph, out, states, tmp_path / "model.onnx") - exact
        assert 0 < np.sqrt(np.square(error).mean()) < most * np.sqrt(255)  # the output without that channel: sqrt(255)


def test_rows_counted_from_their_least_value_use_all_steps(tmp_path):
    """What GELU returns lies between -0.17 and 4: around zero, almost half of the steps would stay empty."""
    random = np.random.default_rng(0)
    states = np.maximum(random.standard_normal((50, 256)), -0.17).astype(np.float32)
    weight = random.standard_normal((32, 256)).astype(np.float32)
    exact, errors = states @ weight.T, {}
    for lopsided in (False, True):
        graph = _graph("int8", tmp_path)
        out = graph.linear("states", "one", weight, states, lopsided=lopsided)
        graph.file.close()
        errors[lopsided] = np.square(_run(graph, out, states, tmp_path / "model.onnx") - exact).mean()
    assert 0 < errors[True] < 0.5 * errors[False]


def _numbers(packed):
    return np.stack([packed & 15, packed >> 4], axis=-1).reshape(len(packed), -1).astype(np.float32) - 8


def _graph(precision, folder):
    sizes = {"intermediate_size": 256, "vocab_size": 9, "max_position_embeddings": 9}
    config = Config(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, **sizes)
    return _Graph({}, folder / "data", config, precision)


def _run(graph, out, states, path):
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("states", out)]
    made = onnx.helper.make_graph(graph.nodes, "one", ends[:1], ends[1:], [*graph.initializers.values()])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save_model(onnx.helper.make_model(made, opset_imports=opsets, ir_version=9), path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run([out], {"states": states})[0]
