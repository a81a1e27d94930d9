"""What the routes work with: one set of parts an application, handed in by FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Path, Request

from bgem3_server.collections import Collections
from bgem3_server.engine import Engine
from bgem3_server.metrics import Metrics
from bgem3_server.problems import ApiError, over_limit
from bgem3_server.schemas import ErrorAnswer
from bgem3_server.settings import Limits, ServerSettings

_ERROR_STATUSES = {
    401: "No valid API key",
    403: "Called by a name that is not this server's",
    404: "No such model, collection or document",
    408: "The request was sent too slowly",
    409: "The collection is locked, deleted meanwhile, or was made with another model",
    413: "The body is too large",
    422: "The request is not valid, or over a limit",
    429: "Too many requests are under way",
    501: "A part of the server is not installed",
    502: "The language model gave no answer, or a server behind this one refused its key",
    503: "The model is not loaded yet, or a server behind this one does not answer",
    507: "The disk is full or read-only",
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorAnswer, "description": text} for status, text in _ERROR_STATUSES.items()
}


@dataclass(frozen=True, slots=True)
class ServerParts:
    """The parts of one application."""

    settings: ServerSettings
    engine: Engine
    collections: Collections
    metrics: Metrics


def _parts(request: Request) -> ServerParts:
    parts: ServerParts = request.app.state.parts
    return parts


Parts = Annotated[ServerParts, Depends(_parts)]
Name = Annotated[str, Path(description="The collection's name.", examples=["tea"])]


def check_model(asked: str | None, engine: Engine) -> str:
    """Return the name of the model that answers, or refuse a request for another one."""
    names = engine.names
    if asked is not None and asked not in names and asked.rsplit("/", 1)[-1] not in names:
        raise ApiError(404, f"model: {names[0]} is served here. Fix: ask for that name", param="model")
    return names[0]


def check_k(k: int, limits: Limits) -> None:
    """Refuse more results than one search may have."""
    if k > limits.max_k:
        raise over_limit(422, "max_k", limits.max_k, k, "results")
