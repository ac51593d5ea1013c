"""Routes over the retriever: plain retrieval, in two protocols, and the indexes."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from search_agent.types import Retrieval
from services.gateway.player import Backends
from services.gateway.schemas import CompatibleRetrieveRequest, IndexOut, RetrieveRequest, RetrieveResponse


def routes(backends: Backends) -> APIRouter:
    """Returns the routes."""
    router = APIRouter()

    @router.post("/v1/retrieve", tags=["retrieval"])
    async def retrieve(body: RetrieveRequest) -> RetrieveResponse:
        """Returns the best passages for each query, best first."""
        how = Retrieval(body.top_k, body.index, body.mode, body.rerank)
        ranked = await backends.retriever.search(body.queries, how)
        return RetrieveResponse.model_validate({"results": ranked})

    @router.post("/retrieve", tags=["retrieval"])
    async def compatible_retrieve(body: CompatibleRetrieveRequest) -> dict[str, Any]:
        """Speaks the retrieval protocol of s3 and Search-R1, so that their clients work unchanged.

        A result a query, whatever the query. Contents are a line with the title in quotes, and the text, as in the
        corpora that those projects publish.
        """
        ranked = await backends.retriever.search(body.queries, Retrieval(body.topk or 3))
        results: list[list[dict[str, Any]]] = []
        for passages in ranked:
            documents = [{"id": p.id, "contents": f'"{p.title}"\n{p.text}'} for p in passages]
            if body.return_scores:
                scored = zip(documents, passages, strict=True)
                results.append([{"document": document, "score": p.score} for document, p in scored])
            else:
                results.append(documents)
        return {"result": results}

    @router.get("/v1/indexes", tags=["about"])
    async def indexes() -> list[IndexOut]:
        """Returns the indexes that the retriever serves."""
        served = await backends.retriever.indexes()
        return [IndexOut.model_validate(index) for index in served]

    return router
