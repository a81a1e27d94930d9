"""What the routes work with: one set of parts an application, handed in by FastAPI."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Request

from bgem3_server.collections import Collections
from bgem3_server.engine import Engine
from bgem3_server.metrics import Metrics
from bgem3_server.problems import ApiError
from bgem3_server.schemas import ErrorAnswer
from bgem3_server.settings import ServerSettings

_ERROR_STATUSES = {
    401: "No valid API key",
    403: "Called by a name that is not this server's",
    404: "No such model, collection or document",
    408: "The request was sent too slowly",
    409: "The collection is locked, or was made with another model",
    413: "The body is too large",
    422: "The request is not valid, or over a limit",
    429: "Too many requests are under way",
    503: "The model is not loaded yet",
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


def check_model(asked: str | None, engine: Engine) -> str:
    """Return the name of the model that answers, or refuse a request for another one."""
    names = engine.names
    if asked is not None and asked not in names and asked.rsplit("/", 1)[-1] not in names:
        raise ApiError(404, f"model: {names[0]} is served here. Fix: ask for that name", param="model")
    return names[0]
