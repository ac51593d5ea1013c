"""The application: every router over the backends and the Asker."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.middleware.cors import CORSMiddleware

from common.backends import GrpcTrainer
from services.gateway import problems
from services.gateway.asker import Asker
from services.gateway.door import Door, Rules
from services.gateway.observed import Observed
from services.gateway.player import Backends
from services.gateway.routes import cache, indexes, keys, mcp, operation, pages, questions, retrieval, training
from services.gateway.routes.openai import chat, embeddings, responses
from services.gateway.routes.openai.shape import Citations

# Response headers that pages of other sites may read.
_EXPOSED = ("location", "x-request-id", "x-trace-id", "retry-after", "ratelimit", "ratelimit-policy")


class Under:
    """Tells the application the path under which a proxy serves it, whether the proxy passes that path on or not."""

    def __init__(self, app: Any, path: str) -> None:
        self._app, self._path = app, path

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._app({**scope, "root_path": self._path}, receive, send)


def create_app(
    backends: Backends,
    asker: Asker,
    trainer: GrpcTrainer | None = None,
    citations: Citations = "annotations",
    rules: Rules | None = None,
    root_path: str = "",
    checked: Backends | None = None,
) -> FastAPI:
    """Returns the application behind its door. `citations` is how OpenAI's clients get them.

    A proxy serves the application under `root_path`. Readiness asks the backends `checked`, which admit everything.
    """
    rules = rules or Rules()
    app = FastAPI(
        title="search-agent",
        version="1",
        description="Search, answer and retrieve.",
        docs_url=None,
        redoc_url=None,
        responses=problems.RESPONSES,
        # FastAPI's own holds bodies and errors' messages. Ours is in `common.tracing` and `common.metrics`.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(Door, rules=rules)
    app.add_middleware(Observed)
    if rules.origins:  # outermost, so that pages read errors too
        app.add_middleware(
            CORSMiddleware,
            allow_origins=rules.origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    if root_path:
        app.add_middleware(Under, path=root_path)
    problems.install(app)
    for router in (
        questions.routes(asker),
        chat.routes(asker, citations),
        responses.routes(asker, citations),
        embeddings.routes(backends),
        mcp.routes(asker, backends),
        retrieval.routes(backends),
        indexes.routes(backends),
        cache.routes(backends),
        training.routes(trainer),
        keys.routes(rules.keys),
        operation.routes(checked or backends, trainer, rules.keys),
        pages.routes(),
    ):
        app.include_router(router)
    return app
