from __future__ import annotations

import gc
from functools import partial
from weakref import ref

import numpy as np
import pytest

from bgem3.encoder import M3Encoder
from bgem3.errors import TextTooLongError
from bgem3.shared import SharedEncoder, load_shared, share


class Counting:
    """A real backend that notes how many sequences it was given."""

    def __init__(self, inner):
        self.inner, self.sequences = inner, 0

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def forward(self, sequences, heads):
        self.sequences += len(sequences)
        return self.inner.forward(sequences, heads)


@pytest.fixture
def encoder(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    encoder._backend = Counting(encoder._backend)
    yield encoder
    encoder.close()


def test_two_heads_cost_one_pass(encoder):
    shared = SharedEncoder(encoder).want("dense", "sparse")
    texts = ["a", "b", "a", "c"]
    dense = shared.encode(texts, "dense").dense
    sparse = shared.encode(texts, "sparse").sparse
    assert encoder._backend.sequences == 3  # each text once
    reference = encoder.encode(texts)
    np.testing.assert_allclose(dense, reference.dense, atol=1e-5)
    np.testing.assert_allclose(sparse.toarray(), reference.sparse.toarray(), atol=1e-5)


async def test_two_heads_cost_one_pass_in_async_code(encoder):
    shared = SharedEncoder(encoder).want("dense", "sparse")
    await shared.aencode(["x", "y"], "dense")
    await shared.aencode(["y", "x"], "sparse")
    assert encoder._backend.sequences == 2


async def test_a_text_that_is_too_long_is_named_by_its_place_among_all(checkpoint):
    shared = SharedEncoder(M3Encoder.from_pretrained(checkpoint, max_length=8, overflow="error"))
    shared.want("dense", "sparse").encode(["b"], "dense")
    texts = ["a", "a", "b", "the cat " * 8]  # of these "a" and the last one are encoded
    for call in (partial(shared.encode, head="dense"), shared.take):
        with pytest.raises(TextTooLongError, match=r"^texts\[3\]: \d+ tokens"):
            call(texts)
    for call in (partial(shared.aencode, head="dense"), shared.atake):
        with pytest.raises(TextTooLongError, match=r"^texts\[3\]: \d+ tokens"):
            await call(texts)
    shared.encoder.close()


def test_one_head_is_not_remembered(encoder):
    shared = SharedEncoder(encoder).want("dense")
    assert shared.encode(["a"], "dense").heads == ("dense",)
    shared.encode(["a"], "dense")
    assert encoder._backend.sequences == 2


def test_the_oldest_text_is_forgotten(encoder):
    shared = SharedEncoder(encoder, capacity=2).want("dense", "sparse")
    shared.encode(["a", "b", "c"], "dense")
    shared.encode(["c", "b"], "sparse")
    assert encoder._backend.sequences == 3
    shared.encode(["a"], "sparse")
    assert encoder._backend.sequences == 4


def test_no_texts(encoder):
    shared = SharedEncoder(encoder).want("dense", "sparse")
    assert shared.encode([], "sparse").sparse.shape == (0, encoder.vocab_size)


def test_one_model_a_process(checkpoint):
    options = {"model": str(checkpoint), "backend": "onnx"}
    first = load_shared(options)
    assert load_shared(dict(reversed(options.items()))) is first
    assert load_shared({**options, "max_length": 16}) is not first
    alive = ref(first)
    del first
    gc.collect()
    assert alive() is None


async def test_what_is_taken_is_forgotten(encoder):
    shared = SharedEncoder(encoder).want("dense", "sparse", "multi_vector")
    shared.encode(["a", "b", "c"], "dense")
    taken = shared.take(["c", "d", "c", "a"])
    assert encoder._backend.sequences == 4  # three remembered, one new
    reference = encoder.encode(["c", "d", "c", "a"])
    np.testing.assert_allclose(taken.dense, reference.dense, atol=1e-5)
    np.testing.assert_allclose(taken.sparse.toarray(), reference.sparse.toarray(), atol=1e-5)
    for one, other in zip(taken.multi_vector, reference.multi_vector, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    assert list(shared._memory) == ["b"]
    before = encoder._backend.sequences
    assert (await shared.atake(["b"])).heads == ("dense", "sparse", "multi_vector")
    assert encoder._backend.sequences == before
    assert shared._bytes == 0


def test_one_head_in_memory_is_not_enough_to_take_all(encoder):
    shared = SharedEncoder(encoder).want("dense", "sparse")
    shared.encode(["a"], "dense")
    assert shared.take(["a"]).heads == ("dense", "sparse", "multi_vector")
    assert encoder._backend.sequences == 2


def test_memory_is_bounded_by_bytes(encoder):
    shared = SharedEncoder(encoder, max_bytes=5000).want("dense", "sparse", "multi_vector")
    shared.encode([f"text {i}" for i in range(50)], "dense")
    assert 0 < len(shared._memory) < 50
    assert next(reversed(shared._memory)) == "text 49"
    assert 0 < held_bytes(shared) <= 5000


def test_a_result_is_counted_until_its_last_text_goes(encoder):
    shared = SharedEncoder(encoder, max_bytes=20_000).want("dense", "sparse", "multi_vector")
    for batch in range(6):
        shared.encode([f"text {batch} {i}" for i in range(10)], "dense")
        assert 0 < held_bytes(shared) <= 20_000
    assert held_bytes(shared) <= shared._bytes <= 20_000


def held_bytes(shared: SharedEncoder) -> int:
    """Count the arrays behind what is remembered, each once."""
    results = {id(embeddings): embeddings for embeddings, _ in shared._memory.values()}.values()
    return sum(
        one.dense.nbytes + one.sparse.data.nbytes + one.sparse.indices.nbytes + one.multi_vector.vectors.nbytes
        for one in results
    )


def test_an_encoder_has_one_shared_encoder(encoder):
    first = share(encoder)
    assert share(encoder, {"model": "mine"}) is first
    assert load_shared({"model": "mine"}) is first
