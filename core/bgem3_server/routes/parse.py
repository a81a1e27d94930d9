"""`POST /v1/parse`: a file in, its passages out; nothing is stored."""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel

from bgem3.reading import read_passages
from bgem3_server.json_body import JSON
from bgem3_server.parts import ERRORS

router = APIRouter(responses=ERRORS)


class Passage(BaseModel):
    """A piece of a file, ready to be added to a collection."""

    id: str
    text: str
    metadata: dict[str, Any]


class ParseAnswer(BaseModel):
    """The passages of a file, in its order."""

    documents: list[Passage]


@router.post("/v1/parse", response_model=ParseAnswer)
async def parse(
    filename: Annotated[str, Query(max_length=255, description="Its ending tells the kind.", examples=["tea.md"])],
    content: Annotated[bytes, Body(media_type="application/octet-stream")],
    size: Annotated[int, Query(ge=100, le=20_000, description="Characters of a passage, about.")] = 1200,
) -> JSON:
    """Read txt, md, pdf, csv or jsonl, and cut it into passages of whole paragraphs."""
    passages = await asyncio.to_thread(lambda: list(read_passages(filename, content, size=size)))
    return JSON({"documents": [asdict(one) for one in passages]})
