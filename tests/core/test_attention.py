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


def agree(attend, one_by_one, lengths):
    """Twice: the second time in memory that is used already."""
    for seed in (0, 1):
        values = np.random.default_rng(seed).standard_normal((sum(lengths), 3 * 64)).astype(np.float32)
        qkv = torch.from_numpy(values)
        torch.testing.assert_close(attend(qkv, 4), one_by_one(qkv, 4))


@pytest.mark.parametrize(("queries", "scores"), [(256, 2**17), (40, 2**17), (256, 1), (40, 2**13)])
def test_products(queries, scores, monkeypatch):
    """Texts of similar lengths together or alone, queries in blocks, a long one by some of its heads."""
    monkeypatch.setattr(attention, "_QUERIES", queries)
    monkeypatch.setattr(attention, "_SCORES", scores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    lengths = (150, 70, 70, 65, 32, 31, 5, 5)
    agree(attention.products(lengths, CPU), attention.by_length(lengths, CPU), lengths)
    agree(attention.products([12], CPU), attention.by_length([12], CPU), [12])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_of_a_text_do_not_depend_on_the_others(dtype):
    lengths = (150, 70, 66, 33, 14, 14, 3)
    qkv = torch.randn(sum(lengths), 3 * 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = torch.split(attention.products(lengths, CPU)(qkv, 4), lengths)
    for length, own, found in zip(lengths, torch.split(qkv, lengths), together, strict=True):
        torch.testing.assert_close(found, attention.products([length], CPU)(own, 4), atol=1e-6, rtol=0)


def test_what_one_text_left_in_the_memory_reaches_no_other():
    attend = attention.products((60, 40), CPU)
    qkv = torch.full((100, 3 * 64), torch.nan)
    attend(qkv, 4)
    qkv = torch.ones(100, 3 * 64)
    torch.testing.assert_close(attend(qkv, 4), torch.ones(100, 64))


@pytest.mark.parametrize("scores", [2**21, 30_000, 1])
def test_head_by_head(scores, monkeypatch):
    monkeypatch.setattr(attention, "_ONE_HEAD", scores)
    lengths = (300, 300, 257, 256, 255, 3)
    agree(attention.head_by_head(lengths, CPU), attention.by_length(lengths, CPU), lengths)


@pytest.mark.parametrize(
    ("dtype", "features", "vendor", "plan"),
    [
        (torch.float32, {"avx512f", "avx512_bf16"}, "GenuineIntel", attention.by_length),
        (torch.float32, {"avx512f", "avx512_bf16"}, "AuthenticAMD", attention.head_by_head),
        (torch.float32, {"avx2"}, "AuthenticAMD", attention.by_length),
        (torch.bfloat16, {"avx512f", "avx512_bf16"}, "AuthenticAMD", attention.products),
        (torch.bfloat16, {"avx512_bf16", "amx_bf16"}, "GenuineIntel", attention.by_length),
        (torch.bfloat16, {"bf16"}, "", attention.by_length),
    ],
)
def test_what_a_processor_attends_with(dtype, features, vendor, plan, monkeypatch):
    monkeypatch.setattr(attention, "flags", lambda: frozenset(features))
    monkeypatch.setattr(attention, "vendor", lambda: vendor)
    assert attention.choose(CPU, dtype) is plan


def test_what_disagrees_is_not_taken(monkeypatch):
    monkeypatch.setattr(attention, "flags", lambda: frozenset({"avx512_bf16"}))
    monkeypatch.setattr(attention, "_FILLED", 100)
    monkeypatch.setattr(torch.Tensor, "fill_", lambda self, value: self)  # what fills up takes its share
    assert attention.choose(CPU, torch.bfloat16) is attention.by_length
