"""What tells how the server is, and what it serves."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from typing import Any, Literal

from fastapi import APIRouter, Response
from fastapi.responses import FileResponse
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, ConfigDict

from bgem3.fingerprint import file_sha256
from bgem3_server.collections import GONE
from bgem3_server.json_body import JSON
from bgem3_server.parts import ERRORS, Parts

router = APIRouter()


class Health(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Whether the model is loaded, and the folder of the collections where it was."""

    status: Literal["ready", "loading", "failed", "gone"]
    error: str | None = None


class ModelView(BaseModel):
    """A model as OpenAI lists it, and what `M3Encoder.describe` says of it."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "bgem3"


class ModelsAnswer(BaseModel):
    """The one model that is served."""

    object: Literal["list"] = "list"
    data: list[ModelView]


class Info(BaseModel):
    """What a client may want to know before it asks."""

    model_config = ConfigDict(protected_namespaces=())

    version: str
    model: str
    limits: dict[str, float | None]
    chat_model: str | None
    persistent: bool


@router.get("/health", response_model=Health)
async def health() -> JSON:
    """Answer as soon as the process runs."""
    return JSON({"status": "ok"})


@router.get("/ready", response_model=Ready, responses={503: {"model": Ready, "description": "Not ready"}})
async def ready(parts: Parts) -> JSON:
    """Answer 200 once the model is loaded, while the folder of the collections is where it was."""
    if not parts.engine.ready:
        return JSON({"status": "failed" if parts.engine.failure else "loading"}, status_code=503)
    if await parts.collections.gone():
        return JSON({"status": "gone", "error": GONE}, status_code=503)
    return JSON({"status": "ready"})


@router.get(
    "/metrics", response_class=Response, responses={200: {"content": {CONTENT_TYPE_LATEST: {}}}, 401: ERRORS[401]}
)
async def metrics(parts: Parts) -> Response:
    """Give Prometheus its numbers."""
    return Response(parts.metrics.exposition(), media_type=CONTENT_TYPE_LATEST)


@router.get("/v1/models", response_model=ModelsAnswer, responses=ERRORS)
async def models(parts: Parts) -> JSON:
    """List the model that is served, as OpenAI does, and describe it."""
    encoder = parts.engine.encoder
    name, file = parts.engine.names[0], encoder.tokenizer.path
    model: dict[str, Any] = {"id": name, "object": "model", "created": int(file.stat().st_mtime), "owned_by": "bgem3"}
    described = {**encoder.describe(), "model": name, "tokenizer_sha256": file_sha256(file)}
    return JSON({"object": "list", "data": [model | described]})


@router.get("/v1/tokenizer", response_class=FileResponse, responses=ERRORS)
async def tokenizer(parts: Parts) -> FileResponse:
    """Give the model's `tokenizer.json`, for clients that send token ids; `/v1/models` has its SHA-256."""
    return FileResponse(parts.engine.encoder.tokenizer.path, media_type="application/json")


@router.get("/v1/info", response_model=Info, responses=ERRORS)
async def info(parts: Parts) -> JSON:
    """Tell version, limits, and what the chat answers with."""
    settings = parts.settings
    return JSON(
        {
            "version": version("bgem3"),
            "model": parts.engine.names[0],
            "limits": asdict(settings.limits),
            "chat_model": settings.chat and settings.chat.name,
            "persistent": settings.db is not None,
        }
    )
