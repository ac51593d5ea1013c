"""Indexes that are servers: others' /retrieve, and SearXNG for the open web."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog
from httpx import ProxyError

from common import metrics
from search_agent.errors import RetrieverError
from search_agent.types import IndexInfo, Passage
from services.retriever import manifest as manifests
from services.retriever.errors import IndexRefused
from services.retriever.sources import config as configs
from services.retriever.sources.config import SOURCE, RetrieveConfig
from services.retriever.sources.retrieve import RetrieveSource
from services.retriever.sources.searxng import SearxngSource
from services.retriever.sources.server import Server

log = structlog.get_logger()


class Source:
    """Opens the server that `folder` describes, which need not be there yet. Raises IndexRefused."""

    def __init__(self, folder: Path) -> None:
        self.name, config = folder.absolute().name, configs.read(folder)
        if not manifests.NAME.fullmatch(self.name):
            raise IndexRefused(folder, f"bad name {self.name!r}")
        self.url = config.url
        self.fault = ""  # of the last search, empty if it was answered
        key = configs.key_of(folder, config)
        try:
            self._server = Server(self.name, config, key)
        except ProxyError as error:
            raise IndexRefused(folder / SOURCE, f"url: {error}") from error
        self._asked: RetrieveSource | SearxngSource
        if isinstance(config, RetrieveConfig):
            self._asked = RetrieveSource(self._server, config)
        else:
            self._asked = SearxngSource(self._server, config)
        self.info = IndexInfo(self.name, config.version, kind=config.kind, source=config.source, licence=config.licence)

    async def search(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """Returns up to `top_k` passages for each query. Raises RetrieverError.

        Logs the first failure and the first answer after it.
        """
        try:
            found = await self.ask(queries, top_k)
        except RetrieverError as error:
            self._became(error.message)
            log.debug("the cause", index=self.name, cause=repr(error.__cause__))  # it may hold the address
            raise
        self._became("")
        return found

    async def ask(self, queries: Sequence[str], top_k: int) -> list[tuple[Passage, ...]]:
        """Does what `search` does, and notes nothing."""
        distinct = [*dict.fromkeys(queries)]
        found = dict(zip(distinct, await self._asked.search(distinct, top_k), strict=True))
        return [found[query] for query in queries]

    async def close(self) -> None:
        await self._server.close()

    def _became(self, fault: str) -> None:
        if fault and not self.fault:
            log.warning("source failed", index=self.name, error=fault)
        elif self.fault and not fault:
            log.info("source answers again", index=self.name)
        self.fault = fault
        metrics.RETRIEVER_SOURCE_UP.labels(self.name).set(not fault)
