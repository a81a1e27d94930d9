"""`POST /v1/collections/{name}/chat`: answers from a collection, with the passages they cite, as server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Literal

import orjson
from fastapi import APIRouter
from fastapi.responses import StreamingResponse
from pydantic import ConfigDict, Field

from bgem3.chat import ChatModel, Turn, answer, standalone_question
from bgem3.errors import BGEM3Error, ChatModelError
from bgem3.redact import without_user
from bgem3.types import Hits
from bgem3_server.json_body import StrictRoute, scalar_values
from bgem3_server.logs import log
from bgem3_server.parts import ERRORS, Name, Parts, ServerParts, check_k
from bgem3_server.problems import ApiError
from bgem3_server.schemas import QUERY, Body

router = APIRouter(route_class=StrictRoute, responses=ERRORS)


class Message(Body):
    """One turn of a conversation."""

    role: Literal["user", "assistant"]
    content: str


class ChatBody(Body):
    """A conversation whose last turn is the question."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"messages": [{"role": "user", "content": QUERY}]}]},
    )

    messages: list[Message] = Field(min_length=1, max_length=100)
    k: int = Field(5, ge=1, le=50)
    where: dict[str, Any] | None = None


@router.post("/v1/collections/{name}/chat", response_class=StreamingResponse)
async def chat(name: Name, body: ChatBody, parts: Parts) -> StreamingResponse:
    """Answer the last question from a collection.

    Events: `sources` (the passages, numbered from 1), `text` (pieces of the answer), then `done` or `error`.
    Without a language model the answer quotes the passages.
    """
    check_k(body.k, parts.settings.limits)
    turns = [Turn(message.role, message.content) for message in body.messages]
    await parts.engine.check([turn.content for turn in turns])
    model = parts.settings.chat
    index = await parts.collections.get(name)
    try:
        question = scalar_values(await standalone_question(turns, model))
    except ChatModelError as error:
        raise ApiError(502, _told(error, model)) from error
    hits = await index.asearch(question, k=body.k, where=body.where)
    return StreamingResponse(_events(turns, question, hits, parts), media_type="text/event-stream")


async def _events(turns: Sequence[Turn], question: str, hits: Hits, parts: ServerParts) -> AsyncIterator[bytes]:
    model = parts.settings.chat
    passages = [{"id": hit.id, "text": hit.text, "metadata": dict(hit.metadata), "score": hit.score} for hit in hits]
    yield _event("sources", {"question": question, "passages": passages, "model": model and model.name})
    try:
        async for part in answer(turns, question, hits, model=model, encoder=parts.engine.encoder):
            yield _event("text", {"text": scalar_values(part)})
    except ChatModelError as error:  # the status has been sent: the client must learn it here
        yield _event("error", {"message": _told(error, model)})
    except BGEM3Error as error:
        log("chat failed", level="warning", error=type(error).__name__)
        yield _event("error", {"message": str(error)})
    else:
        yield _event("done", {})


def _told(error: ChatModelError, model: ChatModel | None) -> str:
    """Log a failure of the language model and return what visitors may know: its own words may hold a key."""
    cause = error.__cause__ or error
    status = getattr(cause, "status_code", None)
    address = model and model.base_url and without_user(model.base_url)
    log("no answer from the chat model", level="warning", error=type(cause).__name__, status=status, base_url=address)
    shown = f"{type(cause).__name__}, HTTP {status}" if status else type(cause).__name__
    return f"The language model gave no answer ({shown}); the operator's log says more"


def _event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: " + name.encode() + b"\ndata: " + orjson.dumps(data) + b"\n\n"
