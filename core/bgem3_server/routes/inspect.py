"""`POST /v1/inspect`: two texts, token by token."""

from __future__ import annotations

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from bgem3.scoring import score
from bgem3_server.json_body import JSON, StrictRoute
from bgem3_server.parts import ERRORS, Parts
from bgem3_server.problems import over_limit
from bgem3_server.schemas import TEXTS, Body, WeightsBody, weights_of
from bgem3_server.tokens import Reading, read

router = APIRouter(route_class=StrictRoute, responses=ERRORS)
# A map of more cells is neither drawn nor read by anyone.
_MAX_TOKENS = 512


class InspectBody(Body):
    """Two texts to look at closely."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "calming tea", "passage": TEXTS[0]}]}
    )

    query: str
    passage: str
    weights: WeightsBody | None = None


class TokenView(BaseModel):
    """A token: its piece of the text (`start` to `end` in code points), and its lexical weight (0: none)."""

    piece: str
    start: int
    end: int
    weight: float
    shared: bool = Field(description="Whether the other text has it too.")


class InspectAnswer(BaseModel):
    """Tokens of both texts, and how their vectors match."""

    query: list[TokenView]
    passage: list[TokenView]
    similarity: list[list[float]] = Field(description="Query tokens x passage tokens, the first token left out.")
    best: list[int] = Field(description="For each query token the passage token that matches best.")
    scores: dict[str, float]


@router.post("/v1/inspect", response_model=InspectAnswer)
async def inspect(body: InspectBody, parts: Parts) -> JSON:
    """Show each token's lexical weight, and which tokens of the passage each token of the query finds."""
    weights = weights_of(body.weights)
    texts = [body.query, body.passage]
    encoder = parts.engine.encoder
    limit, longest = min(_MAX_TOKENS, encoder.lengths.max_length), max(await parts.engine.lengths(texts))
    if longest > limit:
        raise over_limit(422, "max_inspect_tokens", limit, longest, "tokens")
    async with parts.engine.encode(texts) as found:
        encoded = found.embeddings
    query, passage = (read(encoder, text, encoded[[i]]) for i, text in enumerate(texts))
    similarity = encoded.multi_vector[0] @ encoded.multi_vector[1].T
    scores = score(encoded[[0]], encoded[[1]])
    return JSON(
        {
            "query": _views(query, passage),
            "passage": _views(passage, query),
            "similarity": np.round(similarity, 4),
            "best": similarity.argmax(axis=1),
            "scores": {**scores.pair(0, 0), "hybrid": float(scores.combine(weights)[0, 0])},
        }
    )


def _views(one: Reading, other: Reading) -> list[dict[str, object]]:
    shared = {token for token, weight in zip(other.ids, other.weights, strict=True) if weight > 0}
    return [
        {
            "piece": token.text,
            "start": token.start,
            "end": token.end,
            "weight": round(weight, 4),
            "shared": weight > 0 and id_ in shared,
        }
        for id_, token, weight in zip(one.ids, one.tokens, one.weights, strict=True)
    ]
