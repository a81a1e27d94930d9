"""XLM-RoBERTa as an ONNX graph over packed sequences, in float32, int8 or 4 bits.

Linear layers, norms and activations see the tokens of all sequences one after another, `(tokens, width)`; only
attention sees them padded, `(sequences, longest)`. Needs the package `onnx` (extra `convert`), no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from bgem3.calibration import LayerInputs
from bgem3.checkpoint import Config
from bgem3.forms import MASKED_FILE
from bgem3.quantize import (
    ACTIVATION_MAX,
    BLOCK,
    activation_constants,
    outlier_channels,
    quantize_blocks,
    quantize_columns,
    quantize_table,
    smoothing,
)
from bgem3.types import FloatArray
from bgem3.weights import Weights

_MICROSOFT = "com.microsoft"
# Of a token's attention: random weights and layers that take rounding well move 0.01 of it at most.
MOST_MOVED = 0.02
# The inputs; see `bgem3.backends.packing.Packed`.
_INPUTS = {"ids": ["tokens"], "positions": ["tokens"], "padded": ["sequences", "longest"], "packed": ["tokens"]}


def save_packed_graph(
    weights: Weights,
    path: Path,
    config: Config,
    precision: str,
    seen: Iterator[LayerInputs] | None = None,
    progress: Callable[[int], object] = lambda layers: None,
) -> None:
    """Write `path`, the same without branches in `MASKED_FILE`, and the weights of both in `<path>_data`.

    Args:
        weights: The encoder's tensors by name.
        path: The graph's file; its folder exists.
        config: Sizes of the encoder.
        precision: float32, int8 (7-bit rows times 8-bit columns) or int4 (4-bit blocks).
        seen: What calibration saw each layer multiply; needed by int8 and int4.
        progress: Called with 1 after each layer.
    """
    graph = _Graph(weights, path.with_name(f"{path.name}_data"), config, precision)
    try:
        graph.build(seen, progress)
        model = graph.model()
        onnx.save_model(model, path)
        _always_mask(model)
        onnx.save_model(model, path.with_name(MASKED_FILE))
    finally:
        graph.file.close()


def _always_mask(model: onnx.ModelProto) -> None:
    """Take the branch with the mask everywhere: with the condition OpenVINO 2026.4 was seen to give wrong vectors."""
    for node in model.graph.node:
        if node.op_type == "If":
            branch = next(entry.g for entry in node.attribute if entry.name == "else_branch")
            masked = onnx.NodeProto()
            masked.CopyFrom(branch.node[0])
            masked.output[0] = node.output[0]
            node.CopyFrom(masked)


class _Graph:
    """Nodes in order, and tensors that go to the data file as they are made."""

    def __init__(self, weights: Weights, data: Path, config: Config, precision: str) -> None:
        self.weights = weights
        self.config = config
        self.precision = precision
        self.file = data.open("wb")
        self.location = data.name
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def add(self, op: str, *inputs: str, domain: str = "", output: str = "", **attributes: Any) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], domain=domain, **attributes))
        return output

    def const(self, name: str, value: object, dtype: type | None = None) -> str:
        kept = value if isinstance(value, np.ndarray) else np.array(value, dtype=dtype or np.float32)
        self.initializers.setdefault(name, numpy_helper.from_array(kept, name))
        return name

    def tensor(self, name: str, value: NDArray[Any]) -> str:
        """Write a tensor to the data file, aligned so that ONNX Runtime can map it."""
        self.file.seek(-(-self.file.tell() // 4096) * 4096)
        offset = self.file.tell()
        content = np.ascontiguousarray(value)
        self.file.write(content.data)
        proto = TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(value.dtype), dims=value.shape)
        proto.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", self.location), ("offset", offset), ("length", content.nbytes)):
            proto.external_data.add(key=key, value=str(entry))
        self.initializers[name] = proto
        return name

    def weight(self, name: str) -> str:
        return self.tensor(name, self.weights[name])

    def build(self, seen: Iterator[LayerInputs] | None, progress: Callable[[int], object]) -> None:
        states = self.embeddings()
        for number in range(self.config.num_hidden_layers):
            states = self.layer(states, f"encoder.layer.{number}", next(seen) if seen else None)
            progress(1)
        self.add("Identity", states, output="hidden")

    def embeddings(self) -> str:
        table = self.weights["embeddings.word_embeddings.weight"]
        if self.precision == "float32":
            words = self.add("Gather", self.tensor("words", table), "ids")
        elif self.precision == "int8":  # only the rows that are read come into memory: they need not be small
            picked = self.add("Gather", self.tensor("words", table.astype(np.float16)), "ids")
            words = self.add("Cast", picked, to=TensorProto.FLOAT)
        else:
            rows, scales, columns = quantize_table(table)
            picked = self.add("Cast", self.add("Gather", self.tensor("words", rows), "ids"), to=TensorProto.FLOAT)
            words = self.add("Mul", picked, self.add("Gather", self.tensor("words.scale", scales), "ids"))
            words = self.add("Mul", words, self.tensor("words.columns", columns))
        table = self.weights["embeddings.position_embeddings.weight"]
        kind = self.weights["embeddings.token_type_embeddings.weight"][0]
        places = self.add("Gather", self.tensor("places", table + kind), "positions")
        return self.norm("embeddings.LayerNorm", words, places)

    def norm(self, name: str, *parts: str) -> str:
        """Add the parts and normalise each row; ONNX Runtime's kernel for all of that in one takes three times as long."""
        total = parts[0]
        for part in parts[1:]:
            total = self.add("Add", total, part)
        inputs = (total, self.weight(f"{name}.weight"), self.weight(f"{name}.bias"))
        return self.add("LayerNormalization", *inputs, axis=-1, epsilon=self.config.layer_norm_eps)

    def layer(self, states: str, name: str, seen: LayerInputs | None) -> str:
        parts = [f"{name}.attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([self.weights[f"{part}.weight"] for part in parts])
        bias = self.tensor(f"{name}.qkv.bias", np.concatenate([self.weights[f"{part}.bias"] for part in parts]))
        # where attention hangs on small differences, rounding would change what is attended to, and what is made of that
        rounded = seen if seen and seen.moved <= MOST_MOVED else None
        qkv = self.linear(states, f"{name}.qkv", weight, rounded.states if rounded else None)
        out = f"{name}.attention.output"
        weight = self.weights[f"{out}.dense.weight"]
        attended = self.linear(self.attention(qkv, bias), out, weight, rounded.attended if rounded else None)
        states = self.norm(f"{out}.LayerNorm", attended, self.weight(f"{out}.dense.bias"), states)
        up = f"{name}.intermediate.dense"
        inner = self.linear(states, up, self.weights[f"{up}.weight"], seen.middle if seen else None)
        inner = self.add("BiasGelu", inner, self.weight(f"{up}.bias"), domain=_MICROSOFT)
        down = f"{name}.output"
        weight = self.weights[f"{down}.dense.weight"]
        inner = self.linear(inner, down, weight, seen.inner if seen else None, lopsided=True)
        return self.norm(f"{down}.LayerNorm", inner, self.weight(f"{down}.dense.bias"), states)

    def attention(self, qkv: str, bias: str) -> str:
        """Split query, key and value and pad them in one step, attend, and pack again."""
        width = self.config.hidden_size
        rows = self.add("Reshape", qkv, self.const("rows", [-1, width], np.int64))
        threefold = self.shared("threefold", "Mul", "padded", self.const("three", 3, np.int64))
        places = [threefold]
        for shift in (1, 2):
            amount = self.const(f"shift{shift}", shift, np.int64)
            places.append(self.shared(f"shifted{shift}", "Add", threefold, amount))
        query, key, value = (self.add("Gather", rows, place) for place in places)
        mixed = self.attend(query, key, value, bias)
        return self.add("Gather", self.add("Reshape", mixed, "rows"), "packed")

    def attend(self, *inputs: str) -> str:
        """Without padding no mask is given, and ONNX Runtime attends in blocks: a long text needs little memory."""
        whole = self.shared("whole", "Equal", self.shared("least", "ReduceMin", "mask", keepdims=0), self.one())
        heads = self.config.num_attention_heads
        branches = {}
        for branch, names in (("then_branch", inputs), ("else_branch", (*inputs, "mask"))):
            name = f"{branch}_{len(self.nodes)}"
            node = helper.make_node("MultiHeadAttention", names, [name], domain=_MICROSOFT, num_heads=heads)
            output = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
            branches[branch] = helper.make_graph([node], name, [], [output])
        return self.add("If", whole, **branches)

    def one(self) -> str:
        return self.const("one", 1, np.int32)

    def shared(self, name: str, op: str, *inputs: str, **attributes: Any) -> str:
        """Add a node that every layer uses once."""
        if not any(name in node.output for node in self.nodes):
            self.add(op, *inputs, output=name, **attributes)
        return name

    def linear(
        self, states: str, name: str, weight: FloatArray, inputs: FloatArray | None, *, lopsided: bool = False
    ) -> str:
        """Multiply by a weight `(out, in)`, in float32 without inputs; the bias is left to whoever reads the result.

        Outlying channels are multiplied apart, in float32; rounding sees zeros in their place.
        """
        if inputs is None:
            return self.add("MatMul", states, self.tensor(f"{name}.weight", weight.T))
        apart = outlier_channels(np.abs(inputs).max(axis=0), weight)
        others = np.ones(weight.shape[1], np.float32)
        others[apart] = 0
        if self.precision == "int4":
            out = self.blocks(states, name, weight, inputs, others)
        else:
            out = self.rows_times_columns(states, name, weight, inputs, others, lopsided)
        if not len(apart):
            return out
        picked = self.add("Gather", states, self.const(f"{name}.apart", apart), axis=1)
        return self.add("Add", out, self.add("MatMul", picked, self.tensor(f"{name}.exact", weight[:, apart].T)))

    def blocks(self, states: str, name: str, weight: FloatArray, inputs: FloatArray, others: FloatArray) -> str:
        if not others.all():
            states = self.add("Mul", states, self.tensor(f"{name}.others", others))
        packed, scales = quantize_blocks(weight * others, inputs * others)
        tensors = (states, self.tensor(f"{name}.weight", packed), self.tensor(f"{name}.scale", scales.reshape(-1)))
        sizes = {"N": weight.shape[0], "K": weight.shape[1], "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
        return self.add("MatMulNBits", *tensors, domain=_MICROSOFT, **sizes)

    def rows_times_columns(
        self, states: str, name: str, weight: FloatArray, inputs: FloatArray, others: FloatArray, lopsided: bool
    ) -> str:
        """Round each row of activations by its own largest value, each column of weights to 8 bits.

        A lopsided row, such as GELU's with next to nothing below zero, is counted from its least value; that value times
        the sum of a column is added again.
        """
        smooth = smoothing(np.abs(inputs).max(axis=0), weight)
        columns, scales = quantize_columns((weight * others * smooth).T)
        even = self.add("Mul", states, self.tensor(f"{name}.smooth", others / smooth))
        last = self.const("last", [-1], np.int64)
        # a processor that can take finer ones puts them in when it loads the graph
        finest, zero = (self.const(*each) for each in activation_constants(ACTIVATION_MAX).items())
        if lopsided:
            least = self.add("ReduceMin", even, last, keepdims=1)
            span = self.add("Sub", self.add("ReduceMax", even, last, keepdims=1), least)
            largest = self.add("Mul", span, self.const("half", 0.5))
            even, zero = self.add("Sub", even, least), self.const("bottom", 0, np.uint8)
        else:
            largest = self.add("ReduceMax", self.add("Abs", even), last, keepdims=1)
        step = self.add("Max", self.add("Mul", largest, finest), self.const("tiny", 1e-30))
        unit = self.const("unit", 1.0)
        rounded = self.add("QuantizeLinear", self.add("Div", even, step), unit, zero)
        tensors = (rounded, self.tensor(f"{name}.weight", columns), unit, self.tensor(f"{name}.scale", scales), zero)
        out = self.add("Mul", self.add("MatMulIntegerToFloat", *tensors, domain=_MICROSOFT), step)
        if not lopsided:
            return out
        sums = (columns.sum(axis=0, dtype=np.int64) * scales).astype(np.float32)
        return self.add("Add", out, self.add("Mul", least, self.tensor(f"{name}.sums", sums)))

    def model(self) -> onnx.ModelProto:
        inputs = [helper.make_tensor_value_info(name, TensorProto.INT64, shape) for name, shape in _INPUTS.items()]
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT32, _INPUTS["padded"]))
        output = helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["tokens", self.config.hidden_size])
        graph = helper.make_graph(self.nodes, "packed-xlm-roberta", inputs, [output], [*self.initializers.values()])
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=9)
