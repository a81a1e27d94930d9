"""What candidates cost that come from a cold disk: token vectors of 200 chunks, drawn from a sidecar of any size.

Usage: python benchmarks/cold.py [--size 1000000] [--runs 50] [--folder FOLDER] [--results FILE]

The sidecar is filled without Chroma, whose graph takes hours at that size, some 4,000 chunks a second and 28.8 kB each; a
FOLDER is kept and used again. Before each line Linux is asked to forget the file, unless it says "warm". The search reads with
as many connections as the line says; a store has `READERS` of them. A line of JSON a measurement is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from _synthetic import BLOCKS, DIM, QUERY_TOKENS, SETTINGS, TOKENS, batches, milliseconds, unit
from tqdm import tqdm

from bgem3.embeddings import MultiVectors
from bgem3.index.lexical import LexicalIndex
from bgem3.index.multi_vector import get_codec
from bgem3.index.sidecar import Sidecar
from bgem3.index.threads import READERS
from bgem3.stores.chroma_search import ChromaSearcher
from bgem3.types import Chunk, FloatArray, IntArray

CANDIDATES = 200
# Batches of dense and sparse vectors that repeat: only their size matters here.
REPEATED = 5


def fill(path: Path, size: int) -> None:
    """Make a sidecar with so many whole rows."""
    random = np.random.default_rng(0)
    blocks = unit(random.standard_normal((BLOCKS * TOKENS, DIM)))
    blobs = get_codec("binary", DIM).encode(MultiVectors(blocks, np.arange(0, len(blocks) + 1, TOKENS)))
    drawn = [embeddings for _, embeddings in batches(REPEATED * 1000, random.standard_normal((20, DIM)), random)]
    sidecar = Sidecar(path, codec="binary")
    sidecar.save_settings(SETTINGS)
    for start in tqdm(range(0, size, 1000), unit="k"):
        chunks = [Chunk(f"chunk {i}", "text", {"half": i % 2}) for i in range(start, start + 1000)]
        repeated = drawn[start // 1000 % REPEATED]
        pending = sidecar.begin_upsert(chunks, repeated, [blobs[i % BLOCKS] for i in range(1000)])
        sidecar.settle(pending, {one.id: cast(int, one.new_row) for one in pending})
    sidecar.close()


def measure(path: Path, size: int, runs: int) -> Iterator[dict[str, Any]]:
    """Time MaxSim of candidates, read with one connection and with more."""
    random = np.random.default_rng(1)
    query = unit(random.standard_normal((QUERY_TOKENS, DIM)))
    drawn = [np.sort(random.choice(size, CANDIDATES, replace=False) + 1) for _ in range(runs)]
    for connections in (1, 2, READERS, READERS, 2, 1):
        opened = [Sidecar(path, codec="binary") for _ in range(connections)]
        lexical = LexicalIndex(SETTINGS.lexical)
        searcher = ChromaSearcher(opened[0], cast(Any, None), lexical, get_codec("binary", DIM), others=opened[1:])
        scores = partial(score, searcher, query)
        scores(drawn[0])  # compiled
        for state in ("cold", "warm"):
            if state == "cold":
                forget(path)
            yield {
                "what": f"{CANDIDATES} candidates, {state}",
                "connections": connections,
                **milliseconds(scores, drawn),
            }
        for one in opened:
            one.close()


def score(searcher: ChromaSearcher, query: FloatArray, rows: IntArray) -> FloatArray:
    return searcher._multi_vector_scores(query, rows)


def forget(path: Path) -> None:
    """Have Linux drop what it keeps of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--results", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        path = (options.folder or Path(scratch)) / f"{options.size}.sqlite3"
        if not path.exists():
            fill(path, options.size)
        for line in measure(path, options.size, options.runs):
            print(json.dumps(line), flush=True)
            if options.results:
                with options.results.open("a") as file:
                    file.write(json.dumps({"size": options.size, **line}) + "\n")


if __name__ == "__main__":
    main()
