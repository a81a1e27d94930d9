"""The synthetic collections of the search benchmarks, and how long a call over them takes."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.types import Chunk, IndexSettings

VOCABULARY, DIM, TOKENS, QUERY_TOKENS, BLOCKS = 250_002, 1024, 200, 32, 100
FREQUENCY = np.cumsum(1 / (np.arange(VOCABULARY) + 3.7))
FREQUENCY /= FREQUENCY[-1]
SETTINGS = IndexSettings(fingerprint="synthetic", dim=DIM, multi_dim=DIM, vocab_size=VOCABULARY)


def sparse_rows(random: np.random.Generator, n: int, draws: int) -> csr_array:
    ids = np.sort(np.searchsorted(FREQUENCY, random.random((n, draws))), axis=1)
    first = np.diff(ids, axis=1, prepend=-1) > 0
    columns = ids[first].astype(np.int32)
    scale = 0.06 + 0.2 * np.log(columns + 1) / np.log(VOCABULARY)
    weights = (scale * random.lognormal(0, 0.5, len(columns))).astype(np.float32)
    return csr_array((weights, columns, np.append(0, np.cumsum(first.sum(axis=1)))), shape=(n, VOCABULARY))


def with_frequent(query: csr_array) -> csr_array:
    frequent = csr_array((np.full(10, 0.08, np.float32), np.arange(10), np.array([0, 10])), shape=query.shape)
    return csr_array(query.maximum(frequent))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def batches(size: int, centres: np.ndarray, random: np.random.Generator) -> Iterator[tuple[list[Chunk], M3Embeddings]]:
    no_tokens = MultiVectors(np.empty((0, DIM), np.float32), np.zeros(1001, np.int64))
    for start in range(0, size, 1000):
        near = centres[random.integers(0, len(centres), 1000)]
        chunks = [Chunk(f"chunk {i}", f"text {i} " + "x" * 500, {"half": i % 2}) for i in range(start, start + 1000)]
        dense = unit(near + 0.7 * random.standard_normal((1000, DIM)))
        yield chunks, M3Embeddings(dense=dense, sparse=sparse_rows(random, 1000, 56), multi_vector=no_tokens)


def hybrid_query(random: np.random.Generator, centres: np.ndarray) -> M3Embeddings:
    near = centres[random.integers(0, len(centres), 1)]
    tokens = unit(random.standard_normal((QUERY_TOKENS, DIM)))
    return M3Embeddings(
        dense=unit(near + 0.9 * random.standard_normal((1, DIM))),
        sparse=with_frequent(sparse_rows(random, 1, 12)),
        multi_vector=MultiVectors(tokens, np.array([0, QUERY_TOKENS])),
    )


def milliseconds(run: Callable[[Any], object], queries: Sequence[Any]) -> dict[str, float]:
    run(queries[0])
    taken = []
    for query in queries:
        start = time.perf_counter()
        run(query)
        taken.append(1000 * (time.perf_counter() - start))
    return spread(taken)


def spread(taken: Sequence[float]) -> dict[str, float]:
    names = {"best_ms": 0, "p50_ms": 50, "p95_ms": 95}
    return {name: round(float(np.percentile(taken, percent)), 2) for name, percent in names.items()}


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20
