"""What else answers a dense, sparse and multi-vector search, on the data of `search.py`.

Usage: python benchmarks/peers.py [--sizes 1000 10000] [--runs 20] [--results FILE]

LlamaIndex managed index: its query over every chunk, with FlagEmbedding's own scoring functions (source:
llama-index-indices-managed-bge-m3 0.6, `BGEM3Index.query`). FlagEmbedding: the same functions over 200 candidates.
LangChain: `langchain_chroma.Chroma`, top 100 by the dense vector. Qdrant: its embedded engine (qdrant-edge-py) behind
`QdrantStore`, the same three-stage query, up to 1,000 chunks, each of which takes it about 3 MB on disk.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from _synthetic import BLOCKS, DIM, SETTINGS, TOKENS, hybrid_query, milliseconds, seconds, sparse_rows, unit

from bgem3.embeddings import M3Embeddings, MultiVectors
from bgem3.types import Chunk, SearchPlan


def data(size: int, runs: int) -> tuple[M3Embeddings, np.ndarray, list[M3Embeddings]]:
    """Dense and sparse of all chunks, the blocks that their token vectors repeat, queries."""
    random = np.random.default_rng(0)
    blocks = unit(random.standard_normal((BLOCKS, TOKENS, DIM)))
    centres = random.standard_normal((max(size // 50, 1), DIM))
    dense = unit(centres[random.integers(0, len(centres), size)] + 0.7 * random.standard_normal((size, DIM)))
    chunks = M3Embeddings(dense=dense, sparse=sparse_rows(random, size, 56))
    return chunks, blocks, [hybrid_query(random, centres) for _ in range(runs)]


def weights_of(embeddings: M3Embeddings) -> list[dict[str, float]]:
    sparse = embeddings.sparse
    cuts = zip(sparse.indptr[:-1], sparse.indptr[1:], strict=True)
    return [dict(zip(map(str, sparse.indices[a:b].tolist()), sparse.data[a:b].tolist(), strict=True)) for a, b in cuts]


def flag_loops(size: int, runs: int) -> Iterator[dict[str, Any]]:
    from FlagEmbedding import BGEM3FlagModel

    model = object.__new__(BGEM3FlagModel)  # its scoring functions read nothing of the model
    model.pool = None
    chunks, blocks, queries = data(size, runs)
    weights = weights_of(chunks)
    asked = [(query, weights_of(query)[0]) for query in queries]

    def score(part: tuple[M3Embeddings, dict[str, float]], rows: Any) -> np.ndarray:
        query, words = part
        sparse = np.array([model.compute_lexical_matching_score(words, weights[row]) for row in rows])
        tokens = query.multi_vector[0]
        late = np.array([model.colbert_score(tokens, blocks[row % BLOCKS]).item() for row in rows])
        return (query.dense[0] @ chunks.dense[rows].T + sparse + late) / 3

    everything = np.arange(size)
    few = np.random.default_rng(1).choice(size, 200, replace=False)
    taken = milliseconds(lambda part: np.argsort(score(part, everything))[::-1][:10], asked[: max(3, runs // 4)])
    yield {"what": "LlamaIndex managed index, its loop", "size": size, **taken}
    taken = milliseconds(lambda part: score(part, few), asked)
    yield {"what": "FlagEmbedding's functions over 200 candidates", "size": size, **taken}


def langchain_chroma(size: int, runs: int) -> Iterator[dict[str, Any]]:
    from langchain_chroma import Chroma

    chunks, _, queries = data(size, runs)
    with tempfile.TemporaryDirectory() as folder:
        store = Chroma("peer", persist_directory=folder)

        def build() -> None:
            for start in range(0, size, 1000):
                ids = [f"chunk {i}" for i in range(start, min(start + 1000, size))]
                store._collection.upsert(
                    ids=ids, documents=["x" * 500] * len(ids), embeddings=chunks.dense[start : start + 1000]
                )

        rate = round(size / seconds(build))
        vectors = [query.dense[0].tolist() for query in queries]
        taken = milliseconds(lambda vector: store.similarity_search_by_vector(vector, k=100), vectors)
        files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        about = {"size": size, "chunks_per_s": rate, "bytes_per_chunk": round(files / size)}
        yield {"what": "LangChain Chroma, dense top 100", **about, **taken}


def qdrant(size: int, runs: int) -> Iterator[dict[str, Any]]:
    from bgem3.stores.qdrant import QdrantStore

    sys.path.insert(0, str(Path(__file__).parents[1]))
    from tests.support.qdrant_edge import EdgeClient

    chunks, blocks, queries = data(size, runs)
    with tempfile.TemporaryDirectory() as folder:
        engine = EdgeClient(Path(folder))
        store = QdrantStore(client=engine)
        store.open(SETTINGS)

        def build() -> None:
            for start in range(0, size, 100):
                rows = range(start, min(start + 100, size))
                tokens = MultiVectors.from_list([blocks[row % BLOCKS] for row in rows])
                part = M3Embeddings(
                    dense=chunks.dense[start : rows.stop], sparse=chunks.sparse[start : rows.stop], multi_vector=tokens
                )
                store.upsert([Chunk(f"chunk {row}", "x" * 500) for row in rows], part)
            engine.optimize()

        rate = round(size / seconds(build))
        taken = milliseconds(lambda query: store.search(query, SearchPlan()), queries)
        files = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
        about = {"size": size, "chunks_per_s": rate, "bytes_per_chunk": round(files / size)}
        yield {"what": "Qdrant embedded, hybrid, union", **about, **taken}
        store.close()
        engine.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--results", type=Path, default=Path("search.txt"))
    options = parser.parse_args()
    with options.results.open("a") as file:
        for size in options.sizes:
            for peer in (flag_loops, langchain_chroma, *((qdrant,) if size <= 1000 else ())):
                for line in peer(size, options.runs):
                    print(json.dumps(line), flush=True)
                    file.write(json.dumps(line) + "\n")
                    file.flush()


if __name__ == "__main__":
    main()
