"""Attention within each of several sequences that lie one after another, without padding.

What depends on the lengths alone is made once a batch: `plan(lengths, device)` returns what every layer calls with
its queries, keys and values, `(total_tokens, 3 * hidden_size)`, and its number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate, groupby
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

Attend: TypeAlias = Callable[[Tensor, int], Tensor]
Plan: TypeAlias = Callable[[Sequence[int], torch.device], Attend]


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


def variable_length(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attend to all sequences in one call of torch's kernel for GPUs, in half precision only."""
    from torch.nn.attention.varlen import varlen_attn

    ends = torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)
    longest = max(lengths)

    def attend(qkv: Tensor, heads: int) -> Tensor:
        query, key, value = qkv.view(len(qkv), 3, heads, -1).unbind(1)
        attended = varlen_attn(query, key, value, ends, ends, longest, longest)
        return cast("Tensor", attended).flatten(1)

    return attend


def choose(device: torch.device, dtype: torch.dtype) -> Plan:
    """Return `variable_length` where it runs and agrees with `by_length` on a sample, else `by_length`."""
    if device.type != "cuda" or dtype == torch.float32:
        return by_length
    heads, lengths = 2, (7, 5, 5, 1)
    sample = torch.randn(sum(lengths), 3 * heads * 64, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    try:
        found = variable_length(lengths, device)(sample, heads)
    except (ImportError, RuntimeError, TypeError):  # an older torch or GPU, or another signature
        return by_length
    return variable_length if torch.allclose(found, by_length(lengths, device)(sample, heads), atol=0.02) else by_length
