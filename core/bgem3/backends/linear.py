"""Linear layers, with what follows them in the same call.

On x86 the weights are laid out once as oneDNN's kernels read them. torch itself does that for every product, which for a
short query takes longer than the product. A bias and a GELU are then computed while the result is in the cache.
On a GPU in half precision the product itself adds bias and GELU.
"""

from __future__ import annotations

import os
import platform
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

_X86 = {"x86_64", "AMD64"}
# Rows the layout is chosen for; it reads well from a query's dozen to a batch's thousands.
_ROWS = 1024
# torch and oneDNN each keep the kernels of so many shapes, and every number of rows is one. By default it is 1,024, a thread its
# own: a gigabyte within some hundred batches. They read it at the first product; making one again takes some 2 ms.
for _capacity in ("LRU_CACHE_CAPACITY", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"):
    os.environ.setdefault(_capacity, "64")


class Linear:
    """`x @ weight.T + bias`, with torch's own functions.

    Args:
        weight: `(rows, columns)`.
        bias: `(rows,)`.
    """

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        self._weight, self._bias = weight, bias

    def __call__(self, x: Tensor) -> Tensor:
        """Return `(n, rows)` for `(n, columns)`."""
        return F.linear(x, self._weight, self._bias)

    def gelu(self, x: Tensor) -> Tensor:
        """Return the GELU of the result."""
        return F.gelu(self(x))

    def plus(self, x: Tensor, residual: Tensor) -> Tensor:
        """Return the result plus `residual`, `(n, rows)`."""
        return self(x).add_(residual)


class PackedLinear(Linear):
    """The same by oneDNN, on packed weights."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__(torch.ops.mkldnn._reorder_linear_weight(weight, _ROWS), bias)

    def __call__(self, x: Tensor) -> Tensor:
        """Return `(n, rows)` for `(n, columns)`."""
        return self._product(x, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        """Return the GELU of the result, by the error function."""
        return self._product(x, "gelu", "none")

    def _product(self, x: Tensor, then: str, kind: str) -> Tensor:
        product: Tensor = torch.ops.mkldnn._linear_pointwise(x, self._weight, self._bias, then, [], kind)
        return product


class CudaLinear(Linear):
    """The same with the GELU inside the product, by its approximation with tanh.

    It is at most 5e-4 away from the error function, where half precision rounds a number near 1 by 2e-3 (bfloat16).
    """

    def gelu(self, x: Tensor) -> Tensor:
        """Return the GELU of the result, by tanh."""
        product: Tensor = torch.ops.aten._addmm_activation(self._bias, x, self._weight.t(), use_gelu=True)
        return product


LinearType: TypeAlias = type[Linear]


def choose(device: torch.device, dtype: torch.dtype) -> LinearType:
    """Return the layer written for a device where it runs and agrees with `Linear` on a sample, else `Linear`."""
    found: LinearType
    if device.type == "cuda" and dtype != torch.float32:
        found = CudaLinear
    elif device.type == "cpu" and platform.machine() in _X86:
        found = PackedLinear
    else:
        return Linear
    random = torch.Generator().manual_seed(0)
    shapes = ((48, 32), (48,), (5, 32))
    try:
        weight, bias, x = (torch.randn(shape, generator=random).to(device, dtype) for shape in shapes)
        packed, plain = found(weight, bias), Linear(weight, bias)
        pairs = ((packed(x), plain(x)), (packed.gelu(x), plain.gelu(x)))
    except (AssertionError, AttributeError, RuntimeError, TypeError):  # an older torch, or one without it
        return Linear
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    agree = all(torch.allclose(one, other, atol=tolerance, rtol=tolerance) for one, other in pairs)
    return found if agree else Linear
