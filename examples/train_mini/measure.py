"""Measure a checkpoint: retrieval per head and fusion, and translations found by the dense head.

Usage: python measure.py CHECKPOINT --data FOLDER [--queries 1000] [--sets arcd,drcd]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from data import RetrievalSet, hold_out, read_parallel, read_retrieval_set
from tqdm import tqdm

from bgem3 import HybridIndex, M3Encoder, MemoryStore, Weights
from bgem3.types import Hits

DEV_SETS = ("jaquad_dev", "drcd", "arcd", "iapp_valid")
# Columns of the table: how each is searched.
SEARCHES: dict[str, dict[str, object]] = {
    "dense": {"mode": "dense"},
    "sparse": {"mode": "sparse"},
    "multi-vector": {"mode": "multi_vector"},
    "hybrid 1/0.3/1": {},
    "hybrid 1/0/1": {"weights": Weights(1.0, 0.0, 1.0)},
    "hybrid 0.3/1/1": {"weights": Weights(0.3, 1.0, 1.0)},
    "hybrid 0.1/0.5/1": {"weights": Weights(0.1, 0.5, 1.0)},
    "hybrid 0.1/1/0.5": {"weights": Weights(0.1, 1.0, 0.5)},
    "rrf": {"strategy": "rrf", "weights": Weights(1, 1, 1)},
}


def ndcg(hits: Hits, relevant: set[str]) -> float:
    """Return nDCG@10 with binary relevance."""
    gains = [1 / np.log2(rank + 2) for rank, hit in enumerate(hits[:10]) if hit.id in relevant]
    return float(sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(relevant)))))


def measure_set(encoder: M3Encoder, data: RetrievalSet, n_queries: int) -> dict[str, float]:
    """Return nDCG@10 of each search over all passages of a set."""
    index = HybridIndex(encoder, MemoryStore(codec="float16"))
    index.add(data.passages, ids=data.passage_ids)
    words = HybridIndex(encoder, MemoryStore(codec="binary"), lexical="bm25")
    words.add(data.passages, ids=data.passage_ids)
    chosen = np.random.default_rng(0).permutation(len(data.queries))[:n_queries]
    relevant = [{data.passage_ids[row] for row in data.relevant[i]} for i in chosen]
    queries = [data.queries[i] for i in chosen]
    found = {name: index.search_many(queries, **options) for name, options in SEARCHES.items()}
    found["bm25"] = words.search_many(queries, mode="sparse")
    return {
        name: float(np.mean([ndcg(one, wanted) for one, wanted in zip(hits, relevant, strict=True)]))
        for name, hits in found.items()
    }


def measure_translations(encoder: M3Encoder, folder: Path, seed: int) -> dict[str, float]:
    """Return how often the dense head finds a sentence's English side among 1,000."""
    result = {}
    for language, pairs in hold_out(read_parallel(folder / "parallel"), seed).items():
        english = encoder.encode([pair[0] for pair in pairs], heads=("dense",)).dense
        other = encoder.encode([pair[1] for pair in pairs], heads=("dense",)).dense
        result[language] = float(np.mean((other @ english.T).argmax(1) == np.arange(len(pairs))))
    return result


def measure_demo(encoder: M3Encoder, folder: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Return by kind of question and by search how often the first hit, and one of three, answers the demo's questions."""
    documents, questions = (
        [json.loads(line) for line in (folder / f"{name}.jsonl").read_text("utf-8").splitlines()]
        for name in ("collection", "questions")
    )
    index = HybridIndex(encoder, MemoryStore())
    index.add([f"{one['title']}\n{one['text']}" for one in documents], ids=[one["id"] for one in documents])
    result: dict[str, dict[str, tuple[float, float]]] = {}
    for kind in sorted({one["kind"] for one in questions}):
        asked = [one for one in questions if one["kind"] == kind]
        texts = [one["text"] for one in asked]
        result[kind] = {}
        for name, options in SEARCHES.items():
            found = index.search_many(texts, k=3, **options)
            right = [[hit.id in one["answers"] for hit in hits] for hits, one in zip(found, asked, strict=True)]
            result[kind][name] = (
                float(np.mean([one[0] for one in right])),
                float(np.mean([any(one) for one in right])),
            )
    return result


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--sets", default=",".join(DEV_SETS))
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    encoder = M3Encoder.from_pretrained(options.checkpoint)
    print("| set | " + " | ".join([*SEARCHES, "bm25"]) + " |")
    print("|---" * (len(SEARCHES) + 2) + "|")
    for name in tqdm(options.sets.split(","), unit="set"):
        row = measure_set(encoder, read_retrieval_set(options.data / "dev" / name), options.queries)
        print(f"| {name} | " + " | ".join(f"{value:.3f}" for value in row.values()) + " |", flush=True)
    found = measure_translations(encoder, options.data, options.seed)
    print("\ntranslations:", {k: round(v, 3) for k, v in found.items()}, "mean", round(np.mean([*found.values()]), 3))
    print("\n| demo, right first (among three) | " + " | ".join(SEARCHES) + " |")
    print("|---" * (len(SEARCHES) + 1) + "|")
    for kind, shares in measure_demo(encoder, Path(__file__).parents[1] / "data").items():
        print(f"| {kind} | " + " | ".join(f"{first:.0%} ({three:.0%})" for first, three in shares.values()) + " |")


if __name__ == "__main__":
    main()
