"""Which tokens made a hit: the parts of its sparse score, and the best match of each query token."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bgem3.types import FloatArray, LexicalMatch, Matches, Token, TokenMatch


def lexical_matches(parts: Mapping[int, float]) -> tuple[LexicalMatch, ...]:
    """Order the parts of a sparse score, `{token id: part}`, the largest first; ties by id."""
    ordered = sorted(parts.items(), key=lambda part: (-part[1], part[0]))
    return tuple(LexicalMatch(token_id, part) for token_id, part in ordered if part > 0)


def token_matches(query: FloatArray, passage: FloatArray) -> tuple[TokenMatch, ...]:
    """Find the passage vector nearest to each query vector.

    Args:
        query: `(n_query_tokens, multi_dim)` float32.
        passage: `(n_tokens, multi_dim)` float32; without a row nothing matches.
    """
    if not len(passage):
        return ()
    similarity = query @ passage.T
    best = similarity.argmax(axis=1).tolist()
    return tuple(TokenMatch(Token(i), Token(j), float(similarity[i, j])) for i, j in enumerate(best))


def named(
    matches: Matches, pieces: Callable[[Sequence[int]], list[str]], query: Sequence[Token], passage: Sequence[Token]
) -> Matches:
    """Put the tokens' texts where ids and positions stand.

    Args:
        matches: As a store found them.
        pieces: Returns the vocabulary's piece of each token id.
        query: The token of each of the query's vectors.
        passage: The chunk's tokens; where the store has not as many vectors, those were pooled, and their positions
            stay without a text.
    """
    passage = passage if len(passage) == matches.vectors else ()
    texts = pieces([match.token_id for match in matches.lexical])
    lexical = [replace(match, token=text) for match, text in zip(matches.lexical, texts, strict=True)]
    tokens = [
        replace(match, query=query[match.query.position], passage=_at(passage, match.passage))
        for match in matches.tokens
    ]
    return Matches(tuple(lexical), tuple(tokens), matches.vectors)


def _at(tokens: Sequence[Token], token: Token) -> Token:
    return tokens[token.position] if token.position < len(tokens) else token
