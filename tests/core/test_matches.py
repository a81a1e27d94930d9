"""Which tokens made a hit, by hand and through an index."""

import numpy as np
import pytest

from bgem3.encoder import M3Encoder
from bgem3.hybrid import HybridIndex
from bgem3.matches import lexical_matches, named, token_matches
from bgem3.stores import qdrant_points
from bgem3.stores.memory import MemoryStore
from bgem3.stores.qdrant import QdrantStore
from bgem3.types import LexicalMatch, Matches, Token, TokenMatch


def test_the_largest_part_comes_first_and_ties_go_by_id():
    parts = {7: 0.25, 3: 0.5, 5: 0.25, 4: 0.0}
    assert lexical_matches(parts) == (LexicalMatch(3, 0.5), LexicalMatch(5, 0.25), LexicalMatch(7, 0.25))


def test_each_query_token_gets_its_nearest():
    query = np.float32([[1, 0], [0, 1]])
    passage = np.float32([[0, 1], [0.6, 0.8], [0.8, 0.6]])
    assert token_matches(query, passage) == (
        TokenMatch(Token(0), Token(2), pytest.approx(0.8)),
        TokenMatch(Token(1), Token(0), 1.0),
    )


def test_names_come_from_ids_and_positions():
    query, passage = [Token(0, "a", 0, 1)], [Token(0, "b", 0, 1), Token(1, "c", 1, 2)]
    for vectors, expected in ((2, passage[1]), (1, Token(1)), (3, Token(1))):
        found = Matches((LexicalMatch(9, 0.5),), (TokenMatch(Token(0), Token(1), 0.5),), vectors)
        result = named(found, lambda ids: [f"piece {i}" for i in ids], query, passage)
        assert result == Matches(
            (LexicalMatch(9, 0.5, "piece 9"),), (TokenMatch(query[0], expected, 0.5),), vectors
        )  # of vectors that were pooled none belongs to one token


def test_tokens_of_a_chunk_that_was_pooled_have_no_names(encoder, monkeypatch):
    monkeypatch.setattr(qdrant_points, "MAX_FLOATS", 8 * encoder.multi_dim + 1)
    with HybridIndex(encoder, QdrantStore(":memory:")) as index:
        index.add(["red cat", "the red dog sat on the mat under a tree " * 3], ids=["short", "long"])
        hits = {hit.id: hit.matches for hit in index.search("red", explain=True)}
    assert all(match.passage.text for match in hits["short"].tokens)
    assert not any(match.passage.text for match in hits["long"].tokens)
    assert hits["long"].vectors <= 8 < len(encoder.vector_tokens("the red dog sat on the mat under a tree " * 3))
    assert {match.query.text for match in hits["long"].tokens} >= {"</s>"}


@pytest.fixture(scope="module")
def encoder(checkpoint):
    with_windows = M3Encoder.from_pretrained(checkpoint, max_length=16, window_overlap=3)
    yield with_windows
    with_windows.close()


@pytest.mark.parametrize("text", ["", "hello", "red 猫 😀 KX-220B", "the cat sat on the mat under a tree " * 3])
def test_every_token_vector_has_its_token(encoder, text):
    tokens = encoder.vector_tokens(text)
    vectors = encoder.encode([text]).multi_vector[0]
    assert [token.position for token in tokens] == list(range(len(vectors)))
    assert tokens[-1].text == "</s>"
    assert tokens[-1].start == tokens[-1].end
    for token in tokens:
        word = token.text.lstrip("▁")
        assert word in ("", "</s>", "<unk>") or text[token.start : token.end].strip() == word


@pytest.mark.parametrize("lexical", ["m3", "bm25"])
def test_a_search_explains_its_scores(encoder, lexical):
    texts = ["red cat on the mat", "blue dog under a tree " * 5, "KX-220B"]
    with HybridIndex(encoder, MemoryStore(), lexical=lexical) as index:
        index.add(texts)
        for hit in index.search("the red dog KX-220B", k=3, explain=True):
            scores = [match.score for match in hit.matches.tokens]
            assert np.mean(scores) == pytest.approx(hit.scores["multi_vector"], abs=1e-5)
            assert sum(match.score for match in hit.matches.lexical) == pytest.approx(hit.scores["sparse"], abs=1e-5)
            for match in hit.matches.tokens:
                piece = match.passage.text.strip("▁")
                assert piece in ("", "</s>", "<unk>", hit.text[match.passage.start : match.passage.end].strip())
        assert index.search("red")[0].matches is None


def test_only_the_heads_of_the_mode_are_explained(encoder):
    with HybridIndex(encoder, MemoryStore()) as index:
        index.add(["red cat", "red dog"])
        (sparse, *_) = index.search("red", mode="sparse", explain=True)
        assert sparse.matches.tokens == ()
        assert {match.token for match in sparse.matches.lexical} <= {"▁", "▁red", "r", "e", "d", "re", "ed"}
        (late, *_) = index.search("red", mode="multi_vector", explain=True)
        assert late.matches.lexical == ()
        assert late.matches.tokens[-1].query.text == "</s>"
        assert index.search("red", mode="dense", explain=True)[0].matches == Matches()
