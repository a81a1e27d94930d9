"""The encoder's tensors by name, as float32 numpy arrays, out of any form of a checkpoint, without torch."""

from __future__ import annotations

import json
import mmap
import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from bgem3.checkpoint import Checkpoint
from bgem3.errors import CheckpointFileError, MissingExtraError
from bgem3.torch_file import read_torch_file
from bgem3.types import FloatArray

Weights: TypeAlias = Mapping[str, FloatArray]

# Exports put other words before it.
_NAME = re.compile(r"(embeddings|encoder\.layer\.\d+)\..*")
_FETCH = "download the file again"
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


class LazyWeights(Mapping[str, FloatArray]):
    """Tensors that are read when they are asked for, so that a large file costs no memory.

    Args:
        readers: For each name what returns its array.
        source: Named in errors.
    """

    def __init__(self, readers: Mapping[str, Callable[[], NDArray[Any]]], source: Path) -> None:
        self._readers = {_short(name): reader for name, reader in readers.items()}
        self._source = source

    def __getitem__(self, name: str) -> FloatArray:
        """Return one tensor, float32.

        Raises:
            CheckpointFileError: there is none of this name, or it is damaged.
        """
        if name not in self._readers:
            raise CheckpointFileError(f"{self._source}: no tensor {name!r}. Fix: use a BGE-M3 checkpoint")
        try:
            return np.asarray(self._readers[name](), dtype=np.float32)
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            raise CheckpointFileError(
                f"{self._source}: {name} is not what its header says ({error}). Fix: {_FETCH}"
            ) from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._readers)

    def __len__(self) -> int:
        return len(self._readers)


def read_weights(checkpoint: Checkpoint) -> LazyWeights:
    """Return the encoder's tensors; the file must stay where it is while they are in use.

    Raises:
        CheckpointFileError: the file cannot be read.
        MissingExtraError: the weights are in an ONNX graph and the package onnx is not installed.
    """
    if checkpoint.weights_path is not None:
        path = checkpoint.weights_path
        return LazyWeights(_safetensors(path) if path.suffix == ".safetensors" else _torch(path), path)
    if checkpoint.onnx_path is None:
        raise CheckpointFileError(
            f"{checkpoint.folder}: holds no weights to convert. Fix: name the original checkpoint"
        )
    return LazyWeights(_onnx(checkpoint.onnx_path), checkpoint.onnx_path)


def _short(name: str) -> str:
    found = _NAME.search(name)
    return found.group() if found else name


def _torch(path: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    return {name: partial(np.asarray, array) for name, array in read_torch_file(path).items()}


def _safetensors(path: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """Source: the format's description in the README of safetensors."""
    with path.open("rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    start = 8 + int.from_bytes(content[:8], "little")
    header: dict[str, Any] = json.loads(content[8:start])

    def read(entry: Any) -> NDArray[Any]:
        kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        if kind == "BF16":
            halves = np.frombuffer(content, "<u2", (end - begin) // 2, start + begin)
            return (halves.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        if kind not in _DTYPES:
            raise CheckpointFileError(f"{path}: holds a tensor of type {kind}, expected {', '.join(_DTYPES)} or BF16")
        dtype = np.dtype(_DTYPES[kind])
        return np.frombuffer(content, dtype, (end - begin) // dtype.itemsize, start + begin).reshape(shape)

    return {name: partial(read, entry) for name, entry in header.items() if name != "__metadata__"}


def _onnx(path: Path) -> dict[str, Callable[[], NDArray[Any]]]:
    """Name the weights of an export, whose matrices are anonymous and transposed, after the bias that is added."""
    try:
        import onnx
        from onnx import helper, numpy_helper
    except ImportError as error:
        raise MissingExtraError("onnx", "convert", f"reading the weights of {path.name}") from error
    graph = onnx.load(path, load_external_data=False).graph
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Cast" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]

    def read(name: str) -> NDArray[Any]:
        tensor = tensors[name]
        if not tensor.external_data:
            return numpy_helper.to_array(tensor)
        # onnx refuses the hard links that ONNX Runtime wants; `external_data` has looked where this leads
        where = {entry.key: entry.value for entry in tensor.external_data}
        dtype, offset = helper.tensor_dtype_to_np_dtype(tensor.data_type), int(where.get("offset", 0))
        return np.memmap(path.parent / where["location"], dtype, "r", offset, tuple(tensor.dims))

    def transposed(name: str) -> NDArray[Any]:
        return read(name).T

    products = {node.output[0]: node.input[1] for node in graph.node if node.op_type == "MatMul"}
    readers: dict[str, Callable[[], NDArray[Any]]] = {name: partial(read, name) for name in tensors}
    for node in graph.node:
        for product, bias in (node.input, node.input[::-1]) if node.op_type == "Add" and len(node.input) == 2 else ():
            if product in products and bias in tensors and products[product] in tensors:
                readers[bias.removesuffix("bias") + "weight"] = partial(transposed, products[product])
    if "kind" in tensors:  # graphs of `bgem3.onnx_graph` keep the one row that is used
        readers["embeddings.token_type_embeddings.weight"] = lambda: read("kind").reshape(1, -1)
    return readers
