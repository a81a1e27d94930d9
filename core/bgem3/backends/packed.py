"""The packed graph in one of the engines that run ONNX, and the heads after it in numpy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnxruntime import OrtValue

from bgem3.backends.base import FAILED, HeadOutputs
from bgem3.backends.heads import apply_heads
from bgem3.backends.packing import pack
from bgem3.checkpoint import Checkpoint
from bgem3.errors import BackendError, CheckpointFileError
from bgem3.forms import MASKED_FILE
from bgem3.types import FloatArray, Head, IntArray

Feed = Mapping[str, NDArray[Any]]
Run = Callable[[Feed], FloatArray]
Constants = Mapping[str, OrtValue]


class PackedBackend:
    """Runs a converted form (see `bgem3.convert`) without computing on padding.

    Args:
        checkpoint: Whose heads and sizes are used.
        run: Takes the inputs of the graph and returns the hidden states `(tokens, hidden_size)`.
        name, precision: What `M3Encoder.describe` shows.
        device: Where it runs.
    """

    concurrency = 1

    def __init__(self, checkpoint: Checkpoint, run: Run, *, name: str, precision: str, device: str = "cpu") -> None:
        self.name, self.precision, self.device = name, precision, device
        self.dim = checkpoint.config.hidden_size
        self.multi_dim = len(checkpoint.multi_vector_head.weight)
        self.batch_tokens = 1024
        self._checkpoint = checkpoint
        self._run = run

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences; see `Backend.forward`."""
        packed = pack(sequences, self._checkpoint.config.pad_token_id)
        names = ("ids", "positions", "padded", "packed", "mask")
        try:
            hidden = self._run({name: getattr(packed, name) for name in names})
        except Exception as error:  # the engines' errors share no public base class
            raise BackendError(
                f"{self.name} failed on a batch of {len(packed.ids)} tokens: {error}. {FAILED}"
            ) from error
        checkpoint = self._checkpoint
        return apply_heads(hidden, packed.lengths, heads, checkpoint.sparse_head, checkpoint.multi_vector_head)


def onnx_session(
    path: Path, num_threads: int | None, providers: Sequence[str], constants: Constants | None = None
) -> onnxruntime.InferenceSession:
    """Load a graph; `constants` take the place of its own of the same names, and must live as long as the session.

    Raises:
        CheckpointFileError: onnxruntime cannot read it.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    # Without this, idle threads spin at full load between two calls.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for name, value in (constants or {}).items():
        options.add_initializer(name, value)
    try:
        # Fused, sum and normalisation run in a kernel that takes three times as long as apart.
        return onnxruntime.InferenceSession(
            str(path), options, providers=list(providers), disabled_optimizers=["SkipLayerNormFusion"]
        )
    except Exception as error:  # onnxruntime's errors share no public base class
        raise CheckpointFileError(f"{path}: onnxruntime cannot load it ({error}). Fix: download it again") from error


def onnx_run(
    folder: Path,
    num_threads: int | None,
    providers: Sequence[str] = ("CPUExecutionProvider",),
    constants: Mapping[str, NDArray[Any]] | None = None,
) -> Run:
    """Load a form's folder into onnxruntime, with other constants where some are given."""
    values = {name: OrtValue.ortvalue_from_numpy(array) for name, array in (constants or {}).items()}
    session = onnx_session(folder / "model.onnx", num_threads, providers, values)

    # a value only points at its array: both live as long as the session
    def run(feed: Feed, _kept: object = (constants, values)) -> FloatArray:
        hidden: FloatArray = session.run(["hidden"], dict(feed))[0]
        return hidden

    return run


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which starts a process that tells its maker of each import."""
    telemetry, modules = "openvino_telemetry", cast(dict[str, Any], sys.modules)
    left_out = telemetry not in modules
    if left_out:
        modules[telemetry] = None  # as if it were not installed
    try:
        import openvino
    finally:
        if left_out:
            del modules[telemetry]
    return openvino


def openvino_run(folder: Path, num_threads: int | None, *, bfloat16: bool = False) -> Run:
    """Load a form's folder into OpenVINO on the CPU.

    Raises:
        CheckpointFileError: OpenVINO cannot read it.
    """
    core = _openvino().Core()
    # Without the hint OpenVINO computes in bfloat16 wherever the processor can.
    options: dict[str, Any] = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "bf16" if bfloat16 else "f32",
    }
    if num_threads is not None:
        options["INFERENCE_NUM_THREADS"] = num_threads
    try:
        request = core.compile_model(str(folder / MASKED_FILE), "CPU", options).create_infer_request()
    except Exception as error:  # OpenVINO raises RuntimeError and its own types alike
        raise CheckpointFileError(f"{folder}: OpenVINO cannot load it ({error}). Fix: convert it again") from error

    def run(feed: Feed) -> FloatArray:
        return np.array(request.infer(dict(feed), share_inputs=True)["hidden"], dtype=np.float32)

    return run
