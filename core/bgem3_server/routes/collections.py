"""`/v1/collections`: documents in, hits out, over one `HybridIndex` a name."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict
from typing import Annotated, Any, Literal
from uuid import uuid4

from fastapi import APIRouter, Query
from pydantic import BaseModel, ConfigDict, Field

from bgem3.encoder import M3Encoder
from bgem3.errors import BGEM3Error
from bgem3.intake import checked_chunks
from bgem3.types import Chunk, Head, Hits, Mode, Strategy
from bgem3_server.json_body import JSON, StrictRoute, scalar_values
from bgem3_server.parts import ERRORS, Name, Parts, ServerParts, check_k
from bgem3_server.problems import ApiError
from bgem3_server.schemas import QUERY, TEXTS, Body, WeightsBody, weights_of
from bgem3_server.tokens import matching_pieces

router = APIRouter(prefix="/v1/collections", route_class=StrictRoute, responses=ERRORS)
Ids = Annotated[list[str], Query(max_length=1000, description="Ids of documents.")]


class DocumentBody(Body):
    """A text to store."""

    text: str
    id: str | None = Field(None, min_length=1, max_length=512)
    metadata: dict[str, Any] = Field(default_factory=dict, description="str, int, float, bool, or lists of one.")


class AddBody(Body):
    """Documents to add; one with an id that exists replaces it whole."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"documents": [{"id": "1", "text": TEXTS[0], "metadata": {"lang": "zh"}}]}]},
    )

    documents: list[DocumentBody]


class SearchBody(Body):
    """A search; `HybridIndex.search` explains each option."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"query": QUERY, "k": 3, "where": {"lang": "zh"}}]},
    )

    query: str
    k: int = Field(10, ge=1, le=100_000)
    mode: Mode = "hybrid"
    strategy: Strategy = "union"
    fetch_k: int = Field(100, ge=1, le=10_000)
    weights: WeightsBody | None = None
    rrf_k: int = Field(60, ge=1, le=10_000)
    where: dict[str, Any] | None = None
    exhaustive: bool = False
    cascade: tuple[Annotated[int, Field(ge=1, le=10_000)], Annotated[int, Field(ge=1, le=10_000)]] = (100, 20)
    explain: bool = Field(False, description="Tell what each stage did, and which pieces of each hit match.")


class MatchView(BaseModel):
    """A piece of a hit (`start` to `end` in code points), and how strongly it matches, 0 to 1."""

    start: int
    end: int
    strength: float
    head: Literal["sparse", "multi_vector"]


class HitView(BaseModel):
    """A result, with the raw score of each head."""

    id: str
    text: str
    metadata: dict[str, Any]
    score: float
    scores: dict[Head, float]
    matches: list[MatchView] | None = None


class StageView(BaseModel):
    """What a step of the search did."""

    name: str
    candidates: int
    seconds: float


class SearchAnswer(BaseModel):
    """Results, best first, and what each stage took."""

    hits: list[HitView]
    stages: list[StageView]
    seconds: float


class StoredDocument(BaseModel):
    """A document as it is stored."""

    id: str
    text: str
    metadata: dict[str, Any]


class Documents(BaseModel):
    """Several documents."""

    documents: list[StoredDocument]


class IdsAnswer(BaseModel):
    """Ids in the order of the documents, and how many the collection holds now."""

    ids: list[str]
    count: int


class DeleteBody(Body):
    """Which documents to delete: by id, or by filter."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"ids": ["1"]}]})

    ids: list[Annotated[str, Field(min_length=1)]] | None = None
    where: dict[str, Any] | None = None


class DeleteAnswer(BaseModel):
    """How many documents were deleted."""

    deleted: int


class DropAnswer(BaseModel):
    """The collection is gone."""

    name: str
    deleted: Literal[True] = True


class CollectionView(BaseModel):
    """A collection, and how many documents it holds; or why it cannot be opened."""

    name: str
    count: int | None
    error: str | None = None


class CollectionsAnswer(BaseModel):
    """All collections, by name."""

    collections: list[CollectionView]


@router.get("", response_model=CollectionsAnswer)
async def list_collections(parts: Parts) -> JSON:
    """List the collections; one that cannot be read has an `error` in place of its count."""
    _ = parts.engine.encoder
    return JSON({"collections": [await _listed(name, parts) for name in await parts.collections.names()]})


@router.get("/{name}", response_model=CollectionView)
async def get_collection(name: Name, parts: Parts) -> JSON:
    """Tell how many documents a collection holds."""
    return JSON(await _view(name, parts))


@router.delete("/{name}", response_model=DropAnswer)
async def delete_collection(name: Name, parts: Parts) -> JSON:
    """Delete a collection with all its documents, whatever model it was made with."""
    await parts.collections.drop(name)
    return JSON({"name": name, "deleted": True})


@router.post("/{name}/documents", response_model=IdsAnswer)
async def add_documents(name: Name, body: AddBody, parts: Parts) -> JSON:
    """Add documents, making the collection where there is none; one with an id that exists is replaced whole."""
    texts = [one.text for one in body.documents]
    ids = [one.id or str(uuid4()) for one in body.documents]
    metadatas = [one.metadata for one in body.documents]
    await parts.engine.check(texts)
    checked_chunks(texts, ids, metadatas)  # what is refused leaves no new collection
    index = await parts.collections.get(name, create=True)
    await index.aadd(texts, ids=ids, metadatas=metadatas)
    return JSON({"ids": ids, "count": await asyncio.to_thread(index.count)})


@router.get("/{name}/documents", response_model=Documents)
async def get_documents(name: Name, parts: Parts, ids: Ids) -> JSON:
    """Return documents by id, in the order asked; those that do not exist are left out."""
    index = await parts.collections.get(name)
    return JSON({"documents": [_document(chunk) for chunk in await index.aget(ids)]})


@router.delete("/{name}/documents", response_model=DeleteAnswer)
async def delete_documents_by_id(name: Name, parts: Parts, ids: Ids) -> JSON:
    """Delete documents by id."""
    index = await parts.collections.get(name)
    return JSON({"deleted": await index.adelete(ids=ids)})


@router.post("/{name}/documents/delete", response_model=DeleteAnswer)
async def delete_documents(name: Name, body: DeleteBody, parts: Parts) -> JSON:
    """Delete documents by id, or by a filter."""
    index = await parts.collections.get(name)
    return JSON({"deleted": await index.adelete(ids=body.ids, where=body.where)})


@router.post("/{name}/search", response_model=SearchAnswer, response_model_exclude_none=True)
async def search(name: Name, body: SearchBody, parts: Parts) -> JSON:
    """Search by meaning, words and details; every hit carries the raw score of each head."""
    check_k(body.k, parts.settings.limits)
    await parts.engine.check([body.query])
    index = await parts.collections.get(name)
    started = time.perf_counter()
    hits = await index.asearch(
        body.query, **body.model_dump(exclude={"query", "weights"}), weights=weights_of(body.weights)
    )
    seconds = time.perf_counter() - started
    answer = {"hits": [hit.to_dict() for hit in hits], "stages": [], "seconds": seconds}
    if body.explain:
        answer |= await asyncio.to_thread(_explained, hits, seconds, parts.engine.encoder)
    return JSON(answer)


def _explained(hits: Hits, seconds: float, encoder: M3Encoder) -> dict[str, Any]:
    stages = [asdict(stage) for stage in hits.stages]
    encoding = max(0.0, seconds - sum(stage.seconds for stage in hits.stages))
    views = [{**hit.to_dict(), "matches": [asdict(piece) for piece in matching_pieces(encoder, hit)]} for hit in hits]
    return {"hits": views, "stages": [{"name": "encode", "candidates": 1, "seconds": encoding}, *stages]}


async def _listed(name: str, parts: ServerParts) -> dict[str, Any]:
    try:
        return {"name": name, "count": await parts.collections.count(name)}
    except (ApiError, BGEM3Error) as error:  # the others are still worth showing
        return {"name": name, "count": None, "error": scalar_values(str(error))}


async def _view(name: str, parts: ServerParts) -> dict[str, Any]:
    index = await parts.collections.get(name)
    return {"name": name, "count": await asyncio.to_thread(index.count)}


def _document(chunk: Chunk) -> dict[str, Any]:
    return {"id": chunk.id, "text": chunk.text, "metadata": dict(chunk.metadata)}
