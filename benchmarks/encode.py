"""How fast each backend encodes, beside FlagEmbedding, on the same checkpoint and texts.

Usage: python benchmarks/encode.py [--model FOLDER] [--texts 200] [--runs 3]

Prints tokens per second of the fastest and of the median run, the ratio to FlagEmbedding's median, and the largest
difference of a dense component. Figures hold within one run on one machine only.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from FlagEmbedding import BGEM3FlagModel

from bgem3 import M3Encoder
from bgem3.types import FloatArray

MINI = Path(__file__).parents[1] / "examples" / "bge-m3-mini"
WORDS = [
    "time",
    "water",
    "people",
    "language",
    "history",
    "science",
    "music",
    "city",
    "river",
    "light",
    "school",
    "garden",
    "number",
    "letter",
]


def make_texts(count: int, seed: int) -> list[str]:
    """Return texts of log-normal length, 4 to 300 words."""
    random = np.random.default_rng(seed)
    lengths = np.clip(random.lognormal(3.5, 0.9, count), 4, 300).astype(int)
    return [" ".join(random.choice(WORDS, length)) for length in lengths]


def seconds(run: Callable[[], object], runs: int) -> list[float]:
    """Return the time of each run, after one that warms up."""
    run()
    taken = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return taken


def flag_embedding(model: Path, texts: Sequence[str]) -> Callable[[], FloatArray]:
    flag = BGEM3FlagModel(str(model), use_fp16=False, devices="cpu")
    return lambda: flag.encode(texts, max_length=512, return_dense=True, return_sparse=True, return_colbert_vecs=True)[
        "dense_vecs"
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=MINI)
    parser.add_argument("--texts", type=int, default=200)
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    texts = make_texts(options.texts, seed=0)
    encoders = {
        name: M3Encoder.from_pretrained(options.model, backend=name, max_length=512) for name in ("onnx", "torch")
    }
    tokens = sum(map(len, next(iter(encoders.values())).tokenizer.encode(texts)))
    packages = ", ".join(f"{name} {version(name)}" for name in ("FlagEmbedding", "torch", "onnxruntime", "numpy"))
    print(f"{platform.machine()}, Python {platform.python_version()}, {packages}")
    print(f"{options.model.name}, {len(texts)} texts, {tokens} tokens, seed 0, all heads, float32, {options.runs} runs")
    reference = flag_embedding(options.model, texts)
    flag = seconds(reference, options.runs)
    rows = {"FlagEmbedding": (flag, reference())}
    for name, encoder in encoders.items():
        taken = seconds(lambda encoder=encoder: encoder.encode(texts), options.runs)
        rows[f"bgem3 {name}"] = (taken, encoder.encode(texts).dense)
    print(f"{'':15} {'best tok/s':>11} {'median':>8} {'ratio':>6} {'difference':>11}")
    for name, (taken, dense) in rows.items():
        ratio = statistics.median(flag) / statistics.median(taken)
        difference = np.abs(dense - rows["FlagEmbedding"][1]).max()
        print(
            f"{name:15} {tokens / min(taken):11.0f} {tokens / statistics.median(taken):8.0f} {ratio:6.2f} {difference:11.1e}"
        )


if __name__ == "__main__":
    main()
