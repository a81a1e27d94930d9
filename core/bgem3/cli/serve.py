"""`bgem3 serve`: the HTTP API and the page, until Ctrl-C."""

from __future__ import annotations

import os
from typing import Annotated, TypeAlias

import typer

from bgem3.cli.options import BackendOption, ModelOption, PrecisionOption
from bgem3.errors import MissingExtraError

_DbOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        envvar="BGEM3_DB",
        help="Folder of the collections, or a Qdrant server's address. Without it they end with the server.",
    ),
]
_KeyOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Key that requests must show; more than once for several. BGEM3_API_KEY holds one key."),
]
_HostOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(help="Name by which requests may call, besides this machine's own; for a proxy in front."),
]


def serve(
    *,
    model: ModelOption = "BAAI/bge-m3",
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8080,
    db: _DbOption = None,
    must_exist: Annotated[
        bool,
        typer.Option("--must-exist", help="Refuse to start where --db holds no collections: its disk may be away."),
    ] = False,
    api_key: _KeyOption = None,
    chat_model: Annotated[
        str | None, typer.Option(envvar="BGEM3_CHAT_MODEL", help="Model for the chat: a name, or ollama:NAME.")
    ] = None,
    chat_base_url: Annotated[
        str | None,
        typer.Option(envvar="BGEM3_CHAT_BASE_URL", help="Its OpenAI-compatible address; the key is OPENAI_API_KEY."),
    ] = None,
    cors_origin: Annotated[list[str] | None, typer.Option(help="Origin whose pages may call the API.")] = None,
    allowed_host: _HostOption = None,
    backend: BackendOption = "auto",
    precision: PrecisionOption = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="Threads of the forward pass.")] = None,
    max_texts: Annotated[int, typer.Option(min=1, help="Texts of one request.")] = 2048,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of one text.")] = 8192,
    max_body_mb: Annotated[int, typer.Option(min=1, help="Megabytes of one request.")] = 16,
    max_queue: Annotated[int, typer.Option(min=1, help="Requests under way at once.")] = 256,
    shutdown_timeout: Annotated[int, typer.Option(min=0, help="Seconds that accepted requests get to finish.")] = 60,
) -> None:
    """Serve the model: an HTTP API for programs, a page for people.

    Every option of a container is also an environment variable: BGEM3_MODEL, BGEM3_DB, BGEM3_API_KEY,
    BGEM3_CHAT_MODEL, BGEM3_CHAT_BASE_URL. Requests are logged as JSON lines on standard error, without their texts.
    """
    try:
        from bgem3_server.running import run
        from bgem3_server.settings import Limits, ServerSettings
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", "server", "bgem3 serve") from error
    from bgem3.chat import ChatModel

    settings = ServerSettings(
        model=model,
        encoder_options={"backend": backend, "precision": precision, "num_threads": threads},
        db=db,
        must_exist=must_exist,
        api_keys=tuple(api_key or _key_of_variable()),
        cors_origins=tuple(cors_origin or ()),
        hosts=tuple(allowed_host or ()),
        chat=ChatModel.parse(chat_model, chat_base_url) if chat_model else None,
        limits=Limits(
            max_texts=max_texts, max_tokens=max_tokens, max_body_bytes=max_body_mb * 2**20, max_queue=max_queue
        ),
    )
    run(settings, host=host, port=port, shutdown_timeout=shutdown_timeout)


def _key_of_variable() -> list[str]:
    """Return the variable's one key, if it is set; as `envvar=` of the option it would be cut at its spaces."""
    key = os.environ.get("BGEM3_API_KEY", "").strip()
    return [key] if key else []
