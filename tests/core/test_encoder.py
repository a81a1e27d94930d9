"""The encoder's promises: order, independence of batch and thread, windows, async callers, errors."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Semaphore

import numpy as np
import pytest

from bgem3.backends.torch import TorchBackend
from bgem3.checkpoint import load_checkpoint
from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.errors import (
    BackendError,
    HeadNotEncodedError,
    InvalidInputError,
    InvalidTextError,
    TextTooLongError,
    TruncationWarning,
)
from bgem3.index_settings import settings_of
from bgem3.lengths import Lengths
from tests.support.heartbeat import heartbeat

TEXTS = [
    "",
    "a",
    "the cat sat on the mat",
    "猫坐在垫子上",
    "مرحبا بالعالم",
    "😀 🎉",
    "the the the the",
    "Part KX-220B.",
]


@pytest.fixture(scope="module", params=["onnx", "torch"])
def encoder(request: pytest.FixtureRequest, checkpoint: Path) -> Iterator[M3Encoder]:
    encoder = M3Encoder.from_pretrained(checkpoint, backend=request.param)
    yield encoder
    encoder.close()


def test_shapes_and_norms(encoder):
    out = encoder.encode(TEXTS)
    assert out.dense.shape == (len(TEXTS), encoder.dim)
    assert out.dense.dtype == np.float32
    assert out.sparse.shape == (len(TEXTS), encoder.vocab_size)
    assert out.sparse.dtype == np.float32
    assert out.multi_vector.dim == encoder.multi_dim
    np.testing.assert_allclose(np.linalg.norm(out.dense, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(out.multi_vector.vectors, axis=1), 1, atol=1e-5)


def test_an_engine_that_fails_says_what_to_do(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, backend="onnx")
    with pytest.raises(BackendError, match=r"failed on a batch .*Fix: free memory or a lower max_length="):
        encoder._backend.forward([np.array([0, 10**6])], ("dense",))
    encoder.close()


def test_one_vector_per_token_but_the_first(encoder):
    out = encoder.encode(TEXTS)
    expected = [len(ids) - 1 for ids in encoder.tokenizer.encode(TEXTS)]
    assert out.multi_vector.lengths.tolist() == expected
    assert expected[0] == 1  # the empty text keeps its </s>


def test_special_tokens_have_no_lexical_weight(encoder):
    rows = encoder.encode([*TEXTS, "a <pad> b </s> c"]).sparse
    assert rows[:, encoder.tokenizer.special_ids].nnz == 0
    assert rows[[0]].nnz == 0


def test_result_does_not_depend_on_the_batch(encoder):
    together = encoder.encode(TEXTS * 20)
    for position, text in enumerate(TEXTS):
        alone = encoder.encode([text])
        np.testing.assert_allclose(together.dense[position], alone.dense[0], atol=1e-5)
        np.testing.assert_allclose(together.multi_vector[position], alone.multi_vector[0], atol=1e-5)
        np.testing.assert_allclose(together.sparse[[position]].toarray(), alone.sparse[[0]].toarray(), atol=1e-5)


def test_a_stream_gives_the_same_in_parts(encoder):
    texts = [f"{text} {number}" for number in range(40) for text in TEXTS]
    parts = list(encoder.stream(iter(texts), tokens=200))
    assert len(parts) > 3
    whole, joined = encoder.encode(texts), M3Embeddings.concatenate(parts)
    np.testing.assert_allclose(joined.dense, whole.dense, atol=1e-5)
    np.testing.assert_allclose(joined.multi_vector.vectors, whole.multi_vector.vectors, atol=1e-5)
    np.testing.assert_allclose((joined.sparse - whole.sparse).toarray(), 0, atol=1e-5)


def test_runs_side_by_side_give_the_same_in_order(encoder, monkeypatch):
    """What `encode` does for a GPU, which the tokenizer must not keep waiting, has no need of one."""
    texts = [f"{TEXTS[i % len(TEXTS)]} {i}" for i in range(1200)]
    heads = ("dense", "sparse")
    expected = encoder.encode(texts, heads=heads)
    monkeypatch.setattr(encoder, "device", "cuda")
    monkeypatch.setattr(encoder._backend, "batch_tokens", 500)
    monkeypatch.setattr(encoder._backend, "concurrency", 3)
    monkeypatch.setattr(encoder, "_gate", Semaphore(3))
    got = encoder.encode(texts, heads=heads)
    np.testing.assert_allclose(got.dense, expected.dense, atol=1e-5)
    np.testing.assert_allclose(got.sparse.toarray(), expected.sparse.toarray(), atol=1e-5)
    with pytest.raises(InvalidTextError, match=r"texts\[1100\]"):
        encoder.encode([*texts[:1100], 3], heads=heads)


def test_a_stream_reads_only_what_it_needs(encoder):
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield f"text number {taken}"

    first = next(encoder.stream(endless(), heads=("dense",), tokens=100))
    assert len(first) < 200
    assert taken <= 4 * 64


def test_a_stream_counts_positions_from_its_first_text(encoder):
    parts = encoder.stream([*["fine"] * 200, "\ud800"], heads=("dense",), tokens=10)
    with pytest.raises(InvalidTextError, match=r"texts\[200\]: not valid Unicode"):
        list(parts)


def test_bad_streams_are_refused_at_once(encoder):
    with pytest.raises(InvalidInputError, match=r"Fix: pass \[text\]"):
        encoder.stream("not a list")
    with pytest.raises(InvalidInputError, match="tokens: got 0, expected at least 1"):
        encoder.stream(["a"], tokens=0)


def test_fewer_heads(encoder):
    out = encoder.encode(TEXTS, heads=("dense",))
    assert out.heads == ("dense",)
    with pytest.raises(HeadNotEncodedError, match="sparse: this head was not encoded"):
        _ = out.sparse


def test_no_texts_give_empty_results(encoder):
    out = encoder.encode([])
    assert len(out) == 0
    assert out.dense.shape == (0, encoder.dim)
    assert out.sparse.shape == (0, encoder.vocab_size)
    assert list(out.multi_vector) == []


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["a", 3], r"texts\[1\]: expected a str, got int"),
        (["a", "b", "\ud800"], r"texts\[2\]: not valid Unicode"),
        (["a", None], r"texts\[1\]: expected a str, got NoneType"),
    ],
)
def test_bad_text_names_its_position(encoder, texts, message):
    with pytest.raises(InvalidTextError, match=message):
        encoder.encode(texts)


def test_one_string_is_refused(encoder):
    with pytest.raises(InvalidInputError, match=r"Fix: pass \[text\]"):
        encoder.encode("not a list")


@pytest.mark.parametrize("texts", [{"a", "b"}, {"a": 1}, {"a": 1}.keys()])
def test_what_has_no_order_is_refused(encoder, texts):
    for call in (encoder.encode, encoder.token_counts):
        with pytest.raises(
            InvalidInputError, match=f"texts: expected a sequence of strings, got {type(texts).__name__}"
        ):
            call(texts)


def test_threads_with_different_lengths_get_their_own_ids(encoder):
    text = "one two three four five six seven eight nine ten " * 10
    wanted = [8, 12, 16, 24, 32, 40, 48, 64] * 4
    alone = {n: encoder.encode([text], heads=("multi_vector",), max_length=n).multi_vector.lengths[0] for n in wanted}

    def run(length: int) -> int:
        return int(encoder.encode([text], heads=("multi_vector",), max_length=length).multi_vector.lengths[0])

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(run, wanted)) == [alone[n] for n in wanted]


def test_windows_join_by_mean_maximum_and_concatenation(checkpoint):
    size, overlap = 12, 3
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=size, window_overlap=overlap)
    text = "one two three four five six seven eight nine ten " * 4
    ids = encoder.tokenizer.encode([text])[0]
    content = ids[1:-1]
    step = size - 2 - overlap
    starts = range(0, len(content) - overlap, step)
    assert len(starts) > 2
    pieces = [np.concatenate([ids[:1], content[s : s + size - 2], ids[-1:]]) for s in starts]
    parts = [encoder._backend.forward([piece], ("dense", "sparse", "multi_vector")) for piece in pieces]

    out = encoder.encode(["short", text])

    mean = np.sum([part.dense[0] for part in parts], axis=0)
    np.testing.assert_allclose(out.dense[1], mean / np.linalg.norm(mean), atol=1e-5)
    np.testing.assert_allclose(out.multi_vector[1], np.concatenate([p.token_vectors for p in parts]), atol=1e-5)
    expected = np.zeros(encoder.vocab_size, dtype=np.float32)
    for piece, part in zip(pieces, parts, strict=True):
        np.maximum.at(expected, piece, part.token_weights)
    expected[encoder.tokenizer.special_ids] = 0
    np.testing.assert_allclose(out.sparse[[1]].toarray()[0], expected, atol=1e-5)


def test_a_shorter_length_of_one_call_is_read_in_windows_as_usual(checkpoint):
    text = "the committee met in the town hall and spoke about roads " * 40
    usual = M3Encoder.from_pretrained(checkpoint, max_length=64).encode([text])
    here = M3Encoder.from_pretrained(checkpoint).encode([text], max_length=64)
    assert len(here.multi_vector[0]) == len(usual.multi_vector[0])
    np.testing.assert_allclose(here.dense, usual.dense, atol=1e-5)
    assert Lengths.resolve(8192, None, "window", None, None).shortened(64).window_overlap == 8
    assert Lengths.resolve(8192, None, "window", 512, 256).shortened(256).window_overlap == 128


def test_reading_as_an_index_was_made(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    settings = settings_of(M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="error"), "m3")
    other = encoder.reading_as(settings)
    with pytest.raises(TextTooLongError, match="max_length is 8"):
        other.encode(["long " * 50])
    assert other._gate is encoder._gate
    assert encoder.reading_as(settings_of(encoder, "m3")) is encoder


def test_truncate_warns_with_the_count(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="truncate")
    long = "one two three four five six seven eight nine ten"
    with pytest.warns(TruncationWarning, match="2 of 3 texts were cut at max_length=8 tokens"):
        out = encoder.encode([long, "a", long])
    assert out.multi_vector.lengths[0] == 7
    assert encoder.token_counts([long]).sum() == 6


def test_error_names_the_long_text(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="error")
    with pytest.raises(TextTooLongError, match=r"texts\[1\]: \d+ tokens, max_length is 8"):
        encoder.encode(["a", "one two three four five six seven eight nine ten"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_length": 2}, "max_length: got 2, expected 3 to"),
        ({"max_length": 10**6}, "the most that this encoder reads"),
        ({"max_length": 16, "window": 32}, "window: got 32, expected 3 to max_length=16"),
        ({"window": 16, "window_overlap": 14}, "window_overlap: got 14, expected 0 to 13"),
    ],
)
def test_options_out_of_range(checkpoint, options, message):
    with pytest.raises(InvalidInputError, match=message):
        M3Encoder.from_pretrained(checkpoint, **options)


def test_a_precision_the_backend_lacks(checkpoint):
    with pytest.raises(BackendError, match="onnx has float32, int8, int4, got 'float16'. Fix: backend='torch'"):
        M3Encoder.from_pretrained(checkpoint, backend="onnx", precision="float16")
    with pytest.raises(BackendError, match="float16 is for GPUs"):
        M3Encoder.from_pretrained(checkpoint, backend="torch", precision="float16")


def test_a_precision_the_processor_lacks(checkpoint, monkeypatch):
    monkeypatch.setattr("bgem3.backends.choice.has_bfloat16", lambda: False)
    with pytest.raises(BackendError, match="this processor has no bfloat16.*Fix: precision='int8'"):
        M3Encoder.from_pretrained(checkpoint, backend="torch", precision="bfloat16")


@pytest.mark.parametrize(
    ("bfloat16", "avx512", "taken"),
    [
        (True, True, ("torch", "bfloat16")),
        (True, False, ("torch", "bfloat16")),
        (False, True, ("torch", "float32")),
        (False, False, ("onnx", "float32")),
    ],
)
def test_auto_takes_what_is_fastest_on_the_processor(checkpoint, monkeypatch, bfloat16, avx512, taken):
    monkeypatch.setattr("bgem3.backends.choice.has_bfloat16", lambda: bfloat16)
    monkeypatch.setattr("bgem3.backends.choice.has_avx512", lambda: avx512)
    encoder = M3Encoder.from_pretrained(checkpoint)
    assert (encoder.backend, encoder.precision) == taken


def test_a_device_onnxruntime_lacks(checkpoint):
    with pytest.raises(BackendError, match="device: onnxruntime has .*got 'tensorrt'. Fix: device='cpu'"):
        M3Encoder.from_pretrained(checkpoint, backend="onnx", precision="float32", device="tensorrt")


def test_bfloat16_is_close(checkpoint):
    files = load_checkpoint(checkpoint)
    exact = M3Encoder.from_pretrained(checkpoint, backend="torch", precision="float32")
    rounded = M3Encoder(files, TorchBackend(files, precision="bfloat16"), exact.lengths).encode(TEXTS)
    assert np.sum(exact.encode(TEXTS).dense * rounded.dense, axis=1).min() > 0.99


def test_token_counts(encoder):
    counts = encoder.token_counts(["the cat", "", "the the the"])
    ids = encoder.tokenizer.encode(["the"])[0][1:-1]
    assert counts.shape == (3, encoder.vocab_size)
    assert counts[[1]].nnz == 0
    assert counts[[2]].toarray()[0][ids[-1]] >= 3


def test_describe_tells_what_runs(encoder, checkpoint):
    facts = encoder.describe()
    assert facts["model"] == str(checkpoint)
    assert facts["backend"] == encoder.backend
    assert facts["fingerprint"] == encoder.fingerprint
    assert facts["overflow"] == "window"


def test_fingerprint_is_the_same_for_every_backend(checkpoint):
    prints = {M3Encoder.from_pretrained(checkpoint, backend=name).fingerprint for name in ("onnx", "torch", "flag")}
    assert len(prints) == 1


class SlowBackend:
    """A real backend that takes its time and counts its calls."""

    def __init__(self, inner, seconds):
        self.inner, self.seconds, self.calls = inner, seconds, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def forward(self, sequences, heads):
        self.calls += 1
        time.sleep(self.seconds)
        return self.inner.forward(sequences, heads)


async def test_concurrent_callers_share_batches(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    encoder._backend = spy = SlowBackend(encoder._backend, 0.05)
    texts = [f"text number {n}" for n in range(50)]
    results = await asyncio.gather(*(encoder.aencode([text]) for text in texts))
    assert spy.calls <= 3  # the first caller alone, the others while it ran
    whole = encoder.encode(texts)
    for position, result in enumerate(results):
        np.testing.assert_allclose(result.dense[0], whole.dense[position], atol=1e-5)
    encoder.close()


async def test_an_error_reaches_its_caller_only(encoder):
    good, bad, other = await asyncio.gather(
        encoder.aencode(["good"]), encoder.aencode(["\ud800"]), encoder.aencode(["other"]), return_exceptions=True
    )
    assert isinstance(bad, InvalidTextError)
    assert len(good) == len(other) == 1


async def test_a_warning_made_an_error_reaches_its_caller_only(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint, overflow="truncate", max_length=8)
    encoder._backend = SlowBackend(encoder._backend, 0.05)
    first = asyncio.create_task(encoder.aencode(["first"]))
    await asyncio.sleep(0.01)  # the others wait together
    with warnings.catch_warnings():
        warnings.simplefilter("error", TruncationWarning)
        results = await asyncio.gather(
            first, *(encoder.aencode([text]) for text in ("good", "long " * 50, "other")), return_exceptions=True
        )
    assert [type(one).__name__ for one in results] == [
        "M3Embeddings",
        "M3Embeddings",
        "TruncationWarning",
        "M3Embeddings",
    ]
    encoder.close()
    with pytest.raises(BackendError, match="encoder: closed"):
        await encoder.aencode(["late"])


async def test_cancelling_one_caller_harms_no_other(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    encoder._backend = SlowBackend(encoder._backend, 0.05)
    tasks = [asyncio.create_task(encoder.aencode([f"text {n}"])) for n in range(10)]
    await asyncio.sleep(0.01)
    tasks[3].cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[3], asyncio.CancelledError)
    assert all(len(result) == 1 for n, result in enumerate(results) if n != 3)
    encoder.close()


async def test_the_event_loop_keeps_ticking(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    encoder._backend = SlowBackend(encoder._backend, 0.2)
    async with heartbeat():
        await encoder.aencode([f"text {n}" for n in range(200)])
    encoder.close()


@pytest.mark.parametrize("backend", ["onnx", "torch", "openvino"])
def test_a_query_is_one_forward_pass_from_the_first_call_on(checkpoint, backend):
    encoder = M3Encoder.from_pretrained(checkpoint, backend=backend)
    forward, calls = encoder._backend.forward, []
    encoder._backend.forward = lambda sequences, heads: calls.append(len(sequences)) or forward(sequences, heads)
    for _ in range(3):
        encoder.encode(["Where does the river rise?"])
    assert calls == [1, 1, 1]
