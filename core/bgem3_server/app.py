"""The application: parts, middleware, routes, page."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

from fastapi import FastAPI, Security
from fastapi.responses import FileResponse
from fastapi.security import HTTPBearer
from fastapi.staticfiles import StaticFiles
from starlette.middleware.cors import CORSMiddleware

from bgem3.encoder import M3Encoder
from bgem3_server.collections import Collections
from bgem3_server.engine import Engine
from bgem3_server.guard import Guard, Observe
from bgem3_server.logs import log
from bgem3_server.metrics import Metrics
from bgem3_server.parts import ServerParts
from bgem3_server.problems import add_handlers
from bgem3_server.routes import chat, collections, embeddings, inspect, parse, rerank, system
from bgem3_server.settings import ServerSettings

_PAGE = Path(__file__).parent / "page"
# For the description alone: the guard is who asks for it.
_KEY = HTTPBearer(auto_error=False, description="A key of `--api-key`, where the server has any; not for health.")
_ROUTERS = (embeddings, rerank, inspect, collections, chat, parse, system)


def create_app(
    settings: ServerSettings,
    *,
    encoder: M3Encoder | None = None,
    on_failure: Callable[[Exception], None] | None = None,
) -> FastAPI:
    """Make the server's ASGI application.

    Args:
        settings: What it serves, and to whom.
        encoder: One that is loaded already, which stays open; None: loaded from `settings` in the
            background, while `/health` answers and `/ready` says 503.
        on_failure: Called when the model cannot be loaded.
    """
    metrics = Metrics()
    engine = Engine(settings, metrics, encoder)
    indexes = Collections(engine, settings.db, settings.limits.max_collections)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loading = asyncio.create_task(_load(engine, on_failure))
        yield
        loading.cancel()
        await asyncio.to_thread(indexes.close)
        await asyncio.to_thread(engine.close)

    app = FastAPI(
        title="bgem3",
        summary="All three representations of BGE-M3 over HTTP",
        version=version("bgem3"),
        license_info={"name": "MIT"},
        lifespan=lifespan,
        # their pages load scripts from elsewhere, which neither offline use nor our headers allow
        docs_url=None,
        redoc_url=None,
        dependencies=[Security(_KEY)],
    )
    app.state.parts = ServerParts(settings, engine, indexes, metrics)
    for module in _ROUTERS:
        app.include_router(module.router)
    app.mount("/page", StaticFiles(directory=_PAGE), name="page")
    app.add_api_route("/", _page, methods=["GET", "HEAD"], include_in_schema=False)
    add_handlers(app)
    app.add_middleware(Guard, hosts=settings.hosts, api_keys=settings.api_keys, limits=settings.limits, metrics=metrics)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=settings.cors_origins, allow_methods=["*"], allow_headers=["*"]
        )
    app.add_middleware(Observe, metrics=metrics)
    return app


async def _page() -> FileResponse:
    return FileResponse(_PAGE / "index.html")


async def _load(engine: Engine, on_failure: Callable[[Exception], None] | None) -> None:
    await engine.load()
    if engine.failure is not None:
        log("model not loaded", level="error", error=f"{type(engine.failure).__name__}: {engine.failure}")
        if on_failure is not None:
            on_failure(engine.failure)
        return
    described = engine.encoder.describe()
    log("ready", model=engine.names[0], backend=described["backend"], precision=described["precision"])
