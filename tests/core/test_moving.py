"""Every store copied into every other one, broken off and begun again."""

from __future__ import annotations

import numpy as np
import pytest

from bgem3.moving import checksum, copy_store
from bgem3.portable import export_store, import_store
from bgem3.stores.addresses import Address
from bgem3.stores.memory import MemoryStore
from bgem3.types import Chunk, SearchPlan
from tests.support.vectors import SETTINGS, embed

TEXTS = [f"text {i}" for i in range(30)]
CHUNKS = [Chunk(f"id {i}", text, {"n": i, "tags": ["a", str(i)]}) for i, text in enumerate(TEXTS)]
PLACES = {"chroma": "chroma:{}/c", "qdrant": "qdrant:{}/q", "milvus": "milvus:{}/m.db"}


def opened(name, folder, **options):
    folder.mkdir(exist_ok=True)
    return Address.parse(PLACES[name].format(folder)).make(**options)


@pytest.mark.parametrize("target", PLACES)
@pytest.mark.parametrize("source", PLACES)
def test_a_copy_that_was_broken_off_goes_on(source, target, tmp_path):
    old = opened(source, tmp_path / "old")
    old.open(SETTINGS)
    old.upsert(CHUNKS, embed(TEXTS))

    def break_off(n_chunks):
        raise KeyboardInterrupt

    new = opened(target, tmp_path / "new")
    with pytest.raises(KeyboardInterrupt):
        copy_store(old, new, batch_size=10, on_batch=break_off)
    new.close()

    new = opened(target, tmp_path / "new")
    report = copy_store(old, new, batch_size=10)
    assert (report.copied, report.skipped, report.count) == (20, 10, 30)
    assert report.checksum == f"{checksum(CHUNKS) % 2**64:016x}"
    assert {chunk.id: chunk for chunks, _ in new.scan() for chunk in chunks} == {chunk.id: chunk for chunk in CHUNKS}
    np.testing.assert_allclose(new.dense_vectors(["id 3"])["id 3"], embed(["text 3"]).dense[0], atol=2e-3)
    for mode in ("dense", "sparse", "multi_vector", "hybrid"):
        assert new.search(embed(["text 3"]), SearchPlan(k=1, mode=mode))[0].id == "id 3"
    old.close()
    new.close()


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize(
    ("before", "after"),
    [(1, True), (1, 1.0), ([1], [True]), (0.0, -0.0), ([0.0], [-0.0]), (1.0, 2.7715077941825975e-163)],
    ids=str,
)
def test_a_value_that_changes_in_type_alone_is_copied(name, before, after, tmp_path):
    old, new = MemoryStore(), opened(name, tmp_path / "new")
    old.open(SETTINGS)
    for value in (before, after):
        old.upsert([Chunk("i", "text", {"v": value})], embed(["text"]))
        copy_store(old, new)
    (found,) = new.get(["i"])
    assert (found.metadata, str(found.metadata["v"]).lstrip("-")) == ({"v": after}, str(after).lstrip("-"))
    new.close()


def test_metadata_that_another_program_left_is_copied_as_a_store_can_keep_it(tmp_path):
    old, new = MemoryStore(), opened("chroma", tmp_path / "new")
    old.open(SETTINGS)
    old.upsert([Chunk("i", "text", {"n": None, "loc": {"from": 1}, "a": 1})], embed(["text"]))
    copy_store(old, new)
    assert new.get(["i"])[0].metadata == {"loc": '{"from": 1}', "a": 1}
    new.close()
    export_store(old, tmp_path / "export")
    again = MemoryStore()
    import_store(tmp_path / "export", again)
    assert again.get(["i"])[0].metadata == {"loc": '{"from": 1}', "a": 1}
