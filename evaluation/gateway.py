"""Client of a running gateway's REST API, which evaluation uses as users do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx

from common import retry
from evaluation.errors import EvaluateProblem, Failed
from search_agent.errors import Failure

_ANSWER = {"answer", "documents", "turns", "usage", "timings_ms", "stop_reason", "models", "cached"}


class Gateway:
    """Asks a gateway. The base URL of `http` is the gateway's address."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http

    async def methods(self) -> dict[str, dict[str, Any]]:
        """Returns each method's parameters with the values in force. Raises EvaluateProblem."""
        found = await self._about("/v1/methods")
        with self._as_ours():
            return {
                method["name"]: {name: entry["default"] for name, entry in method["parameters"]["properties"].items()}
                for method in found
            }

    async def index(self, name: str) -> dict[str, str]:
        """Returns name, version and encoder of an index, the default one if `name` is empty. Raises EvaluateProblem."""
        found = await self._about("/v1/indexes")
        with self._as_ours():
            for index in found:
                if index["name"] == name or (not name and index["default"]):
                    return {part: index[part] for part in ("name", "version", "encoder")}
        raise EvaluateProblem(f"the gateway serves no index {name!r}" if name else "the gateway serves no index")

    async def check_cache(self) -> None:
        """Raises EvaluateProblem if the gateway keeps no naive-RAG results."""
        await self._about("/v1/cache")

    async def answer(self, body: Mapping[str, Any]) -> dict[str, Any]:
        """Returns what POST /v1/answer says; asks again while the gateway is full. Raises Failed."""
        try:
            response = await retry.post(self._http, "/v1/answer", json=body)
        except httpx.TimeoutException as error:
            raise Failed("gateway", Failure.TIMEOUT, str(error) or "no answer in time") from None
        except httpx.HTTPError as error:
            raise Failed("gateway", Failure.UNAVAILABLE, str(error) or type(error).__name__) from None
        found = _json(response)
        if response.status_code != 200:
            raise Failed(
                found.get("backend", "gateway"),
                found.get("failure", f"status {response.status_code}"),
                found.get("detail", response.text[:300]),
            )
        if missing := _ANSWER - found.keys():
            raise Failed("gateway", Failure.BROKEN, f"no {', '.join(sorted(missing))} in {response.text[:300]!r}")
        return found

    async def _about(self, path: str) -> Any:
        try:
            response = await self._http.get(path)
            if response.status_code != 200:
                raise EvaluateProblem(f"{path}: {_json(response).get('detail', response.text[:300])}")
            return response.json()
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            raise EvaluateProblem(f"{self._http.base_url}: {error}; is the gateway running there?") from error

    @contextmanager
    def _as_ours(self) -> Iterator[None]:
        try:
            yield
        except (KeyError, TypeError, AttributeError):
            url = self._http.base_url
            raise EvaluateProblem(f"{url}: another server than our gateway, or one of another version") from None


def _json(response: httpx.Response) -> dict[str, Any]:
    try:
        found = response.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
