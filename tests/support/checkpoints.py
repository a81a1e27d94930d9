"""Small checkpoints with random weights, in the file layout of BAAI/bge-m3."""

import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from safetensors.numpy import save_file

from bgem3.onnx_graph import Weights, save_graph
from tests.support.tokenizers import tokenizer_json

LAYER_NORM_EPS = 1e-5
UNUSED_POSITIONS = 2


def make_checkpoint(
    folder: Path,
    *,
    seed: int = 0,
    hidden_size: int = 64,
    layers: int = 2,
    heads: int = 4,
    intermediate: int = 128,
    multi_dim: int | None = None,
    vocab_size: int = 700,
    positions: int = 128,
    onnx: bool = True,
    external: bool = False,
    weights: Literal["safetensors", "bin"] | None = "safetensors",
) -> Path:
    """Write a checkpoint and return its folder.

    Args:
        folder: Made where it is missing.
        seed: Of every weight.
        hidden_size, layers, heads, intermediate: Of the encoder.
        multi_dim: Rows of `colbert_linear`; None: `hidden_size`.
        vocab_size: Upper bound on the number of token ids.
        positions: The longest input in tokens.
        onnx: Write `onnx/model.onnx`.
        external: Keep the graph's weights in files beside it, as the official export does.
        weights: Form of the torch weights; None: write none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tokenizer_json(vocab_size)
    (folder / "tokenizer.json").write_text(tokenizer, encoding="utf-8")
    config = _config(hidden_size, layers, heads, intermediate, _size(tokenizer), positions)
    _write_configs(folder, config, positions)
    random = np.random.default_rng(seed)
    encoder = _encoder(random, config)
    _write_head(folder / "sparse_linear.pt", random, 1, hidden_size)
    _write_head(folder / "colbert_linear.pt", random, multi_dim or hidden_size, hidden_size)
    if weights == "safetensors":
        save_file(encoder, folder / "model.safetensors", {"format": "pt"})
    elif weights == "bin":
        torch.save({name: torch.from_numpy(array) for name, array in encoder.items()}, folder / "pytorch_model.bin")
    if onnx:
        save_graph(encoder, folder / "onnx" / "model.onnx", heads=heads, eps=LAYER_NORM_EPS, external=external)
    return folder


def _size(tokenizer: str) -> int:
    return len(json.loads(tokenizer)["model"]["vocab"])


def _config(hidden: int, layers: int, heads: int, intermediate: int, vocab: int, positions: int) -> dict[str, object]:
    return {
        "architectures": ["XLMRobertaModel"],
        "attention_probs_dropout_prob": 0.1,
        "bos_token_id": 0,
        "classifier_dropout": None,
        "eos_token_id": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": hidden,
        "initializer_range": 0.02,
        "intermediate_size": intermediate,
        "layer_norm_eps": LAYER_NORM_EPS,
        "max_position_embeddings": positions + UNUSED_POSITIONS,
        "model_type": "xlm-roberta",
        "num_attention_heads": heads,
        "num_hidden_layers": layers,
        "output_past": True,
        "pad_token_id": 1,
        "position_embedding_type": "absolute",
        "torch_dtype": "float32",
        "type_vocab_size": 1,
        "use_cache": True,
        "vocab_size": vocab,
    }


def _write_configs(folder: Path, config: dict[str, object], positions: int) -> None:
    special = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    special |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    tokenizer = {**special, "model_max_length": positions, "tokenizer_class": "XLMRobertaTokenizer"}
    for name, content in (
        ("config.json", config),
        ("tokenizer_config.json", tokenizer),
        ("special_tokens_map.json", special),
        ("sentence_bert_config.json", {"max_seq_length": positions, "do_lower_case": False}),
    ):
        (folder / name).write_text(json.dumps(content, indent=2), encoding="utf-8")


def _write_head(path: Path, random: np.random.Generator, rows: int, columns: int) -> None:
    """Write a head as the official ones are: the state dict of a half-precision linear layer."""
    layer = torch.nn.Linear(columns, rows, dtype=torch.float16)
    state = layer.state_dict()
    for name, scale in (("weight", columns**-0.5), ("bias", 0.1)):
        state[name].copy_(torch.from_numpy(random.normal(0, scale, tuple(state[name].shape))))
    torch.save(state, path)


def _encoder(random: np.random.Generator, config: dict[str, object]) -> Weights:
    """Random weights, scaled so that activations keep their size and tokens stay apart."""
    hidden, inner = int(str(config["hidden_size"])), int(str(config["intermediate_size"]))
    weights: Weights = {}

    def table(name: str, rows: int, scale: float) -> None:
        weights[f"{name}.weight"] = random.normal(0, scale, (rows, hidden)).astype(np.float32)

    def linear(name: str, rows: int, columns: int) -> None:
        weights[f"{name}.weight"] = random.normal(0, columns**-0.5, (rows, columns)).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0, 0.1, rows).astype(np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = random.normal(1, 0.1, hidden).astype(np.float32)
        weights[f"{name}.bias"] = random.normal(0, 0.1, hidden).astype(np.float32)

    table("embeddings.word_embeddings", int(str(config["vocab_size"])), 1.0)
    table("embeddings.position_embeddings", int(str(config["max_position_embeddings"])), 0.3)
    table("embeddings.token_type_embeddings", 1, 0.1)
    norm("embeddings.LayerNorm")
    for index in range(int(str(config["num_hidden_layers"]))):
        layer = f"encoder.layer.{index}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", hidden, hidden)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", inner, hidden)
        linear(f"{layer}.output.dense", hidden, inner)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", hidden, hidden)
    return weights
