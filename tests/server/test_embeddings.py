"""`/v1/embeddings`: what the encoder says, in OpenAI's shape, through OpenAI's own client too."""

from __future__ import annotations

import base64
import threading
from hashlib import sha256

import numpy as np
import openai
import pytest

from bgem3_server.routes import embeddings
from bgem3_server.settings import Limits

TEXTS = ["茶叶含有茶氨酸。", "Part KX-220B fits the pump.", "", "tea 😀 tea"]


def vectors(text: str, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype="<f4").reshape(shape)


def test_all_heads_in_base64_are_the_encoders(client, encoder):
    body = {"input": TEXTS, "heads": ["multi_vector", "dense", "sparse"], "encoding_format": "base64"}
    answer = client.post("/v1/embeddings", json=body).json()
    expected = encoder.encode(TEXTS)
    assert [item["index"] for item in answer["data"]] == [0, 1, 2, 3]
    for row, item in enumerate(answer["data"]):
        np.testing.assert_allclose(vectors(item["embedding"], (encoder.dim,)), expected.dense[row], atol=1e-5)
        rows = vectors(item["multi_vector"], item["multi_vector_shape"])
        np.testing.assert_allclose(rows, expected.multi_vector[row], atol=1e-5)
        found = dict(zip(item["sparse"]["indices"], item["sparse"]["values"], strict=True))
        assert found == pytest.approx(expected.lexical_weights(row), abs=1e-5)


def test_numbers_are_those_of_base64(client):
    body = {"input": TEXTS[1], "heads": ["dense", "multi_vector"]}
    plain = client.post("/v1/embeddings", json=body).json()["data"][0]
    packed = client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()["data"][0]
    np.testing.assert_array_equal(
        np.array(plain["embedding"], np.float32), vectors(packed["embedding"], (len(plain["embedding"]),))
    )
    np.testing.assert_array_equal(
        np.array(plain["multi_vector"], np.float32), vectors(packed["multi_vector"], packed["multi_vector_shape"])
    )


def test_only_the_heads_asked_for(client):
    item = client.post("/v1/embeddings", json={"input": "tea", "heads": ["sparse"]}).json()["data"][0]
    assert set(item) == {"object", "index", "sparse"}
    item = client.post("/v1/embeddings", json={"input": "tea"}).json()["data"][0]
    assert set(item) == {"object", "index", "embedding"}


def test_token_vectors_of_an_answer_have_a_limit(make_client, encoder):
    count = sum(map(len, encoder.tokenizer.encode(TEXTS)))
    client = make_client(limits=Limits(max_numbers=encoder.multi_dim * count - 1))
    body = {"input": TEXTS, "heads": ["multi_vector"]}
    answer = client.post("/v1/embeddings", json=body)
    assert answer.status_code == 422
    most = encoder.multi_dim * count
    assert answer.json()["error"]["limit"] == {"name": "max_numbers", "value": most - 1, "got": most}
    # refused before anything was encoded
    assert "bgem3_texts_total 0.0" in client.get("/metrics").text.splitlines()
    assert client.post("/v1/embeddings", json={**body, "heads": ["dense", "sparse"]}).status_code == 200
    assert client.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).status_code == 200
    longer = {**body, "input": TEXTS * 8, "encoding_format": "base64"}
    assert client.post("/v1/embeddings", json=longer).json()["error"]["limit"]["value"] == 8 * (most - 1)


def test_a_hundred_texts_keep_their_order(client, encoder):
    texts = [f"text {number} " * (1 + number % 7) for number in range(130)]
    data = client.post("/v1/embeddings", json={"input": texts}).json()["data"]
    np.testing.assert_allclose([item["embedding"] for item in data], encoder.encode(texts).dense, atol=1e-5)


def test_many_numbers_are_written_beside_the_event_loop(client, encoder, monkeypatch):
    threads: list[int] = []

    def noted(*arguments):
        threads.append(threading.get_ident())
        return answer(*arguments)

    answer = embeddings._answer
    monkeypatch.setattr(embeddings, "_answer", noted)
    body = {"input": "tea " * 100, "heads": ["dense", "multi_vector"]}
    (item,) = client.post("/v1/embeddings", json=body).json()["data"]
    assert len(threads) == 1
    assert client.portal.call(threading.get_ident) not in threads
    expected = encoder.encode([body["input"]])
    np.testing.assert_allclose(item["embedding"], expected.dense[0], atol=1e-5)
    np.testing.assert_allclose(item["multi_vector"], expected.multi_vector[0], atol=1e-5)


def test_no_text(client):
    assert client.post("/v1/embeddings", json={"input": []}).json()["data"] == []


def test_usage_counts_tokens_with_specials(client, encoder):
    expected = sum(map(len, encoder.tokenizer.encode(TEXTS)))
    usage = client.post("/v1/embeddings", json={"input": TEXTS}).json()["usage"]
    assert usage == {"prompt_tokens": expected, "total_tokens": expected}


@pytest.mark.parametrize("encoding_format", ["float", "base64", openai.NOT_GIVEN])
def test_the_openai_client(base_url, encoder, encoding_format):
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none") as openai_client:
        answer = openai_client.embeddings.create(
            model="bge-m3-mini", input=TEXTS, encoding_format=encoding_format, user="me"
        )
    expected = encoder.encode(TEXTS).dense
    for item, row in zip(answer.data, expected, strict=True):
        found = vectors(item.embedding, row.shape) if isinstance(item.embedding, str) else item.embedding
        np.testing.assert_allclose(found, row, atol=1e-5)


def test_the_openai_client_lists_the_model(base_url, encoder):
    with openai.OpenAI(base_url=f"{base_url}/v1", api_key="none") as openai_client:
        (model,) = openai_client.models.list().data
    assert model.id == "bge-m3-mini"
    assert model.fingerprint == encoder.fingerprint


def test_the_openai_client_understands_an_error(base_url):
    with (
        openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", max_retries=0) as openai_client,
        pytest.raises(openai.NotFoundError, match="bge-m3-mini is served here"),
    ):
        openai_client.embeddings.create(model="text-embedding-3-small", input="tea")


@pytest.mark.parametrize("name", ["bge-m3-mini", "somewhere/bge-m3-mini", None])
def test_names_the_model_answers_to(client, name):
    assert client.post("/v1/embeddings", json={"input": "tea", "model": name}).json()["model"] == "bge-m3-mini"


def test_another_width_is_refused(client, encoder):
    assert client.post("/v1/embeddings", json={"input": "tea", "dimensions": encoder.dim}).status_code == 200
    answer = client.post("/v1/embeddings", json={"input": "tea", "dimensions": encoder.dim + 1})
    assert answer.status_code == 422
    assert f"this model has {encoder.dim}" in answer.json()["error"]["message"]


def test_token_ids_need_the_fingerprint_of_their_tokenizer(client, encoder):
    ids = [one.tolist() for one in encoder.tokenizer.encode(TEXTS)]
    answer = client.post("/v1/embeddings", json={"input": ids})
    assert answer.status_code == 422
    assert answer.json()["error"]["param"].startswith("body.input")
    answer = client.post("/v1/embeddings", json={"input": ids, "fingerprint": "f" * 64})
    assert answer.status_code == 409
    assert "Fix: send texts" in answer.json()["error"]["message"]
    answer = client.post("/v1/embeddings", json={"input": ids, "fingerprint": encoder.fingerprint}).json()
    np.testing.assert_allclose([one["embedding"] for one in answer["data"]], encoder.encode(TEXTS).dense, atol=1e-5)
    assert answer["usage"]["total_tokens"] == sum(map(len, ids))


@pytest.mark.parametrize("ids", [[[]], [[0, 10**6, 2]], [[0, 10**30]], [[-1]], [[0] * 9000]])
def test_token_ids_that_cannot_be(client, encoder, ids):
    answer = client.post("/v1/embeddings", json={"input": ids, "fingerprint": encoder.fingerprint})
    assert answer.status_code == 422


def test_the_tokenizer_is_the_one_its_hash_says(client, encoder):
    (model,) = client.get("/v1/models").json()["data"]
    content = client.get("/v1/tokenizer").content
    assert content == encoder.tokenizer.path.read_bytes()
    assert model["tokenizer_sha256"] == sha256(content).hexdigest()
    assert model["created"] == int(encoder.tokenizer.path.stat().st_mtime)
