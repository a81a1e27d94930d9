"""A process that writes to a ChromaStore until it is killed, and says on stdout what it has been told is stored.

Usage: python chroma_writer.py FOLDER SEED STATE, where STATE is `{"id": version, ...}` in JSON.
Each operation prints `{"id": version or null, ...}` before it starts and again when it is acknowledged.
"""

from __future__ import annotations

import json
import random
import sys
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from bgem3.stores.chroma import ChromaStore
from bgem3.types import Chunk
from tests.support.vectors import SETTINGS, embed

IDS = [f"chunk {i}" for i in range(60)]


def make_chunk(id_: str, version: int) -> Chunk:
    """Return what a chunk is in one version: the metadata key differs too, so that a merge shows."""
    return Chunk(id_, f"{id_}, version {version}", {"version": version, f"only {version % 3}": id_})


def tell(line: str) -> None:
    """Hand a line to the process that listens."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(folder: str, seed: str, state: str) -> None:
    rng = random.Random(int(seed))
    known: dict[str, int] = json.loads(state)
    store = ChromaStore(folder, codec="int8")
    store.open(SETTINGS)
    for version in count(max(known.values(), default=0) + 1):
        picked = rng.sample(IDS, rng.randint(1, 20))
        deleting = rng.random() < 0.3
        line = json.dumps(dict.fromkeys(picked, None if deleting else version))
        tell(line)
        if deleting:
            store.delete(picked)
        else:
            chunks = [make_chunk(id_, version) for id_ in picked]
            store.upsert(chunks, embed([chunk.text for chunk in chunks]))
        tell(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
