"""Residual and layer normalisation in one pass over memory, in Triton. Importing it needs Triton."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor


# Triton reads the signature: an annotation that is not its own is an error to it.
def _add_norm(values, residual, weight, bias, epsilon, size: tl.constexpr, block: tl.constexpr):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Normalise one row of `values + residual`, in place."""
    columns = tl.arange(0, block)
    inside = columns < size
    places = tl.program_id(0).to(tl.int64) * size + columns
    row = tl.load(values + places, mask=inside, other=0.0).to(tl.float32)
    row += tl.load(residual + places, mask=inside, other=0.0).to(tl.float32)
    centred = tl.where(inside, row - tl.sum(row, axis=0) / size, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / size + epsilon)
    gain = tl.load(weight + columns, mask=inside, other=0.0).to(tl.float32)
    shift = tl.load(bias + columns, mask=inside, other=0.0).to(tl.float32)
    tl.store(values + places, (centred * scale * gain + shift).to(values.dtype.element_ty), mask=inside)


_kernel = triton.jit(_add_norm)


def add_norm(values: Tensor, residual: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    """Return `values + residual` normalised, `(n, size)`, in the memory of `values`; rows lie one after another."""
    count, size = values.shape
    block = triton.next_power_of_2(size)
    _kernel[(count,)](values, residual, weight, bias, epsilon, size, block, num_warps=max(1, min(8, block // 256)))
    return values
