"""The application: every router over the backends and the Asker."""

from __future__ import annotations

from fastapi import FastAPI

from common.backends import GrpcTrainer
from services.gateway import problems
from services.gateway.asker import Asker
from services.gateway.observed import Observed
from services.gateway.player import Backends
from services.gateway.routes import cache, operation, pages, questions, retrieval, training
from services.gateway.routes.openai import chat, embeddings, responses
from services.gateway.routes.openai.shape import Citations


def create_app(
    backends: Backends, asker: Asker, trainer: GrpcTrainer | None = None, citations: Citations = "annotations"
) -> FastAPI:
    """Returns the application; `citations` is how OpenAI's clients get them."""
    app = FastAPI(
        title="search-agent", version="1", description="Search, answer and retrieve.", docs_url=None, redoc_url=None
    )
    app.add_middleware(Observed)
    problems.install(app)
    for router in (
        questions.routes(asker),
        chat.routes(asker, citations),
        responses.routes(asker, citations),
        embeddings.routes(backends),
        retrieval.routes(backends),
        cache.routes(backends),
        training.routes(trainer),
        operation.routes(backends, trainer),
        pages.routes(),
    ):
        app.include_router(router)
    return app
