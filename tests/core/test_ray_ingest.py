"""What the workers of a bulk ingestion do; Ray itself is not started."""

from __future__ import annotations

import numpy as np
import pyarrow
import pytest

from bgem3.ray_ingest import EncodeBatch, IngestJob, WriteBatch, pack, unpack
from bgem3.stores.addresses import Address
from bgem3.types import Chunk
from tests.support.milvus_server import MilvusServer
from tests.support.vectors import MULTI_DIM, VOCAB, embed


def test_columns_and_back():
    chunks = [Chunk(text, text, {"n": 1, "tags": ["a"]}) for text in ("x", "y", "猫")]
    embeddings = embed(["x", "y", "猫"])
    found, same = unpack(pack(chunks, embeddings), VOCAB, MULTI_DIM)
    assert found == chunks
    np.testing.assert_array_equal(same.dense, embeddings.dense)
    np.testing.assert_array_equal(same.sparse.toarray(), embeddings.sparse.toarray())
    np.testing.assert_allclose(same.multi_vector.vectors, embeddings.multi_vector.vectors, atol=1e-3)
    assert unpack(pack([], embed([])), VOCAB, MULTI_DIM)[0] == []


@pytest.fixture
def milvus(tmp_path):
    server = MilvusServer(tmp_path)
    yield f"milvus:{server.uri}#news"
    server.close()


@pytest.mark.parametrize("engine", ["milvus", "qdrant"])
def test_begun_again_after_a_kill_it_adds_nothing_twice(engine, milvus, tmp_path, checkpoint):
    """The two steps that Ray runs, without Ray: a server's workers skip what is there, a folder's replace it by itself."""
    address = milvus if engine == "milvus" else f"qdrant:{tmp_path / 'q'}"
    job = IngestJob(address, str(checkpoint), id_field="id")
    records = [{"id": f"d{i}", "text": f"text {i}", "n": i} for i in range(40)]
    blocks = [pyarrow.Table.from_pylist(records[start : start + 10]) for start in range(0, 40, 10)]

    def run(n_blocks):
        encode, write = EncodeBatch(job), WriteBatch(job)
        batches = [encode(block) for block in blocks[:n_blocks]]
        written = sum(int(write(batch)["written"].sum()) for batch in batches)
        write._store.close()
        return sum(len(batch["chunk"]) for batch in batches), written

    assert run(2) == (20, 20)
    assert run(4) == ((20, 20) if engine == "milvus" else (40, 40))
    store = Address.parse(address).make()
    store.open()
    found = [chunk for chunks, _ in store.scan() for chunk in chunks]
    assert sorted(chunk.id for chunk in found) == sorted(record["id"] for record in records)
    assert store.count() == 40
    store.close()
