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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_processor_attends_by_length(dtype):
    assert attention.choose(CPU, dtype) is attention.by_length
