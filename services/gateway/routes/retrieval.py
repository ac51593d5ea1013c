"""Routes of plain retrieval, in two protocols."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from search_agent.types import Retrieval
from services.gateway.player import Backends
from services.gateway.schemas import CompatibleRetrieveRequest, RetrieveRequest, RetrieveResponse


def routes(backends: Backends) -> APIRouter:
    """Returns the routes."""
    router = APIRouter()

    @router.post("/v1/retrieve", tags=["retrieval"])
    async def retrieve(body: RetrieveRequest) -> RetrieveResponse:
        """Returns the best passages for each query, best first."""
        return RetrieveResponse.of(await backends.retriever.search(body.queries, body.how()))

    @router.post("/retrieve", tags=["retrieval"])
    async def compatible_retrieve(body: CompatibleRetrieveRequest) -> dict[str, Any]:
        """Speaks the retrieval protocol of s3 and Search-R1, so that their clients work unchanged.

        Every query gets one result. The contents are a line with the title in quotes, and the text, as in the corpora
        that those projects publish.
        """
        ranked = await backends.retriever.search(body.queries, Retrieval(body.topk or 3, filter=body.filter))
        results: list[list[dict[str, Any]]] = []
        for passages in ranked:
            documents = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages]
            if body.return_scores:
                scored = zip(documents, passages, strict=True)
                results.append([{"document": document, "score": p.score} for document, p in scored])
            else:
                results.append(documents)
        return {"result": results}

    return router
