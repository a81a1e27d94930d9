"""A process that writes is killed at random points; nothing acknowledged is lost, nothing is half there.

30 cycles; `BGEM3_KILL_CYCLES=1000` for the long form.
"""

import os
import random
import time
from collections import defaultdict

import numpy as np
import pytest

from bgem3.stores.chroma import ChromaStore
from bgem3.types import HEADS, Chunk, SearchPlan
from tests.support.chroma_writer import COLLECTIONS, IDS, Writers, make_chunk
from tests.support.vectors import SETTINGS, embed

CYCLES = int(os.environ.get("BGEM3_KILL_CYCLES", "30"))


@pytest.mark.integration
def test_nothing_is_lost_or_half_there_after_kill_9(tmp_path):
    folder = tmp_path / "db"
    rng = random.Random(7)
    writers = Writers(folder)
    try:
        for cycle in range(CYCLES):
            writers.start(cycle)
            if rng.random() < 0.8 or not cycle:
                writers.acknowledge(1)
            # else: perhaps while it opens, or settles what the one before left
            if rng.random() < 0.5:
                writers.await_save(1.0)
                time.sleep(rng.uniform(0, 0.0003))
            else:
                time.sleep(rng.uniform(0, 0.6))
            writers.kill()
            for name in COLLECTIONS:
                check(folder, name, writers, cycle)
            writers.began = {}
    finally:
        writers.close()


def check(folder, name, writers, cycle):
    """Compare every chunk with what was acknowledged, and note what became of the operation under way."""
    store = ChromaStore(folder, collection=name)
    store.open(SETTINGS)
    found = {chunk.id: chunk for chunk in store.get(IDS)}
    for id_ in IDS:
        key = f"{name}/{id_}"
        before = writers.state.get(key)
        began = writers.began.get(name, {}).get(key, before)
        possible = [(make_chunk(id_, *versions) if versions else None, versions) for versions in (before, began)]
        now = [versions for chunk, versions in possible if chunk == found.get(id_)]
        assert now, f"cycle {cycle}: {key} is {found.get(id_)}, expected one of {[chunk for chunk, _ in possible]}"
        writers.state[key] = now[0]
    writers.state = {key: versions for key, versions in writers.state.items() if versions}
    check_whole(store, found)
    store.close()


def check_whole(store, chunks):
    """Every part of every chunk is of one version, and no part is left of any other."""
    assert store.count() == len(chunks)
    streamed: dict[str, Chunk] = {}
    for part, heads in store.scan():
        expected = embed([chunk.text for chunk in part])
        # float16 where Chroma's graph was torn and made again
        np.testing.assert_allclose(heads.dense, expected.dense, atol=5e-4)
        np.testing.assert_array_equal(heads.sparse.toarray(), expected.sparse.toarray())
        np.testing.assert_allclose(heads.multi_vector.vectors, expected.multi_vector.vectors, atol=0.02)
        streamed |= {chunk.id: chunk for chunk in part}
    assert streamed == chunks
    by_version = defaultdict(set)
    for chunk in chunks.values():
        by_version[chunk.metadata["version"]].add(chunk.id)
    for version, ids in by_version.items():
        assert set(store.find({"version": version})) == ids
    for chunk in list(chunks.values())[:5]:
        for mode in HEADS:
            hits = store.search(
                embed([chunk.text]), SearchPlan(k=100, mode=mode, fetch_k=100, exhaustive=mode != "sparse")
            )
            assert (hits[0].id, hits[0].text) == (chunk.id, chunk.text)
            assert {hit.id for hit in hits} <= set(chunks)
    hits = store.search(embed(["x"]), SearchPlan(k=100, mode="dense", fetch_k=100))
    assert {hit.id for hit in hits} == set(chunks)
