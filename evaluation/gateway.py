"""Asks a running gateway as users do, but with patience."""

from __future__ import annotations

from typing import Any

from common.patience import TEMPORARY_STATUSES, Patience
from evaluation.errors import EvaluateProblem, Failed
from search_agent_client import Answer, AsyncClient, GatewayError, GatewayProblem, Unreachable


class Gateway:
    """Asks a gateway. All but `answer` raise GatewayError."""

    def __init__(self, client: AsyncClient, patience_s: float) -> None:
        self._client, self._patience = client, Patience(patience_s, "gateway", client.url, _pause_of)

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
        """Answers what `AsyncClient.answer` takes; asks again while the gateway is busy or away. Raises Failed."""
        try:
            return await self._patience(lambda: self._client.answer(**asked))
        except GatewayError as error:
            raise Failed(error.backend, error.failure, str(error)) from None


def _pause_of(error: Exception) -> float | None:
    if isinstance(error, GatewayProblem) and error.status in TEMPORARY_STATUSES:
        return error.retry_after_s or 0.0
    return 0.0 if isinstance(error, Unreachable) else None
