"""Attention within each of several sequences that lie one after another, without padding.

What depends on the lengths alone is made once a batch: `plan(lengths, device)` returns what every layer calls with
its queries, keys and values, `(total_tokens, 3 * hidden_size)`, and its number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import accumulate, groupby
from math import prod
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bgem3.backends.processor import flags

Attend: TypeAlias = Callable[[Tensor, int], Tensor]
Plan: TypeAlias = Callable[[Sequence[int], torch.device], Attend]
Inner: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# A product of fewer tokens is over sooner than its call.
_SHORT = 32
# Queries whose scores are computed at a time: few enough to stay in the cache, enough for a fast product.
_QUERIES = 128


def by_length(lengths: Sequence[int], device: torch.device, inner: Inner = F.scaled_dot_product_attention) -> Attend:
    """Attend to the sequences of one length together, which must stand beside each other, by `inner`."""
    groups = [(length, len(list(same))) for length, same in groupby(lengths)]

    def attend(qkv: Tensor, heads: int) -> Tensor:
        size = qkv.shape[1] // 3
        out = qkv.new_empty(len(qkv), size)
        start = 0
        for length, count in groups:
            part = slice(start, start := start + length * count)
            query, key, value = qkv[part].view(count, length, 3, heads, size // heads).permute(2, 0, 3, 1, 4)
            attended = inner(query, key, value)
            out[part].view(count, length, heads, size // heads).transpose(1, 2).copy_(attended)
        return out

    return attend


def products(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attend by length, by two matrix products and a softmax in memory that every layer uses again.

    With AVX512-BF16 that takes half to a third of the time of torch's own kernel, which was written for AMX.
    """
    return by_length(lengths, device, _Products())


class _Products:
    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def __call__(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Return `(count, heads, length, size)`, which holds until the next call, for queries, keys and values of that shape."""
        count, heads, length, size = query.shape
        if length < _SHORT:
            return F.scaled_dot_product_attention(query, key, value)
        several = count * heads
        queries, keys, values, attended = (
            self._take(name, query, several, length, size) for name in ("queries", "keys", "values", "attended")
        )
        torch.mul(query, size**-0.5, out=queries.view(query.shape))
        keys.view(key.shape).copy_(key)
        values.view(value.shape).copy_(value)
        for some, out in zip(torch.split(queries, _QUERIES, 1), torch.split(attended, _QUERIES, 1), strict=True):
            scores, shares = (self._take(name, query, several, some.shape[1], length) for name in ("scores", "shares"))
            torch.bmm(some, keys.transpose(1, 2), out=scores)
            torch.softmax(scores, -1, out=shares)
            torch.bmm(shares, values, out=out)
        return attended.view(query.shape)

    def _take(self, name: str, like: Tensor, *shape: int) -> Tensor:
        needed = prod(shape)
        if name not in self._memory or self._memory[name].numel() < needed:
            self._memory[name] = like.new_empty(needed)
        return self._memory[name][:needed].view(shape)


class VariableLength:
    """Attend to all sequences in one call of a kernel for GPUs, in half precision only.

    Args:
        kernel: Takes queries, keys and values, `(total_tokens, heads, size)` each, where the sequences start and the
            last ends, `(n + 1,)` int32 on the device, and the longest length.
    """

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __call__(self, lengths: Sequence[int], device: torch.device) -> Attend:
        """Return the attention of a batch."""
        ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32)
        if device.type == "cuda":
            ends = ends.pin_memory()
        return self.over(ends.to(device, non_blocking=True), max(lengths))

    def over(self, ends: Tensor, longest: int) -> Attend:
        """Return the attention of sequences whose ends are on the device already."""

        def attend(qkv: Tensor, heads: int) -> Tensor:
            query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
            return self._kernel(query, key, value, ends, longest).flatten(1)

        return attend


def _varlen(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    from torch.nn.attention.varlen import varlen_attn

    return cast("Tensor", varlen_attn(query, key, value, ends, ends, longest, longest))


def _aten(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    """Call what `varlen_attn` calls, which has no public name."""
    forward = torch.ops.aten._flash_attention_forward
    return cast("Tensor", forward(query, key, value, ends, ends, longest, longest, 0.0, False, False)[0])


def _flash(query: Tensor, key: Tensor, value: Tensor, ends: Tensor, longest: int) -> Tensor:
    flash_attn = import_module("flash_attn")
    return cast("Tensor", flash_attn.flash_attn_varlen_func(query, key, value, ends, ends, longest, longest))


variable_length = VariableLength(_varlen)
KERNELS = (variable_length, VariableLength(_aten), VariableLength(_flash))


def choose(device: torch.device, dtype: torch.dtype) -> Plan:
    """Return what is fastest there; of `KERNELS` the first that runs and agrees with `by_length` on a sample."""
    if device.type == "cpu" and dtype == torch.bfloat16:
        return products if "avx512_bf16" in flags() and "amx_bf16" not in flags() else by_length
    if device.type != "cuda" or dtype == torch.float32:
        return by_length
    heads, lengths = 2, (7, 5, 5, 1)
    sample = torch.randn(sum(lengths), 3 * heads * 64, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    expected = by_length(lengths, device)(sample, heads)
    for plan in KERNELS:
        try:
            if torch.allclose(plan(lengths, device)(sample, heads), expected, atol=0.02):
                return plan
        except (ImportError, AttributeError, RuntimeError, TypeError):  # an older torch or GPU, or another signature
            continue
    return by_length
