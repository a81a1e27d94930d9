"""JSON in and out through orjson: fast for vectors, strict about numbers, depth and Unicode."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.routing import APIRoute

# 19 digits that no point, exponent or other digit stands beside.
_LONG_NUMBER = re.compile(rb"(?<![\d.eE+])\d{19,}(?![\d.eE])")


class JSON(Response):
    """A JSON answer; numpy arrays are written as they are."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the bytes of the body."""
        return orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


class _StrictRequest(Request):
    async def json(self) -> Any:
        """Parse the body; NaN, lone surrogates and more than 1,024 levels are refused.

        orjson makes a float of an integer of more than 64 bits; where there may be one, it is kept for others to refuse.
        """
        body = await self.body()
        parsed = orjson.loads(body)
        return json.loads(body) if _LONG_NUMBER.search(body) else parsed


class StrictRoute(APIRoute):
    """A route whose body is parsed by orjson."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Return the handler around the one FastAPI makes."""
        handler = super().get_route_handler()

        async def handle(request: Request) -> Response:
            return await handler(_StrictRequest(request.scope, request.receive))

        return handle


def scalar_values(text: str) -> str:
    """Return a text that UTF-8 can carry: halves of surrogate pairs become question marks."""
    return text.encode("utf-8", "replace").decode("utf-8")
