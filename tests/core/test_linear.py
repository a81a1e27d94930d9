"""Packed linear layers give what torch's own functions give."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from bgem3.backends import linear

CPU = torch.device("cpu")


def sample(rows, dtype):
    random = torch.Generator().manual_seed(1)
    shapes = ((96, 64), (96,), (rows, 64), (rows, 96))
    return [torch.randn(shape, generator=random).to(dtype) for shape in shapes]


@pytest.mark.parametrize("rows", [1, 12, 700])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 2e-5), (torch.bfloat16, 0.05)])
def test_agrees_with_float64(rows, dtype, close):
    weight, bias, x, residual = sample(rows, dtype)
    exact = x.double() @ weight.double().T + bias.double()
    expected = (exact, exact / 2 * (1 + torch.erf(exact / 2**0.5)), exact + residual.double())
    for kind in {linear.Linear, linear.choose(CPU, dtype)}:
        layer = kind(weight, bias)
        for got, want in zip((layer(x), layer.gelu(x), layer.plus(x, residual)), expected, strict=True):
            assert got.dtype == dtype
            torch.testing.assert_close(got.double(), want, atol=close, rtol=close / 5)


def test_only_a_processor_it_was_written_for_takes_the_packed_one(monkeypatch):
    assert linear.choose(torch.device("cuda"), torch.float32) is linear.Linear
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert linear.choose(CPU, torch.float32) is linear.Linear


@pytest.mark.skipif(platform.machine() not in linear._X86, reason="the packed layer is for x86")
def test_one_that_disagrees_is_not_taken(monkeypatch):
    assert linear.choose(CPU, torch.float32) is linear.PackedLinear
    monkeypatch.setattr(linear.PackedLinear, "gelu", lambda self, x: F.gelu(self(x), approximate="tanh") + 0.01)
    assert linear.choose(CPU, torch.float32) is linear.Linear


# A process of its own: the capacity is read at the first product.
MANY_SHAPES = """
from pathlib import Path
import torch
from bgem3.backends.linear import PackedLinear

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

layer, x = PackedLinear(torch.zeros(512, 512), torch.zeros(512)), torch.zeros(1024, 512)
layer(x)
before = resident()
for rows in range(1, 1024, 3):
    layer(x[:rows])
print(resident() - before)
"""


@pytest.mark.skipif(
    platform.machine() not in linear._X86 or not Path("/proc/self/statm").exists(), reason="x86, and Linux counts pages"
)
def test_batches_of_ever_other_sizes_do_not_fill_the_memory():
    done = subprocess.run([sys.executable, "-c", MANY_SHAPES], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 250  # MB; kept kernels of every size took 374
