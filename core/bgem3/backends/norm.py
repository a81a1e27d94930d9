"""Layer normalisation, and the linear layer and residual before it.

On a GPU a kernel of our own adds the residual and normalises in one pass over memory.
"""

from __future__ import annotations

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from bgem3.backends.linear import Linear


class Norm:
    """Layer normalisation with torch's own functions.

    Args:
        weight, bias: `(size,)`.
        epsilon: Added to the variance.
    """

    def __init__(self, weight: Tensor, bias: Tensor, epsilon: float) -> None:
        self.weight, self.bias, self.epsilon = weight, bias, epsilon

    def __call__(self, values: Tensor) -> Tensor:
        """Return `(n, size)` normalised."""
        return F.layer_norm(values, self.weight.shape, self.weight, self.bias, self.epsilon)

    def after(self, linear: Linear, x: Tensor, residual: Tensor) -> Tensor:
        """Return `linear(x) + residual` normalised, `(n, size)`."""
        return self(linear.plus(x, residual))


class FusedNorm(Norm):
    """The same by a kernel in Triton, summed in float32."""

    def after(self, linear: Linear, x: Tensor, residual: Tensor) -> Tensor:
        """Return `linear(x) + residual` normalised, `(n, size)`."""
        from bgem3.backends.norm_kernel import add_norm

        return add_norm(linear(x), residual, self.weight, self.bias, self.epsilon)


NormType: TypeAlias = type[Norm]


def choose(device: torch.device, dtype: torch.dtype) -> NormType:
    """Return `FusedNorm` where it runs and agrees with `Norm` on a sample, else `Norm`."""
    if device.type != "cuda":
        return Norm
    size, random = 96, torch.Generator().manual_seed(0)
    shapes = ((size, size), (size,), (5, size), (5, size), (size,), (size,))
    try:
        weight, bias, x, residual, scale, shift = (
            torch.randn(shape, generator=random).to(device, dtype) for shape in shapes
        )
        linear = Linear(weight, bias)
        with torch.cuda.device(device):
            fused = FusedNorm(scale, shift, 1e-5).after(linear, x, residual)
    except Exception:  # no Triton or no compiler for it, a GPU it does not know: each has errors of its own
        return Norm
    tolerance = 1e-4 if dtype == torch.float32 else 0.1
    plain = Norm(scale, shift, 1e-5).after(linear, x, residual)
    return FusedNorm if torch.allclose(fused, plain, atol=tolerance, rtol=tolerance) else Norm
