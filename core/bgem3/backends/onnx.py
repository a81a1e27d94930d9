"""onnxruntime on the CPU, over the official export's hidden states."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from bgem3.backends.base import FAILED, HeadOutputs
from bgem3.backends.heads import apply_heads
from bgem3.backends.packed import onnx_session
from bgem3.checkpoint import Checkpoint
from bgem3.errors import BackendError, CheckpointFileError
from bgem3.types import Head, IntArray

_OUTPUT = "token_embeddings"


class OnnxBackend:
    """Runs `onnx/model.onnx` in float32 as it was published; the heads follow in numpy.

    Args:
        checkpoint: Loaded with `form="onnx"`.
        num_threads: Threads of the matrix products; None: one a physical core.

    Raises:
        CheckpointFileError: the graph cannot be read or lacks the output `token_embeddings`.
    """

    name = "onnx"
    precision = "float32"
    device = "cpu"
    batch_tokens = 1024
    concurrency = 1

    def __init__(self, checkpoint: Checkpoint, *, num_threads: int | None = None) -> None:
        self.dim = checkpoint.config.hidden_size
        self.multi_dim = len(checkpoint.multi_vector_head.weight)
        self._checkpoint = checkpoint
        assert checkpoint.onnx_path is not None  # loaded with form="onnx"
        self._session = onnx_session(checkpoint.onnx_path, num_threads, ["CPUExecutionProvider"])
        outputs = [output.name for output in self._session.get_outputs()]
        if _OUTPUT not in outputs:
            raise CheckpointFileError(
                f"{checkpoint.onnx_path}: expected an output {_OUTPUT!r}, got {outputs}. Fix: use the official export, "
                f'or backend="torch"'
            )

    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences; see `Backend.forward`."""
        lengths = np.array([len(ids) for ids in sequences])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._checkpoint.config.pad_token_id, dtype=np.int64)
        ids[mask] = np.concatenate(sequences)
        try:
            (hidden,) = self._session.run([_OUTPUT], {"input_ids": ids, "attention_mask": mask.astype(np.int64)})
        except Exception as error:  # onnxruntime's errors share no public base class
            raise BackendError(f"onnxruntime failed on a batch of shape {ids.shape}: {error}. {FAILED}") from error
        checkpoint = self._checkpoint
        return apply_heads(hidden[mask], lengths, heads, checkpoint.sparse_head, checkpoint.multi_vector_head)
