"""FlagEmbedding's own model, the reference that the other backends are held against."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import torch
from FlagEmbedding import BGEM3FlagModel

from bgem3.backends.base import HeadOutputs
from bgem3.checkpoint import Checkpoint
from bgem3.errors import BackendError
from bgem3.types import FloatArray, Head, IntArray


class FlagBackend:
    """Runs `BGEM3FlagModel`'s forward pass on our token ids, padded as FlagEmbedding pads.

    Args:
        checkpoint: Loaded with `form="torch"`.
        precision: float32 or float16.
        device: A torch device name; None: the CPU.

    Raises:
        BackendError: the precision is not one of the two.
    """

    name = "flag"
    batch_tokens = 2048
    concurrency = 1

    def __init__(self, checkpoint: Checkpoint, *, precision: str = "float32", device: str | None = None) -> None:
        if precision not in ("float32", "float16"):
            raise BackendError(
                f"precision: FlagEmbedding has float32 and float16, got {precision!r}. Fix: precision='float32'"
            )
        self.precision = precision
        self.device = device or "cpu"
        self.dim = checkpoint.config.hidden_size
        self.multi_dim = len(checkpoint.multi_vector_head.weight)
        self._pad = checkpoint.config.pad_token_id
        try:
            flag = BGEM3FlagModel(
                str(checkpoint.folder),
                use_fp16=precision == "float16",
                devices=self.device,
                # FlagEmbedding does not read the width from the file, and fails on any but its default.
                colbert_dim=self.multi_dim,
            )
        except Exception as error:  # it reads the files in ways of its own
            raise BackendError(
                f"{checkpoint.folder}: FlagEmbedding cannot load it ({error}). Fix: backend='torch'"
            ) from error
        self._model = flag.model.to(self.device).eval()

    @torch.inference_mode()
    def forward(self, sequences: Sequence[IntArray], heads: Collection[Head]) -> HeadOutputs:
        """Encode token sequences; see `Backend.forward`."""
        lengths = np.array([len(ids) for ids in sequences])
        mask = np.arange(lengths.max()) < lengths[:, None]
        ids = np.full(mask.shape, self._pad, dtype=np.int64)
        ids[mask] = np.concatenate(sequences)
        inputs = {
            "input_ids": torch.from_numpy(ids).to(self.device),
            "attention_mask": torch.from_numpy(mask.astype(np.int64)).to(self.device),
        }
        output = self._model(
            inputs,
            return_dense="dense" in heads,
            return_sparse="sparse" in heads,
            return_colbert_vecs="multi_vector" in heads,
        )
        return HeadOutputs(
            dense=_numpy(output["dense_vecs"]) if "dense" in heads else None,
            token_weights=_numpy(output["sparse_vecs"])[..., 0][mask] if "sparse" in heads else None,
            token_vectors=_numpy(output["colbert_vecs"])[mask[:, 1:]] if "multi_vector" in heads else None,
        )


def _numpy(values: torch.Tensor) -> FloatArray:
    array: FloatArray = values.float().cpu().numpy()
    return array
