"""A running gateway as evaluation asks it: as users do, and again while it is full."""

from __future__ import annotations

import asyncio
from typing import Any, TypeGuard

from common import retry
from evaluation.errors import EvaluateProblem, Failed
from search_agent_client import Answer, AsyncClient, GatewayError, GatewayProblem


class Gateway:
    """Asks a gateway. All but `answer` raise GatewayError."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def methods(self) -> dict[str, dict[str, Any]]:
        """Returns each method's parameters with the values in force."""
        return {method.name: method.defaults for method in await self._client.methods()}

    async def index(self, name: str) -> dict[str, str]:
        """Returns name, version and encoder of an index, the default one if `name` is empty.

        Raises EvaluateProblem if there is none.
        """
        for index in await self._client.indexes():
            if index.name == name or (not name and index.is_default):
                return {"name": index.name, "version": index.version, "encoder": index.encoder}
        raise EvaluateProblem(f"the gateway serves no index {name!r}" if name else "the gateway serves no index")

    async def check_cache(self, index: str) -> None:
        """Raises GatewayProblem if the gateway keeps no naive-RAG results, EvaluateProblem if none of that index."""
        await self._client.cache()
        found = await self.index(index)
        if not found["version"]:
            raise EvaluateProblem(f"index {found['name']!r} has no version: its answers change, so none is kept")

    async def answer(self, **asked: Any) -> Answer:
        """Answers what `AsyncClient.answer` takes; asks again while the gateway is full. Raises Failed."""
        for attempt in range(1, retry.ATTEMPTS + 1):
            try:
                return await self._client.answer(**asked)
            except GatewayError as error:
                if attempt == retry.ATTEMPTS or not _is_full(error):
                    raise Failed(error.backend, error.failure, str(error)) from None
                await asyncio.sleep(retry.pause_s(error.retry_after_s))
        raise AssertionError("the last attempt returns or raises")


def _is_full(error: GatewayError) -> TypeGuard[GatewayProblem]:
    return isinstance(error, GatewayProblem) and error.status in (429, 503) and error.backend == "gateway"
