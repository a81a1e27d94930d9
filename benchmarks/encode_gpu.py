"""How fast and how exactly does a GPU encode, beside FlagEmbedding and sentence-transformers?

Usage: python benchmarks/encode.py --device cuda [--layers 24] [--texts 8000] [--runs 2] [--median 80] [--longest 512]
           [--batch-tokens N] [--families ours flag sentence-transformers] [--work FOLDER]

The checkpoint and the mix of lengths are those of `encode.py`. Each family of systems runs in a process of its own, warmed
up on some of the texts. FlagEmbedding and sentence-transformers take the batch size of several that was fastest on a
quarter of the texts. The share is of the best bare bfloat16 product, 8,192 x 8,192 x 8,192 on random data, seen in the run;
errors are against ours in float32 on the GPU, without TF32, over the first texts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _checkpoint import HIDDEN, QUERY_TOKENS, SEED, VOCABULARY, make_checkpoint, make_texts, work
from _measured import Encode, Result, maxsims, overlap, rows, save, timed

from bgem3 import M3Embeddings, M3Encoder
from bgem3.backends.processor import processor_name
from bgem3.embeddings import MultiVectors

QUERIES, COMPARED, SLOW_TEXTS = 50, 256, 1500
BATCHES = (32, 64, 256, 1024)
REFERENCE = "bgem3 torch float32, all to the host"
FLAG = ("FlagEmbedding float16, all heads", "FlagEmbedding float16, dense and sparse")
# A folder that has FlagEmbedding, where it is not installed; nothing else sees it.
FLAG_PATH = os.environ.get("BGEM3_BENCH_FLAG_PATH")
RESIDENT = "token vectors left on the GPU"
Seen = dict[str, Any]


# ------------------------------------------------------------------------------------------------ measuring


def random_table(device: str) -> Callable[[int, int], np.ndarray]:
    generator = torch.Generator(device).manual_seed(SEED)
    return lambda rows, columns: torch.randn(rows, columns, generator=generator, device=device).cpu().numpy()


def product_peak(device: str, runs: int = 20) -> float:
    """Return the best GFLOP/s of a bare bfloat16 product."""
    size = 8192 if device != "cpu" else 256
    left, right = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    if device == "cpu":
        return 2 * size**3 / min(timed(left.matmul, right) for _ in range(3)) / 1e9
    least = float("inf")
    for _ in range(runs):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        left.matmul(right)
        end.record()
        end.synchronize()
        least = min(least, start.elapsed_time(end) / 1e3)
    return 2 * size**3 / least / 1e9


def measure(
    name: str, encode: Encode, texts: Sequence[str], options: argparse.Namespace, *, runs: int, scratch: Path
) -> Seen:
    """Time one way to encode; the caller has warmed it up."""
    on_gpu = options.device != "cpu"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats()
    seconds = [timed(encode, texts) for _ in range(runs)]
    (query,) = make_texts(1, QUERY_TOKENS)
    for _ in range(3):
        encode([query])
    singles = sorted(timed(encode, [query]) for _ in range(QUERIES))
    said = f"{name}: {', '.join(f'{len(texts) / one:,.0f}' for one in seconds)} texts/s"
    print(said, file=sys.stderr, flush=True)
    out = scratch / f"{name.replace(' ', '-').replace(',', '')}.npz"
    keep(out, encode(texts[:COMPARED]))
    return {
        "name": name,
        "texts": len(texts),
        "seconds": seconds,
        "p50": singles[QUERIES // 2],
        "p95": singles[int(QUERIES * 0.95) - 1],
        "peak": torch.cuda.max_memory_allocated() if on_gpu else 0,
        "out": str(out),
    }


def keep(path: Path, result: Result) -> None:
    """Save what `save` does, token vectors being optional."""
    if "sparse" in result and "vectors" not in result:
        empty = [np.zeros((0, 1), np.float32) for _ in result["sparse"]]
        save(path, result | {"vectors": empty})
    else:
        save(path, result)


# ------------------------------------------------------------------------------------------------ families of systems


def run_ours(folder: Path, texts: list[str], options: argparse.Namespace, scratch: Path) -> list[Seen]:
    seen = []
    on_gpu = options.device != "cpu"
    for precision in ("float32", "bfloat16", *(("float16",) if on_gpu else ())):
        start = time.perf_counter()
        encoder = M3Encoder.from_pretrained(
            folder, backend="torch", precision=precision, max_length=options.longest, device=options.device
        )
        print(f"loaded {precision}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
        if options.batch_tokens:
            encoder._backend.batch_tokens = options.batch_tokens
        slow = precision == "float32"
        given = texts[:SLOW_TEXTS] if slow else texts
        runs = 1 if slow else options.runs
        name = f"bgem3 torch {precision}"
        (query,) = make_texts(1, QUERY_TOKENS)
        first = timed(encoder.encode, [query])
        encoder.encode(given[:1500])

        def every(some: Sequence[str], encoder: M3Encoder = encoder) -> Result:
            return embedded(encoder.encode(some))

        def dense(some: Sequence[str], encoder: M3Encoder = encoder) -> Result:
            return {"dense": encoder.encode(some, heads=("dense",)).dense}

        def two(some: Sequence[str], encoder: M3Encoder = encoder) -> Result:
            return embedded(encoder.encode(some, heads=("dense", "sparse")))

        seen.append(measure(f"{name}, all to the host", every, given, options, runs=runs, scratch=scratch))
        seen[-1]["first"] = first
        if not slow:
            seen.append(measure(f"{name}, dense", dense, given, options, runs=runs, scratch=scratch))
            leave_on_device(encoder)
            encoder.encode(given[:1500], heads=("dense", "sparse"))
            seen.append(measure(f"{name}, {RESIDENT}", two, given, options, runs=runs, scratch=scratch))
        del encoder, every, dense, two
        if on_gpu:
            torch.cuda.empty_cache()
    return seen


def leave_on_device(encoder: M3Encoder) -> None:
    """Make the backend compute token vectors always, and keep them from the host."""
    backend: Any = encoder._backend
    apply = backend._apply

    def resident(hidden: Any, first: Any, rest: Any, heads: Any) -> dict[str, Any]:
        found = apply(hidden, first, rest, {*heads, "multi_vector"})
        found.pop("multi_vector")
        return found

    backend._apply = resident


def embedded(embeddings: M3Embeddings) -> Result:
    """Return what was encoded; sparse rows become dictionaries only where `keep` asks for few."""
    result: Result = {"dense": embeddings.dense}
    if len(embeddings) <= COMPARED:
        result["sparse"] = embeddings.lexical_rows()
        if "multi_vector" in embeddings.heads:
            result["vectors"] = list(embeddings.multi_vector)
    return result


def run_flag(folder: Path, texts: list[str], options: argparse.Namespace, scratch: Path) -> list[Seen]:
    from FlagEmbedding import BGEM3FlagModel

    on_gpu = options.device != "cpu"
    model = BGEM3FlagModel(str(folder), use_fp16=on_gpu, devices="cuda:0" if on_gpu else "cpu")

    def make(size: int, *, vectors: bool) -> Encode:
        def encode(some: Sequence[str]) -> Result:
            out = model.encode(
                list(some),
                batch_size=size,
                max_length=options.longest,
                return_sparse=True,
                return_colbert_vecs=vectors,
            )
            result: Result = {"dense": out["dense_vecs"]}
            if len(some) <= COMPARED:
                pairs = [row.items() for row in out["lexical_weights"]]
                result["sparse"] = [{int(token): float(weight) for token, weight in row} for row in pairs]
                if vectors:
                    result["vectors"] = out["colbert_vecs"]
            return result

        return encode

    (query,) = make_texts(1, QUERY_TOKENS)
    first = timed(make(256, vectors=True), [query])
    size = fastest(lambda size: make(size, vectors=False), texts)
    seen = []
    for name, vectors in zip(FLAG, (True, False), strict=True):
        encode = make(size, vectors=vectors)
        runs = 1 if vectors else options.runs
        seen.append(measure(name, encode, texts, options, runs=runs, scratch=scratch) | {"batch": size})
    seen[0]["first"] = first
    return seen


def run_sentence_transformers(folder: Path, texts: list[str], options: argparse.Namespace, scratch: Path) -> list[Seen]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer

    body = Transformer(str(folder), max_seq_length=options.longest)
    modules = [body, Pooling(HIDDEN, pooling_mode="cls"), Normalize()]
    model = SentenceTransformer(modules=modules, device=options.device).to(torch.bfloat16)

    def make(size: int) -> Encode:
        return lambda some: {"dense": model.encode(list(some), batch_size=size, show_progress_bar=False)}

    (query,) = make_texts(1, QUERY_TOKENS)
    first = timed(make(32), [query])
    size = fastest(make, texts)
    found = measure(
        "sentence-transformers bfloat16, dense", make(size), texts, options, runs=options.runs, scratch=scratch
    )
    return [found | {"first": first, "batch": size}]


def fastest(make: Callable[[int], Encode], texts: Sequence[str]) -> int:
    """Return the batch size that is fastest on a quarter of the texts, after a warm-up with each."""
    some = texts[:: max(1, len(texts) // 2000)]
    taken = {}
    for size in BATCHES:
        make(size)(some[:size])
        taken[size] = timed(make(size), some)
    print("batch sizes, seconds:", {size: round(one, 2) for size, one in taken.items()}, file=sys.stderr, flush=True)
    return min(taken, key=lambda size: taken[size])


FAMILIES: dict[str, Callable[[Path, list[str], argparse.Namespace, Path], list[Seen]]] = {
    "flag": run_flag,
    "sentence-transformers": run_sentence_transformers,
    "ours": run_ours,
}


# ------------------------------------------------------------------------------------------------ the table


def child(family: str, options: argparse.Namespace, scratch: Path) -> dict[str, Any] | str:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", family, "--scratch", str(scratch)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    if family == "flag" and FLAG_PATH:
        environment["PYTHONPATH"] = f"{FLAG_PATH}{os.pathsep}{environment.get('PYTHONPATH', '')}"
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, timeout=options.timeout)
    except subprocess.TimeoutExpired:
        return f"took more than {options.timeout} s"
    return "failed, see above" if done.returncode else json.loads(done.stdout.splitlines()[-1])


def errors(got: Any, exact: Any) -> str:
    """Return dense cosine, mean and lowest; sparse overlap; the largest error of MaxSim between neighbouring texts."""
    one, other = (np.asarray(part["dense"], np.float64) for part in (got, exact))
    one, other = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in (one, other))
    cosines = np.einsum("ij,ij->i", one, other)
    said = [f"{cosines.mean():.5f} / {cosines.min():.5f}", "-", "-"]
    if "tokens" in got:
        said[1] = f"{np.mean([overlap(*pair) for pair in zip(rows(got), rows(exact), strict=True)]):.4f}"
        if len(MultiVectors(got["vectors"], got["offsets"]).vectors):
            said[2] = f"{np.abs(maxsims(got) - maxsims(exact)).max():.1e}"
    return " | ".join(said)


def report(options: argparse.Namespace) -> None:
    folder = make_checkpoint(
        options.work / f"layers{options.layers}-{options.device}", options.layers, random_table(options.device)
    )
    texts = make_texts(options.texts, median=options.median, longest=options.longest)
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch_fast(texts)
    lengths = np.array([min(len(one.ids), options.longest) for one in encoded])
    header(options, texts, lengths)
    seen: dict[str, Seen] = {}
    failed: dict[str, str] = {}
    peak = 0.0
    with tempfile.TemporaryDirectory() as scratch:
        for family in options.families:
            start = time.perf_counter()
            got = child(family, options, Path(scratch))
            print(f"{family}: {time.perf_counter() - start:.0f} s in all", file=sys.stderr, flush=True)
            if isinstance(got, str):
                failed[family] = got
            else:
                peak = max(peak, got["peak"])
                seen |= {one["name"]: one for one in got["seen"]}
        table(seen, lengths, peak, options.layers)
    for family, why in failed.items():
        print(f"\n- {family}: not run. {why}")


def table(seen: dict[str, Seen], lengths: np.ndarray, peak: float, layers: int) -> None:
    print("| system | tokens/s | x Flag | texts/s | query p50, p95 ms | first ms | peak GPU GB | share | ", end="")
    print("dense cosine | sparse | MaxSim |\n|---|---|---|---|---|---|---|---|---|---|---|")
    exact = np.load(seen[REFERENCE]["out"]) if REFERENCE in seen else None
    for name, one in seen.items():
        of = lengths[: one["texts"]]
        least = min(one["seconds"])
        speed = of.sum() / least
        # with what FlagEmbedding does for the same heads; dense alone it was not asked for
        flag = seen.get(FLAG[0] if name.endswith(("host", "all heads")) else FLAG[1])
        ratio = f"{speed / (lengths[: flag['texts']].sum() / min(flag['seconds'])):.2f}" if flag else "-"
        first = f"{one['first'] * 1e3:.0f}" if "first" in one else "-"
        share = f"{100 * work(of, layers) / least / peak:.0f} %"
        batch = f", batches of {one['batch']}" if "batch" in one else ""
        single = f"{one['p50'] * 1e3:.1f}, {one['p95'] * 1e3:.1f}"
        said = errors(np.load(one["out"]), exact) if exact is not None else "- | - | -"
        print(
            f"| {name}{batch} | {speed:,.0f} | {ratio} | {one['texts'] / least:,.0f} | {single} | {first} | "
            f"{one['peak'] / 1e9:.2f} | {share} | {said} |"
        )
    print(f"\nBest bfloat16 product of the run: {peak / 1e3:.0f} TFLOP/s. Seconds of each run: ", end="")
    print("; ".join(f"{name} {', '.join(f'{s:.2f}' for s in one['seconds'])}" for name, one in seen.items()))


def header(options: argparse.Namespace, texts: list[str], lengths: np.ndarray) -> None:
    gpu = torch.cuda.get_device_name() if options.device != "cpu" else "no GPU"
    print(time.strftime("%Y-%m-%d %H:%M"), "python benchmarks/encode.py", *sys.argv[1:], end="\n\n")
    sys.path += [FLAG_PATH] if FLAG_PATH else []
    packages = ("FlagEmbedding", "sentence-transformers", "transformers", "torch", "triton", "tokenizers", "numpy")
    print(f"{gpu}; {os.cpu_count()} cores, {processor_name()}; Python {platform.python_version()}, ", end="")
    print(", ".join(f"{name} {version_of(name)}" for name in packages), end=".\n")
    total, gflop = int(lengths.sum()), work(lengths, options.layers)
    print(f"{options.layers} layers, {HIDDEN} wide, {VOCABULARY:,} tokens, random weights, seed {SEED}. ", end="")
    print(f"{len(texts)} texts, {total} tokens of {lengths.min()} to {lengths.max()}, {options.runs} runs, ", end="")
    print(f"the best of them (float32: {SLOW_TEXTS} texts, 1 run; FlagEmbedding, all heads: 1 run); ", end="")
    print(f"{QUERIES} single queries of {QUERY_TOKENS} tokens. {gflop / total:.3f} GFLOP a token.\n", flush=True)


def version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--texts", type=int, default=8000)
    parser.add_argument("--median", type=int, default=80, help="median length of a text in tokens")
    parser.add_argument("--longest", type=int, default=512, help="length of the longest text, and max_length")
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--batch-tokens", type=int, help="tokens of our batches, instead of the backend's own")
    parser.add_argument("--families", nargs="+", default=list(FAMILIES), choices=list(FAMILIES))
    parser.add_argument("--timeout", type=int, default=600, help="seconds that a family may take")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "bgem3-bench")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.child:
        report(options)
        return
    folder = options.work / f"layers{options.layers}-{options.device}"
    peak = product_peak(options.device)
    texts = make_texts(options.texts, median=options.median, longest=options.longest)
    seen = FAMILIES[options.child](folder, texts, options, options.scratch)
    print(json.dumps({"peak": peak, "seen": seen}))


if __name__ == "__main__":
    main()
