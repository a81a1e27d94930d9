"""How fast the embedded index finds, beside its peers, on synthetic collections of growing size.

Usage: python benchmarks/search.py lexical|late|hybrid [--sizes 1000 10000] [--runs 100] [--results FILE]
           [--keep FOLDER]
       python benchmarks/search.py plot --results FILE

Synthetic statistics: 56 tokens a chunk drawn from 250,002 ids by Zipf's law (about 51 distinct), frequent ids with
small weights; 200 token vectors of 1,024 dimensions a chunk, one of 100 blocks; dense vectors in clusters.
Light queries are 12 tokens drawn like a chunk's; heavy ones also hold the ten most frequent ids. Every run of a filtered
search asks the same filter, whose rows are kept; `first_s` is the first one's time. Peers that are
not installed are left out. A line of JSON a measurement is added to the results.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from _synthetic import (
    BLOCKS,
    DIM,
    QUERY_TOKENS,
    SETTINGS,
    TOKENS,
    batches,
    hybrid_query,
    milliseconds,
    resident_mb,
    seconds,
    sparse_rows,
    spread,
    unit,
    with_frequent,
)
from scipy.sparse import csr_array, vstack
from tqdm import tqdm

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import Codec, get_codec
from bgem3.index.snapshot import Snapshot
from bgem3.stores.chroma import ChromaStore
from bgem3.types import Chunk, SearchPlan


def _scores(codec: Codec, blobs: Sequence[bytes], query: np.ndarray) -> np.ndarray:
    return codec.scores(query, blobs)


def lexical(size: int, runs: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    index, building, before = LexicalIndex(), 0.0, resident_mb()
    for start in range(0, size, 4096):
        rows = sparse_rows(random, min(4096, size - start), 56)
        building += seconds(partial(index.add, np.arange(start, start + rows.shape[0]), rows))
    light = [sparse_rows(random, 1, 12) for _ in range(runs)]
    heavy = [with_frequent(query) for query in light]
    building += seconds(lambda: index.top(light[0], 1))
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Snapshot(Path(folder) / "lexical", owner="benchmark", weighting="m3")
        saving = seconds(partial(snapshot.save, index.segments()))
        began = time.perf_counter()
        mapped = LexicalIndex(segments=snapshot.load())
        about = {"size": size, "chunks_per_s": round(size / building), "save_s": round(saving, 2)}
        about |= {"open_s": round(time.perf_counter() - began, 3), "bytes_per_chunk": round(snapshot.size() / size)}
        candidates = np.sort(random.choice(size, 200, replace=False))
        half = np.flatnonzero(random.random(size) < 0.5)
        for name, queries in (("light", light), ("heavy", heavy)):
            taken = milliseconds(lambda query: mapped.top(query, 100), queries)
            yield {"what": f"top 100, {name}", **about, **taken}
            taken = milliseconds(lambda query: mapped.top(query, 100, half), queries)
            yield {"what": f"top 100 of half, {name}", "size": size, **taken}
        taken = milliseconds(lambda query: mapped.scores(query, candidates), heavy)
        yield {"what": "scores of 200", "size": size, "resident_mb": resident_mb() - before, **taken}
    if size <= 100_000:
        yield from lexical_peers(size, heavy)


def lexical_peers(size: int, queries: Sequence[csr_array]) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    matrix = vstack([sparse_rows(random, min(4096, size - s), 56) for s in range(0, size, 4096)], format="csr")
    columns = matrix.tocsc()

    def by_columns(query: csr_array) -> object:
        scores = np.zeros(size, dtype=np.float32)
        for token, weight in zip(query.indices, query.data, strict=True):
            part = slice(columns.indptr[token], columns.indptr[token + 1])
            scores[columns.indices[part]] += weight * columns.data[part]
        return np.argpartition(scores, -100)[-100:]

    index = LexicalIndex()
    index.add(np.arange(size), matrix)
    exact = [(matrix @ query.T).toarray()[:, 0] for query in queries[:20]]
    recall = np.mean(
        [np.isin(np.argsort(-e)[:100], index.top(q, 100)[0]).mean() for e, q in zip(exact, queries, strict=False)]
    )
    yield {"what": "numpy posting lists, heavy", "size": size, **milliseconds(by_columns, queries)}
    yield {"what": "recall of ours against a matrix product", "size": size, "recall": round(float(recall), 4)}
    if find_spec("bm25s"):
        import bm25s

        peer = bm25s.BM25()
        texts = [[str(i) for i in matrix.indices[matrix.indptr[r] : matrix.indptr[r + 1]]] for r in range(size)]
        peer.index(texts, show_progress=False)
        words = [[[str(i) for i in query.indices]] for query in queries]
        yield {
            "what": "bm25s, heavy", "size": size,
            **milliseconds(lambda q: peer.retrieve(q, k=100, show_progress=False, n_threads=0), words),
        }  # fmt: skip


def late(size: int, runs: int) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    vectors = unit(random.standard_normal((size * TOKENS, DIM)))
    passages = MultiVectors(vectors, np.arange(0, len(vectors) + 1, TOKENS))
    queries = [unit(vectors[s : s + QUERY_TOKENS] + 0.03 * random.standard_normal((QUERY_TOKENS, DIM)))
               for s in random.integers(0, len(vectors) - QUERY_TOKENS, runs)]  # fmt: skip
    exact = [np.array([(q @ p.T).max(axis=1).mean() for p in passages]) for q in queries[:20]]
    for name in ("binary", "int2", "int4", "int8", "float16"):
        codec = get_codec(name, DIM)
        began = time.perf_counter()
        blobs = codec.encode(passages)
        rate = round(size / (time.perf_counter() - began))
        taken = milliseconds(partial(_scores, codec, blobs), queries)
        error = max(np.abs(codec.scores(q, blobs) - e).max() for q, e in zip(queries, exact, strict=False))
        yield {"what": f"ours, {name}", "bytes_per_chunk": len(blobs[0]), "encode_chunks_per_s": rate, **taken,
               "largest_error": round(float(error), 5)}  # fmt: skip
    joined = np.ascontiguousarray(vectors)
    offsets = passages.offsets[:-1]
    yield {"what": "numpy, one float32 product and a segmented maximum",
           **milliseconds(lambda q: np.maximum.reduceat(q @ joined.T, offsets, axis=1).mean(axis=0), queries)}  # fmt: skip
    if find_spec("FlagEmbedding"):
        import torch

        # FlagEmbedding 1.4.2, BGEM3FlagModel.colbert_score, which needs a loaded model; one call a passage.
        def colbert_score(q: np.ndarray, p: np.ndarray) -> torch.Tensor:
            scores, _ = torch.einsum("in,jn->ij", torch.from_numpy(q), torch.from_numpy(p)).max(-1)
            return torch.sum(scores) / q.shape[0]

        yield {"what": "FlagEmbedding colbert_score, one call a passage",
               **milliseconds(lambda q: [colbert_score(q, p) for p in passages], queries)}  # fmt: skip
    # Last: version 0.1.0 ends the process on some machines.
    if find_spec("maxsim_cpu"):
        import maxsim_cpu

        block = np.ascontiguousarray(vectors.reshape(size, TOKENS, DIM))
        yield {"what": "maxsim-cpu, float32", **milliseconds(lambda q: maxsim_cpu.maxsim_scores(q, block), queries)}


class RepeatedBlocks:
    """A codec that keeps blocks encoded once, so that building a collection does not wait for encoding."""

    def __init__(self, codec: Any, blobs: Sequence[bytes]) -> None:
        self._codec, self._blobs = codec, blobs

    def __getattr__(self, name: str) -> Any:
        return getattr(self._codec, name)

    def encode(self, vectors: MultiVectors) -> list[bytes]:
        """Return blocks in turn."""
        return [self._blobs[i % len(self._blobs)] for i in range(len(vectors))]


def hybrid(size: int, runs: int, keep: Path | None = None) -> Iterator[dict[str, Any]]:
    random = np.random.default_rng(0)
    blocks = unit(random.standard_normal((BLOCKS * TOKENS, DIM)))
    centres = random.standard_normal((max(size // 50, 1), DIM))
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) if keep is None else keep / f"{size}"
        kept: list[M3Embeddings] = []
        about: dict[str, Any] = {"size": size}
        if (folder / "built.json").is_file():
            about |= json.loads((folder / "built.json").read_text())
            # drawn again as it was added, so that the queries are the same
            for _, embeddings in batches(size, centres, random):
                kept += [embeddings] if size <= 100_000 else []
        else:
            about |= build(folder, size, blocks, batches(size, centres, random), kept)
            (folder / "built.json").write_text(json.dumps(about))
        yield {"what": "resident, Chroma alone", "size": size, "resident_mb": chroma_alone(folder)}
        store = ChromaStore(folder)
        about |= {"open_s": round(seconds(lambda: store.open(SETTINGS)), 3)}
        before = resident_mb()
        queries = [hybrid_query(random, centres) for _ in range(runs)]
        for name, plan in PLANS.items():
            first = round(seconds(partial(search, store, plan, queries[0])), 3)
            yield {"what": name, **about, "first_s": first, **milliseconds(partial(search, store, plan), queries)}
        yield from by_stage(store, size, queries)
        yield from from_threads(store, size, queries)
        if kept:
            yield {"what": "recall against float32", "size": size, **recall(store, queries[:20], kept, blocks)}
        about = {"resident_mb": resident_mb(), "before_search_mb": before}
        yield {"what": "resident", "size": size, **about}
        store.close()


def build(
    folder: Path,
    size: int,
    blocks: np.ndarray,
    parts: Iterator[tuple[list[Chunk], M3Embeddings]],
    kept: list[M3Embeddings],
) -> dict[str, Any]:
    """Fill a new collection; return its rate and the bytes of its parts."""
    blobs = get_codec("binary", DIM).encode(MultiVectors(blocks, np.arange(0, len(blocks) + 1, TOKENS)))
    store = ChromaStore(folder)
    store.open(SETTINGS)
    store._codec = RepeatedBlocks(store._codec, blobs)
    building = 0.0
    for chunks, embeddings in tqdm(parts, total=size // 1000, unit="k"):
        building += seconds(partial(store.upsert, chunks, embeddings))
        kept += [embeddings] if size <= 100_000 else []
    building += seconds(store.close)
    files = [path for path in folder.rglob("*") if path.is_file()]
    named = {"sidecar": "bgem3-bgem3.sqlite3", "snapshot": "bgem3-bgem3.lexical"}
    parts_of = {part: [f for f in files if name in str(f.relative_to(folder))] for part, name in named.items()}
    parts_of["chroma"] = [f for f in files if "bgem3-bgem3" not in str(f.relative_to(folder))]
    sizes = {
        f"{part}_bytes_per_chunk": round(sum(f.stat().st_size for f in of) / size) for part, of in parts_of.items()
    }
    return {"chunks_per_s": round(size / building), **sizes}


def chroma_alone(folder: Path) -> int:
    """Return the resident MB of a process that does one dense search of the same collection with Chroma only."""
    script = """
import sys, chromadb
client = chromadb.PersistentClient(sys.argv[1])
(collection,) = client.list_collections()
collection.query(query_embeddings=[[1.0] * int(sys.argv[2])], n_results=100, include=["documents", "metadatas", "distances"])
print([line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS")][0])
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(DIM)], capture_output=True, text=True, check=True
    )
    return int(done.stdout) // 1024


def recall(
    store: ChromaStore, queries: Sequence[M3Embeddings], kept: Sequence[M3Embeddings], blocks: np.ndarray
) -> dict[str, float]:
    """Compare with all chunks scored in float32: dense top 100, hybrid top 10."""
    dense = np.concatenate([part.dense for part in kept])
    sparse = vstack([part.sparse for part in kept], format="csr")
    shares: dict[str, list[float]] = {"dense_at_100": [], "hybrid_at_10": []}
    for query in queries:
        by_dense = dense @ query.dense[0]
        tokens = (query.multi_vector[0] @ blocks.T).reshape(QUERY_TOKENS, BLOCKS, TOKENS).max(axis=2).mean(axis=0)
        # As RepeatedBlocks hands them out: from the first one again in every batch of 1,000.
        by_tokens = tokens[np.arange(len(dense)) % 1000 % BLOCKS]
        by_all = by_dense + 0.3 * (sparse @ query.sparse.T).toarray()[:, 0] + by_tokens
        for name, scores, k, plan in (
            ("dense_at_100", by_dense, 100, SearchPlan(k=100, mode="dense")),
            ("hybrid_at_10", by_all, 10, SearchPlan()),
        ):
            found = np.array([int(hit.id.removeprefix("chunk ")) for hit in store.search(query, plan)])
            # Chunks with the same score stand for each other.
            shares[name].append(float(np.mean(scores[found] >= np.sort(scores)[-k] - 1e-6)))
    return {name: round(float(np.mean(values)), 4) for name, values in shares.items()}


def search(store: ChromaStore, plan: SearchPlan, query: M3Embeddings) -> object:
    return store.search(query, plan)


def by_stage(store: ChromaStore, size: int, queries: Sequence[M3Embeddings]) -> Iterator[dict[str, Any]]:
    taken: dict[str, list[float]] = {}
    for query in queries:
        for stage in store.search(query, SearchPlan(explain=True)).stages:
            taken.setdefault(stage.name, []).append(1000 * stage.seconds)
    for name, values in taken.items():
        yield {"what": f"stage: {name}", "size": size, **spread(values)}


def from_threads(store: ChromaStore, size: int, queries: Sequence[M3Embeddings]) -> Iterator[dict[str, Any]]:
    """Searches a second, from one thread and from several."""
    for name, plan in PLANS.items():
        rates: dict[str, float] = {}
        for threads in (1, 2, 4):
            start = time.perf_counter()
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(partial(search, store, plan), queries))
            rates[f"from_{threads}"] = round(len(queries) / (time.perf_counter() - start), 1)
        yield {"what": f"searches a second: {name}", "size": size, **rates}


PLANS = {
    "hybrid, union": SearchPlan(),
    "hybrid, union, half filtered": SearchPlan(where={"half": 1}),
    "hybrid, cascade": SearchPlan(strategy="cascade"),
    "dense only": SearchPlan(mode="dense"),
}


def plot(results: Path) -> None:
    import matplotlib as mpl

    mpl.use("svg")
    import matplotlib.pyplot as plt

    lines = [json.loads(line) for line in results.read_text().splitlines() if line.startswith("{")]
    figure, (times, sizes) = plt.subplots(1, 2, figsize=(10, 4.2))
    for name in DRAWN:
        points = sorted((line["size"], line["best_ms"]) for line in lines if line["what"] == name)
        if points:
            times.plot(*zip(*points, strict=True), marker="o", label=name)
    for part in ("sidecar", "chroma", "snapshot"):
        whole = [line for line in lines if line["what"] == "hybrid, union"]
        points = sorted((line["size"], line["size"] * line[f"{part}_bytes_per_chunk"] / 1e6) for line in whole)
        sizes.plot(*zip(*points, strict=True), marker="o", label=part)
    times.set(xscale="log", yscale="log", xlabel="chunks", ylabel="best of the runs, ms", title="Search time")
    sizes.set(xscale="log", yscale="symlog", xlabel="chunks", ylabel="MB", title="Size on disk")
    sizes.set_ylim(bottom=0)
    for axes in (times, sizes):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    figure.savefig(results.with_suffix(".svg"), bbox_inches="tight", metadata={"Date": None})


DRAWN = (
    "top 100, heavy",
    "numpy posting lists, heavy",
    "bm25s, heavy",
    "hybrid, union",
    "hybrid, cascade",
    "dense only",
    "LangChain Chroma, dense top 100",
    "LlamaIndex managed index, its loop",
    "Qdrant embedded, hybrid, union",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("lexical", "late", "hybrid", "plot"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--results", type=Path, default=Path("search.txt"))
    parser.add_argument(
        "--keep", type=Path, help="folder for the collections of hybrid, used again when they are there"
    )
    options = parser.parse_args()
    if options.part == "plot":
        plot(options.results)
        return
    parts = {"lexical": lexical, "late": late, "hybrid": partial(hybrid, keep=options.keep)}
    sizes = [100] if options.part == "late" else options.sizes
    with options.results.open("a") as file:
        for line in (line for size in sizes for line in parts[options.part](size, options.runs)):
            print(json.dumps(line))
            file.write(json.dumps(line) + "\n")
            file.flush()


if __name__ == "__main__":
    main()
