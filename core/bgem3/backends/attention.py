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
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]


def by_length(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attend to the sequences of one length together; they must stand beside each other."""
    groups = [(length, len(list(same))) for length, same in groupby(lengths)]

    def attend(qkv: Tensor, heads: int) -> Tensor:
        size = qkv.shape[1] // 3
        out = qkv.new_empty(len(qkv), size)
        start = 0
        for length, count in groups:
            stop = start + length * count
            block = qkv[start:stop].view(count, length, 3, heads, size // heads)
            query, key, value = block.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(query, key, value)
            out[start:stop] = attended.transpose(1, 2).reshape(-1, size)
            start = stop
        return out

    return attend


class Products:
    """Attend as `by_length` does, by two matrix products and a softmax in memory that every layer uses again.

    With AVX512-BF16 that takes half to a third of the time of torch's own kernel, which was written for AMX.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        self._groups = [(length, len(list(same))) for length, same in groupby(lengths)]
        self._tokens = max(length * count for length, count in self._groups)
        self._scores = max(length * count * min(length, _QUERIES) for length, count in self._groups)
        self._memory: list[Tensor] | None = None

    def __call__(self, qkv: Tensor, heads: int) -> Tensor:
        """Return `(total_tokens, hidden_size)` for queries, keys and values, `(total_tokens, 3 * hidden_size)`."""
        size = qkv.shape[1] // 3
        if self._memory is None:
            needed = (3 * self._tokens * size, self._tokens * size, self._scores * heads, self._scores * heads)
            self._memory = [qkv.new_empty(elements) for elements in needed]
        out = qkv.new_empty(len(qkv), size)
        start = 0
        for length, count in self._groups:
            part = slice(start, start := start + length * count)
            block = qkv[part].view(count, length, 3, heads, size // heads).permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(*block) if length < _SHORT else _attend(block, *self._memory)
            out[part].view(count, length, heads, size // heads).transpose(1, 2).copy_(attended)
        return out


# A product of fewer tokens is over sooner than its call.
_SHORT = 32
# Queries whose scores are computed at a time: few enough to stay in the cache, enough for a fast product.
_QUERIES = 128


def _attend(block: Tensor, inputs: Tensor, attended: Tensor, scores: Tensor, shares: Tensor) -> Tensor:
    """Attend within each text of `(3, count, heads, length, size)`; the others are memory to write to."""
    _, count, heads, length, size = block.shape
    query, key, value = inputs[: block.numel()].view(block.shape).copy_(block).flatten(1, 2)
    query *= size**-0.5
    attended = attended[: query.numel()].view(query.shape)
    for queries, out in zip(torch.split(query, _QUERIES, 1), torch.split(attended, _QUERIES, 1), strict=True):
        shape = (count * heads, queries.shape[1], length)
        here, there = (memory[: prod(shape)].view(shape) for memory in (scores, shares))
        torch.bmm(queries, key.transpose(1, 2), out=here)
        torch.softmax(here, -1, out=there)
        torch.bmm(there, value, out=out)
    return attended.view(count, heads, length, size)


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
        return Products if "avx512_bf16" in flags() and "amx_bf16" not in flags() else by_length
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
