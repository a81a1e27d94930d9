from __future__ import annotations

import copy
import sys
import tomllib
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from langchain_classic.embeddings import CacheBackedEmbeddings
from langchain_core.stores import InMemoryByteStore
from pydantic import ValidationError

from bgem3.errors import CheckpointNotFoundError, InvalidInputError, InvalidTextError, MissingExtraError
from langchain_bgem3 import BGEM3Embeddings
from tests.langchain.conftest import TEXTS


def test_vectors_are_the_encoders_own(embeddings, encoder):
    vectors = embeddings.embed_documents(TEXTS)
    np.testing.assert_allclose(vectors, encoder.encode(TEXTS).dense, atol=1e-5)
    assert type(vectors[0][0]) is float
    assert np.linalg.norm(vectors[0]) == pytest.approx(1, abs=1e-5)


def test_query_and_document_are_read_alike_and_as_they_are(embeddings):
    assert embeddings.embed_query("two\nlines") == pytest.approx(
        embeddings.embed_documents(["two\nlines"])[0], abs=1e-5
    )
    assert embeddings.embed_documents([]) == []


@pytest.mark.parametrize("texts", [[" leading", "a\n\nb"], [""], ["🙂", "שלום"]], ids=["space", "empty", "scripts"])
async def test_async_gives_the_same(embeddings, texts):
    np.testing.assert_allclose(await embeddings.aembed_documents(texts), embeddings.embed_documents(texts), atol=1e-5)
    assert await embeddings.aembed_query(texts[0]) == pytest.approx(embeddings.embed_query(texts[0]), abs=1e-5)


def test_a_hugging_face_user_changes_the_class_name_only(checkpoint, embeddings):
    ours = BGEM3Embeddings(
        model_name=str(checkpoint),
        cache_folder=None,
        model_kwargs={"device": "cpu", "trust_remote_code": True},
        encode_kwargs={"normalize_embeddings": True, "batch_size": 32, "show_progress_bar": False},
        query_encode_kwargs={"normalize_embeddings": True},
        multi_process=False,
        show_progress=False,
        precision="float32",  # `auto` would take bfloat16 where the processor has it
    )
    assert ours.device == "cpu"
    assert ours.model_kwargs == {"device": "cpu", "trust_remote_code": True}
    np.testing.assert_allclose(ours.embed_documents(TEXTS), embeddings.embed_documents(TEXTS), atol=1e-5)
    assert BGEM3Embeddings(model=str(checkpoint)).model_name == str(checkpoint)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encode_kwargs": {"normalize_embeddings": False}}, "got False, expected True: .* norm 1"),
        ({"encode_kwargs": {"batch_size": 0}}, "batch_size.*got 0, expected a whole number >= 1"),
        ({"encode_kwargs": {"prompt": "query: "}}, "this model takes no instruction"),
        ({"encode_kwargs": {"max_length": 512}}, r"Fix: max_length is a field: BGEM3Embeddings\(max_length=...\)"),
        ({"encode_kwargs": {"batchsize": 8}}, "'batchsize'.*no meaning here. Fix: leave it out, or use one of batch_"),
        ({"query_encode_kwargs": {"prompt_name": "query"}}, "query_encode_kwargs.*no instruction"),
        ({"model_kwargs": {"token": "x"}}, "Fix: set the environment variable HF_TOKEN"),
        ({"model_kwargs": {"model_kwargs": {"torch_dtype": "float16"}}}, "precision is a field"),
        ({"model_kwargs": {"device": "cpu"}, "device": "cuda"}, "got 'cpu', and device='cuda' beside it"),
        ({"model_kwargs": ["device"]}, "model_kwargs: expected a dictionary, got list"),
        ({"multi_process": True}, "multi_process: got True, expected False"),
        ({"overflow": "cut"}, "overflow: got 'cut', expected one of window"),
        ({"backend": "tensorflow"}, "backend"),
        ({"max_length": 100_000}, "max_length: got 100000"),
    ],
    ids=lambda value: None if isinstance(value, str) else "-".join(value),
)
def test_settings_without_a_meaning_are_refused(settings, fields, message):
    with pytest.raises(InvalidInputError, match=message):
        BGEM3Embeddings(**settings | fields)


def test_a_misspelt_field_is_refused(settings):
    with pytest.raises(ValidationError, match="max_lenght"):
        BGEM3Embeddings(**settings, max_lenght=8)


def test_a_missing_checkpoint_is_an_error_of_the_constructor(tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="nowhere"):
        BGEM3Embeddings(model_name=str(tmp_path / "nowhere"), local_files_only=True)


def test_a_bad_text_is_named(embeddings):
    with pytest.raises(InvalidTextError, match=r"texts\[1\]"):
        embeddings.embed_documents(["fine", None])


@pytest.mark.parametrize(
    "twin", [copy.deepcopy, lambda it: ForkingPickler.loads(ForkingPickler.dumps(it))], ids=["copy", "worker"]
)
def test_a_copy_has_no_model_until_it_needs_one(embeddings, twin):
    made = twin(embeddings)
    assert made._shared is None
    assert made == embeddings or made.model_dump() == embeddings.model_dump()
    assert made.embed_query("key") == embeddings.embed_query("key")
    assert made.shared is embeddings.shared


def test_over_an_encoder_that_is_loaded_already(encoder, embeddings):
    made = BGEM3Embeddings.from_encoder(encoder, show_progress=False)
    assert made.shared is embeddings.shared
    assert (made.backend, made.max_length) == ("onnx", encoder.lengths.max_length)
    assert copy.deepcopy(made).embed_query("key") == embeddings.embed_query("key")


def test_the_cache_namespace_tells_settings_apart(settings, embeddings, passes):
    cut = BGEM3Embeddings(**settings, max_length=16, overflow="truncate")
    assert cut.cache_namespace != embeddings.cache_namespace
    assert BGEM3Embeddings(**settings).cache_namespace == embeddings.cache_namespace
    cached = CacheBackedEmbeddings.from_bytes_store(
        embeddings, InMemoryByteStore(), namespace=embeddings.cache_namespace, key_encoder="sha256"
    )
    assert cached.embed_documents(TEXTS) == cached.embed_documents(TEXTS)
    assert passes.sequences == len(TEXTS)


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("langchain_bgem3.sparse", "langchain_qdrant.sparse_embeddings"),
        ("langchain_bgem3.milvus", "langchain_milvus.utils.sparse"),
    ],
)
def test_a_missing_package_is_named_with_its_command(monkeypatch, embeddings, module, package):
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    method = embeddings.as_qdrant_sparse if module.endswith("sparse") else embeddings.as_milvus_sparse
    with pytest.raises(MissingExtraError, match=r"needs the package 'langchain-\w+'.*Fix: pip install") as caught:
        method()
    extras = tomllib.loads(Path("pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert any(line.startswith(caught.value.package) for line in extras[caught.value.extra])


def test_changed_settings_are_those_it_reads_with(settings):
    text = "word " * 60
    expected = BGEM3Embeddings(**settings, max_length=16).embed_query(text)
    embeddings = BGEM3Embeddings(**settings)
    before = embeddings.embed_query(text)
    assert before != expected
    assert embeddings.model_copy(update={"max_length": 16}).embed_query(text) == expected
    assert embeddings.embed_query(text) == before
    embeddings.max_length = 16
    assert embeddings.embed_query(text) == expected
