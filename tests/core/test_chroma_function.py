"""The embedding function, written down and found again by chromadb itself."""

import subprocess
import sys

import chromadb
import numpy as np
import pytest

from bgem3 import ChromaStore, HybridIndex, M3Encoder
from bgem3.chroma_function import BGEM3EmbeddingFunction
from bgem3.errors import IndexMismatchError, InvalidInputError

TEXTS = ["Brake pads wear out.", "Part KX-220B fits the small pump.", "茶叶含有茶氨酸，能让人放松。"]
IDS = ["brakes", "pump", "tea"]


def client(folder):
    return chromadb.PersistentClient(str(folder), settings=chromadb.Settings(anonymized_telemetry=False))


@pytest.fixture
def folder(tmp_path, checkpoint):
    opened = client(tmp_path / "db")
    function = BGEM3EmbeddingFunction(checkpoint, backend="onnx", max_length=64)
    opened.create_collection("notes", embedding_function=function).add(ids=IDS, documents=TEXTS)
    opened.close()
    return tmp_path / "db"


def test_a_collection_opens_with_it_again(folder, checkpoint):
    opened = client(folder)
    collection = opened.get_collection("notes")
    encoder = M3Encoder.from_pretrained(checkpoint, backend="onnx")
    np.testing.assert_allclose(
        collection.get(ids=IDS, include=["embeddings"])["embeddings"], encoder.encode(TEXTS).dense, atol=1e-6
    )
    found = collection.query(query_texts=[TEXTS[2]], n_results=1)
    assert (found["ids"], found["distances"][0][0]) == ([["tea"]], pytest.approx(0, abs=1e-5))
    assert collection.configuration["embedding_function"].get_config()["max_length"] == 64
    opened.close()


def test_a_process_that_imports_it_opens_the_collection(folder):
    code = (
        "import sys, chromadb, bgem3.chroma_function\n"
        "found = chromadb.PersistentClient(sys.argv[1]).get_collection('notes').query(query_texts=['KX-220B'])\n"
        "print(len(found['ids'][0]))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=120)
    assert done.stdout == "3\n", done.stderr


def test_what_is_written_down(folder, checkpoint):
    opened = client(folder)
    written = opened.get_collection("notes", embedding_function=None).configuration_json
    opened.close()
    function = written["embedding_function"]
    assert (function["name"], function["type"], written["hnsw"]["space"]) == ("bgem3", "known", "ip")
    assert function["config"] == {
        "model": str(checkpoint.resolve()),
        "backend": "onnx",
        "precision": "auto",
        "max_length": 64,
        "fingerprint": M3Encoder.from_pretrained(checkpoint).fingerprint,
    }


def test_a_checkpoint_that_was_replaced_is_refused(folder, checkpoint_factory, checkpoint):
    other = checkpoint_factory(seed=9)
    config = BGEM3EmbeddingFunction(checkpoint).get_config()
    with pytest.raises(
        IndexMismatchError, match="has fingerprint .*, the collection was made with .*Fix: the checkpoint"
    ):
        BGEM3EmbeddingFunction.build_from_config(config | {"model": str(other)})
    with pytest.raises(IndexMismatchError, match="no match"):
        BGEM3EmbeddingFunction(other).validate_config_update(config, BGEM3EmbeddingFunction(other).get_config())
    with pytest.raises(InvalidInputError, match=r"\['fingerprint', 'key'\]"):
        BGEM3EmbeddingFunction.build_from_config({k: v for k, v in config.items() if k != "fingerprint"} | {"key": "s"})


def test_the_collection_is_adopted_without_new_dense_vectors(folder, checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    store = ChromaStore.adopt(folder, encoder=encoder, collection="notes")
    with HybridIndex(encoder, store) as index:
        assert index.search(TEXTS[1], k=1)[0].id == "pump"
        index.add(["Rain is expected."], ids=["rain"])
    opened = client(folder)
    assert opened.get_collection("notes").query(query_texts=["Rain is expected."], n_results=1)["ids"] == [["rain"]]
    opened.close()
