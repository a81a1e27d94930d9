"""Which pieces of a text its tokens are, and which of them answer a query."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.types import FloatArray

# Token pairs less alike than this are no match worth showing.
_ALIKE = 0.5


@dataclass(frozen=True, slots=True)
class Reading:
    """A text as the model reads it; all lists have one item a token, `<s>` left out, `</s>` kept.

    Attributes:
        ids: Token ids.
        pieces: The vocabulary's spelling, `▁` marking the start of a word.
        spans: Where each token stands in the text, in code points.
        weights: Lexical weights, 0 for tokens that have none.
    """

    ids: list[int]
    pieces: list[str]
    spans: list[tuple[int, int]]
    weights: list[float]


def read(encoder: M3Encoder, text: str, embeddings: M3Embeddings) -> Reading:
    """Return the tokens of a text that was encoded alone in `embeddings`."""
    ids, spans = encoder.tokenizer.spans(text)
    lexical = embeddings.lexical_weights(0)
    return Reading(ids[1:], encoder.tokenizer.tokens(ids[1:]), spans[1:], [lexical.get(one, 0.0) for one in ids[1:]])


def matches(encoder: M3Encoder, query: M3Embeddings, texts: Sequence[str], passages: M3Embeddings) -> list[list[Match]]:
    """Return for each text the pieces that the query finds, the strongest first where they overlap."""
    return [_of_one(query, read(encoder, text, passages[[i]]), passages[[i]]) for i, text in enumerate(texts)]


@dataclass(frozen=True, slots=True)
class Match:
    """A piece of a text, `start` to `end` in code points; `strength` lies in (0, 1]."""

    start: int
    end: int
    strength: float
    head: str


def _of_one(query: M3Embeddings, reading: Reading, passage: M3Embeddings) -> list[Match]:
    return [*_lexical(query, reading), *_alike(query.multi_vector[0], reading, passage.multi_vector[0])]


def _lexical(query: M3Embeddings, reading: Reading) -> list[Match]:
    """Return the tokens that both have, as strong as their product beside the largest."""
    wanted = query.lexical_weights(0)
    products = [weight * wanted.get(token, 0.0) for token, weight in zip(reading.ids, reading.weights, strict=True)]
    largest = max(products, default=0.0)
    return [
        Match(start, end, round(product / largest, 4), "sparse")
        for product, (start, end) in zip(products, reading.spans, strict=True)
        if product > 0 and end > start
    ]


def _alike(query: FloatArray, reading: Reading, passage: FloatArray) -> list[Match]:
    """Return the best token of the passage for each token of the query but `</s>`, where it is alike enough."""
    similarity = query[:-1] @ passage[:-1].T
    if not similarity.size or len(passage) != len(reading.ids):
        return []
    best: dict[int, float] = {}
    for place, value in zip(similarity.argmax(axis=1).tolist(), similarity.max(axis=1).tolist(), strict=True):
        best[place] = max(best.get(place, 0.0), value)
    spans = reading.spans
    return [
        Match(*spans[place], round(min(1.0, value), 4), "multi_vector")
        for place, value in best.items()
        if value >= _ALIKE and spans[place][1] > spans[place][0]
    ]
