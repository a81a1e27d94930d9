"""`POST /v1/rerank` in the shape of Cohere and Jina, and `POST /v1/score` for pairs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Literal
from uuid import uuid4

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bgem3.embeddings import M3Embeddings
from bgem3.rerank import ranked
from bgem3.scoring import Scores, score, score_pairs
from bgem3.types import HEADS, Head, Weights
from bgem3_server.json_body import JSON, StrictRoute
from bgem3_server.parts import ERRORS, Parts, check_model
from bgem3_server.problems import ApiError, over_limit
from bgem3_server.schemas import QUERY, TEXTS, Body, Usage, WeightsBody, weights_of

router = APIRouter(route_class=StrictRoute, responses=ERRORS)
# Numbers of one answer: four scores each of 250,000 pairs are 20 MB of JSON.
_MAX_PAIRS = 250_000


class RerankDocument(BaseModel):
    """A document as an object."""

    text: str


class RerankBody(BaseModel):
    """Cohere's and Jina's request, and `weights`."""

    model_config = ConfigDict(
        protected_namespaces=(),
        json_schema_extra={"examples": [{"query": QUERY, "documents": TEXTS, "top_n": 1}]},
    )

    query: str
    documents: list[str | RerankDocument]
    model: str | None = None
    top_n: int | None = Field(None, ge=1, le=2**31)
    return_documents: bool = False
    weights: WeightsBody | None = None


class RerankResult(BaseModel):
    """One document; a higher `relevance_score` is better."""

    index: int
    relevance_score: float
    scores: dict[Head, float]
    document: RerankDocument | None = None


class RerankAnswer(BaseModel):
    """The documents, best first."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    model: str
    object: Literal["list"] = "list"
    results: list[RerankResult]
    usage: Usage


class ScoreBody(Body):
    """Either `pairs`, or every one of `queries` against every one of `passages`."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"pairs": [[QUERY, text] for text in TEXTS]}]},
    )

    pairs: list[tuple[str, str]] | None = None
    queries: list[str] | None = None
    passages: list[str] | None = None
    weights: WeightsBody | None = None


class HeadScores(BaseModel):
    """The scores of each head and their weighted mean: one number a pair, or one row a query."""

    dense: list[Any]
    sparse: list[Any]
    multi_vector: list[Any]
    hybrid: list[Any]


class ScoreAnswer(BaseModel):
    """Scores, higher is better."""

    scores: HeadScores
    usage: Usage


@router.post("/v1/rerank", response_model=RerankAnswer)
async def rerank(body: RerankBody, parts: Parts) -> JSON:
    """Put documents in the order of their score against a query: the weighted mean of the three heads."""
    model = check_model(body.model, parts.engine)
    texts = [one if isinstance(one, str) else one.text for one in body.documents]
    weights = weights_of(body.weights)
    async with parts.engine.encode([body.query, *texts], max_numbers=parts.settings.limits.max_held) as encoded:
        found = await asyncio.to_thread(ranked, encoded.embeddings, texts, weights, body.top_n)
    results: list[dict[str, Any]] = []
    for one in found:
        results.append({"index": one.index, "relevance_score": one.score, "scores": one.scores})
        if body.return_documents:
            results[-1]["document"] = {"text": one.text}
    return JSON({"id": uuid4().hex, "model": model, "object": "list", "results": results, "usage": encoded.usage})


@router.post("/v1/score", response_model=ScoreAnswer)
async def score_texts(body: ScoreBody, parts: Parts) -> JSON:
    """Score pairs, or all queries against all passages, by each head."""
    weights = weights_of(body.weights)
    if body.pairs is not None and body.queries is None and body.passages is None:
        left, right = [pair[0] for pair in body.pairs], [pair[1] for pair in body.pairs]
        limit = parts.settings.limits.max_texts
        if len(left) > limit:
            raise over_limit(422, "max_texts", limit, len(left), "pairs")
    elif body.pairs is None and body.queries is not None and body.passages is not None:
        left, right = body.queries, body.passages
        if len(left) * len(right) > _MAX_PAIRS:
            raise over_limit(422, "max_pairs", _MAX_PAIRS, len(left) * len(right), "pairs")
    else:
        raise ApiError(422, 'expected either pairs, or queries and passages. Fix: {"pairs": [[query, passage]]}')
    places = {text: place for place, text in enumerate(dict.fromkeys([*left, *right]))}
    rows, columns = [places[text] for text in left], [places[text] for text in right]
    compute = _all if body.pairs is None else score_pairs
    async with parts.engine.encode(list(places), max_numbers=parts.settings.limits.max_held) as encoded:
        scores = await asyncio.to_thread(compute, encoded.embeddings, rows, columns)
    return JSON({"scores": _heads(scores, weights, flat=body.pairs is not None), "usage": encoded.usage})


def _all(embeddings: M3Embeddings, rows: Sequence[int], columns: Sequence[int]) -> Scores:
    """Score every row against every column; a text that stands there twice is scored once."""
    left, row_of = np.unique(np.array(rows, np.intp), return_inverse=True)
    right, column_of = np.unique(np.array(columns, np.intp), return_inverse=True)
    scores = score(embeddings[left], embeddings[right])
    return Scores(*(getattr(scores, head)[np.ix_(row_of, column_of)] for head in HEADS))


def _heads(scores: Scores, weights: Weights, *, flat: bool) -> dict[str, Any]:
    parts = {str(head): getattr(scores, head) for head in HEADS} | {"hybrid": scores.combine(weights)}
    return {name: np.ascontiguousarray(part[:, 0] if flat else part) for name, part in parts.items()}
