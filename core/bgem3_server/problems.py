"""Errors as JSON, in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`, and `limit` where one was met."""

from __future__ import annotations

import traceback
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from bgem3.errors import (
    BackendError,
    BGEM3Error,
    IndexMismatchError,
    InvalidInputError,
    MissingExtraError,
    RemoteAccessError,
    RemoteConnectionError,
    StoreAccessError,
    StoreClosedError,
    StoreConnectionError,
    StoreError,
    StoreLockedError,
    StoreNotFoundError,
    StoreWriteError,
)
from bgem3_server.json_body import JSON, scalar_values
from bgem3_server.logs import log

# The first class that fits decides.
_STATUS: tuple[tuple[type[BGEM3Error], int], ...] = (
    (InvalidInputError, 422),
    (StoreLockedError, 409),
    (IndexMismatchError, 409),
    (StoreClosedError, 409),
    (StoreNotFoundError, 404),
    (StoreWriteError, 507),
    (StoreAccessError, 502),
    (StoreConnectionError, 503),
    (StoreError, 500),
    (MissingExtraError, 501),
    (RemoteAccessError, 502),
    (RemoteConnectionError, 503),
    (BackendError, 500),
)
_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "not_ready_error"}


class ApiError(Exception):
    """A request that is answered with an error.

    Args:
        status: The HTTP status.
        message: What is wrong, got, expected, and the fix.
        param: The field of the request it is about.
        limit: The limit that was met: `{"name", "value", "got"}`.
        headers: Further headers of the answer.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        limit: dict[str, Any] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.limit, self.headers = status, message, param, limit, headers

    def response(self) -> JSON:
        """Return the answer."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        code = self.limit["name"] if self.limit else None
        error = {"message": scalar_values(self.message), "type": kind, "param": self.param, "code": code}
        if self.limit:
            error["limit"] = self.limit
        return JSON({"error": error}, status_code=self.status, headers=self.headers)


def over_limit(status: int, name: str, value: float, got: float | str, unit: str) -> ApiError:
    """Return the error of a limit that was met."""
    retry = {"Retry-After": "1"} if status == 429 else None
    message = f"{name}: got {got} {unit}, this server takes {value}. Fix: send less at once"
    return ApiError(status, message, limit={"name": name, "value": value, "got": got}, headers=retry)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of the application in one shape."""
    app.add_exception_handler(ApiError, _on_api_error)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.add_exception_handler(BGEM3Error, _on_own_error)


def unexpected(error: Exception) -> JSON:
    """Log an error nobody foresaw, without its message, which may quote a text, and return a 500."""
    frames = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(error.__traceback__)]
    log("unexpected error", level="error", error=type(error).__name__, trace=frames[-12:])
    return ApiError(500, f"The server failed ({type(error).__name__}); its log says where").response()


async def _on_api_error(request: Request, error: Exception) -> JSON:
    assert isinstance(error, ApiError)
    return error.response()


async def _on_invalid_request(request: Request, error: Exception) -> JSON:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(422, f"body: not JSON at character {first['loc'][-1]} ({first['ctx']['error']})").response()
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(error.errors()) - 1} more)" if len(error.errors()) > 1 else ""
    return ApiError(422, f"{place}: {first['msg']}{more}", param=place).response()


async def _on_http_error(request: Request, error: Exception) -> JSON:
    assert isinstance(error, HTTPException)
    message = (
        f"{error.detail}: {request.method} {request.url.path}" if error.status_code in (404, 405) else error.detail
    )
    return ApiError(error.status_code, message, headers=dict(error.headers or {})).response()


async def _on_own_error(request: Request, error: Exception) -> JSON:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), None)
    if status is None:
        return unexpected(error)
    if isinstance(error, StoreClosedError):  # the server closes a collection only where one is deleted
        return ApiError(409, "The collection was deleted meanwhile. Fix: send the request again").response()
    if status >= 500:  # our own words, which name files and ids and no texts
        log("request failed", level="error", error=type(error).__name__, message=str(error))
    return ApiError(status, str(error)).response()
