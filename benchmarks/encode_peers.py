"""bge-m3-lite and m3serve as systems of `encode.py`, given the same weights.

bge-m3-lite takes the published files of BAAI/bge-m3 and no others: it compares their digests, and its fusion expects 24 layers.
Both checks are answered for it here; graph, fusion, calibration, quantisation and inference are its own. It reads a SentencePiece
model, which is written from `tokenizer.json`. m3serve takes a folder.

Install them beside the benchmark's packages: pip install --no-deps bge-m3-lite m3serve onnx-ir
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shutil import copyfile
from typing import Any
from unittest.mock import patch

from _checkpoint import make_texts

SPECIALS = 4  # <s>, <pad>, </s>, <unk>
FUSED_LAYERS = 24
Encode = Callable[[Sequence[str]], dict[str, Any]]


def bge_m3_lite(folder: Path, max_length: int, precision: str) -> Encode:
    """Run bge-m3-lite as it is installed: its batches, threads and graph; `precision` is its word for it."""
    _need("bge_m3_lite", "bge-m3-lite")
    os.environ["BGE_M3_LITE_OFFLINE"] = "1"
    from bge_m3_lite import BGEM3Embedder, hub

    hub.is_complete = lambda path, *_, **__: path.is_file()  # else: the published files' digests
    files = _lite_files(folder, int8=precision == "int8")
    model = BGEM3Embedder(files, precision=precision, max_length=max_length, quiet=True)

    def encode(texts: Sequence[str]) -> dict[str, Any]:
        out = model.encode(list(texts), return_sparse=True, return_colbert_vecs=True)
        sparse = [{int(token): weight for token, weight in row.items()} for row in out["lexical_weights"]]
        return {"dense": out["dense_vecs"], "sparse": sparse, "vectors": out["colbert_vecs"]}

    return encode


def m3serve(folder: Path, max_length: int, batch: int = 8) -> Encode:
    """Run m3serve's engine on the CPU, where it computes in float32, each text a request of its own.

    By default it takes 256 requests at a time, pads them to the longest and waits 5 ms for more; both are slower here.
    """
    _need("m3serve", "m3serve")
    from m3serve import Engine

    loop = asyncio.new_event_loop()
    engine = Engine(str(folder), device="cpu", max_length=max_length, max_batch_size=batch, batch_delay=0)
    loop.run_until_complete(engine.start())

    async def embed(texts: Sequence[str]) -> list[Any]:
        ask = partial(engine.embed, return_sparse=True, return_colbert=True, timeout=3600)
        return await asyncio.gather(*(ask([text]) for text in texts))

    def encode(texts: Sequence[str]) -> dict[str, Any]:
        parts = loop.run_until_complete(embed(texts))
        sparse = [_row(part.sparse_indices[0], part.sparse_weights[0]) for part in parts]
        return {
            "dense": [part.dense[0] for part in parts],
            "sparse": sparse,
            "vectors": [part.colbert_vecs[0] for part in parts],
        }

    # its threads would keep the process alive
    weakref.finalize(encode, lambda: loop.run_until_complete(engine.stop()))
    return encode


PEERS: dict[str, Callable[[Path, int], Encode]] = {
    "bge-m3-lite float32": partial(bge_m3_lite, precision="fp32"),
    "bge-m3-lite int8": partial(bge_m3_lite, precision="int8"),
    "m3serve float32": m3serve,
}


def _need(module: str, package: str) -> None:
    if find_spec(module) is None:
        raise SystemExit(f"{package} is not installed: pip install --no-deps {package}, see benchmarks/encode_peers.py")


def _row(tokens: Sequence[int], weights: Sequence[float]) -> dict[int, float]:
    """Return the largest weight of each token: m3serve lists every token of a text, the special ones among them."""
    row: dict[int, float] = {}
    for token, weight in zip(tokens, weights, strict=True):
        if token >= SPECIALS:
            row[token] = max(weight, row.get(token, 0.0))
    return row


# ------------------------------------------------------------------------------------------------ files of bge-m3-lite


def _lite_files(folder: Path, *, int8: bool) -> Path:
    """Make the folder of files that bge-m3-lite would download, from a checkpoint's weights and with its own tools."""
    made = folder.with_name(f"{folder.name}-lite")
    made.mkdir(exist_ok=True)
    if not (made / "sentencepiece.bpe.model").is_file():
        for name in ("sparse_linear.pt", "colbert_linear.pt"):
            copyfile(folder / name, made / name)
        _write_sentencepiece(folder / "tokenizer.json", made / "sentencepiece.bpe.model")
    if not (made / "model_fused.onnx").is_file():
        _need("onnx_ir", "onnx-ir")
        _write_fused(folder, made)
    if int8 and not (made / "model_int8.onnx").is_file():
        from bge_m3_lite.quantize import load_calibration_texts, quantize

        texts = [text.lower() for text in load_calibration_texts()]
        with _any_depth(folder):
            quantize(made / "model_fused.onnx", made / "model_int8.onnx", calibration_texts=texts)
    return made


def _write_sentencepiece(source: Path, target: Path) -> None:
    """Write the vocabulary of a `tokenizer.json` as a SentencePiece model, and check that both give the same tokens.

    Only texts in lower case, as those of `make_texts` are: bge-m3-lite takes ASCII for normalised, and the vocabulary of
    bge-m3-mini folds case, which that of BAAI/bge-m3 does not.
    """
    from bge_m3_lite.tokenizer import XLMRobertaTokenizer
    from sentencepiece import sentencepiece_model_pb2
    from tokenizers import Tokenizer

    said = json.loads(source.read_text("utf-8"))
    model: Any = sentencepiece_model_pb2.ModelProto()
    model.trainer_spec.model_type = model.trainer_spec.UNIGRAM
    model.normalizer_spec.precompiled_charsmap = base64.b64decode(said["normalizer"]["precompiled_charsmap"])
    kinds = model.SentencePiece
    for piece, kind in (("<unk>", kinds.UNKNOWN), ("<s>", kinds.CONTROL), ("</s>", kinds.CONTROL)):
        model.pieces.add(piece=piece, score=0.0, type=kind)
    for piece, score in said["model"]["vocab"][SPECIALS:-1]:  # the last one is <mask>
        # some words score exactly what their parts do, and the tokenizers decide that differently: fewer pieces win
        model.pieces.add(piece=piece, score=score - 1e-4, type=kinds.NORMAL)
    written = target.with_suffix(".part")
    written.write_bytes(model.SerializeToString())
    ours, theirs = Tokenizer.from_file(str(source)), XLMRobertaTokenizer.from_file(written)
    other = [text for text in make_texts(1000) if ours.encode(text).ids != theirs.encode(text)]
    if other:
        raise ValueError(f"{len(other)} texts have other tokens in bge-m3-lite, the first: {other[0]!r}")
    written.with_suffix(".part.cache").unlink(missing_ok=True)
    written.replace(target)


def _write_fused(folder: Path, made: Path) -> None:
    """Write the checkpoint as the official export names and spells it, and fuse that."""
    from bge_m3_lite.fuse import fuse
    from safetensors.numpy import load_file

    from bgem3 import onnx_graph

    class Official(onnx_graph._Graph):
        """The nodes that onnxruntime's fusions and bge-m3-lite's quantiser look for, by their names."""

        def add(self, op: str, *inputs: str, output: str = "", **attributes: Any) -> str:
            if op == "Mul" and len({*inputs}) == 1:
                return super().add("Pow", inputs[0], self.const("two", 2.0), output=output)
            if op == "Unsqueeze":
                return super().add(op, super().add(op, *inputs, axes=[1]), output=output, axes=[2])
            return super().add(op, *inputs, output=output, **attributes)

        def linear(self, states: str, name: str) -> str:
            out = super().linear(states, name)
            self.nodes[-2].name = "/" + re.sub(r"\.(?!\d)", "/", name) + "/MatMul"
            return out

    config = json.loads((folder / "config.json").read_text("utf-8"))
    heads, eps = config["num_attention_heads"], config["layer_norm_eps"]
    with patch.object(onnx_graph, "_Graph", Official):
        weights = load_file(folder / "model.safetensors")
        onnx_graph.save_graph(weights, made / "model.onnx", heads=heads, eps=eps, external=True)
    with _any_depth(folder):
        fuse(made / "model.onnx")


@contextmanager
def _any_depth(folder: Path) -> Iterator[None]:
    """Let `fuse` take a checkpoint of another depth than 24, when all of its layers were fused."""
    from onnxruntime.transformers import optimizer

    layers = json.loads((folder / "config.json").read_text("utf-8"))["num_hidden_layers"]
    optimize = optimizer.optimize_model

    def optimize_model(*arguments: Any, **options: Any) -> Any:
        model = optimize(*arguments, **options)
        counts = model.get_fused_operator_statistics()
        if counts["Attention"] == layers:
            model.get_fused_operator_statistics = lambda: counts | {"Attention": FUSED_LAYERS}
        return model

    with patch.object(optimizer, "optimize_model", optimize_model):
        yield
