"""Which pieces of a text its tokens are, and which of them made a hit."""

from __future__ import annotations

from dataclasses import dataclass

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.types import Hit, Token

# Token pairs less alike than this are no match worth showing.
_ALIKE = 0.6


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the model reads it; one item a token, `<s>` left out, `</s>` kept.

    Attributes:
        ids: Token ids.
        tokens: Their pieces of the text.
        weights: Lexical weights, 0 for tokens that have none.
    """

    ids: list[int]
    tokens: list[Token]
    weights: list[float]


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a text, `start` to `end` in code points; `strength` lies in (0, 1]."""

    start: int
    end: int
    strength: float
    head: str


def read(encoder: M3Encoder, text: str, embeddings: M3Embeddings) -> Reading:
    """Return the tokens of a text that was encoded alone in `embeddings`."""
    ids = encoder.tokenizer.encode([text])[0][1:].tolist()
    lexical = embeddings.lexical_weights(0)
    return Reading(ids, encoder.tokenizer.spans(text)[1:], [lexical.get(one, 0.0) for one in ids])


def matching_pieces(encoder: M3Encoder, hit: Hit) -> list[Piece]:
    """Return the pieces of an explained hit that the query shares, and those that it found alike.

    A shared token is as strong as its part of the sparse score beside the largest part; a token found
    by its vector is as strong as the two vectors' product.
    """
    if hit.matches is None:
        return []
    parts = {match.token: match.score for match in hit.matches.lexical}
    largest = max(parts.values(), default=1.0)
    shared = [(token, parts[token.text] / largest, "sparse") for token in _spans(encoder, hit) if token.text in parts]
    best: dict[Token, float] = {}
    for match in hit.matches.tokens:
        if match.score >= _ALIKE and match.query.end > match.query.start:
            best[match.passage] = max(match.score, best.get(match.passage, 0.0))
    alike = [(token, min(score, 1.0), "multi_vector") for token, score in best.items()]
    return [
        Piece(token.start, token.end, round(strength, 4), head)
        for token, strength, head in (*shared, *alike)
        if token.end > token.start
    ]


def _spans(encoder: M3Encoder, hit: Hit) -> list[Token]:
    return encoder.tokenizer.spans(hit.text) if hit.matches and hit.matches.lexical else []
