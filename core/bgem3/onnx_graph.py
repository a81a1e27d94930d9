"""XLM-RoBERTa as an ONNX graph in the layout of the official export, straight from its weights.

Needs the package `onnx` (extra `convert`), no torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import set_external_data

OPSET = 11
CONSTANT_FILE = "Constant_7_attr__value"

Weights = dict[str, NDArray[np.float32]]


def save_graph(
    weights: Weights, path: Path, *, heads: int, eps: float, external: bool = False, half: bool = False
) -> None:
    """Write the graph of an encoder, inputs `input_ids` and `attention_mask`, output `token_embeddings`.

    Args:
        weights: Tensors by their name in the checkpoint, float32.
        path: The file; its folder is made.
        heads: Attention heads.
        eps: Of the layer norms.
        external: Keep the weights in `<path>_data`, as the official export does.
        half: Keep matrices as float16, cast to float32 when the graph is loaded.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    model = _Graph(weights, heads, eps).build()
    if half:
        _halve(model)
    onnx.checker.check_model(model)
    if external:
        _write_constant(model, path.parent)
        onnx.save_model(model, path, save_as_external_data=True, location=f"{path.name}_data", size_threshold=256)
    else:
        onnx.save_model(model, path)


def _write_constant(model: onnx.ModelProto, folder: Path) -> None:
    """Move the one large Constant node's value to a file of its own."""
    node = next(node for node in model.graph.node if node.op_type == "Constant")
    tensor = node.attribute[0].t
    (folder / CONSTANT_FILE).write_bytes(tensor.raw_data)
    set_external_data(tensor, CONSTANT_FILE, offset=0, length=len(tensor.raw_data))
    tensor.ClearField("raw_data")


def _halve(model: onnx.ModelProto) -> None:
    """Store float32 matrices as float16 behind a cast."""
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) == 2:
            name = tensor.name
            small = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.half")
            tensor.CopyFrom(small)
            casts.append(helper.make_node("Cast", [f"{name}.half"], [name], to=TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _Graph:
    def __init__(self, weights: Weights, heads: int, eps: float) -> None:
        self.weights = weights
        self.heads = heads
        self.eps = eps
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, onnx.TensorProto] = {}

    def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        output = output or f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def const(self, name: str, value: object, dtype: type = np.float32) -> str:
        self.initializers.setdefault(name, numpy_helper.from_array(np.array(value, dtype=dtype), name))
        return name

    def weight(self, name: str) -> str:
        return self.const(name, self.weights[name])

    def linear(self, states: str, name: str) -> str:
        weight = self.const(f"{name}.weight.T", np.ascontiguousarray(self.weights[f"{name}.weight"].T))
        return self.add("Add", self.add("MatMul", states, weight), self.weight(f"{name}.bias"))

    def layer_norm(self, states: str, name: str) -> str:
        centred = self.add("Sub", states, self.add("ReduceMean", states, axes=[-1], keepdims=1))
        square = self.add("Mul", centred, centred)
        variance = self.add("ReduceMean", square, axes=[-1], keepdims=1)
        deviation = self.add("Sqrt", self.add("Add", variance, self.const("eps", self.eps)))
        scaled = self.add("Mul", self.add("Div", centred, deviation), self.weight(f"{name}.weight"))
        return self.add("Add", scaled, self.weight(f"{name}.bias"))

    def gelu(self, states: str) -> str:
        erf = self.add("Erf", self.add("Div", states, self.const("sqrt2", np.sqrt(2.0))))
        doubled = self.add("Mul", states, self.add("Add", erf, self.const("one", 1.0)))
        return self.add("Mul", doubled, self.const("half", 0.5))

    def embeddings(self) -> str:
        is_token = self.add("Not", self.add("Equal", "input_ids", self.const("pad", 1, np.int64)))
        counted = self.add("Cast", is_token, to=TensorProto.INT64)
        order = self.add("Mul", self.add("CumSum", counted, self.const("axis", 1, np.int64)), counted)
        table = self.weights["embeddings.position_embeddings.weight"]
        # the official export looks positions up in a buffer, which it keeps in a file of its own
        buffer = numpy_helper.from_array(np.arange(1, len(table) + 1, dtype=np.int64))
        positions = self.add("Gather", self.add("Constant", value=buffer), order)
        words = self.add("Gather", self.weight("embeddings.word_embeddings.weight"), "input_ids")
        places = self.add("Gather", self.weight("embeddings.position_embeddings.weight"), positions)
        kind = self.const("kind", self.weights["embeddings.token_type_embeddings.weight"][0])
        return self.layer_norm(self.add("Add", self.add("Add", words, kind), places), "embeddings.LayerNorm")

    def split_heads(self, states: str, order: list[int]) -> str:
        width = self.weights["embeddings.LayerNorm.bias"].size // self.heads
        shape = self.const("split", [0, 0, self.heads, width], np.int64)
        return self.add("Transpose", self.add("Reshape", states, shape), perm=order)

    def attention(self, states: str, name: str, bias: str) -> str:
        width = self.weights["embeddings.LayerNorm.bias"].size
        query = self.split_heads(self.linear(states, f"{name}.self.query"), [0, 2, 1, 3])
        key = self.split_heads(self.linear(states, f"{name}.self.key"), [0, 2, 3, 1])
        value = self.split_heads(self.linear(states, f"{name}.self.value"), [0, 2, 1, 3])
        scale = self.const("scale", np.sqrt(width / self.heads))
        scores = self.add("Add", self.add("Div", self.add("MatMul", query, key), scale), bias)
        mixed = self.add("MatMul", self.add("Softmax", scores, axis=3), value)
        joined = self.add(
            "Reshape", self.add("Transpose", mixed, perm=[0, 2, 1, 3]), self.const("join", [0, 0, width], np.int64)
        )
        out = self.linear(joined, f"{name}.output.dense")
        return self.layer_norm(self.add("Add", out, states), f"{name}.output.LayerNorm")

    def layer(self, states: str, name: str, bias: str) -> str:
        states = self.attention(states, f"{name}.attention", bias)
        inner = self.gelu(self.linear(states, f"{name}.intermediate.dense"))
        out = self.linear(inner, f"{name}.output.dense")
        return self.layer_norm(self.add("Add", out, states), f"{name}.output.LayerNorm")

    def build(self) -> onnx.ModelProto:
        mask = self.add("Cast", self.add("Unsqueeze", "attention_mask", axes=[1, 2]), to=TensorProto.FLOAT)
        hidden = self.add("Sub", self.const("one", 1.0), mask)
        bias = self.add("Mul", hidden, self.const("lowest", np.finfo(np.float32).min))
        states = self.embeddings()
        layers = {name.split(".")[2] for name in self.weights if name.startswith("encoder.layer.")}
        for index in range(len(layers)):
            states = self.layer(states, f"encoder.layer.{index}", bias)
        self.add("Identity", states, output="token_embeddings")
        first = self.add("Gather", states, self.const("first", 0, np.int64), axis=1)
        norm = self.add("ReduceL2", first, axes=[-1], keepdims=1)
        self.add("Div", first, norm, output="sentence_embedding")
        return self._model()

    def _model(self) -> onnx.ModelProto:
        width = self.weights["embeddings.LayerNorm.bias"].size
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch_size", "sequence_length"])
            for name in ("input_ids", "attention_mask")
        ]
        outputs = [
            helper.make_tensor_value_info(
                "token_embeddings", TensorProto.FLOAT, ["batch_size", "sequence_length", width]
            ),
            helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch_size", width]),
        ]
        graph = helper.make_graph(self.nodes, "xlm-roberta", inputs, outputs, list(self.initializers.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=7)
