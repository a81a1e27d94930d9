"""Reorder given texts by all three heads; nothing is fetched or stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from numbers import Integral

import numpy as np

from bgem3.embeddings import M3Embeddings
from bgem3.encoder import M3Encoder
from bgem3.errors import InvalidInputError
from bgem3.intake import check_text, check_texts, too_long_named
from bgem3.scoring import score, score_pairs
from bgem3.types import FloatArray, Ranked, Weights, check_weights


class Reranker:
    """Scores texts against a query with the weighted mean of the heads.

    Args:
        encoder: Encodes both sides.
        weights: How much each head counts; None: `Weights.balanced`.

    Raises:
        InvalidInputError: weights that are not `Weights`.
    """

    def __init__(self, encoder: M3Encoder, *, weights: Weights | None = None) -> None:
        self.encoder = encoder
        self.weights = Weights.balanced if weights is None else weights
        check_weights(self.weights)

    def rerank(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[Ranked]:
        """Return texts in order of their score, best first; ties in the order given.

        Args:
            query: A text in any language.
            texts: Any number; none gives an empty list.
            top_n: How many to return; None: all.

        Raises:
            InvalidInputError: `top_n` below 1, or a bad text.
            TextTooLongError: a text is longer than `max_length` under `overflow="error"`.
            BackendError: the forward pass failed.
        """
        self._check(query, texts, top_n)
        if not len(texts):
            return []
        with too_long_named(_name):
            embeddings = self.encoder.encode([query, *texts])
        return ranked(embeddings, texts, self.weights, top_n)

    async def arerank(self, query: str, texts: Sequence[str], *, top_n: int | None = None) -> list[Ranked]:
        """Do the same beside the event loop."""
        self._check(query, texts, top_n)
        if not len(texts):
            return []
        with too_long_named(_name):
            embeddings = await self.encoder.aencode([query, *texts])
        return await asyncio.to_thread(ranked, embeddings, texts, self.weights, top_n)

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return the score of each (query, passage) pair, `(n,)` float32; each distinct text is encoded once.

        Raises:
            InvalidInputError: something is no pair of texts, or a text is bad.
            TextTooLongError: a text is longer than `max_length` under `overflow="error"`.
            BackendError: the forward pass failed.

        Source: FlagEmbedding `compute_score`, "colbert+sparse+dense".
        """
        names: dict[str, str] = {}
        for position, pair in enumerate(pairs):
            if not isinstance(pair, tuple | list) or [isinstance(text, str) for text in pair] != [True, True]:
                raise InvalidInputError(
                    f"pairs[{position}]: expected a query and a passage, two strings. Fix: (query, passage)"
                )
            for side, text in enumerate(pair):
                names.setdefault(check_text(text, f"pairs[{position}][{side}]"), f"pairs[{position}][{side}]")
        if not len(pairs):
            return np.empty(0, dtype=np.float32)
        texts = list(names)
        place = {text: position for position, text in enumerate(texts)}
        rows, columns = zip(*((place[query], place[passage]) for query, passage in pairs), strict=True)
        with too_long_named(lambda position: names[texts[position]]):
            embeddings = self.encoder.encode(texts)
        total: FloatArray = score_pairs(embeddings, rows, columns).combine(self.weights)[:, 0]
        return total

    def _check(self, query: str, texts: Sequence[str], top_n: int | None) -> None:
        check_text(query, "query")
        for position, text in enumerate(check_texts(texts)):
            check_text(text, f"texts[{position}]")
        if top_n is not None and (not isinstance(top_n, Integral) or top_n < 1):
            raise InvalidInputError(f"top_n: expected a whole number >= 1, got {top_n!r}. Fix: top_n=3")


def ranked(embeddings: M3Embeddings, texts: Sequence[str], weights: Weights, top_n: int | None = None) -> list[Ranked]:
    """Return texts in order of their score; `embeddings` holds all heads of the query, then of each text."""
    scores = score(embeddings[[0]], embeddings[1:])
    # Equal texts are told apart by a last bit, since products round by place: they take the first one's scores.
    first: dict[str, int] = {}
    same = [first.setdefault(text, i) for i, text in enumerate(texts)]
    total = scores.combine(weights)[0][same]
    order = np.argsort(-total, kind="stable")[:top_n].tolist()
    return [Ranked(i, texts[i], float(total[i]), scores.pair(0, same[i])) for i in order]


def _name(position: int) -> str:
    return f"texts[{position - 1}]" if position else "query"
