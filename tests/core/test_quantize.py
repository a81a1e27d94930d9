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


def test_rows_counted_from_their_least_value_use_all_steps(tmp_path):
    """What GELU returns lies between -0.17 and 4: around zero, almost half of the steps would stay empty."""
    random = np.random.default_rng(0)
    states = np.maximum(random.standard_normal((50, 256)), -0.17).astype(np.float32)
    weight = random.standard_normal((32, 256)).astype(np.float32)
    sizes = {"intermediate_size": 256, "vocab_size": 9, "max_position_embeddings": 9}
    config = Config(hidden_size=256, num_hidden_layers=1, num_attention_heads=4, **sizes)
    exact, errors = states @ weight.T, {}
    for lopsided in (False, True):
        graph = _Graph({}, tmp_path / "data", config, "int8")
        out = graph.linear("states", "one", weight, states.max(axis=0), lopsided=lopsided)
        graph.file.close()
        errors[lopsided] = np.square(_run(graph, out, states, tmp_path / "model.onnx") - exact).mean()
    assert 0 < errors[True] < 0.5 * errors[False]


def _run(graph, out, states, path):
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in ("states", out)]
    made = onnx.helper.make_graph(graph.nodes, "one", ends[:1], ends[1:], [*graph.initializers.values()])
    opsets = [onnx.helper.make_opsetid("", 18), onnx.helper.make_opsetid("com.microsoft", 1)]
    onnx.save_model(onnx.helper.make_model(made, opset_imports=opsets, ir_version=9), path)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run([out], {"states": states})[0]
