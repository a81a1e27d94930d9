"""What every request passes first: its key, its place in the queue, its size; and what is noted when it leaves."""

from __future__ import annotations

import asyncio
import hmac
import time
from collections.abc import Sequence
from uuid import uuid4

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bgem3_server.logs import log
from bgem3_server.metrics import Metrics
from bgem3_server.problems import ApiError, over_limit, unexpected
from bgem3_server.settings import Limits

_SECURITY = {
    "content-security-policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}
_LEFT = 499  # nginx's: the client went while it sent its request
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Observe:
    """Logs and counts each request, answers what nobody caught, and adds the security headers."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, request_id, status = time.perf_counter(), uuid4().hex, 0

        async def note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _SECURITY.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            await self._app(scope, receive, note)
        except ClientDisconnect:
            status = _LEFT
        except asyncio.CancelledError:  # the server stops, and waits no longer
            if status:
                raise
            await ApiError(503, "The server is stopping. Fix: ask again once it has started").response()(
                scope, receive, note
            )
        except Exception as error:  # the last place where a client can be told
            if status:
                raise
            await unexpected(error)(scope, receive, note)
        finally:
            self._record(scope, status, time.perf_counter() - started, request_id)

    def _record(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route = getattr(scope.get("route"), "path", "other")
        method = scope["method"] if scope["method"] in _METHODS else "other"  # a client may send any word
        self._metrics.requests.labels(method, route, status).inc()
        self._metrics.seconds.labels(route).observe(seconds)
        log("request", method=method, route=route, status=status, id=request_id, ms=round(seconds * 1000, 1))


class Guard:
    """Refuses requests by another host's name, and to the API without a key, beyond the queue, too large or too slow."""

    def __init__(
        self, app: ASGIApp, *, hosts: Sequence[str], api_keys: Sequence[str], limits: Limits, metrics: Metrics
    ) -> None:
        self._app = app
        self._hosts = tuple(dict.fromkeys(_host_name(host) for host in hosts))
        self._keys = [key.encode() for key in api_keys]
        self._limits = limits
        self._metrics = metrics
        self._under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            self._check_host(Headers(scope=scope))
            if _is_api(scope["path"]) and scope["method"] != "OPTIONS":
                await self._api(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        except ApiError as error:
            await self._refuse(error)(scope, receive, send)

    async def _api(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._check_key(Headers(scope=scope))
        self._enter()
        try:
            body = await self._body(scope, receive)
            await self._app(scope, _replay(body, receive), send)
        finally:
            self._under_way -= 1
            self._metrics.under_way.set(self._under_way)

    def _refuse(self, error: ApiError) -> ASGIApp:
        if error.limit:
            self._metrics.refused.labels(error.limit["name"]).inc()
        return error.response()

    def _check_host(self, headers: Headers) -> None:
        """Refuse a name that someone else's page made point here: with it, the browser takes us for that page's own."""
        name = _host_name(headers.get("host", ""))
        if self._hosts and name not in self._hosts:
            expected = ", ".join(self._hosts)
            raise ApiError(403, f"Host: got {name!r}, expected one of {expected}. Fix: --allowed-host {name or 'NAME'}")

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        shown = (given if scheme.lower() == "bearer" else headers.get("x-api-key", "")).strip().encode()
        # every key is compared, so that the time does not tell which one was close
        if not sum(hmac.compare_digest(shown, key) for key in self._keys):
            message = "No valid API key. Fix: send the header Authorization: Bearer KEY"
            raise ApiError(401, message, headers={"WWW-Authenticate": "Bearer"})

    def _enter(self) -> None:
        limit = self._limits.max_queue
        if self._under_way >= limit:
            raise over_limit(429, "max_queue", limit, self._under_way, "requests under way")
        self._under_way += 1
        self._metrics.under_way.set(self._under_way)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        limit = self._limits.max_body_bytes
        announced = Headers(scope=scope).get("content-length", "0")
        if announced.isdecimal() and int(announced) > limit:
            raise over_limit(413, "max_body_bytes", limit, int(announced), "bytes")
        try:
            async with asyncio.timeout(self._limits.body_timeout):
                return await _read(receive, limit)
        except TimeoutError:
            raise ApiError(408, f"The request was not sent within {self._limits.body_timeout:g} s") from None


def _host_name(host: str) -> str:
    """Return a host without its port; an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return (host if host.count(":") > 1 else host.partition(":")[0]).lower()


def _is_api(path: str) -> bool:
    return path.startswith("/v1/") or path == "/metrics"


async def _read(receive: Receive, limit: int) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise over_limit(413, "max_body_bytes", limit, f"more than {limit}", "bytes")
        if not message.get("more_body", False):
            return b"".join(parts)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` that gives the body that was read, then what the client does next."""
    pending = [body]

    async def again() -> Message:
        if pending:
            return {"type": "http.request", "body": pending.pop(), "more_body": False}
        return await receive()

    return again
