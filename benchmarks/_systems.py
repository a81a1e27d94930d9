"""What the encoding benchmark times on a processor: bgem3's backends and their peers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from _checkpoint import HEADS, HIDDEN
from _measured import Encode, Result
from encode_peers import PEERS

from bgem3 import M3Embeddings, M3Encoder


def ours(folder: Path, max_length: int, backend: str, precision: str) -> Encode:
    encoder = M3Encoder.from_pretrained(
        folder, backend=backend, precision=precision, max_length=max_length, show_progress=False
    )
    return lambda texts: _result(encoder.encode(texts))


def _result(embeddings: M3Embeddings) -> Result:
    rows = embeddings.lexical_rows()
    return {"dense": embeddings.dense, "sparse": rows, "vectors": list(embeddings.multi_vector)}


def flag_embedding(folder: Path, max_length: int) -> Encode:
    from FlagEmbedding import BGEM3FlagModel

    model = BGEM3FlagModel(str(folder), use_fp16=False, devices="cpu")

    def encode(texts: Sequence[str]) -> Result:
        out = model.encode(list(texts), max_length=max_length, return_sparse=True, return_colbert_vecs=True)
        sparse = [{int(token): float(weight) for token, weight in row.items()} for row in out["lexical_weights"]]
        return {"dense": out["dense_vecs"], "sparse": sparse, "vectors": out["colbert_vecs"]}

    return encode


def sentence_transformers(folder: Path, max_length: int) -> Encode:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    body = Transformer(str(folder), max_seq_length=max_length)
    model = SentenceTransformer(modules=[body, Pooling(HIDDEN, pooling_mode="cls"), Normalize()], device="cpu")
    return lambda texts: {"dense": model.encode(list(texts), show_progress_bar=False)}


def plain_onnxruntime(folder: Path, max_length: int) -> Encode:
    """Run what a user makes with `quantize_dynamic`, in padded batches of 32, dense vectors only."""
    import onnxruntime
    from onnxruntime.quantization import quantize_dynamic
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    from bgem3.onnx_graph import save_graph

    made = folder.with_name(f"{folder.name}-plain") / "int8.onnx"
    if not made.is_file():
        eps = json.loads((folder / "config.json").read_text("utf-8"))["layer_norm_eps"]
        weights = load_file(folder / "model.safetensors")
        save_graph(weights, made.with_name("model.onnx"), heads=HEADS, eps=eps, external=True)
        quantize_dynamic(made.with_name("model.onnx"), made, use_external_data_format=True)
    session = onnxruntime.InferenceSession(made, providers=["CPUExecutionProvider"])
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.enable_truncation(max_length)
    tokenizer.enable_padding(pad_id=1, pad_token="<pad>")

    def encode(texts: Sequence[str]) -> Result:
        parts = []
        for start in range(0, len(texts), 32):
            batch = tokenizer.encode_batch(list(texts[start : start + 32]))
            ids, mask = (np.array([getattr(one, name) for one in batch]) for name in ("ids", "attention_mask"))
            hidden = session.run(["token_embeddings"], {"input_ids": ids, "attention_mask": mask})[0][:, 0]
            parts.append(hidden / np.linalg.norm(hidden, axis=1, keepdims=True))
        return {"dense": np.concatenate(parts)}

    return encode


OURS = [
    ("torch", "float32"),
    ("torch", "bfloat16"),
    ("onnx", "float32"),
    ("onnx", "int8"),
    ("onnx", "int4"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("openvino", "int8"),
    ("openvino", "int4"),
]
SYSTEMS: dict[str, Callable[[Path, int], Encode]] = {
    "FlagEmbedding float32": flag_embedding,
    "sentence-transformers float32, dense": sentence_transformers,
    "onnxruntime quantize_dynamic, dense": plain_onnxruntime,
    **PEERS,
    **{f"bgem3 {b} {p}": partial(ours, backend=b, precision=p) for b, p in OURS},
}
REFERENCE = "bgem3 torch float32"
