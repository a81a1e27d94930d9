"""What happens where a device's memory or a number's range ends, on real modules."""

from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from bgem3.backends.packing import positions
from bgem3.backends.torch import TorchBackend
from bgem3.checkpoint import load_checkpoint
from bgem3.errors import BackendError, PrecisionWarning
from bgem3.types import HEADS

SEQUENCES = [np.array([0, *range(5, 5 + length), 2]) for length in (30, 20, 12, 9, 3)]


def assert_same(got, expected, atol):
    np.testing.assert_allclose(got.dense, expected.dense, atol=atol)
    np.testing.assert_allclose(got.token_weights, expected.token_weights, atol=atol)
    np.testing.assert_allclose(got.token_vectors, expected.token_vectors, atol=atol)


class Small(torch.nn.Module):
    """A device for `most` tokens: the model, and the error that torch raises where more do not fit."""

    def __init__(self, model, most):
        super().__init__()
        self.model, self.most, self.seen = model, most, []

    def forward(self, ids, positions, lengths):
        self.seen.append(len(ids))
        if len(ids) > self.most:
            raise torch.cuda.OutOfMemoryError(f"Tried to allocate {len(ids)} GiB")
        return self.model(ids, positions, lengths)


def test_a_batch_that_does_not_fit_is_halved(checkpoint):
    backend = TorchBackend(load_checkpoint(checkpoint))
    expected = backend.forward(SEQUENCES, HEADS)
    backend._model = small = Small(backend._model, most=35)
    assert_same(backend.forward(SEQUENCES, HEADS), expected, 1e-6)
    # 84 tokens; 32 + 22, each alone; 14 + 11 + 5 fit
    assert small.seen == [84, 54, 32, 22, 30]
    some = backend.forward(SEQUENCES, ("sparse",))
    assert some.dense is None
    np.testing.assert_allclose(some.token_weights, expected.token_weights, atol=1e-6)


def test_one_text_that_does_not_fit(checkpoint):
    backend = TorchBackend(load_checkpoint(checkpoint))
    backend._model = Small(backend._model, most=10)
    with pytest.raises(
        BackendError, match=r"no memory left for one text of 32 tokens \(Tried .*Fix: a lower max_length="
    ):
        backend.forward(SEQUENCES, HEADS)


def test_one_text_is_tried_again_when_no_other_batch_is_in_flight(checkpoint):
    backend = TorchBackend(load_checkpoint(checkpoint))
    expected = backend.forward(SEQUENCES[:1], HEADS)
    backend._streams = SimpleQueue()
    for _ in range(3):
        backend._streams.put(None)  # stands for the default stream
    other = backend._streams.get()
    model, left = backend._model, []

    def full_at_first(ids, positions, lengths):
        left.append(backend._streams.qsize())
        if len(left) == 1:
            raise torch.cuda.OutOfMemoryError("Tried to allocate 1 GiB")
        return model(ids, positions, lengths)

    backend._model = full_at_first
    with ThreadPoolExecutor(1) as pool:
        tried = pool.submit(backend.forward, SEQUENCES[:1], HEADS)
        with pytest.raises(TimeoutError):
            tried.result(0.3)
        backend._streams.put(other)
        assert_same(tried.result(10), expected, 1e-6)
    assert left == [1, 0]
    assert backend._streams.qsize() == 3


def test_another_error_is_not_taken_for_a_full_memory(checkpoint):
    backend = TorchBackend(load_checkpoint(checkpoint))
    wrong = [np.array([0, 10**6, 2]), SEQUENCES[0]]
    with pytest.raises((BackendError, IndexError), match="index") as caught:
        backend.forward(wrong, HEADS)
    assert "memory" not in str(caught.value)


@pytest.fixture(scope="module")
def loud(checkpoint_factory):
    """Return a checkpoint whose inner activations are beyond 65,504, float16's largest number."""
    folder = checkpoint_factory(seed=3)
    weights = load_file(folder / "model.safetensors")
    weights["encoder.layer.0.intermediate.dense.weight"] *= 2.0**18
    weights["encoder.layer.0.output.dense.weight"] *= 2.0**-18
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return load_checkpoint(folder)


def test_what_float16_cannot_hold_is_computed_again_in_float32(loud):
    half = TorchBackend(loud, precision="float16")
    with pytest.warns(PrecisionWarning, match="5 texts gave a number that is not finite in float16"):
        got = half.forward(SEQUENCES, HEADS)
    assert_same(got, TorchBackend(loud).forward(SEQUENCES, HEADS), 1e-6)


def test_what_float16_can_hold_stays(checkpoint):
    loaded = load_checkpoint(checkpoint)
    got = TorchBackend(loaded, precision="float16").forward(SEQUENCES, HEADS)
    assert_same(got, TorchBackend(loaded).forward(SEQUENCES, HEADS), 0.02)


def test_positions_count_what_is_no_padding_in_each_sequence():
    sequences = [np.array([0, 7, 1, 8, 2]), np.array([1, 1, 9]), np.array([0, 2])]
    got = positions(np.concatenate(sequences), np.array([5, 3, 2]), 1)
    assert got.tolist() == [2, 3, 1, 4, 5, 1, 1, 2, 2, 3]
