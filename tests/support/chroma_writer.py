"""Processes that write to two collections of one folder until they are killed, and say what they were told is stored.

`python chroma_writer.py FOLDER` imports once and then, for each line of JSON `{"seed": n, "state": {...}}` on stdin,
forks a process that writes, a thread for each collection; it prints that process's number, and `dead` when it has
ended. A state is `{"collection/id": [text version, metadata version]}`. Each operation prints its collection and what
it changes, `null` for a deleted chunk, before it starts and again when it is acknowledged.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import chromadb  # noqa: F401  # so that a forked process need not

from bgem3.stores import chroma_client
from bgem3.stores.chroma import ChromaStore
from bgem3.types import Chunk
from tests.support.vectors import SETTINGS, embed

COLLECTIONS = ("one", "two")
IDS = [f"chunk {i}" for i in range(60)]
Versions = tuple[int, int]
# Chroma saves its graph so often that many kills fall into a save.
SAVED_EVERY = 20


def make_chunk(id_: str, version: int, metadata_version: int | None = None) -> Chunk:
    """Return what a chunk is in one version: the metadata key differs too, so that a merge shows."""
    other = version if metadata_version is None else metadata_version
    return Chunk(id_, f"{id_}, version {version}", {"version": other, f"only {other % 3}": id_})


def main(folder: str) -> None:
    """Fork a writer for each line on stdin."""
    chroma_client._HNSW["sync_threshold"] = SAVED_EVERY
    chroma_client._LEFT_UNSAVED = 2
    for line in sys.stdin:
        child = os.fork()
        if not child:
            write(folder, **json.loads(line))
        tell(str(child))
        os.waitpid(child, 0)
        tell("dead")


def write(folder: str, seed: int, state: dict[str, list[int]]) -> None:
    """Write to each collection from a thread of its own, for ever; end the process where one fails."""
    with ThreadPoolExecutor() as pool:
        threads = [
            pool.submit(
                write_to,
                folder,
                name,
                random.Random(f"{seed} {name}"),
                {key: tuple(versions) for key, versions in state.items() if key.startswith(f"{name}/")},
            )
            for name in COLLECTIONS
        ]
        for thread in as_completed(threads):
            traceback.print_exception(thread.exception())
            os._exit(1)


def write_to(folder: str, name: str, rng: random.Random, known: dict[str, Versions]) -> None:
    """Add, overwrite and delete chunks and replace metadata, for ever."""
    store = opened(folder, name)
    for version in count(1 + max((max(versions) for versions in known.values()), default=0)):
        picked = rng.sample(IDS, rng.randint(1, 20))
        kind = rng.choices(("upsert", "delete", "metadata"), (5, 3, 2))[0]
        if kind == "metadata":
            picked = [id_ for id_ in picked if f"{name}/{id_}" in known]
        after: dict[str, Versions | None] = {}
        for id_ in picked:
            text_version = known[f"{name}/{id_}"][0] if kind == "metadata" else version
            after[f"{name}/{id_}"] = None if kind == "delete" else (text_version, version)
        line = json.dumps({"collection": name, "after": after})
        tell(line)
        change(store, kind, [(id_, after[f"{name}/{id_}"]) for id_ in picked])
        tell(line)
        known = {key: versions for key, versions in (known | after).items() if versions}
        if rng.random() < 0.2:
            store.close()  # which has Chroma save its graph
            store = opened(folder, name)


def opened(folder: str, name: str) -> ChromaStore:
    """Return an open store."""
    store = ChromaStore(folder, collection=name, codec="int8")
    store.open(SETTINGS)
    return store


def change(store: ChromaStore, kind: str, after: list[tuple[str, Versions | None]]) -> None:
    """Do one operation."""
    if kind == "delete":
        store.delete([id_ for id_, _ in after])
        return
    chunks = [make_chunk(id_, *versions) for id_, versions in after if versions]
    if kind == "upsert":
        store.upsert(chunks, embed([chunk.text for chunk in chunks]))
    else:
        assert store.replace_metadata(chunks) == []


def tell(line: str) -> None:
    """Hand a line to the process that listens, whole."""
    os.write(1, f"{line}\n".encode())


class Writers:
    """The process that forks writers, from the side that kills them.

    Attributes:
        state: What the writers were told is stored.
        began: What the operations under way change, by collection.
    """

    def __init__(self, folder: Path) -> None:
        arguments = [sys.executable, __file__, str(folder)]
        self._process = subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self._folder = folder
        self._child = 0
        self.state: dict[str, list[int]] = {}
        self.began: dict[str, dict[str, list[int] | None]] = {}

    def start(self, seed: int) -> None:
        """Start a writer that goes on from the state."""
        self._process.stdin.write(json.dumps({"seed": seed, "state": self.state}) + "\n")
        self._child = int(self._process.stdout.readline())

    def acknowledge(self, n: int) -> None:
        """Wait until `n` more operations are acknowledged."""
        while n:
            n -= self._apply(self._process.stdout.readline())

    def await_save(self, seconds: float) -> None:
        """Wait until Chroma begins to save a graph, at most so long, without giving the processor away."""
        files = [path for path in self._folder.glob("*/*.bin") if path.name in ("header.bin", "data_level0.bin")]
        before = [path.stat().st_mtime_ns for path in files]
        end = time.monotonic() + seconds
        while [path.stat().st_mtime_ns for path in files] == before and time.monotonic() < end:
            pass

    def kill(self) -> None:
        """Kill the writer; take note of what it had been told."""
        os.kill(self._child, 9)
        while (line := self._process.stdout.readline()) != "dead\n":
            self._apply(line)
        self._child = 0

    def close(self) -> None:
        """End the process that forks, and a writer that a failed test left."""
        if self._child:
            with suppress(ProcessLookupError):
                os.kill(self._child, 9)
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _apply(self, line: str) -> bool:
        """Take note of an operation; whether it is acknowledged."""
        operation = json.loads(line)
        name, after = operation["collection"], operation["after"]
        if name not in self.began:
            self.began[name] = after
            return False
        assert self.began.pop(name) == after
        self.state = {key: versions for key, versions in (self.state | after).items() if versions}
        return True


if __name__ == "__main__":
    main(sys.argv[1])
