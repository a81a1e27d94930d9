"""The torch backend on an NVIDIA GPU: what it computes there, in any precision, is what a processor computes."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from bgem3.backends import attention, graphs, linear, norm
from bgem3.backends.torch import TorchBackend
from bgem3.checkpoint import load_checkpoint
from bgem3.encoder import M3Encoder
from bgem3.types import HEADS

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")

HALVES = ("bfloat16", "float16")
# largest difference of a number in unit vectors of 256, or in a weight
CLOSE = {"float32": 2e-5, "bfloat16": 0.08, "float16": 0.01}
LENGTHS = (100, 64, 63, 17, 16, 16, 9, 3, 2)
SEQUENCES = [np.array([0, *(5 + (np.arange(length - 2) * 7 + length) % 600), 2]) for length in LENGTHS]


@pytest.fixture(scope="module")
def made(checkpoint_factory):
    """Return a checkpoint with heads of 64, as the real one's."""
    return checkpoint_factory(hidden_size=256, layers=3, heads=4, intermediate=512, onnx=False, seed=5)


@pytest.fixture(scope="module")
def backends(made):
    loaded = load_checkpoint(made)
    return {name: TorchBackend(loaded, precision=name, device="cuda") for name in CLOSE}


@pytest.fixture(scope="module")
def exact(made):
    return TorchBackend(load_checkpoint(made))


def assert_close(got, expected, atol):
    for name in ("dense", "token_weights", "token_vectors"):
        one, other = getattr(got, name), getattr(expected, name)
        assert one.dtype == np.float32
        np.testing.assert_allclose(one, other, atol=atol, err_msg=name)
    assert np.einsum("ij,ij->i", got.dense, expected.dense).min() > 1 - atol / 10


@pytest.mark.parametrize("precision", CLOSE)
def test_heads_agree_with_a_processor(backends, exact, precision):
    backend = backends[precision]
    assert_close(backend.forward(SEQUENCES, HEADS), exact.forward(SEQUENCES, HEADS), CLOSE[precision])
    some = backend.forward(SEQUENCES, ("sparse",))
    assert some.dense is None
    assert some.token_vectors is None


@pytest.mark.parametrize("precision", HALVES)
def test_what_is_written_for_a_gpu_is_taken(backends, precision):
    model = backends[precision]._model
    assert isinstance(model.plan, attention.VariableLength)
    assert model.linear is linear.CudaLinear
    assert isinstance(model.layers[0].norm, norm.FusedNorm)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("which", range(len(attention.KERNELS)))
def test_every_kernel_attends_as_by_length(dtype, which):
    device = torch.device("cuda")
    qkv = torch.randn(sum(LENGTHS), 3 * 4 * 64, device=device, dtype=dtype)
    expected = attention.by_length(LENGTHS, device)(qkv, 4)
    try:
        got = attention.KERNELS[which](LENGTHS, device)(qkv, 4)
    except (ImportError, AttributeError) as error:
        pytest.skip(f"not installed: {error}")
    torch.testing.assert_close(got, expected, atol=0.02, rtol=0.02)


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03), (torch.float16, 4e-3)])
@pytest.mark.parametrize("size", [64, 96, 1024])
def test_fused_norm_and_products_agree_with_float64(dtype, close, size):
    random = torch.Generator("cuda").manual_seed(2)
    shapes = ((size, size), (size,), (700, size), (700, size), (size,), (size,))
    weight, bias, x, residual, scale, shift = (
        torch.randn(shape, generator=random, device="cuda").to(dtype) for shape in shapes
    )
    weight = weight * size**-0.5
    product = x.double() @ weight.double().T + bias.double()
    exact = torch.nn.functional.layer_norm(product + residual.double(), (size,), scale.double(), shift.double(), 1e-5)
    layer = linear.choose(torch.device("cuda"), dtype)(weight, bias)
    got = norm.FusedNorm(scale, shift, 1e-5).after(layer, x, residual)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, atol=close * 2, rtol=close)
    bent = product / 2 * (1 + torch.erf(product / 2**0.5))
    torch.testing.assert_close(layer.gelu(x).double(), bent, atol=close, rtol=close)


@pytest.mark.parametrize("precision", HALVES)
def test_graphs_agree_with_batches_again_and_again(made, precision):
    backend = TorchBackend(load_checkpoint(made), precision=precision, device="cuda")
    plain = TorchBackend(load_checkpoint(made), precision=precision, device="cuda")
    plain._graphs = None
    assert backend._graphs is not None
    lengths = [12, 100, 3, 16, 17, 12, 64, 2, 128, 12, 33]
    for length in lengths:
        one = [np.array([0, *(5 + np.arange(length - 2) * length % 600), 2])]
        assert_close(backend.forward(one, HEADS), plain.forward(one, HEADS), CLOSE[precision] / 2)
    assert set(backend._graphs._graphs) == {16, 32, 64, 128}
    assert all(backend._graphs._graphs.values()), "a graph could not be recorded"
    only = backend.forward(SEQUENCES[-1:], ("dense",))
    assert only.token_weights is None
    np.testing.assert_allclose(only.dense, plain.forward(SEQUENCES[-1:], ("dense",)).dense, atol=CLOSE[precision] / 2)


def test_a_forward_that_cannot_be_recorded_is_left_to_batches(backends):
    def refuses(ids, positions, ends, longest):
        if torch.cuda.is_current_stream_capturing():
            raise RuntimeError("not while recording")
        return {}

    refused = graphs.Graphs(refuses, torch.device("cuda"), 1)
    assert refused(np.array([0, 5, 2]), np.array([2, 3, 4]), frozenset(HEADS)) is None
    assert refused(np.zeros(4000, np.int64), np.zeros(4000, np.int64), frozenset(HEADS)) is None
    assert backends["bfloat16"].forward(SEQUENCES, HEADS).is_finite()


def test_threads_get_their_own_results(backends):
    backend = backends["bfloat16"]
    batches = [SEQUENCES[start : start + 3] for start in range(7)] + [[one] for one in SEQUENCES]
    expected = [backend.forward(batch, HEADS) for batch in batches]
    with ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda batch: backend.forward(batch, HEADS), batches * 8))
    for outputs, wanted in zip(got, expected * 8, strict=True):
        assert_close(outputs, wanted, 5e-3)


def test_encoder_keeps_the_order_through_many_batches(made):
    words = ("cat", "sat", "mat", "river", "house")
    texts = [" ".join(words[(i + j) % 5] for j in range(1 + i * 7 % 40)) for i in range(1500)]
    cpu = M3Encoder.from_pretrained(made, backend="torch", precision="float32", device="cpu")
    gpu = M3Encoder.from_pretrained(made, backend="torch", precision="float32", device="cuda")
    gpu._backend.batch_tokens = 900
    wanted = cpu.encode(texts)
    for heads in (HEADS, ("dense", "sparse")):
        got = gpu.encode(texts, heads=heads)
        np.testing.assert_allclose(got.dense, wanted.dense, atol=1e-4)
        assert abs(got.sparse - wanted.sparse).max() < 1e-4
    np.testing.assert_allclose(gpu.encode(texts).multi_vector.vectors, wanted.multi_vector.vectors, atol=1e-4)
    assert gpu.describe()["device"] == "cuda"


def test_a_batch_beyond_the_memory_is_halved(backends):
    backend = backends["bfloat16"]
    many = SEQUENCES * 600
    many = sorted(many, key=len, reverse=True)
    expected = backend.forward(many, HEADS)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    try:
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 160e6) / total)
        got = backend.forward(many, HEADS)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.memory_stats()["num_ooms"] > 0
    assert_close(got, expected, 0.02)
