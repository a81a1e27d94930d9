"""The remote backend over real servers on loopback: the same results as the model in this process, and named errors."""

import asyncio
import json
import socket
import time
from functools import partial

import numpy as np
import pytest

from bgem3 import HybridIndex, M3Encoder, MemoryStore
from bgem3.errors import (
    BackendError,
    CheckpointNotFoundError,
    InvalidInputError,
    InvalidTextError,
    RemoteAccessError,
    RemoteConnectionError,
    SettingsWarning,
)
from tests.support.servers import Scripted, serve_encoder, vllm_answers

TEXTS = ["The river rises in the mountains.", "", "a", "水", "word " * 90, "river river 7 🚀"]


@pytest.fixture(scope="module")
def local(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, backend="torch")
    yield encoder
    encoder.close()


@pytest.fixture(scope="module")
def ours(checkpoint, local):
    with serve_encoder(checkpoint, local) as url:
        yield url


@pytest.fixture
def vllm(checkpoint, local):
    with Scripted(vllm_answers(local, str(checkpoint))) as server:
        yield server


@pytest.fixture(params=["bgem3", "vllm"])
def connect(request, checkpoint):
    """Return a function that makes an encoder over each kind of server."""
    if request.param == "bgem3":
        return partial(M3Encoder.from_pretrained, base_url=request.getfixturevalue("ours"))
    return partial(M3Encoder.from_pretrained, checkpoint, base_url=request.getfixturevalue("vllm").url)


def assert_same(got, expected):
    assert got.heads == expected.heads
    np.testing.assert_allclose(got.dense, expected.dense, atol=1e-5)
    np.testing.assert_array_equal(got.sparse.indptr, expected.sparse.indptr)
    np.testing.assert_array_equal(got.sparse.indices, expected.sparse.indices)
    np.testing.assert_allclose(got.sparse.data, expected.sparse.data, atol=1e-5)
    np.testing.assert_array_equal(got.multi_vector.offsets, expected.multi_vector.offsets)
    np.testing.assert_allclose(got.multi_vector.vectors, expected.multi_vector.vectors, atol=1e-5)


def test_all_heads_are_those_of_the_model_here(connect, local):
    remote = connect()
    assert_same(remote.encode(TEXTS), local.encode(TEXTS))
    assert (remote.backend, remote.dim, remote.multi_dim) == ("remote", local.dim, local.multi_dim)
    assert remote.fingerprint == local.fingerprint


def test_windows_are_cut_here(connect, local):
    lengths = {"max_length": 32, "window_overlap": 4}
    here = M3Encoder(local._model, local._backend, connect(**lengths).lengths)
    assert_same(connect(**lengths).encode(TEXTS), here.encode(TEXTS))


def test_many_texts_keep_their_order(connect, local):
    texts = [f"text {number} " * (1 + number % 9) for number in range(700)]
    np.testing.assert_allclose(
        connect().encode(texts, heads=("dense",)).dense, local.encode(texts, heads=("dense",)).dense, atol=1e-5
    )


def test_no_text(connect):
    assert len(connect().encode([])) == 0


async def test_concurrent_callers(connect, local):
    remote = connect()
    parts = await asyncio.gather(*(remote.aencode([text]) for text in TEXTS))
    for text, part in zip(TEXTS, parts, strict=True):
        assert_same(part, local.encode([text]))
    remote.close()


def test_what_needs_the_tokenizer_alone(connect, local):
    remote = connect()
    assert (remote.token_counts(TEXTS) != local.token_counts(TEXTS)).nnz == 0
    assert remote.vector_tokens(TEXTS[0]) == local.vector_tokens(TEXTS[0])
    with pytest.raises(InvalidTextError, match=r"texts\[1\]: not valid Unicode"):
        remote.encode(["fine", "\ud800"])


def test_an_index_made_there_opens_here(connect, local):
    index = HybridIndex(connect(), store := MemoryStore())
    index.add(TEXTS)
    with pytest.warns(SettingsWarning, match="backend='remote', now 'torch'"):
        assert HybridIndex(local, store).search("river", k=1)[0].text in TEXTS


def test_one_round_trip_for_all_heads(local, checkpoint):
    with serve_encoder(checkpoint, local) as url, Scripted(lambda path, body: {}) as between:
        between.answer = lambda path, body: _forward(url, path, body)
        remote = M3Encoder.from_pretrained(base_url=between.url, backend="remote")
        assert_same(remote.encode(TEXTS), local.encode(TEXTS))
        assert len(between.posts()) == 1


def _forward(url, path, body):
    import httpx

    return httpx.request("GET" if body is None else "POST", url + path, json=body).json()


def test_the_three_tasks_of_vllm(vllm, checkpoint):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=f"{vllm.url}/v1/")
    remote.encode(TEXTS)
    assert sorted(body["task"] for body in vllm.posts()) == ["embed", "token_classify", "token_embed"]
    remote.encode(TEXTS, heads=("dense",))
    assert len(vllm.posts()) == 4
    assert remote.lengths.max_length == min(512, remote._model.positions)


def test_lists_instead_of_base64(checkpoint, local):
    with Scripted(vllm_answers(local, "bge", encoding=False)) as server:
        assert_same(M3Encoder.from_pretrained(checkpoint, base_url=server.url).encode(TEXTS), local.encode(TEXTS))


def test_vllm_needs_no_weights_here(vllm, checkpoint, hub, local):
    hub.add("ours/m3", checkpoint)
    remote = M3Encoder.from_pretrained("ours/m3", base_url=vllm.url)
    assert remote.fingerprint == local.fingerprint
    assert not [one.path for one in hub.requests if one.path.endswith((".safetensors", ".bin"))]


# what a user can get wrong, and what a server can


def test_nobody_there(checkpoint):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(RemoteConnectionError, match=r"cannot be reached .*Fix: start it \(bgem3 serve\), or check"):
        M3Encoder.from_pretrained(checkpoint, base_url=url)


def test_a_password_in_the_address_is_not_shown():
    with pytest.raises(RemoteConnectionError, match="http://127.0.0.1:9: cannot be reached") as caught:
        M3Encoder.from_pretrained(base_url="http://user:s3cret@127.0.0.1:9", timeout=2)
    assert "s3cret" not in str(caught.value)


def test_a_server_that_dies(local, checkpoint):
    with serve_encoder(checkpoint, local) as url:
        remote = M3Encoder.from_pretrained(base_url=url)
    with pytest.raises(ConnectionError, match="cannot be reached"):
        remote.encode(["river"])


def test_a_slow_server(vllm, checkpoint):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url, timeout=2)
    vllm.delay = 4.0
    with pytest.raises(RemoteConnectionError, match="no answer within 2 s. Fix: a higher timeout="):
        remote.encode(["river"], heads=("dense",))
    assert len(vllm.posts()) == 1


def test_an_answer_that_trickles_is_too_slow(vllm, checkpoint):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url, timeout=1)
    vllm.trickle = 0.3
    started = time.monotonic()
    with pytest.raises(RemoteConnectionError, match="no answer within 1 s"):
        remote.encode(["river"], heads=("dense",))
    assert time.monotonic() - started < 3
    assert len(vllm.posts()) == 1


def test_the_key(local, checkpoint, monkeypatch):
    with serve_encoder(checkpoint, local, api_keys=("secret",)) as url:
        for wrong in (None, "other"):
            with pytest.raises(RemoteAccessError, match="refuses the key .*Fix: api_key=") as caught:
                M3Encoder.from_pretrained(base_url=url, api_key=wrong)
            assert "other" not in str(caught.value)
        assert "secret" not in repr(M3Encoder.from_pretrained(base_url=url, api_key="secret").describe())
        monkeypatch.setenv("BGEM3_API_KEY", "secret")
        assert len(M3Encoder.from_pretrained(base_url=url).encode(["river"])) == 1
    with pytest.raises(InvalidInputError, match="api_key: holds characters"):
        M3Encoder.from_pretrained(base_url=url, api_key="schlüssel")


def test_a_busy_server_is_asked_again(vllm, checkpoint, local):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url)
    vllm.script = [(429, {"Retry-After": "0"}, b"{}"), (503, {}, b"loading")]
    got = remote.encode(["river"], heads=("dense",))
    np.testing.assert_allclose(got.dense, local.encode(["river"], heads=("dense",)).dense, atol=1e-5)
    assert len(vllm.posts()) == 3


def test_a_server_that_asks_for_an_hour(vllm, checkpoint):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url)
    vllm.script = [(429, {"Retry-After": "3600"}, b'{"error": {"message": "too much"}}')]
    with pytest.raises(RemoteConnectionError, match=r"answered 429 .*\(too much\)"):
        remote.encode(["river"], heads=("dense",))
    assert len(vllm.posts()) == 1


@pytest.mark.parametrize(
    "content",
    [
        b"<html>",
        b"[]",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"index": 1, "data": "AAAA"}]}',
        b'{"data": [{"index": 0, "data": "AAAA"}]}',
        b'{"data": [{"index": 0, "data": "?"}]}',
        b'{"data": [{"index": 0, "data": ["x"]}]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"index": "0", "data": [1]}]}',
        b'{"data": 7}',
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_a_malformed_answer(vllm, checkpoint, content):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url)
    for headers in ({}, {"Content-Encoding": "gzip"}):
        vllm.script = [(200, headers, content)]
        with pytest.raises(BackendError, match=r"/pooling: an answer that cannot be read, .*Fix: base_url="):
            remote.encode(["river"], heads=("dense",))


def test_numbers_that_are_not_finite(vllm, checkpoint, local):
    remote = M3Encoder.from_pretrained(checkpoint, base_url=vllm.url)
    item = {"index": 0, "data": [float("nan")] * local.dim}
    vllm.script = [(200, {}, json.dumps({"data": [item]}).encode())]
    with pytest.raises(BackendError, match="not finite"):
        remote.encode(["river"], heads=("dense",))


def test_another_width(vllm, checkpoint_factory):
    other = checkpoint_factory(hidden_size=32, heads=2, seed=9)
    remote = M3Encoder.from_pretrained(other, base_url=vllm.url)
    with pytest.raises(BackendError, match=r"data of text 0 has \d+ numbers, expected 1 x 32"):
        remote.encode(["river"], heads=("dense",))


def test_another_model(ours, vllm, checkpoint_factory):
    with pytest.raises(BackendError, match=r"model: .* serves .*, got 'BAAI/bge-m3'. Fix: leave model out"):
        M3Encoder.from_pretrained("BAAI/bge-m3", base_url=ours)
    vllm.answer = lambda path, body: {"data": [{"id": "a", "owned_by": "vllm"}, {"id": "b", "owned_by": "vllm"}]}
    with pytest.raises(BackendError, match="serves a, b, got .*Fix: one of these"):
        M3Encoder.from_pretrained(checkpoint_factory(), base_url=vllm.url)


def test_neither_of_the_two(vllm):
    vllm.answer = lambda path, body: {"data": [{"id": "text-embedding-3-small", "owned_by": "system"}]}
    with pytest.raises(BackendError, match="serves text-embedding-3-small, but neither as bgem3 serve nor as vLLM"):
        M3Encoder.from_pretrained(base_url=vllm.url)


def test_a_changed_tokenizer_is_not_kept(ours, vllm):
    import httpx

    described = httpx.get(f"{ours}/v1/models").json()
    described["data"][0]["tokenizer_sha256"] = "0" * 64
    vllm.answer = lambda path, body: described if path == "/v1/models" else {"not": "a tokenizer"}
    with pytest.raises(BackendError, match="/v1/tokenizer: .*another file than its hash says"):
        M3Encoder.from_pretrained(base_url=vllm.url)
    described["data"][0]["tokenizer_sha256"] = "../../x"
    with pytest.raises(BackendError, match="tokenizer_sha256 is no hash"):
        M3Encoder.from_pretrained(base_url=vllm.url)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"backend": "remote"}, "base_url: backend='remote' needs one"),
        ({"base_url": "http://x", "backend": "onnx"}, "beside backend='onnx'"),
        ({"base_url": "http://x", "num_threads": 2}, "num_threads: the server at base_url decides it"),
        ({"base_url": "http://x", "device": "cuda"}, "device: the server at base_url decides it"),
        ({"base_url": "localhost:8080"}, "base_url: got 'localhost:8080'"),
        ({"base_url": "http://"}, "base_url: got 'http:'"),
        ({"base_url": "http://x:y"}, "base_url: got 'http://x:y'"),
        ({"base_url": "http://x", "timeout": 0}, "timeout: got 0, expected seconds above 0"),
    ],
)
def test_options_that_cannot_be(options, said):
    with pytest.raises(InvalidInputError, match=said):
        M3Encoder.from_pretrained(**options)


def test_a_precision_the_server_does_not_compute_in(connect):
    with pytest.raises(
        BackendError, match=r"computes in (float32|bfloat16|unknown), got 'int8'. Fix: precision='auto'"
    ):
        connect(precision="int8")


def test_a_folder_that_is_not_there(vllm, tmp_path):
    with pytest.raises(CheckpointNotFoundError, match="no such folder"):
        M3Encoder.from_pretrained(tmp_path / "none", base_url=vllm.url)
