"""The reranker against the score formulas, with a real small checkpoint."""

import threading
from contextlib import closing

import numpy as np
import pytest

from bgem3 import rerank
from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError, InvalidTextError, TextTooLongError
from bgem3.rerank import Reranker
from bgem3.types import HEADS, Weights
from tests.support.embeddings import head_scores

TEXTS = ["red cat", "the blue dog ran", "猫 on the mat", "", "red cat", "hello world 😀"]


@pytest.fixture(scope="module")
def encoder(checkpoint):
    encoder = M3Encoder.from_pretrained(checkpoint)
    yield encoder
    encoder.close()


def expected(encoder, query, weights):
    heads = head_scores(encoder.encode([query]), encoder.encode(TEXTS))
    return heads, sum(getattr(weights, head) * heads[head] for head in HEADS) / weights.total


@pytest.mark.parametrize("weights", [None, Weights.long_document, Weights(0, 1, 0)])
def test_rerank_orders_by_the_weighted_mean(encoder, weights):
    heads, total = expected(encoder, "red dog", weights or Weights())
    ranked = Reranker(encoder, weights=weights).rerank("red dog", TEXTS)
    assert sorted(one.index for one in ranked) == list(range(6))
    assert [one.score for one in ranked] == sorted((one.score for one in ranked), reverse=True)
    for one in ranked:
        assert one.text == TEXTS[one.index]
        assert one.score == pytest.approx(total[one.index], abs=1e-5)
        assert one.scores == pytest.approx({head: heads[head][one.index] for head in HEADS}, abs=1e-5)


def test_equal_texts_keep_their_order(encoder):
    order = [one.index for one in Reranker(encoder).rerank("red dog", TEXTS)]
    assert order.index(4) == order.index(0) + 1


def test_top_n(encoder):
    reranker = Reranker(encoder)
    every = reranker.rerank("red dog", TEXTS)
    assert reranker.rerank("red dog", TEXTS, top_n=2) == every[:2]
    assert reranker.rerank("red dog", TEXTS, top_n=99) == every
    with pytest.raises(InvalidInputError, match="top_n: expected a whole number >= 1, got 0"):
        reranker.rerank("red dog", TEXTS, top_n=0)


async def test_async_is_sync(encoder):
    reranker = Reranker(encoder)
    assert await reranker.arerank("red dog", TEXTS, top_n=3) == reranker.rerank("red dog", TEXTS, top_n=3)
    assert await reranker.arerank("red dog", []) == []


def test_pairs_are_scored_in_their_order(encoder):
    pairs = [("red dog", TEXTS[2]), ("猫", TEXTS[0]), ("red dog", TEXTS[3]), ("red dog", TEXTS[2]), ("red", "red")]
    scores = Reranker(encoder).score_pairs(pairs)
    assert scores.dtype == np.float32
    one_by_one = [Reranker(encoder).rerank(query, [text])[0].score for query, text in pairs]
    np.testing.assert_allclose(scores, one_by_one, atol=1e-5)


def test_each_distinct_text_is_encoded_once(encoder):
    class Counting:
        def __init__(self):
            self.texts = []

        def encode(self, texts):
            self.texts += texts
            return encoder.encode(texts)

    counting = Counting()
    Reranker(counting).score_pairs([("a", "b"), ("a", "c"), ("b", "a")])
    assert sorted(counting.texts) == ["a", "b", "c"]


def test_nothing_to_rerank(encoder):
    assert Reranker(encoder).rerank("query", []) == []
    assert Reranker(encoder).score_pairs([]).shape == (0,)


def test_bad_texts(encoder):
    with pytest.raises(InvalidInputError, match=r"Fix: pass \[text\]"):
        Reranker(encoder).rerank("query", "text")
    with pytest.raises(InvalidTextError, match="expected a str, got int"):
        Reranker(encoder).rerank("query", ["text", 3])


@pytest.mark.parametrize(
    "texts",
    [None, (text for text in TEXTS), 7, {"a", "b"}, {"a": 1}],
    ids=["none", "generator", "number", "set", "mapping"],
)
def test_texts_that_are_no_sequence(encoder, texts):
    with pytest.raises(InvalidInputError, match="texts: expected a sequence of strings, got"):
        Reranker(encoder).rerank("query", texts)


def test_what_is_wrong_is_named_by_its_place(encoder):
    reranker = Reranker(encoder)
    with pytest.raises(InvalidTextError, match=r"texts\[1\]"):
        reranker.rerank("query", ["text", None])
    with pytest.raises(InvalidInputError, match="query: expected a str, got NoneType"):
        reranker.rerank(None, ["text"])
    for top_n in (2.5, "2", 0):
        with pytest.raises(InvalidInputError, match="top_n: expected a whole number >= 1"):
            reranker.rerank("query", ["text"], top_n=top_n)
    for pair in (None, ("a",), ("a", "b", "c"), ("a", None), "ab"):
        with pytest.raises(InvalidInputError, match=r"pairs\[1\]: expected a query and a passage"):
            reranker.score_pairs([("a", "b"), pair])


def test_weights_of_another_kind(encoder):
    with pytest.raises(InvalidInputError, match="weights: got .* expected Weights"):
        Reranker(encoder, weights=[1, 0.3, 1])


def test_a_text_too_long_is_named_by_its_place(checkpoint):
    long = "red cat " * 20
    with closing(M3Encoder.from_pretrained(checkpoint, max_length=16, overflow="error")) as encoder:
        reranker = Reranker(encoder)
        with pytest.raises(TextTooLongError, match=r"^texts\[1\]: "):
            reranker.rerank("red", ["cat", long])
        with pytest.raises(TextTooLongError, match="^query: "):
            reranker.rerank(long, ["cat"])
        with pytest.raises(TextTooLongError, match=r"^pairs\[2\]\[1\]: "):
            reranker.score_pairs([("red", "cat"), ("red", "cat"), ("cat", long)])


async def test_a_text_too_long_is_named_by_its_place_beside_the_event_loop(checkpoint):
    with (
        closing(M3Encoder.from_pretrained(checkpoint, max_length=16, overflow="error")) as encoder,
        pytest.raises(TextTooLongError, match=r"^texts\[0\]: "),
    ):
        await Reranker(encoder).arerank("red", ["red cat " * 20])


def test_a_text_that_is_no_unicode_is_named_by_its_place(encoder):
    with pytest.raises(InvalidTextError, match="^query: not valid Unicode"):
        Reranker(encoder).rerank("\ud800", ["cat"])
    with pytest.raises(InvalidTextError, match=r"^pairs\[1\]\[0\]: not valid Unicode"):
        Reranker(encoder).score_pairs([("red", "cat"), ("\ud800", "cat")])


async def test_scores_are_computed_beside_the_event_loop(encoder, monkeypatch):
    threads: list[int] = []

    def noted(queries, passages):
        threads.append(threading.get_ident())
        return score(queries, passages)

    score = rerank.score
    monkeypatch.setattr(rerank, "score", noted)
    await Reranker(encoder).arerank("red dog", TEXTS)
    assert len(threads) == 1
    assert threading.get_ident() not in threads
