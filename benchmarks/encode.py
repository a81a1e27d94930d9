"""How fast, how exactly and in how much memory each backend encodes, beside FlagEmbedding and other peers?

Usage: python benchmarks/encode.py [--layers 6] [--texts 48] [--runs 3] [--systems NAME ...] [--long | --in-turn] [--work FOLDER]
           [--median 80] [--longest 512]; a mix of long documents: --median 1500 --longest 4096
       python benchmarks/encode.py --device cuda [--layers 24] [--texts 8000] ...: on a GPU, see benchmarks/encode_gpu.py

A checkpoint of the real size (1,024 wide, 250,002 tokens, 24 layers or `--layers`) with seeded random weights is made in
`--work` and given to all; the texts have log-normal lengths. Each system runs in a process of its own, whose peak
of resident memory is its column. `--long` encodes one text of 8,192 tokens instead and prints the peak above the loaded
model. `--in-turn` runs torch's encoder and a second of the bare product in turn, for machines whose speed moves meanwhile. Figures hold within one run on one machine; the share is of the best bare matrix product seen in the run, in
bfloat16 for that precision, in float32 for the others.
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
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from _checkpoint import HIDDEN, INNER, POSITIONS, QUERY_TOKENS, SEED, VOCABULARY, make_checkpoint, make_texts, work
from _measured import errors, save, timed
from _systems import REFERENCE, SYSTEMS

from bgem3.backends.processor import flags, has_bfloat16, processor_name

QUERIES = 20


# ------------------------------------------------------------------------------------------------ one system, one process


def run_child(name: str, folder: Path, options: argparse.Namespace) -> None:
    """Measure one system and write what was seen as JSON, its representations beside it."""
    if options.load:
        SYSTEMS[name](folder, options.longest)
        print("{}")
        return
    if options.long:
        run_long(name, folder)
        return
    texts = make_texts(options.texts, median=options.median, longest=options.longest)
    start = time.perf_counter()
    encode = SYSTEMS[name](folder, options.longest)
    load = time.perf_counter() - start
    (query,) = make_texts(1, QUERY_TOKENS)
    start = time.perf_counter()
    encode([query])
    first = time.perf_counter() - start
    seconds = []
    for _ in range(options.runs):
        start = time.perf_counter()
        result = encode(texts)
        seconds.append(time.perf_counter() - start)
    singles = sorted(timed(encode, [query]) for _ in range(QUERIES))
    save(Path(options.out), result)
    seen = {
        "seconds": seconds,
        "load": load,
        "first": first,
        "p50": singles[QUERIES // 2],
        "p95": singles[int(QUERIES * 0.95) - 1],
        "peak": peak(),
    }
    print(json.dumps(seen))


def run_long(name: str, folder: Path) -> None:
    """Encode one text of 8,192 tokens; the peak counts from the loaded and warm model."""
    encode = SYSTEMS[name](folder, POSITIONS)
    (short,), (text,) = make_texts(1, 64), make_texts(1, POSITIONS)
    encode([short])
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    taken = timed(encode, [text])
    print(json.dumps({"seconds": [taken], "before": before, "peak": peak()}))


def peak() -> int:
    """Return the most bytes that were resident."""
    # not getrusage, whose peak a process takes over from the one that started it
    (line,) = (one for one in Path("/proc/self/status").read_text("ascii").splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


# ------------------------------------------------------------------------------------------------ the table


def bare_products(precision: str, rows: int = 2048) -> list[Callable[[], object]]:
    """Return a matrix product as torch's `matmul` computes it, and as oneDNN does on weights laid out before.

    Where MKL does not know the processor `matmul` has half the speed in float32.
    """
    import torch

    from bgem3.backends.linear import choose

    dtype = getattr(torch, precision)
    left, right, bias = (torch.ones(shape, dtype=dtype) for shape in ((rows, HIDDEN), (INNER, HIDDEN), (INNER,)))
    packed = choose(torch.device("cpu"), dtype)(right, bias)
    return [partial(left.matmul, right.t()), partial(packed, left)]


def gflop(rows: int = 2048) -> float:
    """Return the GFLOP of a bare product."""
    return 2 * rows * HIDDEN * INNER / 1e9


def product_peaks(best: dict[str, list[float]], runs: int = 20) -> dict[str, list[float]]:
    """Return the best GFLOP/s of both bare products seen so far, by precision: float32, and bfloat16 where it is native."""
    seen = {}
    for name in ("float32", *(("bfloat16",) if has_bfloat16() else ())):
        rates = [
            [gflop(rows) / min(timed(product) for _ in range(runs)) for product in bare_products(name, rows)]
            for rows in (1024, 2048)
        ]
        seen[name] = [max(one) for one in zip(*rates, best.get(name, [0.0, 0.0]), strict=True)]
    return seen


def sustained(precision: str, least: float = 1.0) -> float:
    """Return the GFLOP/s of a bare matrix product, the faster of the two, over some seconds."""
    product = min(bare_products(precision), key=lambda run: min(timed(run) for _ in range(3)))
    runs, start = 0, time.perf_counter()
    while (taken := time.perf_counter() - start) < least:
        product()
        runs += 1
    return runs * gflop() / taken


def child(name: str, options: argparse.Namespace, out: Path, *, load: bool = False) -> dict[str, Any] | str:
    command = [sys.executable, __file__, *sys.argv[1:], "--child", name, "--out", str(out), "--work", str(options.work)]
    if not load and name not in (REFERENCE, "FlagEmbedding float32"):
        child(name, options, out, load=True)  # what is converted on first use is there when memory is measured
    command += ["--load"] * load
    environment = {**os.environ, "BGEM3_CACHE": str(options.work / "cache"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        return (done.stderr.strip().splitlines() or ["failed"])[-1]
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if "--device" in sys.argv:
        import encode_gpu

        encode_gpu.main()
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--texts", type=int, default=48)
    parser.add_argument("--median", type=int, default=80, help="median length of a text in tokens")
    parser.add_argument("--longest", type=int, default=512, help="length of the longest text, and max_length")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--systems", nargs="+", default=list(SYSTEMS), choices=list(SYSTEMS))
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--in-turn", action="store_true")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "bgem3-bench")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    parser.add_argument("--load", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    folder = make_checkpoint(options.work / f"layers{options.layers}", options.layers)
    if options.child:
        run_child(options.child, folder, options)
    elif options.long:
        report_long(options)
    elif options.in_turn:
        report_in_turn(folder, options)
    else:
        report(folder, options)


def header(options: argparse.Namespace) -> None:
    packages = ["FlagEmbedding", "sentence-transformers", "torch", "onnxruntime", "openvino", "numpy"]
    packages += [name for name in ("bge-m3-lite", "m3serve") if find_spec(name.replace("-", "_"))]
    print(time.strftime("%Y-%m-%d %H:%M"), "python benchmarks/encode.py", *sys.argv[1:], end="\n\n")
    print(f"{os.cpu_count()} cores, {processor_name()}, load average {os.getloadavg()[0]:.1f} at the start; ", end="")
    print(f"Python {platform.python_version()}, {', '.join(f'{name} {version(name)}' for name in packages)}; ", end="")
    print(f"features {', '.join(sorted(flags() & {'avx2', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16'}))}.")
    print(f"{options.layers} layers, {HIDDEN} wide, {VOCABULARY:,} tokens, random weights, seed {SEED}.", end=" ")


def report(folder: Path, options: argparse.Namespace) -> None:
    header(options)
    texts = make_texts(options.texts, median=options.median, longest=options.longest)
    from tokenizers import Tokenizer

    encoded = Tokenizer.from_file(str(folder / "tokenizer.json")).encode_batch(texts)
    lengths = np.array([min(len(one.ids), options.longest) for one in encoded])
    total, amount = int(lengths.sum()), work(lengths, options.layers)
    print(
        f"{len(texts)} texts, {total} tokens of {lengths.min()} to {lengths.max()}, all heads, {options.runs} runs, ",
        end="",
    )
    print(f"the best of them; {QUERIES} single queries of {QUERY_TOKENS} tokens. {amount / total:.3f} GFLOP a token.\n")
    peaks, seen, failed = product_peaks({}), {}, {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in dict.fromkeys([*(name for name in options.systems if name == REFERENCE), *options.systems]):
            out = Path(scratch) / f"{name.replace(' ', '-').replace(',', '')}.npz"
            print(f"{time.strftime('%H:%M:%S')} {name}", file=sys.stderr, flush=True)
            got = child(name, options, out)
            peaks = product_peaks(peaks)
            if isinstance(got, str):
                failed[name] = got
            else:
                seen[name] = got | {"out": np.load(out)}
        print(
            "| system | tokens/s | x Flag | texts/s | query p50, p95 ms | first ms | peak GB | share | dense cosine | sparse | MaxSim |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|")
        flag = seen.get("FlagEmbedding float32")
        for name in options.systems:
            if name in seen:
                one = seen[name]
                least = min(one["seconds"])
                ratio = f"{min(flag['seconds']) / least:.2f}" if flag else "-"
                speed = f"{total / least:.0f} | {ratio} | {len(texts) / least:.1f}"
                single = f"{one['p50'] * 1e3:.1f}, {one['p95'] * 1e3:.1f} | {one['first'] * 1e3:.0f}"
                best = max(peaks.get(name.split()[-1], peaks["float32"]))
                share = f"{one['peak'] / 1e9:.2f} | {100 * amount / least / best:.0f} %"
                print(f"| {name} | {speed} | {single} | {share} | {errors(one['out'], seen[REFERENCE]['out'])} |")
    products = "; ".join(f"{name} {own:.0f} by matmul, {packed:.0f} by oneDNN" for name, (own, packed) in peaks.items())
    print(f"\nBest matrix products of the run, GFLOP/s: {products}. Load average at the end: {os.getloadavg()[0]:.1f}.")
    for name, why in failed.items():
        print(f"\n- {name}: not run. {why}")


def report_long(options: argparse.Namespace) -> None:
    header(options)
    print(
        f"One text of {POSITIONS} tokens, all heads.\n\n| system | seconds | resident before GB | peak above it GB |\n|---|---|---|---|"
    )
    for name in options.systems:
        if name.startswith("bgem3"):
            got = child(name, options, Path(os.devnull))
            if isinstance(got, str):
                print(f"| {name} | not run: {got} | | |")
            else:
                above = (got["peak"] - got["before"]) / 1e9
                print(f"| {name} | {got['seconds'][0]:.1f} | {got['before'] / 1e9:.2f} | {above:.2f} |")


def report_in_turn(folder: Path, options: argparse.Namespace) -> None:
    header(options)
    print(
        f"{options.texts} texts, all heads, {options.runs} rounds.\n\n| system | GFLOP/s | of the product's | share, median | all |"
    )
    print("|---|---|---|---|---|")
    texts = make_texts(options.texts, median=options.median, longest=options.longest)
    for name in ("bgem3 torch float32", *(("bgem3 torch bfloat16",) if has_bfloat16() else ())):
        precision = name.split()[-1]
        encode = SYSTEMS[name](folder, options.longest)
        amount = work(np.array([len(vectors) + 1 for vectors in encode(texts)["vectors"]]), options.layers)
        products, rates = [sustained(precision)], []
        for _ in range(options.runs):
            rates.append(amount / timed(encode, texts))
            products.append(sustained(precision))
        shares = [rate / ((one + other) / 2) for rate, (one, other) in zip(rates, pairwise(products), strict=True)]
        every = ", ".join(f"{share:.0%}" for share in sorted(shares))
        print(f"| {name} | {np.median(rates):.0f} | {np.median(products):.0f} | {np.median(shares):.0%} | {every} |")


if __name__ == "__main__":
    main()
