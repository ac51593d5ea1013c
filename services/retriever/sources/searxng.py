"""SearXNG's JSON API: results of the open web as passages."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common.pool import each
from search_agent.types import Passage
from services.retriever.sources.config import SearxngConfig
from services.retriever.sources.server import AT_ONCE, Server
from services.retriever.sources.text import from_html, line

_SYNTAX = "!:<"  # begin words that SearXNG takes as orders: engines, languages, redirects and time limits


class SearxngSource:
    """Asks for a query page by page. A passage is a result's title and snippet; its id is the result's URL."""

    def __init__(self, server: Server, config: SearxngConfig) -> None:
        self._server, self._url, self._pages = server, f"{config.url.rstrip('/')}/search", config.pages
        given = {"engines": ",".join(config.engines), "language": config.language, "safesearch": config.safesearch}
        self._options = {name: value for name, value in given.items() if value not in ("", None)}

    async def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """Returns up to `top_k` passages for each query, in the instance's order. Raises RetrieverError."""
        found: dict[str, tuple[Passage, ...]] = {}

        async def work(query: str) -> None:
            async with self._server.in_time():
                found[query] = await self._one(query, top_k)

        await each(queries, work, AT_ONCE)
        return [found[query] for query in queries]

    async def _one(self, query: str, top_k: int) -> tuple[Passage, ...]:
        query = " ".join(word.lstrip(_SYNTAX) for word in query.split()).strip()
        if not query:
            return ()
        found: dict[str, Passage] = {}
        for page in range(1, self._pages + 1):
            asked = {"q": query, "format": "json", "pageno": page, **self._options}
            answer = await self._server.json("GET", self._url, params=asked)
            results = answer.get("results") if isinstance(answer, dict) else None
            if not isinstance(results, list):
                raise self._server.failed('did not answer with a list of "results"')
            if page == 1 and not results and (silent := _silent(answer)):
                raise self._server.failed(f"got nothing from its engines: {silent}")
            before = len(found)
            for result in results:
                passage = _passage(result, 1 / (len(found) + 1))
                if passage and passage.id not in found:
                    found[passage.id] = passage
            if len(found) >= top_k or len(found) == before:
                break
        return tuple(found.values())[:top_k]


def _passage(result: Any, score: float) -> Passage | None:
    """Returns a result as a passage, or None if it is not text on the web."""
    if not isinstance(result, dict):
        return None
    url, title, content = (str(result.get(name) or "") for name in ("url", "title", "content"))
    url, text = line(url), from_html(content)
    if not text or not url.startswith(("http://", "https://")):
        return None
    more = {"url": url, "engine": result.get("engine"), "published": result.get("publishedDate")}
    metadata = {name: line(value) for name, value in more.items() if isinstance(value, str) and value}
    return Passage(url, from_html(title), text, score, metadata)


def _silent(answer: dict[str, Any]) -> str:
    """Returns the engines that did not answer, with their reasons."""
    engines = answer.get("unresponsive_engines")
    told = [engine for engine in engines if isinstance(engine, list)] if isinstance(engines, list) else []
    return ", ".join(line(": ".join(map(str, engine)))[:100] for engine in told[:5])
