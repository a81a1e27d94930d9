"""A checkpoint of the real size with random weights, and texts, for the encoding benchmarks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copyfile

import numpy as np

MINI = Path(__file__).parents[1] / "examples" / "bge-m3-mini"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "sentence_bert_config.json")
HIDDEN, INNER, HEADS, VOCABULARY, POSITIONS, SEED = 1024, 4096, 16, 250_002, 8192, 0
QUERY_TOKENS = 12
Normal = Callable[[int, int], np.ndarray]


def make_checkpoint(folder: Path, layers: int, normal: Normal | None = None) -> Path:
    """Write a checkpoint of the real size with seeded random weights, in the layout of BAAI/bge-m3.

    `normal` makes a table of random numbers where numpy is too slow.
    """
    import torch
    from safetensors.numpy import save_file

    if (folder / "model.safetensors").is_file():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        copyfile(MINI / name, folder / name)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_attention_heads": HEADS}
    sizes |= {"num_hidden_layers": layers, "vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS + 2}
    sizes |= {"torch_dtype": "float32"}  # bge-m3-mini says float16, which sentence-transformers would compute in
    (folder / "config.json").write_text(json.dumps(json.loads((MINI / "config.json").read_text("utf-8")) | sizes))
    random = np.random.default_rng(SEED)
    for name, rows in (("sparse_linear", 1), ("colbert_linear", HIDDEN)):
        weight = torch.from_numpy(random.standard_normal((rows, HIDDEN), np.float32) * HIDDEN**-0.5)
        torch.save({"weight": weight, "bias": torch.zeros(rows)}, folder / f"{name}.pt")
    normal = normal or (lambda rows, columns: random.standard_normal((rows, columns), np.float32))
    save_file(_weights(normal, layers), folder / "model.safetensors", {"format": "pt"})
    return folder


def _weights(normal: Normal, layers: int) -> dict[str, np.ndarray]:
    weights: dict[str, np.ndarray] = {}

    def table(name: str, rows: int, columns: int, scale: float) -> None:
        weights[f"{name}.weight"] = normal(rows, columns) * np.float32(scale)

    def linear(name: str, rows: int, columns: int) -> None:
        table(name, rows, columns, columns**-0.5)
        weights[f"{name}.bias"] = np.zeros(rows, np.float32)

    def norm(name: str) -> None:
        weights[f"{name}.weight"], weights[f"{name}.bias"] = np.ones(HIDDEN, np.float32), np.zeros(HIDDEN, np.float32)

    table("embeddings.word_embeddings", VOCABULARY, HIDDEN, 1.0)
    table("embeddings.position_embeddings", POSITIONS + 2, HIDDEN, 0.3)
    table("embeddings.token_type_embeddings", 1, HIDDEN, 0.1)
    norm("embeddings.LayerNorm")
    for number in range(layers):
        layer = f"encoder.layer.{number}"
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            linear(f"{layer}.attention.{part}", HIDDEN, HIDDEN)
        norm(f"{layer}.attention.output.LayerNorm")
        linear(f"{layer}.intermediate.dense", INNER, HIDDEN)
        linear(f"{layer}.output.dense", HIDDEN, INNER)
        norm(f"{layer}.output.LayerNorm")
    linear("pooler.dense", HIDDEN, HIDDEN)
    return weights


def make_texts(count: int, tokens: int | None = None, *, median: int = 80, longest: int = 512) -> list[str]:
    """Return texts of log-normal length, 10 to `longest` tokens; all of `tokens` where it is given."""
    from tokenizers import Tokenizer

    random = np.random.default_rng(SEED)
    tokenizer = Tokenizer.from_file(str(MINI / "tokenizer.json"))
    words = [piece[1:] for piece in tokenizer.get_vocab() if piece.startswith("▁") and piece[1:].isalpha()]
    words = random.permutation(sorted(words))[:3000]
    words = [word for word in words if len(tokenizer.encode(word).ids) == 3]  # one token and the specials
    lengths = np.clip(random.lognormal(np.log(median), 0.9, count), 10, longest).astype(int)
    if tokens is not None:
        lengths[:] = tokens
    return [" ".join(random.choice(words, length - 2)) for length in lengths]


def work(lengths: np.ndarray, layers: int) -> float:
    """Return the GFLOP of a forward pass with all heads over texts of some lengths."""
    a_token = layers * 2 * (4 * HIDDEN**2 + 2 * HIDDEN * INNER) + 2 * HIDDEN**2
    return float((lengths * a_token + layers * 4 * HIDDEN * lengths**2).sum()) / 1e9
