"""One server over HTTP: pooled connections, retries of what may pass, errors that say what to do."""

from __future__ import annotations

import time
from typing import Any
from weakref import finalize

import httpx
from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

from bgem3.errors import BackendError, InvalidInputError, RemoteAccessError, RemoteConnectionError
from bgem3.redact import without_user

_ATTEMPTS = 4
_CONNECT_TIMEOUT = 5.0
# Asked to wait longer than this, a caller is told instead.
_LONGEST_WAIT = 30.0
_PASSING = (429, 502, 503, 504)
_backoff = wait_random_exponential(multiplier=0.5, max=8)


class Server:
    """A server at an address. Safe to share between threads.

    Every request may be sent twice: what it asks for changes nothing there.

    Args:
        base_url: `http://host:port`, with or without `/v1` at its end.
        api_key: Sent as `Authorization: Bearer`; None: none.
        timeout: Seconds that an answer may take.
        connections: Most connections at a time; they are kept open.

    Raises:
        InvalidInputError: the address is not one, the timeout is not above 0, or no header can carry the key.
    """

    def __init__(self, base_url: str, *, api_key: str | None, timeout: float, connections: int) -> None:
        if not timeout > 0:
            raise InvalidInputError(f"timeout: got {timeout}, expected seconds above 0. Fix: timeout=60")
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            raise InvalidInputError("api_key: holds characters that no header can carry. Fix: printable ASCII")
        address = base_url.rstrip("/").removesuffix("/v1")
        self.url = without_user(address)
        self._timeout = timeout
        try:
            self._client = httpx.Client(
                base_url=address,
                headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
                timeout=httpx.Timeout(timeout, connect=min(timeout, _CONNECT_TIMEOUT)),
                limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            )
        except httpx.InvalidURL as error:
            raise self._no_address(error) from error
        if self._client.base_url.scheme not in ("http", "https") or not self._client.base_url.host:
            raise self._no_address("no http:// or https:// with a host")
        finalize(self, self._client.close)

    def json(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Ask, and return the JSON object that is answered.

        Raises:
            RemoteConnectionError: no answer, none in time, or the server stays busy.
            RemoteAccessError: it refuses the key.
            BackendError: it refuses the request, or its answer is not a JSON object.
        """
        response = self.request(method, path, body)
        try:
            answer = response.json()
        except (ValueError, RecursionError) as error:
            raise self.malformed(path, "not JSON") from error
        if not isinstance(answer, dict):
            raise self.malformed(path, f"a JSON {type(answer).__name__}")
        return answer

    def request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Ask, and return the answer whole; errors are those of `json`."""
        retrying = Retrying(
            stop=stop_after_attempt(_ATTEMPTS), wait=_wait, retry=retry_if_exception(_may_pass), reraise=True
        )
        try:
            response = retrying(self._send, method, path, body)
        except httpx.TransportError as error:
            raise self._silent(error) from error
        except httpx.DecodingError as error:
            raise self.malformed(path, f"compressed otherwise than it says ({error})") from error
        except httpx.HTTPStatusError as error:
            raise self._refused(path, error.response) from error
        return response

    def malformed(self, path: str, got: str) -> BackendError:
        """Return the error of an answer that is not what its path promises."""
        return BackendError(
            f"{self.url}{path}: an answer that cannot be read, {got}. Fix: base_url= of bgem3 serve, or of vLLM with the "
            f"architecture BgeM3EmbeddingModel; a proxy between must not change answers"
        )

    def _send(self, method: str, path: str, body: object) -> httpx.Response:
        response = self._whole(method, path, body)
        if not response.is_success:
            response.request.headers.pop("Authorization", None)
            raise httpx.HTTPStatusError("", request=response.request, response=response)
        return response

    def _whole(self, method: str, path: str, body: object) -> httpx.Response:
        """Return an answer that came whole within the timeout; httpx's own bounds each read."""
        deadline = time.monotonic() + self._timeout
        parts = []
        with self._client.stream(method, path, json=body) as response:
            for part in response.iter_raw():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout("the answer takes too long", request=response.request)
        return httpx.Response(
            response.status_code, headers=response.headers, content=b"".join(parts), request=response.request
        )

    def _silent(self, error: httpx.TransportError) -> RemoteConnectionError:
        if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout):
            return RemoteConnectionError(
                f"{self.url}: no answer within {self._timeout:g} s. Fix: a higher timeout=, fewer texts at a time, or a "
                f"server with less to do"
            )
        return RemoteConnectionError(
            f"{self.url}: cannot be reached ({error}). Fix: start it (bgem3 serve), or check base_url="
        )

    def _refused(self, path: str, response: httpx.Response) -> BackendError:
        status, said = response.status_code, _message(response)
        if status in (401, 403):
            return RemoteAccessError(f"{self.url}: refuses the key ({said}). Fix: api_key=, or BGEM3_API_KEY")
        if status in _PASSING:
            return RemoteConnectionError(
                f"{self.url}: answered {status} {_ATTEMPTS} times or asked for a long wait ({said}). Fix: try later, "
                f"fewer callers at a time, or more servers"
            )
        if status == 404:
            return BackendError(f"{self.url}{path}: not found there ({said}). Fix: base_url= or model= of that server")
        return BackendError(f"{self.url}{path}: answered {status} ({said}). Fix: what it says")

    def _no_address(self, error: object) -> InvalidInputError:
        return InvalidInputError(f"base_url: got {self.url!r} ({error}). Fix: base_url='http://host:8080'")


def _may_pass(error: BaseException) -> bool:
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code in _PASSING and _asked_wait(error) <= _LONGEST_WAIT
    # a server too slow for the timeout would only get more to do
    passing = isinstance(error, httpx.TransportError) and not isinstance(error, httpx.UnsupportedProtocol)
    return passing and not isinstance(error, httpx.TimeoutException)


def _wait(state: RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = _asked_wait(error) if isinstance(error, httpx.HTTPStatusError) else 0.0
    return max(asked, _backoff(state))


def _asked_wait(error: httpx.HTTPStatusError) -> float:
    value = error.response.headers.get("retry-after", "")
    return float(value) if value.isdecimal() else 0.0


def _message(response: httpx.Response) -> str:
    """Return what the server says is wrong, in OpenAI's shape or FastAPI's."""
    try:
        answer = response.json()
        said = answer.get("error", answer.get("detail", answer.get("message")))
        said = said.get("message") if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        said = None
    return str(said or response.reason_phrase)[:500]
