"""Every way to attend gives what each sequence gives alone."""

import numpy as np
import pytest
import torch

from bgem3.backends import attention

HEADS, SIZE = 2, 8
LENGTHS = (5, 3, 3, 1)
CPU = torch.device("cpu")


@pytest.fixture
def qkv():
    return torch.from_numpy(np.random.default_rng(0).standard_normal((sum(LENGTHS), 3 * SIZE)).astype(np.float32))


def alone(query, key, value, ends):
    """Softmax attention of each sequence by itself: `(total, heads, d)` each."""
    parts = []
    for start, stop in zip(ends[:-1].tolist(), ends[1:].tolist(), strict=True):
        q, k, v = (one[start:stop].transpose(0, 1) for one in (query, key, value))
        weights = torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, dim=-1)
        parts.append((weights @ v).transpose(0, 1))
    return torch.cat(parts)


@pytest.fixture
def expected(qkv):
    query, key, value = qkv.view(len(qkv), 3, HEADS, -1).unbind(1)
    return alone(query, key, value, torch.tensor([0, 5, 8, 11, 12])).flatten(1)


def test_by_length(qkv, expected):
    torch.testing.assert_close(attention.by_length(LENGTHS, CPU)(qkv, HEADS), expected)


def test_one_call_of_the_kernel_for_gpus(qkv, expected, monkeypatch):
    """The kernel itself has no CPU form: what stands in for it follows its documented arguments."""

    def varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k):
        assert cu_seq_q.dtype == cu_seq_k.dtype == torch.int32
        assert (max_q, max_k) == (5, 5)
        return alone(query, key, value, cu_seq_q)

    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", varlen_attn)
    torch.testing.assert_close(attention.variable_length(LENGTHS, CPU)(qkv, HEADS), expected)


@pytest.mark.parametrize("queries", [128, 40])
def test_products(queries, monkeypatch):
    """Texts of one length together, short ones by torch's kernel, queries in blocks; twice, in the same memory."""
    monkeypatch.setattr(attention, "_QUERIES", queries)
    lengths = (150, 70, 70, 32, 31, 5, 5)
    attend, one_by_one = attention.products(lengths, CPU), attention.by_length(lengths, CPU)
    for seed in (0, 1):
        values = np.random.default_rng(seed).standard_normal((sum(lengths), 3 * 64)).astype(np.float32)
        qkv = torch.from_numpy(values)
        torch.testing.assert_close(attend(qkv, 4), one_by_one(qkv, 4))


@pytest.mark.parametrize(
    ("dtype", "features", "plan"),
    [
        (torch.float32, {"avx512_bf16"}, attention.by_length),
        (torch.bfloat16, {"avx512_bf16"}, attention.products),
        (torch.bfloat16, {"avx512_bf16", "amx_bf16"}, attention.by_length),
        (torch.bfloat16, {"bf16"}, attention.by_length),
    ],
)
def test_what_a_processor_attends_with(dtype, features, plan, monkeypatch):
    monkeypatch.setattr(attention, "flags", lambda: frozenset(features))
    assert attention.choose(CPU, dtype) is plan
