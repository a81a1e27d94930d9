"""What is encoded once, and what makes it encoded again."""

import numpy as np
import pytest

from bgem3.evaluation.cached_encoder import CachedEncoder, blocks
from tests.support.fake_encoder import FakeEncoder

TEXTS = ["word1 word2", "word3", ""]


def test_a_second_run_encodes_nothing_and_gives_the_same(tmp_path):
    first = CachedEncoder(FakeEncoder(), tmp_path).encode(TEXTS)
    encoder = FakeEncoder()
    second = CachedEncoder(encoder, tmp_path).encode(TEXTS)
    assert encoder.calls == []
    np.testing.assert_array_equal(first.dense, second.dense)
    np.testing.assert_array_equal(first.sparse.toarray(), second.sparse.toarray())
    assert [v.tolist() for v in first.multi_vector] == [v.tolist() for v in second.multi_vector]


def test_only_the_heads_asked_for_are_read(tmp_path):
    cache = CachedEncoder(FakeEncoder(), tmp_path)
    cache.encode(TEXTS)
    assert cache.encode(TEXTS, heads=("sparse",)).heads == ("sparse",)


@pytest.mark.parametrize("other", [{"fingerprint": "b" * 64}, {"max_length": 64}, {"backend": "other"}])
def test_another_encoder_reads_nothing_of_it(tmp_path, other):
    CachedEncoder(FakeEncoder(), tmp_path).encode(TEXTS)
    encoder = FakeEncoder(**other)
    CachedEncoder(encoder, tmp_path).encode(TEXTS)
    assert len(encoder.calls) == 1


def test_blocks_hold_few_texts_and_few_characters():
    short = [(str(i), "x") for i in range(600)]
    assert [len(ids) for ids, _ in blocks(short)] == [256, 256, 88]
    long = [(str(i), "x" * 300_000) for i in range(3)]
    assert [ids for ids, _ in blocks(long)] == [["0"], ["1"], ["2"]]
    assert list(blocks([])) == []


def test_blocks_read_no_further_than_they_must():
    def passages():
        for i in range(10_000):
            assert i <= 256, "read ahead"
            yield str(i), "x"

    assert len(next(blocks(passages()))[0]) == 256
