"""Adapt a checkpoint to your documents with FlagEmbedding's M3 trainer, measured before and after.

Usage: python examples/finetune/finetune.py DATA --out FOLDER [--model examples/bge-m3-mini] [--steps 60]

DATA is a labelled set: corpus.jsonl, queries.jsonl, qrels.tsv. Questions about one half of the answering passages are
trained on, those about the other half are only measured. FOLDER gets train.jsonl and the checkpoint.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file, save_file

from bgem3 import HybridIndex, M3Encoder, MemoryStore
from bgem3.checkpoint import load_checkpoint
from bgem3.evaluation import Dataset, evaluate, make_systems
from bgem3.evaluation.statistics import mean_interval, paired_p

NEGATIVES = 3


def split(dataset: Dataset, n_train: int, n_test: int) -> tuple[Dataset, Dataset]:
    """Cut the questions in two, so that no passage answers questions of both."""
    passages = sorted({min(judged) for judged in dataset.qrels.values()})
    random.Random(0).shuffle(passages)
    trained_on = set(passages[: len(passages) // 2])
    inside = [one for one, judged in dataset.qrels.items() if judged.keys() <= trained_on]
    outside = [one for one, judged in dataset.qrels.items() if not judged.keys() & trained_on]
    return dataset.only(inside).sample(n_train), dataset.only(outside).sample(n_test)


def write_examples(dataset: Dataset, encoder: M3Encoder, path: Path) -> None:
    """Write each question with a passage that answers it and others that the checkpoint takes for answers."""
    texts = dict(dataset.passages())
    index = HybridIndex(encoder, MemoryStore())
    index.add(list(texts.values()), ids=list(texts))
    hits = index.search_many(list(dataset.queries.values()), k=20)
    with path.open("w", encoding="utf-8") as file:
        for (id_, question), found in zip(dataset.queries.items(), hits, strict=True):
            # the very first wrong ones are often right answers that nobody labelled
            wrong = [hit.text for hit in found if hit.id not in dataset.qrels[id_]][3 : 3 + NEGATIVES]
            right = [texts[passage] for passage in dataset.qrels[id_]]
            file.write(json.dumps({"query": question, "pos": right, "neg": wrong}, ensure_ascii=False) + "\n")


def as_float32(model: Path, copy: Path) -> Path:
    """Copy a checkpoint in float32: in half precision the trainer stops at its own float32 heads."""
    shutil.copytree(model, copy, ignore=shutil.ignore_patterns("onnx"), dirs_exist_ok=True)
    config = json.loads((copy / "config.json").read_text("utf-8"))
    (copy / "config.json").write_text(json.dumps({**config, "torch_dtype": "float32"}, indent=2), "utf-8")
    if (weights := copy / "model.safetensors").exists():
        tensors = {name: tensor.float() for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, {"format": "pt"})
    return copy


def train(model: Path, examples: Path, out: Path, steps: int, rate: float) -> None:
    """Run FlagEmbedding's trainer on all three heads; it writes the layout it was given."""
    options = {
        "model_name_or_path": as_float32(model, out / "start"),
        "train_data": examples,
        "output_dir": out,
        "max_steps": steps,
        "learning_rate": rate,
        "per_device_train_batch_size": 4,
        "train_group_size": 1 + NEGATIVES,
        "query_max_len": 64,
        # NOTE: the trainer's sparse head takes texts x tokens x vocabulary floats: 0.7 GB at 16 x 128 x 84,000.
        "passage_max_len": 128,
        "temperature": 0.02,
        "unified_finetuning": True,
        "use_cpu": True,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 10,
    }
    arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
    try:
        subprocess.run(
            [sys.executable, "-m", "FlagEmbedding.finetune.embedder.encoder_only.m3", *arguments], check=True
        )
    finally:
        shutil.rmtree(out / "start")


def main() -> None:
    """Split, measure, train, measure again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="examples/bge-m3-mini", help="a folder or a hub id")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rate", type=float, default=2e-5, help="learning rate; 1e-5 for BAAI/bge-m3")
    parser.add_argument("--train", type=int, default=400, help="questions to train on")
    parser.add_argument("--test", type=int, default=150, help="questions to measure")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    inside, outside = split(Dataset.read(options.data, titles=False), options.train, options.test)
    print(f"{len(inside.queries)} questions to train on, {len(outside.queries)} about other passages to measure")
    model = load_checkpoint(options.model).folder
    encoder = M3Encoder.from_pretrained(model, backend="torch")
    systems = make_systems(strategies=("union",))
    before = evaluate(outside, encoder, systems, show_progress=True)
    write_examples(inside, encoder, options.out / "train.jsonl")
    train(model, options.out / "train.jsonl", options.out, options.steps, options.rate)
    after = evaluate(outside, M3Encoder.from_pretrained(options.out, backend="torch"), systems, show_progress=True)
    for system in before.values:
        old, new = (one.values[system]["nDCG@10"] for one in (before, after))
        low, high = mean_interval(new - old)
        print(
            f"{system:16} nDCG@10 {old.mean():.3f} -> {new.mean():.3f} ({low:+.3f} to {high:+.3f}, p {paired_p(new, old):.3f})"
        )


if __name__ == "__main__":
    main()
