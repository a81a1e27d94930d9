"""The quality questions, answered on labelled sets: one table a question.

Usage: python benchmarks/quality.py QUESTION --data FOLDER [--model CHECKPOINT] [--queries 300] [--cache FOLDER]
QUESTION is heads, codecs, tuning, windows or precisions. FOLDER has a labelled set a folder.
"""

from __future__ import annotations

import argparse
import platform
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from bgem3 import HybridIndex, M3Encoder, MemoryStore, Weights
from bgem3.backends.processor import has_bfloat16
from bgem3.errors import TruncationWarning
from bgem3.evaluation import Dataset, System, evaluate, make_systems, markdown
from bgem3.evaluation.cached_encoder import CachedEncoder
from bgem3.evaluation.evaluate import candidates_for
from bgem3.evaluation.report import table
from bgem3.evaluation.statistics import holm, mean_interval, paired_p
from bgem3.evaluation.tuning import choose, grid, measure_grid
from bgem3.index.multi_vector import get_codec
from bgem3.types import STRATEGIES, Hits, Lexical, Mode

SETS = ("jaquad_dev", "drcd", "arcd", "iapp_valid")
# Of the long documents, the judgements within a language.
QRELS = {"long_osguide": "qrels.same.tsv"}
CODECS = ("float32", "float16", "int8", "int4", "int2", "binary")
PRESETS = {"balanced": Weights.balanced, "long_document": Weights.long_document, "lexical": Weights.lexical}
RUNS = [("onnx", "float32"), *([("torch", "bfloat16")] if has_bfloat16() else []), ("onnx", "int8"), ("onnx", "int4")]
SAMPLES = (50, 100)
DRAWS = 10


def read(options: argparse.Namespace) -> Iterator[Dataset]:
    for name in options.sets.split(","):
        yield Dataset.read(options.data / name, qrels=QRELS.get(name), titles=False).sample(options.queries)


def exact(options: argparse.Namespace, **settings: Any) -> M3Encoder:
    """Load the model in float32, which is not what `auto` takes on every processor."""
    return M3Encoder.from_pretrained(options.model, backend="onnx", precision="float32", **settings)


def heads(options: argparse.Namespace) -> str:
    """Each head, each strategy and each preset; BM25 over the model's tokens in place of the learned weights."""
    encoder = exact(options)
    systems = [
        *make_systems(lexicals=("m3", "bm25")),
        *make_systems(
            modes=("hybrid",), strategies=("union",), weights={k: PRESETS[k] for k in ("long_document", "lexical")}
        ),
    ]
    found = [evaluate(one, encoder, systems, cache=options.cache, show_progress=True) for one in read(options)]
    return markdown(found)


def codecs(options: argparse.Namespace) -> str:
    """What a codec loses against float32: the multi-vector head alone, and in the balanced union."""
    encoder = exact(options)
    # float32 is what the others are compared with, wherever it was named
    names = [*dict.fromkeys(["float32", *options.codecs.split(",")])]
    systems = make_systems(modes=("multi_vector", "hybrid"), strategies=("union",), codecs=names)
    found = [evaluate(one, encoder, systems, cache=options.cache, show_progress=True) for one in read(options)]
    cells = [["codec", "bytes a vector", *(f"{kind} {one.dataset}" for kind in ("alone", "union") for one in found)]]
    cells[0] += ["mean loss in union", "95 % interval", "p"]
    losses, rows = [], []
    for name in names:
        suffix = "" if name == "float32" else f" {name}"
        loss = np.concatenate(
            [
                one.values["union balanced"]["nDCG@10"] - one.values[f"union balanced{suffix}"]["nDCG@10"]
                for one in found
            ]
        )
        losses.append(loss)
        means = [f"{one.mean(kind + suffix):.3f}" for kind in ("multi-vector", "union balanced") for one in found]
        rows.append([name, str(get_codec(name, encoder.multi_dim).bytes_per_vector), *means])
    p_values = holm([paired_p(loss, np.zeros_like(loss)) for loss in losses[1:]])
    for row, loss, p in zip(rows, losses, [None, *p_values], strict=True):
        low, high = mean_interval(loss)
        row += [f"{loss.mean():+.4f}", f"{low:+.4f} to {high:+.4f}", "-" if p is None else f"{p:.3f}"]
    return table([*cells, *rows])


def tuning(options: argparse.Namespace) -> str:
    """What weights tuned on a few questions gain on all the others, beside presets and rank fusion, for both weightings."""
    encoder = exact(options)
    cells = [
        ["set", "sparse head", *PRESETS, "rrf, equal weights", "best of the grid", "best head alone", "sparse alone"]
    ]
    cells[0] += [*(f"tuned on {n}" for n in SAMPLES), "tuned in five folds, held out"]
    lexicals: tuple[Lexical, ...] = ("m3", "bm25")
    for dataset, lexical in product(read(options), lexicals):
        alone = make_systems(modes=("dense", "sparse", "multi_vector"), lexicals=(lexical,))
        systems = [*grid(STRATEGIES, lexical), *alone]
        named = [System(name, {"mode": "hybrid", "weights": weights}, lexical) for name, weights in PRESETS.items()]
        named.append(System("rrf", {"mode": "hybrid", "strategy": "rrf", "weights": Weights(1, 1, 1)}, lexical))
        candidates = candidates_for(dataset, CachedEncoder(encoder, options.cache), systems, show_progress=True)
        tried, values = systems[:-3], measure_grid(dataset, candidates, systems)
        fixed = measure_grid(dataset, candidates, named).mean(axis=1)
        tuned = [_gain(tried, values[:-3], n) for n in SAMPLES]
        best = int(values[:-3].mean(axis=1).argmax())
        found = [f"{values[best].mean():.3f} ({tried[best].name})", f"{values[-3:].mean(axis=1).max():.3f}"]
        found += [f"{values[-2].mean():.3f}", *tuned, f"{choose(tried, values[:-3]).held_out:.3f}"]
        cells.append([dataset.name, lexical, *(f"{one:.3f}" for one in fixed), *found])
    return table(cells)


def _gain(systems: Sequence[System], values: np.ndarray, n: int) -> str:
    """Return nDCG@10 on the questions not sampled, the default's on the same ones, and how often tuning was trusted."""
    if n >= values.shape[1]:
        return "-"
    tuned, default, trusted = [], [], 0
    for seed in range(DRAWS):
        chosen = np.random.default_rng(seed).permutation(values.shape[1])
        inside, outside = chosen[:n], chosen[n:]
        found = choose(systems, values[:, inside], seed=seed)
        best = int(values[:, inside].mean(axis=1).argmax())
        tuned.append(values[best, outside].mean())
        default.append(values[0, outside].mean())
        trusted += found.trusted
    return f"{np.mean(tuned):.3f} against {np.mean(default):.3f}, trusted {trusted} of {DRAWS}"


def windows(options: argparse.Namespace) -> str:
    """Windows with overlap against truncation, on documents several times longer than `max_length`."""
    dataset = Dataset.read(options.data / "long_osguide", qrels=QRELS["long_osguide"]).sample(options.queries)
    found = {}
    for overflow in ("truncate", "window"):
        encoder = exact(options, max_length=512, overflow=overflow)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            found[overflow] = evaluate(dataset, encoder, cache=options.cache, show_progress=True)
    cells = [["system", "truncate", "window", "difference", "95 % interval", "p"]]
    for name in found["window"].values:
        difference = found["window"].values[name]["nDCG@10"] - found["truncate"].values[name]["nDCG@10"]
        low, high = mean_interval(difference)
        p = paired_p(difference, np.zeros_like(difference))
        means = [f"{found[one].mean(name):.3f}" for one in ("truncate", "window")]
        cells.append([name, *means, f"{difference.mean():+.3f}", f"{low:+.3f} to {high:+.3f}", f"{p:.4f}"])
    return f"{len(dataset.queries)} questions, {dataset.n_passages} documents, nDCG@10.\n\n{table(cells)}"


def precisions(options: argparse.Namespace) -> str:
    """What bfloat16, int8 and 4-bit weights change: of the first ten hits in float32, the share that stays, by head."""
    modes: tuple[Mode, ...] = ("dense", "sparse", "multi_vector", "hybrid")
    cells = [["set", "precision", *(f"{mode}, top-10 overlap" for mode in modes), "hybrid nDCG@10"]]
    for dataset in read(options):
        ids, texts = zip(*dataset.passages(), strict=True)
        queries = [*dataset.queries.values()]
        tops: dict[str, list[list[set[str]]]] = {}
        for backend, precision in RUNS:
            encoder = M3Encoder.from_pretrained(options.model, backend=backend, precision=precision)
            index = HybridIndex(encoder, MemoryStore(codec="float16"))
            index.add(texts, ids=ids)
            found = [index.search_many(queries, k=10, mode=mode) for mode in modes]
            tops[precision] = [[{hit.id for hit in hits} for hits in each] for each in found]
            kept = [
                np.mean([len(a & b) / max(1, len(b)) for a, b in zip(got, want, strict=True)])
                for got, want in zip(tops[precision], tops["float32"], strict=True)
            ]
            gain = np.mean(
                [_ndcg(hits, dataset.qrels[one]) for one, hits in zip(dataset.queries, found[-1], strict=True)]
            )
            cells.append([dataset.name, precision, *(f"{one:.3f}" for one in kept), f"{gain:.3f}"])
    return table(cells)


def _ndcg(hits: Hits, relevant: Mapping[str, int]) -> float:
    gains = [1 / np.log2(rank + 2) for rank, hit in enumerate(hits) if hit.id in relevant]
    return float(sum(gains) / sum(1 / np.log2(rank + 2) for rank in range(min(10, len(relevant)))))


def main() -> None:
    """Print a table with what it was made from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    questions = {one.__name__: one for one in (heads, codecs, tuning, windows, precisions)}
    parser.add_argument("question", choices=questions)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="examples/bge-m3-mini")
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--codecs", default=",".join(CODECS))
    parser.add_argument("--cache", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    result = questions[options.question](options)
    encoder = exact(options)
    print(f"# {options.question}: {questions[options.question].__doc__}\n")
    print(
        f"{date.today()}, {options.model} (fingerprint {encoder.fingerprint[:12]}), {encoder.backend} {encoder.precision}, "
        f"{options.queries} random questions a set (seed 0), Python {platform.python_version()}, "
        f"{time.perf_counter() - start:.0f} s.\n\n{result}"
    )


if __name__ == "__main__":
    main()
