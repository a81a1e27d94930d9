"""Attention within each of several sequences that lie one after another.

What depends on the lengths alone is made once a batch: `plan(lengths, device)` returns what every layer calls with
its queries, keys and values, `(total_tokens, 3 * hidden_size)`, and its number of heads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from itertools import accumulate, groupby, product
from math import inf, prod
from typing import TypeAlias, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from bgem3.backends.processor import AMD, flags, vendor

Attend: TypeAlias = Callable[[Tensor, int], Tensor]
Plan: TypeAlias = Callable[[Sequence[int], torch.device], Attend]
Inner: TypeAlias = Callable[[Tensor, Tensor, Tensor], Tensor]
Kernel: TypeAlias = Callable[[Tensor, Tensor, Tensor, Tensor, int], Tensor]

# Sequences that are not shorter are filled up to a multiple of so many tokens.
_FILLED = 32
# Queries whose scores are computed at a time, and scores of a head: few enough to stay in the cache, enough for a fast product.
_QUERIES, _SCORES = 256, 2**17
# From so many tokens on a product of one head is worth its call; scores in one: larger ones are new memory from the system each time.
_LONG, _ONE_HEAD = 256, 2**21


def by_length(lengths: Sequence[int], device: torch.device, inner: Inner = F.scaled_dot_product_attention) -> Attend:
    """Attend to the sequences of one length together, which must stand beside each other, by `inner`."""
    groups = [(length, len(list(same))) for length, same in groupby(lengths)]

    def attend(qkv: Tensor, heads: int) -> Tensor:
        out = qkv.new_empty(len(qkv), qkv.shape[1] // 3)
        start = 0
        for length, count in groups:
            part = slice(start, start := start + length * count)
            _of_one_length(qkv[part], count, heads, inner, out[part])
        return out

    return attend


def _of_one_length(qkv: Tensor, count: int, heads: int, inner: Inner, out: Tensor) -> None:
    query, key, value = qkv.view(count, len(qkv) // count, 3, heads, -1).permute(2, 0, 3, 1, 4)
    out.view(count, len(qkv) // count, heads, -1).transpose(1, 2).copy_(inner(query, key, value))


def head_by_head(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attend by length; to long sequences by oneDNN's products, a head at a time.

    torch's kernel takes MKL's, which leave AVX-512 unused on AMD's processors.
    """
    return by_length(lengths, device, _head_by_head)


def _head_by_head(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    count, heads, length, size = query.shape
    if length < _LONG:
        return F.scaled_dot_product_attention(query, key, value)
    query, key, value = query * size**-0.5, key.contiguous(), value.transpose(2, 3).contiguous()
    attended, rows = query.new_empty(query.shape), max(1, _ONE_HEAD // length)
    for i, head in product(range(count), range(heads)):
        for some, out in zip(*(torch.split(one[i, head], rows) for one in (query, attended)), strict=True):
            out.copy_(_times(torch.softmax(_times(some, key[i, head]), -1), value[i, head]))
    return attended


def _times(x: Tensor, weight: Tensor) -> Tensor:
    """Return `x @ weight.T` by oneDNN."""
    made: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")
    return made


def products(lengths: Sequence[int], device: torch.device) -> Attend:
    """Attend to sequences that are not short by two matrix products and a softmax of several of them at a time.

    With AVX512-BF16 that takes half of the time of torch's own kernel, which was written for AMX.
    """
    return _Products(lengths)


def _filled(length: int) -> int:
    """Return the length that a sequence is filled up to; that of a short one stays, whose products are over before their calls."""
    return length if length < _FILLED else -(-length // _FILLED) * _FILLED


class _Products:
    """Attends in memory that every layer uses again.

    Sequences are filled up: those of similar lengths go together, and no row of the scores has a length that is slow.
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        self._memory: dict[str, Tensor] = {}
        # What goes together: the length that it is filled up to, and where each sequence stands.
        self._groups: list[tuple[int, list[slice]]] = []
        places = [slice(end - length, end) for end, length in zip(accumulate(lengths), lengths, strict=True)]
        for filled, same in groupby(places, lambda place: _filled(place.stop - place.start)):
            together, several = [*same], max(1, _SCORES // (filled * min(filled, _QUERIES)))
            self._groups += [(filled, together[i : i + several]) for i in range(0, len(together), several)]

    def __call__(self, qkv: Tensor, heads: int) -> Tensor:
        """Return what each token attends to, `(total_tokens, hidden_size)`."""
        parts = qkv.view(len(qkv), 3, heads, -1)
        out = torch.empty_like(parts[:, 0], memory_format=torch.contiguous_format)
        for length, places in self._groups:
            if length < _FILLED:
                part = slice(places[0].start, places[-1].stop)
                _of_one_length(qkv[part], len(places), heads, F.scaled_dot_product_attention, out[part].flatten(1))
                continue
            real = [place.stop - place.start for place in places]
            filled = self._take("filled", qkv, 3, len(places), heads, length, parts.shape[-1])
            for i, place in enumerate(places):
                filled[:, i, :, : real[i]].copy_(parts[place].permute(1, 2, 0, 3))
                filled[2, i, :, real[i] :].zero_()  # whatever is left there: no share of it would still be NaN
            attended = self._attend(filled.flatten(1, 2), heads, real)
            for i, place in enumerate(places):
                out[place].copy_(attended[i * heads : (i + 1) * heads, : real[i]].transpose(0, 1))
        return out.flatten(1)

    def _attend(self, filled: Tensor, heads: int, real: Sequence[int]) -> Tensor:
        """Return `(count * heads, length, size)` for queries, keys and values of that shape, of which so many rows are real."""
        query, key, value = filled
        length, size = query.shape[1:]
        query.mul_(size**-0.5)
        attended = self._take("attended", query, *query.shape)
        # One long sequence by some heads at a time, but one a thread.
        some = len(query) if len(real) > 1 else max(torch.get_num_threads(), heads * _SCORES // (length * _QUERIES))
        split = (torch.split(one, some) for one in (query, key, value, attended))
        for queries, keys, values, outs in zip(*split, strict=True):
            for rows, out in zip(*(torch.split(one, _QUERIES, 1) for one in (queries, outs)), strict=True):
                scores, shares = (self._take(name, rows, *rows.shape[:2], length) for name in ("scores", "shares"))
                torch.bmm(rows, keys.transpose(1, 2), out=scores)
                for i, count in enumerate(real):
                    scores[i * heads : (i + 1) * heads, :, count:].fill_(-inf)
                torch.bmm(torch.softmax(scores, -1, out=shares), values, out=out)
        return attended

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
    """Return what is fastest there: the first that was written for it, runs, and agrees with `by_length` on a sample."""
    written: Sequence[Plan] = ()
    if device.type == "cuda" and dtype != torch.float32:
        written = KERNELS
    elif device.type == "cpu" and dtype == torch.bfloat16:
        written = (products,) if "avx512_bf16" in flags() and "amx_bf16" not in flags() else ()
    elif device.type == "cpu" and dtype == torch.float32:
        written = (head_by_head,) if "avx512f" in flags() and vendor() == AMD else ()
    heads, lengths = 2, (_LONG + 1, 40, 33, 5, 5, 1)
    sample = torch.randn(sum(lengths), 3 * heads * 64, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for plan in written:
        try:
            got, expected = (one(lengths, device)(sample, heads) for one in (plan, by_length))
            if torch.allclose(got, expected, atol=1e-5 if dtype == torch.float32 else 0.02):
                return plan
        except (ImportError, AttributeError, RuntimeError, TypeError):  # an older torch or GPU, or another signature
            continue
    return by_length
