"""A collection as files: out of one store, checked, into any other."""

import json
import shutil
from contextlib import closing
from hashlib import blake2b

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from bgem3.errors import (
    IndexMismatchError,
    InvalidInputError,
    StoreCorruptError,
    StoreNotFoundError,
    StoreWriteError,
)
from bgem3.index.multi_vector import get_codec
from bgem3.portable import export_store, import_store
from bgem3.stores.chroma import ChromaStore
from bgem3.stores.memory import MemoryStore
from bgem3.stores.milvus import MilvusStore
from bgem3.stores.qdrant import QdrantStore
from bgem3.types import Chunk, IndexSettings, SearchPlan
from tests.support.vectors import DIM, MULTI_DIM, SETTINGS, VOCAB, embed

TEXTS = [f"text {i}" for i in range(10)] + ["zwei\nZeilen, 两行\u2028"]
CHUNKS = [Chunk(f"id {i}", text, {"n": i, "tags": ["a", "b"]} if i else {}) for i, text in enumerate(TEXTS)]


def filled(codec="float32", texts=TEXTS):
    store = MemoryStore(codec=codec)
    store.open(SETTINGS)
    store.upsert(CHUNKS, embed(texts))
    return store


@pytest.fixture
def exported(tmp_path):
    assert export_store(filled(), tmp_path / "export", batch_size=4) == 11
    return tmp_path / "export"


def test_files_hold_what_their_description_says(exported):
    with (exported / "chunks.jsonl").open(encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [(one["id"], one["text"], one["metadata"]) for one in lines] == [(c.id, c.text, c.metadata) for c in CHUNKS]
    manifest = json.loads((exported / "manifest.json").read_text())
    assert (manifest["format"], manifest["chunks"], manifest["codec"]) == (1, 11, "float16")
    assert manifest["settings"]["fingerprint"] == "fake"
    assert [one.get("chunks") for one in manifest["files"].values()] == [None, 4, 4, 3]
    tensors, expected = load_file(exported / "vectors-00001.safetensors"), embed(TEXTS[4:8])
    np.testing.assert_array_equal(tensors["dense"], expected.dense)
    np.testing.assert_array_equal(tensors["sparse_offsets"], expected.sparse.indptr)
    np.testing.assert_array_equal(tensors["sparse_tokens"], expected.sparse.indices)
    np.testing.assert_array_equal(tensors["sparse_weights"], expected.sparse.data)
    np.testing.assert_array_equal(tensors["token_offsets"], expected.multi_vector.offsets)
    np.testing.assert_array_equal(tensors["token_vectors"], expected.multi_vector.vectors.astype(np.float16))


STORES = {
    "memory": lambda path: MemoryStore(),
    "chroma": lambda path: ChromaStore(path / "db", codec="float16"),
    "qdrant": lambda path: QdrantStore(path / "q"),
    "milvus": lambda path: MilvusStore(path / "m.db"),
}


@pytest.mark.parametrize("kind", STORES)
def test_any_store_imports_it(exported, tmp_path, kind):
    store = STORES[kind](tmp_path)
    report = import_store(exported, store)
    assert (report.copied, report.skipped, report.count) == (11, 0, 11)
    assert store.get([chunk.id for chunk in CHUNKS]) == CHUNKS
    assert store.open() == SETTINGS
    query = embed(["text 3"])
    for mode in ("dense", "sparse", "multi_vector"):
        (hit,) = store.search(query, SearchPlan(k=1, mode=mode))
        expected = float((query.sparse @ query.sparse.T).toarray()[0, 0]) if mode == "sparse" else 1.0
        assert (hit.id, hit.score) == ("id 3", pytest.approx(expected, abs=0.02))
    again = import_store(exported, store)
    assert (again.copied, again.skipped, again.checksum) == (0, 11, report.checksum)
    store.close()


@pytest.mark.parametrize("codec", ["float16", "int8", "int4", "int2", "binary", "binary-plain"])
def test_token_vectors_go_from_store_to_store_without_a_further_loss(tmp_path, codec):
    source, target = filled(codec), MemoryStore(codec=codec)
    export_store(source, tmp_path / "export", codec=codec)
    import_store(tmp_path / "export", target)
    (_, before), (_, after) = source.export(), target.export()
    np.testing.assert_allclose(after.multi_vector.vectors, before.multi_vector.vectors, rtol=2e-3, atol=1e-6)


def test_what_was_decoded_is_encoded_to_the_same_codes():
    vectors = embed([f"text {i}" for i in range(50)]).multi_vector
    for name in ("int8", "int4", "int2", "binary", "binary-plain"):
        codec = get_codec(name, MULTI_DIM)
        blob = b"".join(codec.encode(vectors))
        again = codec.decode(b"".join(codec.encode(type(vectors)(codec.decode(blob), vectors.offsets))))
        np.testing.assert_allclose(again, codec.decode(blob), rtol=2e-3, atol=1e-6)


def test_an_empty_collection(tmp_path):
    store = MemoryStore()
    store.open(SETTINGS)
    assert export_store(store, tmp_path / "export") == 0
    assert import_store(tmp_path / "export", MemoryStore()).count == 0


def test_a_place_that_holds_something_is_left_alone(tmp_path, exported):
    before = sorted(exported.iterdir())
    with pytest.raises(InvalidInputError, match="is not empty. Fix: another folder"):
        export_store(filled(), exported)
    assert sorted(exported.iterdir()) == before
    with pytest.raises(InvalidInputError, match="nonsense"):
        export_store(filled(), tmp_path / "other", codec="nonsense")
    with pytest.raises(InvalidInputError, match="pool"):
        export_store(filled(), tmp_path / "other", codec="binary+pool2")
    assert not (tmp_path / "other").exists()


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def change_a_byte(path):
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def lose(path):
    path.unlink()


@pytest.mark.parametrize("name", ["chunks.jsonl", "vectors-00002.safetensors"])
@pytest.mark.parametrize(
    ("harm", "problem"), [(cut, "expected"), (change_a_byte, "is not what was written"), (lose, "has None bytes")]
)
def test_a_damaged_export_is_refused_before_anything_is_written(exported, name, harm, problem):
    harm(exported / name)
    store = MemoryStore()
    store.open(SETTINGS)
    with pytest.raises(StoreCorruptError, match=rf"{name}: damaged: .*{problem}.* Fix: bgem3 export again"):
        import_store(exported, store)
    assert store.count() == 0


def test_an_export_that_was_broken_off_has_no_manifest(exported):
    lose(exported / "manifest.json")
    with pytest.raises(StoreNotFoundError, match="no manifest.json, so no export or one that was broken off"):
        import_store(exported, MemoryStore())


def test_manifests_that_are_no_manifests(exported, tmp_path):
    manifest = json.loads((exported / "manifest.json").read_text())
    (exported / "manifest.json").write_text("{")
    with pytest.raises(StoreCorruptError, match="damaged"):
        import_store(exported, MemoryStore())
    (exported / "manifest.json").write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(IndexMismatchError, match="format 2, expected 1"):
        import_store(exported, MemoryStore())
    wider = manifest | {"settings": manifest["settings"] | {"dim": DIM + 1}}
    (exported / "manifest.json").write_text(json.dumps(wider))
    with pytest.raises(StoreCorruptError, match="not those of the manifest: another width"):
        import_store(exported, MemoryStore())


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (IndexSettings(fingerprint="other", dim=DIM, multi_dim=MULTI_DIM, vocab_size=VOCAB), "fingerprint"),
        (IndexSettings(fingerprint="fake", dim=DIM + 8, multi_dim=MULTI_DIM, vocab_size=VOCAB), "dim"),
    ],
)
def test_a_store_of_another_model_refuses_it(exported, settings, name):
    store = MemoryStore()
    store.open(settings)
    with pytest.raises(IndexMismatchError, match=f"^{name}: the index was made with"):
        import_store(exported, store)
    assert store.count() == 0


def test_an_export_may_be_moved(exported, tmp_path):
    shutil.move(exported, tmp_path / "moved")
    assert import_store(tmp_path / "moved", MemoryStore()).count == 11


def tensors_of_another(exported, name, change):
    """Change tensors of a file, and its size and digest in the manifest with them."""
    path = exported / name
    tensors = {key: value.copy() for key, value in load_file(path).items()}
    save_file(tensors | (change(tensors) or {}), path)
    describe_again(exported, name)


def describe_again(exported, name):
    """Put the size and digest that a file has now into the manifest."""
    path = exported / name
    manifest = json.loads((exported / "manifest.json").read_text())
    digest = blake2b(path.read_bytes(), digest_size=32).hexdigest()
    manifest["files"][name] |= {"bytes": path.stat().st_size, "blake2b": digest}
    (exported / "manifest.json").write_text(json.dumps(manifest))


def put(key, place, value):
    return lambda tensors: tensors[key].__setitem__(place, value)


HARM = {
    "a place before the first": put("sparse_offsets", 1, -5),
    "a place beyond the last": put("token_offsets", -1, 10**9),
    "places that fall": put("token_offsets", 1, -5),
    "a text without token vectors": put("token_offsets", 1, 0),
    "a row cut short": put("sparse_offsets", -1, 1),
    "a token beyond the vocabulary": put("sparse_tokens", 0, 2**31 + 5),
    "no number in dense": put("dense", (0, 0), np.nan),
    "no number in the weights": put("sparse_weights", 0, np.nan),
    "a weight without end": put("sparse_weights", 0, np.inf),
    "a negative weight": put("sparse_weights", 0, -1),
    "no number in token vectors": put("token_vectors", (0, 0), np.nan),
    "another type": lambda tensors: {"token_vectors": tensors["token_vectors"].astype(np.float32)},
    "another width": lambda tensors: {"token_vectors": tensors["token_vectors"][:, :-1].copy()},
    "no dense": lambda tensors: {"dense": tensors["dense"][:0]},
}


@pytest.mark.parametrize("harm", HARM)
def test_tensors_of_another_program_are_refused(exported, harm):
    tensors_of_another(exported, "vectors-00000.safetensors", HARM[harm])
    store = MemoryStore()
    with pytest.raises(StoreCorruptError, match="vectors-00000.safetensors: damaged: .*not those of the manifest"):
        import_store(exported, store)
    assert store.count() == 0


@pytest.mark.parametrize(
    ("written", "damaged"),
    [(b'"dtype"', b'"dtipe"'), (b'"F32"', b'"F99"'), (b'{"', b"\xff\xff"), (b'"dense"', b'"dance"')],
)
def test_vectors_that_are_no_safetensors_are_refused(exported, written, damaged):
    path = exported / "vectors-00001.safetensors"
    content = path.read_bytes()
    assert written in content
    path.write_bytes(content.replace(written, damaged, 1))
    describe_again(exported, path.name)
    with pytest.raises(StoreCorruptError, match=r"vectors-00001.safetensors: damaged: .*\. Fix: bgem3 export again"):
        import_store(exported, MemoryStore())


def test_chunks_that_the_manifest_does_not_know_are_refused(exported):
    path = exported / "chunks.jsonl"
    path.write_text(path.read_text(encoding="utf-8").replace("text 3", "text 9"), encoding="utf-8")
    describe_again(exported, path.name)
    with pytest.raises(
        StoreCorruptError, match=r"chunks.jsonl: damaged: its chunks have checksum .*\. Fix: bgem3 export again"
    ):
        import_store(exported, MemoryStore())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(files=[]),
        lambda m: m["files"]["chunks.jsonl"].pop("bytes"),
        lambda m: m["files"].pop("chunks.jsonl"),
        lambda m: m["files"].update({"chunks.jsonl": None}),
        lambda m: m.update(codec=None),
        lambda m: m.update(chunks=99),
        lambda m: m.update(chunks=float("inf")),
        lambda m: m["settings"].update(vocab_size=-1),
        lambda m: m["settings"].update(vocab_size=10**30),
        lambda m: m["settings"].update(dim=2**63),
        lambda m: m["settings"].update(dim=str(DIM)),
    ],
)
def test_manifests_that_do_not_fit_together(exported, change):
    manifest = json.loads((exported / "manifest.json").read_text())
    change(manifest)
    (exported / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(StoreCorruptError, match="manifest.json: damaged"):
        import_store(exported, MemoryStore())


def test_a_manifest_without_a_bottom(exported):
    (exported / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(StoreCorruptError, match="manifest.json: damaged"):
        import_store(exported, MemoryStore())


def test_keys_that_chroma_alone_refuses_come_back(tmp_path):
    store = MemoryStore()
    store.open(SETTINGS)
    store.upsert([Chunk("i", "text", {"#n": 1})], embed(["text"]))
    export_store(store, tmp_path / "export")
    again = MemoryStore()
    import_store(tmp_path / "export", again)
    assert again.get(["i"])[0].metadata == {"#n": 1}
    with closing(ChromaStore(tmp_path / "chroma")) as refusing, pytest.raises(StoreWriteError, match="Chroma refused"):
        import_store(tmp_path / "export", refusing)
