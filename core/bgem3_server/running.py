"""One process: the socket first, then the model, and at the end what was accepted is finished."""

from __future__ import annotations

import logging
import signal
import socket
from contextlib import suppress
from dataclasses import replace

import uvicorn

from bgem3.errors import InvalidInputError
from bgem3_server.app import create_app
from bgem3_server.logs import JSONLines, log
from bgem3_server.settings import ServerSettings

# The names of this machine, to itself.
_LOCAL = ("localhost", "127.0.0.1", "::1")
_OPEN_FILES = 10_240  # as many as macOS grants


def run(settings: ServerSettings, *, host: str, port: int, shutdown_timeout: int = 60) -> None:
    """Serve until SIGINT, SIGTERM or SIGHUP, then finish the requests under way; under `nohup` SIGHUP does nothing.

    Args:
        settings: What is served. Without keys on a loopback address, or where it has `hosts`, requests must call
            by one of those or by a name of this machine.
        host: Address to listen on.
        port: Port; 0 takes a free one, which the log names.
        shutdown_timeout: Seconds that accepted requests get to finish.

    Raises:
        InvalidInputError: the address cannot be listened on.
        BGEM3Error: the model cannot be loaded; what nobody foresaw is raised as it is.
    """
    failures: list[Exception] = []

    def give_up(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    # without a key, a page whose name is made to point here could read everything (DNS rebinding)
    if settings.hosts or (_is_local(host) and not settings.api_keys):
        settings = replace(settings, hosts=(*_LOCAL, host, *settings.hosts))
    _allow_open_files()
    # the root: what stores and libraries log, and Python's warnings, would stand between the lines as plain text
    logging.getLogger().addHandler(JSONLines())
    logging.captureWarnings(True)
    app = create_app(settings, on_failure=give_up)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=shutdown_timeout,
    )
    server = uvicorn.Server(config)
    # a terminal that closes; uvicorn leaves it to the system, which ends the process at once. As SIGTERM, to the status it ends in
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        signal.signal(signal.SIGHUP, lambda _, frame: server.handle_exit(signal.SIGTERM, frame))
    with _listen(host, port) as bound:
        _announce(settings, host, bound.getsockname()[1])
        server.run(sockets=[bound])
    if failures:
        raise failures[0]


def _allow_open_files() -> None:
    """Take more open files than the 1,024, on macOS 256, that programs are started with: a collection of Chroma's has 15."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit; a system may grant less than it says
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        raise InvalidInputError(
            f"{host}:{port}: cannot listen ({error.strerror or error}). Fix: another --port"
        ) from error


def _announce(settings: ServerSettings, host: str, port: int) -> None:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    log("listening", url=f"http://{f'[{shown}]' if ':' in shown else shown}:{port}", model=settings.model)
    if not _is_local(host) and not settings.api_keys:
        log("open to the network without an API key", level="warning", host=host)


def _is_local(host: str) -> bool:
    return host in _LOCAL or host.startswith("127.")
